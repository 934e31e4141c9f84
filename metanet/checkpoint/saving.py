"""``save``: tensors and metadata to safetensors or ``.pt``, never half-written."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from metanet.checkpoint.safetensors import ORDER
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
        raise CheckpointError(f"Cannot write {path}: got the ending '{path.suffix}', accepted are .safetensors, .pt, .pth.")
    for name, value in (*tensors.items(), *notes.items()):
        wanted = str if name in notes and value is notes[name] else Tensor
        if not isinstance(name, str) or not isinstance(value, wanted):
            raise CheckpointError(f"Cannot write {path}: '{name}' is a {type(value).__name__}, a {wanted.__name__} is accepted.")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error}. Choose a folder that exists and may be written.") from None
    try:
        write(Path(temporary), path.suffix, tensors, notes)
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error}.") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def write(path: Path, suffix: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write to a temporary name in the format of ``suffix``."""
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    if suffix == ".safetensors":
        own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in plain.items()}
        save_file(own, path, {**metadata, ORDER: json.dumps(list(own))})
    else:
        torch.save({"state_dict": plain, "metadata": metadata}, path)


def current_umask() -> int:
    """The process's umask, which temporary files do not follow by themselves."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
