"""Operators whose result is known when the network is built."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metanet.space.onnx.operators.elementwise import DTYPES
from metanet.space.onnx.registry import Ints, Refused, operator

ENTRIES = 2**22
"""Numbers that Range may count to."""


@operator("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The sizes of a tensor."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.long)


@operator("Size")
def size(x: Tensor) -> Tensor:
    """The number of entries."""
    return torch.tensor(x.numel())


@operator("ConstantOfShape")
def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    """A tensor of equal entries."""
    if min(shape, default=0) < 0:
        raise Refused(f"its shape is {list(shape)}")
    return torch.zeros(tuple(shape)) if value is None else torch.full(tuple(shape), value.item(), dtype=value.dtype)


@operator("Range")
def number_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from start to limit."""
    first, last, step = start.item(), limit.item(), delta.item()
    if step == 0 or not all(map(math.isfinite, (first, last, step))):
        raise Refused(f"it counts from {first} to {last} in steps of {step}")
    count = max(math.ceil((last - first) / step), 0)
    if count > ENTRIES:
        raise Refused(f"it counts to {count:,} numbers; at most {ENTRIES:,} are accepted")
    return first + step * torch.arange(count, dtype=start.dtype)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """A matrix with ones on a diagonal."""
    if dtype is not None and dtype not in DTYPES:
        raise Refused(f"its type {dtype} is none that torch computes with")
    kind = x.dtype if dtype is None else DTYPES[dtype]
    if x.ndim != 2:
        raise Refused(f"its input has {x.ndim} dimensions; a matrix is accepted")
    return torch.ones(x.shape[0], x.shape[1], dtype=kind).triu(k).tril(k)


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    """Where entries are not zero, ``[rank, count]``."""
    return x.nonzero().t()
