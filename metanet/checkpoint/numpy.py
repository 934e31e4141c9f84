"""NumPy files: ``.npz`` archives and single ``.npy`` arrays, never with pickled objects."""

import io
import math
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.arrays import to_tensor
from metanet.checkpoint.budget import charge
from metanet.checkpoint.registry import Contents, Probe, reader
from metanet.errors import CheckpointError

MAGIC = b"\x93NUMPY"


def recognises(probe: Probe) -> bool:
    """A bare array, or a zip archive of nothing but arrays."""
    return probe.head.startswith(MAGIC) or (bool(probe.members) and all(n.endswith(".npy") for n in probe.members))


@reader("numpy", extensions=(".npz", ".npy"), recognises=recognises)
def read(path: Path) -> Contents:
    """Read arrays as they are, named as in the archive; a single ``.npy`` is called ``array``."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            charge(path.stat().st_size, "the array")
            return {"array": to_tensor(parse(path.read_bytes(), "array"), "array")}, {}
    with Archive(path) as archive:
        names = {name: name.removesuffix(".npy") for name in archive.names}
        return {short: to_tensor(parse(archive.read(name), short), short) for name, short in names.items()}, {}


def parse(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """Read one array; its header is checked against the bytes that follow before any memory is reserved.

    Raises:
        CheckpointError: It is damaged, or holds pickled objects.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except (ValueError, TypeError, KeyError, SyntaxError, EOFError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"array '{name}' is damaged (got {error}). Save or download it again.") from None
    if not all(isinstance(n, int) and 0 <= n < 2**60 for n in shape) or len(shape) > 64:
        raise CheckpointError(f"array '{name}' is damaged (got the shape {short(shape)}). Save or download it again.")
    if dtype.hasobject:
        raise CheckpointError(f"array '{name}' has pickled objects, which are not read. Save it with a number type.")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data) - file.tell():
        raise CheckpointError(
            f"array '{name}' is truncated or damaged (got {len(data) - file.tell():,} bytes, {needed:,} promised)."
        )
    values: np.ndarray[Any, Any] = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if fortran else "C")
