"""Pooling over positions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.operators.linear import pad_ends, window
from metanet.space.onnx.registry import Ints, Refused, operator

MAXIMUM: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@operator("MaxPool")
def max_pool(
    x: Tensor, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    pads: Ints | None = None, storage_order: int = 0, strides: Ints | None = None, outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """The largest entry of each window, and on demand its place among all entries of the input."""
    n = _dimensions(kernel_shape)
    strides, dilations, begins, ends = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    direct = _symmetric(begins, ends, kernel_shape)
    if outputs > 1 and (not direct or storage_order):
        raise Refused("the places of its maxima are asked for, in columns or with uneven padding")
    ceil = bool(ceil_mode)
    if not direct:
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, begins = _padded(x, kernel_shape, strides, dilations, begins, ends, ceil, lowest), [0] * n
    y = MAXIMUM[n](x, list(kernel_shape), strides, begins, dilations, ceil and direct, outputs > 1)
    if outputs == 1:
        return y
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * n)
    return y[0], y[1] + planes * math.prod(x.shape[2:])


@operator("AveragePool")
def average_pool(
    x: Tensor, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window, with or without what was padded."""
    n = _dimensions(kernel_shape)
    strides, dilations, begins, ends = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    kernel, ceil = list(kernel_shape), bool(ceil_mode)
    if _symmetric(begins, ends, kernel) and set(dilations) == {1}:
        return AVERAGE[n](x, kernel, strides, begins, ceil, bool(count_include_pad))
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if count_include_pad:  # what lies beyond the padding, as with ceil_mode, counts as nothing
        ones = pad_ends(ones, begins, ends, 1.0)
        inside = _padded(ones, kernel, strides, dilations, [0] * n, [0] * n, ceil)
    else:
        inside = _padded(ones, kernel, strides, dilations, begins, ends, ceil)
    sums = [
        _sums(t, kernel, strides, dilations)
        for t in (_padded(x, kernel, strides, dilations, begins, ends, ceil), inside)
    ]
    return sums[0] / sums[1]


@operator("LpPool")
def power_pool(
    x: Tensor, *, kernel_shape: Ints, p: int = 2, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """The p-norm of each window."""
    _dimensions(kernel_shape)
    strides, dilations, begins, ends = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    powers = _padded(x.abs().pow(p), kernel_shape, strides, dilations, begins, ends, bool(ceil_mode))
    return _sums(powers, kernel_shape, strides, dilations).pow(1 / p)


def _dimensions(kernel: Ints) -> int:
    if len(kernel) not in MAXIMUM:
        raise Refused(f"it pools over {len(kernel)} dimensions; 1 to 3 are accepted")
    return len(kernel)


def _symmetric(begins: Ints, ends: Ints, kernel: Ints) -> bool:
    """Whether torch's pooling has such padding."""
    return begins == ends and all(0 <= 2 * b <= k for b, k in zip(begins, kernel, strict=True))


def _padded(
    x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, begins: Ints, ends: Ints, ceil: bool, value: float = 0.0
) -> Tensor:  # fmt: skip
    """Pad so that the windows cover everything exactly; windows that would begin behind the input are left out."""
    behind = []
    for size, k, s, d, before, after in zip(x.shape[2:], kernel, strides, dilations, begins, ends, strict=True):
        extent = (k - 1) * d + 1
        room = size + before + after - extent
        if room < 0:
            raise Refused(f"its window of {extent} is larger than its input of {size}")
        count = (-(-room // s) if ceil else room // s) + 1
        if ceil and (count - 1) * s >= size + before:
            count -= 1
        behind.append((count - 1) * s + extent - size - before)
    return pad_ends(x, begins, behind, value)


def _sums(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints) -> Tensor:
    """The sum of each window."""
    if set(dilations) == {1}:
        return AVERAGE[len(kernel)](x, list(kernel), list(strides)) * math.prod(kernel)
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        x = x.unfold(2 + i, (k - 1) * d + 1, s)[..., ::d]
    return x.sum(tuple(range(-len(kernel), 0)))


def _positions(x: Tensor) -> tuple[int, ...]:
    if x.ndim < 3:
        raise Refused(f"its input has {x.ndim} dimensions, and no positions")
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average(x: Tensor) -> Tensor:
    """The mean over all positions."""
    return x.mean(_positions(x), keepdim=True)


@operator("GlobalMaxPool")
def global_maximum(x: Tensor) -> Tensor:
    """The largest entry over all positions."""
    return x.amax(_positions(x), keepdim=True)


@operator("GlobalLpPool")
def global_norm(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm over all positions."""
    return x.abs().pow(p).sum(_positions(x), keepdim=True).pow(1 / p)
