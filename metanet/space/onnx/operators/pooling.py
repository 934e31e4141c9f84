"""Pooling over positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.operators.linear import pad_ends, window
from metanet.space.onnx.registry import Ints, Refused, operator

MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _dimensions(kernel: Ints) -> int:
    if len(kernel) not in MAXIMUM:
        raise Refused(f"it pools over {len(kernel)} dimensions; 1 to 3 are accepted")
    return len(kernel)


@operator("MaxPool")
def max_pool(
    x: Tensor, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    pads: Ints | None = None, storage_order: int = 0, strides: Ints | None = None, outputs: int = 1,
) -> Tensor:  # fmt: skip
    """The largest entry of each window."""
    if outputs > 1:
        raise Refused("the places of its maxima are asked for")
    n = _dimensions(kernel_shape)
    strides, dilations, begins, ends = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    half = all(2 * b <= k for b, k in zip(begins, kernel_shape, strict=True))
    if begins != ends or not half:
        x, begins = pad_ends(x, begins, ends, -math.inf), [0] * n
    return MAXIMUM[n](x, list(kernel_shape), strides, begins, dilations, ceil_mode=bool(ceil_mode))


@operator("AveragePool")
def average_pool(
    x: Tensor, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window, with or without what was padded."""
    n = _dimensions(kernel_shape)
    if any(d != 1 for d in dilations or ()):
        raise Refused("it is an average over dilated windows")
    strides, _, begins, ends = window(x, kernel_shape, strides, None, pads, auto_pad)
    kernel, ceil = list(kernel_shape), bool(ceil_mode)
    half = all(2 * b <= k for b, k in zip(begins, kernel, strict=True))
    if begins == ends and half:
        return AVERAGE[n](x, kernel, strides, begins, ceil, bool(count_include_pad))
    total = AVERAGE[n](pad_ends(x, begins, ends), kernel, strides, 0, ceil)
    if count_include_pad:
        return total
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    return total / AVERAGE[n](pad_ends(ones, begins, ends), kernel, strides, 0, ceil)


@operator("LpPool")
def power_pool(
    x: Tensor, *, kernel_shape: Ints, p: int = 2, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """The p-norm of each window."""
    mean = average_pool(
        x.abs().pow(p), kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=1,
        dilations=dilations, pads=pads, strides=strides,
    )  # fmt: skip
    return (mean * math.prod(kernel_shape)).pow(1 / p)


@operator("GlobalAveragePool")
def global_average(x: Tensor) -> Tensor:
    """The mean over all positions."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_maximum(x: Tensor) -> Tensor:
    """The largest entry over all positions."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_norm(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm over all positions."""
    return x.abs().pow(p).sum(tuple(range(2, x.ndim)), keepdim=True).pow(1 / p)
