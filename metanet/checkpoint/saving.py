"""``save``: tensors and metadata to safetensors or ``.pt``, never half-written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save as serialize
from torch import Tensor

from metanet.errors import CheckpointError


def save(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a checkpoint that ``load`` gives back with the same names, order, values and metadata.

    ``.pt`` holds ``{"state_dict": ..., "metadata": ...}`` and keeps tied tensors tied; safetensors stores each name's
    values of its own. The file appears whole or not at all.

    Args:
        path: Ends in ``.safetensors``, ``.pt`` or ``.pth``; its folder exists.
        tensors: Name to tensor; gradients are dropped, other devices are copied to the CPU.
        metadata: Strings to keep with them.

    Returns:
        The path written.

    Raises:
        CheckpointError: The ending is not accepted, a value has the wrong type, or the file cannot be written.
    """
    path = Path(path)
    notes = dict(metadata or {})
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise CheckpointError(
            f"Cannot write {path}: got the ending '{path.suffix}', accepted are .safetensors, .pt, .pth."
        )
    check_types(path, tensors, Tensor)
    check_types(path, notes, str)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary, path.suffix, tensors, notes)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save reports a missing folder as RuntimeError
        raise CheckpointError(
            f"Cannot write {path}: {error}. Choose a folder that exists and may be written."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_types(path: Path, values: Mapping[str, object], wanted: type) -> None:
    """Check a mapping that is to be saved.

    Raises:
        CheckpointError: A name is no string, or a value is not of the type wanted.
    """
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, wanted):
            got = f"{type(name).__name__} to {type(value).__name__}"
            raise CheckpointError(f"Cannot write {path}: '{name}' maps {got}, accepted is str to {wanted.__name__}.")


def write(path: Path, suffix: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write to a temporary name in the format of ``suffix``."""
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    with path.open("wb") as file:  # given a path, torch.save would write its temporary name into the file
        if suffix == ".safetensors":
            own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in plain.items()}
            file.write(with_header(serialize(own), list(own), metadata))
        else:
            torch.save({"state_dict": plain, "metadata": metadata}, file)


def with_header(data: bytes, names: list[str], metadata: dict[str, str]) -> bytes:
    """Rewrite the header of safetensors data: names in our order, then the same input always gives the same bytes.

    The library sorts names by type and metadata at random. Format: https://github.com/huggingface/safetensors#format
    """
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    header = ({"__metadata__": metadata} if metadata else {}) | {name: entries[name] for name in names}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
