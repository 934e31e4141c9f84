"""Tensors without data: what stands for the tensors of a run that is only recorded."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from metanet.space.record.tape import Entry


class Unrecorded(Exception):
    """Something that a recording cannot express; ``torch.export`` may."""


class Layout:
    """All that is known of a tensor without data. Equal layouts are one object, so that they are quick to compare.

    Attributes:
        shape: Its sizes.
        stride: Its strides.
        offset: Where it begins in its storage.
        dtype: Its type.
        device: Its device.
        trained: Whether it requires a gradient, by which torch chooses how to multiply matrices.
        contiguous: Whether it is dense and row-major.
        dense: Whether it fills its memory, in whatever order of dimensions.
    """

    __slots__ = ("contiguous", "dense", "device", "dtype", "offset", "shape", "stride", "trained")

    def __init__(
        self,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        offset: int,
        dtype: torch.dtype,
        device: torch.device,
        trained: bool = False,
    ) -> None:
        self.shape, self.stride, self.offset, self.dtype, self.device = shape, stride, offset, dtype, device
        self.trained = trained
        self.contiguous = all(
            s == 1 or own == wanted for s, own, wanted in zip(shape, stride, row_major(shape), strict=True)
        )
        self.dense = self.contiguous or _is_dense(shape, stride)

    def twin(self) -> Tensor:
        """A tensor of this layout on the meta device, with memory of its own."""
        if not self.offset:
            return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        extent = self.offset + 1 + sum((s - 1) * d for s, d in zip(self.shape, self.stride, strict=True))
        whole = torch.empty(max(extent, self.offset), dtype=self.dtype, device="meta")
        return whole.as_strided(self.shape, self.stride, self.offset)


_layout = functools.lru_cache(maxsize=1 << 16)(Layout)


def layout(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
    dtype: torch.dtype,
    device: torch.device,
    trained: bool = False,
) -> Layout:
    """The one layout of that description."""
    return _layout(shape, stride, offset, dtype, device, trained)  # a default left out is another key


def layout_of(tensor: Tensor, device: torch.device | None = None, trained: bool = False) -> Layout:
    """The layout of a tensor, seemingly on a device.

    Raises:
        Unrecorded: It has none.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise Unrecorded(f"a tensor is {tensor.layout}")
    return layout(
        tuple(tensor.shape),
        tensor.stride(),
        int(tensor.storage_offset()),
        tensor.dtype,
        device or tensor.device,
        trained,
    )


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a dense tensor whose last dimension is innermost."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the dimensions, innermost first, fill the memory without gaps."""
    filled = 1
    for step, size in sorted((d, s) for d, s in zip(stride, shape, strict=True) if s != 1):
        if step != filled:
            return False
        filled *= size
    return True


class Memory:
    """The memory of stand-ins, which views share.

    Attributes:
        holders: All stand-ins that it has been given to, as long as they live.
    """

    __slots__ = ("holders",)

    def __init__(self) -> None:
        self.holders: list[weakref.ref[StandIn]] = []

    def is_shared(self, own: StandIn) -> bool:
        """Whether another tensor that is still there sees it."""
        return any(other is not None and other is not own for other in (holder() for holder in self.holders))


class StandIn(FakeTensor):
    """A tensor without data, for which an entry of the tape stands.

    It claims to be one of torch's fake tensors because code asks for them before it looks at values; nothing of theirs
    is used.

    Attributes:
        known: Its layout.
        memory: Its memory.
        entry: What yields it; another one after an operation in place.
    """

    known: Layout
    memory: Memory
    entry: Entry

    device = Tensor.device  # that of fake tensors asks for their mode
    constant = real_tensor = None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse operations outside of a recording."""
        raise Unrecorded(f"{func} was called on a tensor without data after the recording, or on another thread")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"StandIn({list(self.shape)}, {self.dtype}, {self.device})"

    @staticmethod
    def of(known: Layout, memory: Memory, entry: Entry | None) -> StandIn:
        """A stand-in of a layout."""
        made: StandIn = torch.Tensor._make_wrapper_subclass(
            StandIn,
            known.shape,
            strides=known.stride,
            storage_offset=known.offset,
            dtype=known.dtype,
            device=known.device,
            requires_grad=known.trained,
        )
        made.known, made.memory = known, memory
        if entry is not None:
            made.entry = entry
        memory.holders.append(weakref.ref(made))
        return made

    def become(self, known: Layout) -> None:
        """Take another layout on the same memory, as operations in place give it that only move dimensions."""
        with torch._C._DisableTorchDispatch():
            torch.ops.aten.as_strided_.default(self, known.shape, known.stride, known.offset)
        self.known = known


def stand_ins(items: Any) -> Iterator[StandIn]:
    """All stand-ins within nested arguments."""
    kind = type(items)
    if kind is StandIn:
        yield items
    elif kind is dict:
        for item in items.values():
            yield from stand_ins(item)
    elif isinstance(items, list | tuple):
        for item in items:
            yield from stand_ins(item)
