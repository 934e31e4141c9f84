"""PyTorch files as the trees that were saved, read without running them: state dicts beside settings and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.budget import budget
from metanet.checkpoint.collect import read_tensor
from metanet.checkpoint.nodes import attributes, is_tensor
from metanet.checkpoint.pytorch import read_archive, read_stream, root_of
from metanet.checkpoint.unpickle import Stub
from metanet.errors import CheckpointError

MAX_DEPTH = 30


def read_tree(path: Path) -> Any:
    """Read everything in a file of ``torch.save``: tensors, plain values, and objects as the plain data they held.

    An object of a class becomes the dict of its attributes, one that was made from arguments the list of these; code of
    its class is never run.

    Raises:
        CheckpointError: The file is missing, damaged or in another format.
    """
    try:
        with path.open("rb") as file, budget(path.stat().st_size):
            start = file.read(2)
            file.seek(0)
            if start != b"PK":
                return plain(read_stream(file))
            with Archive(file) as archive:
                return plain(read_archive(archive, root_of(archive), "data"))
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: got {error.strerror}.") from None
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from None


def plain(node: Any, depth: int = 0, name: str = "") -> Any:
    """A tree of dicts, lists, tensors and plain values."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"its containers nest deeper than {MAX_DEPTH}; the file is damaged or hostile.")
    if is_tensor(node):
        return read_tensor(name, node)
    if isinstance(node, dict):
        return {key: plain(value, depth + 1, f"{name}.{key}") for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [plain(value, depth + 1, f"{name}.{number}") for number, value in enumerate(node)]
    if isinstance(node, Stub):
        held = attributes(node) or node.entries or node.elements or list(node.args)
        return plain(held, depth + 1, name)
    return node
