"""``save``: tensors and metadata to safetensors or ``.pt``, never half-written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from metanet.errors import CheckpointError

TYPES = {torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32"}
TYPES |= {torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16"}
TYPES |= {torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8"}
TYPES |= {torch.uint8: "U8", torch.bool: "BOOL"}
"""Names that safetensors has for types, in the order in which the library stores tensors."""


def save(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a checkpoint that ``load`` gives back with the same names, order, values and metadata.

    ``.pt`` holds ``{"state_dict": ..., "metadata": ...}`` and keeps tied tensors tied; safetensors stores each name's
    values of its own, written one after the other so that no second copy of all of them is in memory. The file appears
    whole or not at all.

    Args:
        path: Ends in ``.safetensors``, ``.pt`` or ``.pth``; its folder exists.
        tensors: Name to tensor; gradients are dropped, other devices are copied to the CPU.
        metadata: Strings to keep with them.

    Returns:
        The path written.

    Raises:
        CheckpointError: The ending is not accepted, a value or a tensor has the wrong type, or the file cannot be
            written.
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
    except (OSError, RuntimeError) as error:  # torch.save reports a missing folder as RuntimeError
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
            write_safetensors(file, plain, metadata)
        else:
            torch.save({"state_dict": plain, "metadata": metadata}, file)


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a header and then the values of one tensor after the other; the same input always gives the same bytes.

    Names stand in the header in the order given. Values lie as the safetensors library puts them: by type, wide ones
    first so that each begins at a multiple of its item size, then by name.
    Format: https://github.com/huggingface/safetensors#format

    Raises:
        RuntimeError: The format has no name for the type of a tensor.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES or tensor.layout != torch.strided:
            raise RuntimeError(f"safetensors has no type for '{name}' (got {tensor.dtype}, {tensor.layout})")
    order = sorted(tensors, key=lambda name: (list(TYPES).index(tensors[name].dtype), name))
    places, end = {}, 0
    for name in order:
        places[name] = [end, end + tensors[name].numel() * tensors[name].dtype.itemsize]
        end = places[name][1]
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    for name, tensor in tensors.items():
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": places[name]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(raw(tensors[name]))


def raw(tensor: Tensor) -> memoryview:
    """The values of a tensor as bytes in row-major order; only a view that is not contiguous is copied."""
    plain = tensor.resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")
