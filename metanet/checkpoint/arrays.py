"""NumPy arrays: from pickles without running them, and into tensors."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanet.checkpoint.budget import charge
from metanet.checkpoint.storage import Call
from metanet.errors import CheckpointError

PLAIN = re.compile(r"[<>=|]?(b1|bool|[iuf][1248]|c8|c16|[?bBhHiIlLqQefdFD])")


class DtypeRef:
    """Stand in for ``numpy.dtype``: a type code, checked before numpy sees it."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if len(state) > 1 and state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>=|")

    def numpy(self) -> np.dtype[Any] | None:
        """The type if it is one of plain numbers, else None."""
        return np.dtype(self.code) if PLAIN.fullmatch(self.code) else None


class ArrayRef:
    """Stand in for ``numpy.ndarray``, filled by the pickle's state (version, shape, dtype, Fortran order, bytes)."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.fill(shape, dtype, "F" if fortran else "C", data)

    def fill(self, shape: tuple[int, ...], dtype: DtypeRef, order: Any, data: Any) -> None:
        """Take the values; arrays of objects stay empty."""
        kind = dtype.numpy() if isinstance(dtype, DtypeRef) else None
        if isinstance(data, str):  # Python 2 wrote bytes as text
            charge(len(data), "an array")
            data = data.encode("latin1")
        if kind is not None and isinstance(data, (bytes, bytearray, memoryview)):
            self.array = np.frombuffer(data, kind).reshape(shape, order=order)


def reconstruct(*_: object) -> ArrayRef:
    """Stand in for ``numpy.core.multiarray._reconstruct``."""
    return ArrayRef()


def from_buffer(data: Any, dtype: DtypeRef, shape: tuple[int, ...], order: str) -> ArrayRef:
    """Stand in for ``numpy.core.numeric._frombuffer``."""
    ref = ArrayRef()
    ref.fill(shape, dtype, order, data)
    return ref


def scalar(dtype: DtypeRef, data: Any = b"") -> object:
    """Stand in for ``numpy.core.multiarray.scalar``: a Python number."""
    ref = ArrayRef()
    ref.fill((), dtype, "C", data)
    return ref.array.item() if ref.array is not None else None


NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): ArrayRef,
    ("numpy", "dtype"): DtypeRef,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Call(reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Call(scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Call(from_buffer) for core in ("core", "_core")},
}
"""Names that pickles use to make arrays, and what stands in for each."""


def to_tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    """Copy an array of numbers into a tensor, whatever its byte order and strides.

    Raises:
        CheckpointError: Its type has no counterpart in PyTorch.
    """
    if not PLAIN.fullmatch(array.dtype.str):
        kind = "pickled objects" if array.dtype.hasobject else f"type {array.dtype}"
        raise CheckpointError(
            f"array '{name}' has {kind}. Accepted: bool, int8..64, uint8..64, float16/32/64, complex64/128. "
            "Convert it with numpy's astype and save it again."
        )
    charge(array.nbytes, f"array '{name}'")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
