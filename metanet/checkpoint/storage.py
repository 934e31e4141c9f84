"""Tensors of PyTorch pickles, as descriptions first: bytes are read only for tensors that are wanted."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor

from metanet.checkpoint.budget import charge
from metanet.errors import CheckpointError

STORAGES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
    **{"ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
    **{"UntypedStorage": torch.uint8, "TypedStorage": torch.uint8},
}
MAX_DIMENSIONS = 64
DTYPES: dict[str, torch.dtype] = {name: d for name in dir(torch) if isinstance(d := getattr(torch, name), torch.dtype)}


@dataclass(frozen=True)
class Refused:
    """Stands where a pickle held weights that cannot be read; loading them is refused with this reason."""

    reason: str

    def __setstate__(self, state: object) -> None:
        """Ignore what a pickle wants to set."""


@dataclass(frozen=True)
class StorageType:
    """What ``torch.FloatStorage`` and its kin become: only their element type counts."""

    dtype: torch.dtype

    def __setstate__(self, state: object) -> None:
        """Ignore what a pickle wants to set."""


@dataclass(frozen=True)
class Call:
    """A function that pickles may call. Unlike a bare function, it has nothing that a pickle could overwrite."""

    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the stand-in."""
        return self.function(*args, **kwargs)

    def __setstate__(self, state: object) -> None:
        """Ignore what a pickle wants to set."""


@dataclass(eq=False)
class Storage:
    """A block of numbers in a file, read once on demand and shared by all tensors on it.

    Attributes:
        dtype: Type that the file states for it; a tensor may state another.
        numel: Elements that the file promises.
        fetch: Reads its bytes.
        start: First element that belongs to it, for views of a larger block.
    """

    dtype: torch.dtype
    numel: int
    fetch: Callable[[], bytes]
    start: int = 0
    _values: Tensor | None = field(default=None, repr=False)
    _views: dict[Any, Tensor] = field(default_factory=dict, repr=False)
    _viewed: int = 0

    def values(self) -> Tensor:
        """All its bytes, ``[n]`` uint8."""
        if self._values is None:
            fetched = self.fetch()
            charge(len(fetched), "a storage")
            data = bytearray(fetched)
            self._values = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return self._values

    def view(self, ref: "TensorRef", make: Callable[[], Tensor]) -> Tensor:
        """A tensor on these bytes, made once for all names of it.

        Views may show the same bytes many times; what all of them show together beyond the bytes that there are is
        charged to the file, since whoever works with them copies it.
        """
        key = (ref.offset, ref.size, ref.stride, ref.dtype, ref.flags, ref.storage.start)
        if key not in self._views:
            shown = math.prod(ref.size) * ref.dtype.itemsize
            whole = self.values().numel()
            before, self._viewed = max(self._viewed, whole), self._viewed + shown
            copied = shown if ref.flags else 0
            charge(max(0, self._viewed - before) + copied, f"a tensor of size {list(ref.size)}")
            self._views[key] = make()
        return self._views[key]


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor of a pickle: a strided view of a storage that was not read yet.

    ``flags`` names what is still to be done to its values, as PyTorch notes it: ``"conj"``, ``"neg"``.
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    flags: frozenset[str] = frozenset()

    def __setstate__(self, state: object) -> None:
        """Ignore what a pickle wants to set."""

    def tensor(self) -> Tensor:
        """Read it.

        Raises:
            CheckpointError: The view reaches past the end of its storage, or repeats it far too often.
        """
        if not well_formed(self):
            raise CheckpointError(
                f"size {short(self.size)}, stride {short(self.stride)} or its offset is no valid view"
            )
        if 0 in self.size:
            return torch.empty(self.size, dtype=self.dtype)
        values = self.storage.values()
        item = self.dtype.itemsize
        start = self.offset + self.storage.start
        last = start + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        needed = (last + 1) * item
        if needed > values.numel():
            raise CheckpointError(
                f"its values are truncated (got {values.numel():,} bytes, {needed:,} needed). Save the file again."
            )
        return self.storage.view(self, lambda: self._strided(values, start))

    def _strided(self, values: Tensor, start: int) -> Tensor:
        flat = values[: values.numel() // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
        view = flat.as_strided(self.size, self.stride, start)
        view = view.conj().resolve_conj() if "conj" in self.flags else view
        return view.neg() if "neg" in self.flags else view


def well_formed(ref: TensorRef) -> bool:
    """Whether a pickle described a view in non-negative integers that make a tensor."""
    if len(ref.size) > MAX_DIMENSIONS or len(ref.stride) > MAX_DIMENSIONS:
        return False  # their product could take for ever
    numbers = (*ref.size, *ref.stride, ref.offset, ref.storage.start)
    plain = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**60 for n in numbers)
    return plain and len(ref.size) == len(ref.stride) and math.prod(ref.size) < 2**60


def rebuild_v2(
    storage: Any, offset: int, size: Any, stride: Any, grad: object = False, hooks: object = None, notes: object = None
) -> TensorRef | Refused:
    """Stand in for ``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    if isinstance(storage, Refused):
        return storage
    return rebuild_v3(storage, offset, size, stride, grad, hooks, storage.dtype, notes)


def rebuild_v3(
    storage: Any, offset: int, size: Any, stride: Any, grad: object, hooks: object, dtype: torch.dtype,
    notes: object = None,
) -> TensorRef | Refused:  # fmt: skip
    """Stand in for ``torch._utils._rebuild_tensor_v3``, whose storages are untyped."""
    if isinstance(storage, Refused):
        return storage
    if not isinstance(storage, Storage):
        raise CheckpointError(f"a tensor without a storage (got {type(storage).__name__})")
    flags = frozenset(key for key in ("conj", "neg") if isinstance(notes, dict) and notes.get(key))
    return TensorRef(storage, offset, tuple(size), tuple(stride), dtype, flags)


def rebuild_parameter(data: object, *_: object) -> object:
    """Stand in for ``torch._utils._rebuild_parameter`` and ``_rebuild_parameter_with_state``: the data is enough."""
    return data


def rebuild_typed(function: Any, kind: object, args: tuple[Any, ...], *_: object) -> object:
    """Stand in for ``torch._tensor._rebuild_from_type_v2``: subclasses of Tensor become plain tensors."""
    if isinstance(function, Call) and function.function in (rebuild_v2, rebuild_v3, rebuild_parameter):
        return function(*args)
    return Refused("a tensor subclass with its own storage format")


def refusal(reason: str) -> Call:
    """A function that accepts anything and answers with the reason for a refusal."""
    return Call(lambda *args, **kwargs: Refused(reason))


QUANTISED = "a quantised tensor. Dequantise the model before saving it, or load the float checkpoint it was made from"
REBUILD: dict[tuple[str, str], Call] = {
    ("torch._utils", "_rebuild_tensor"): Call(rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v2"): Call(rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Call(rebuild_v3),
    ("torch._utils", "_rebuild_parameter"): Call(rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Call(rebuild_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Call(rebuild_typed),
    ("torch._utils", "_rebuild_qtensor"): refusal(QUANTISED),
    ("torch._utils", "_rebuild_sparse_tensor"): refusal("a sparse tensor. Save it dense: tensor.to_dense()"),
    ("torch._utils", "_rebuild_nested_tensor"): refusal("a nested tensor. Save its parts as plain tensors"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): refusal("a meta tensor, which has no values"),
    ("torch._utils", "_rebuild_wrapper_subclass"): refusal("a tensor subclass with its own storage format"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): refusal("a tensor of another device, saved through numpy"),
}
"""Functions that PyTorch's pickles name to make tensors, and what stands in for each."""
