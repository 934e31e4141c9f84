"""The one thing that loading gives: named tensors, and what the file says about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from metanet.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors and metadata of one file.

    Attributes:
        tensors: Name to tensor, in the order of the file. Tied tensors keep all their names and share their memory.
        metadata: What the file says about itself, as text.
        path: The file.
        format: Name of the format that was recognised, such as ``"pytorch"`` or ``"onnx"``.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    metadata: Mapping[str, str]
    path: Path
    format: str

    @property
    def numel(self) -> int:
        """Number of values in all tensors; a tensor with two names counts twice."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def select(self, prefix: str) -> "Checkpoint":
        """Keep the tensors below ``prefix`` and strip it: ``select("actor")`` renames ``actor.0.bias`` to ``0.bias``.

        Args:
            prefix: Dotted path in front of the names wanted.

        Returns:
            A checkpoint of the same file with fewer tensors, which share memory with this one.

        Raises:
            CheckpointError: No tensor is below ``prefix``.
        """
        stem = prefix.rstrip(".") + "."
        chosen = {name.removeprefix(stem): tensor for name, tensor in self.tensors.items() if name.startswith(stem)}
        if not chosen:
            heads = ", ".join(sorted({name.split(".")[0] for name in self.tensors if "." in name}))
            raise CheckpointError(
                f"{self.path}: no tensor is below '{prefix}' (got names that start with {heads or 'no prefix'}). "
                "Choose one of those prefixes."
            )
        return replace(self, tensors=chosen)

    def __repr__(self) -> str:
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in self.tensors.values()})
        return (
            f"Checkpoint({self.path.name!r}, format={self.format!r}, tensors={len(self.tensors)}, "
            f"values={self.numel:,}, dtypes={'/'.join(dtypes)}, metadata={len(self.metadata)})"
        )
