"""Operators whose result is known when the network is built."""

from __future__ import annotations

import torch
from torch import Tensor

from metanet.space.onnx.operators.elementwise import DTYPES
from metanet.space.onnx.registry import Ints, operator


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
    return torch.zeros(tuple(shape)) if value is None else value.reshape(()).expand(tuple(shape)).contiguous()


@operator("Range")
def number_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from start to limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """A matrix with ones on a diagonal."""
    kind = x.dtype if dtype is None else DTYPES[dtype]
    return torch.ones(x.shape[0], x.shape[1], dtype=kind).triu(k).tril(k)


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    """Where entries are not zero, ``[rank, count]``."""
    return x.nonzero().t()
