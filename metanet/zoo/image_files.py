"""The two file formats in which images are published: IDX, and the binary version of CIFAR."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from metanet.errors import ZooError

UNSIGNED_BYTE = 8
CIFAR_SHAPE = (3, 32, 32)


def read_idx(content: bytes, path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes: two zero bytes, type, number of dimensions, big-endian sizes, values.

    Source: Y. LeCun, C. Cortes, C. Burges, the MNIST database, "File formats".

    Args:
        content: Of the file, unpacked.
        path: For messages.
        dimensions: How many there must be.

    Raises:
        ZooError: The file is something else, or too short or long.
    """
    want = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    start = 4 + 4 * dimensions
    if content[:4] != want or len(content) < start:
        raise ZooError(f"{path} is no IDX file of {dimensions} dimensions: got {content[:4].hex()}, not {want.hex()}.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ZooError(f"{path} is damaged: got {len(content)} bytes, for {list(shape)} {start + math.prod(shape)}.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_cifar(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a CIFAR-10 batch: for every image its class, one byte, and 3,072 bytes of colour planes, row by row.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), "Binary version".

    Returns:
        Images ``[n, 3, 32, 32]`` and classes ``[n]``, unsigned bytes.

    Raises:
        ZooError: The size does not fit, or a class is above 9.
    """
    size = 1 + math.prod(CIFAR_SHAPE)
    if not content or len(content) % size:
        raise ZooError(f"{path} is no CIFAR-10 batch: got {len(content)} bytes, not a multiple of {size}.")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
    if rows[:, 0].max() > 9:
        raise ZooError(f"{path} is no CIFAR-10 batch: got the class {rows[:, 0].max()}, accepted are 0..9.")
    return rows[:, 1:].reshape(-1, *CIFAR_SHAPE), rows[:, 0]
