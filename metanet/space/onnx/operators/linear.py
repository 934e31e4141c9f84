"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Ints, Refused, Weight, operator

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("MatMul")
def matmul(x: Weight, y: Weight) -> Tensor:
    """Matrix product; one with a matrix on the right is a linear layer."""
    if y.ndim == 2 and x.ndim != 1:
        return F.linear(x, y.t())
    return torch.matmul(x, y)


@operator("Gemm")
def gemm(
    a: Weight, b: Weight, c: Weight | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Tensor:  # fmt: skip
    """``alpha * a @ b + beta * c``."""
    a = a.t() if transA else a
    weight = b if transB else b.t()
    if alpha == beta == 1 and c is not None and tuple(c.shape) == (weight.shape[0],):
        return F.linear(a, weight, c)
    product = F.linear(a, weight)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


@operator("Einsum")
def einsum(*items: Weight, equation: str) -> Tensor:
    """Einstein summation."""
    return torch.einsum(equation, *items)


def same_pads(
    shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], auto_pad: str
) -> list[int]:
    """Paddings (all begins, then all ends) that ``SAME_UPPER`` and ``SAME_LOWER`` stand for."""
    totals = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(shape, kernel, strides, dilations, strict=True)
    ]
    less = [t // 2 for t in totals]
    more = [t - small for t, small in zip(totals, less, strict=True)]
    return [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]


def split_pads(pads: Sequence[int], n: int) -> tuple[list[int], list[int]]:
    """Begins and ends of ``n`` dimensions."""
    if len(pads) != 2 * n:
        raise Refused(f"its pads {list(pads)} do not fit {n} dimensions")
    return list(pads[:n]), list(pads[n:])


def pad_ends(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last dimensions."""
    pairs = [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair]
    return F.pad(x, pairs, value=value) if any(pairs) else x


def window(
    x: Tensor, kernel: Sequence[int], strides: Ints | None, dilations: Ints | None, pads: Ints | None, auto_pad: str
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, begins and ends of a sliding window, defaults filled in."""
    n = len(kernel)
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = same_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
    begins, ends = split_pads(pads or [0] * (2 * n), n)
    return strides, dilations, begins, ends


@operator("Conv")
def conv(
    x: Tensor, weight: Weight, bias: Weight | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """Convolution in one to three dimensions."""
    n = weight.ndim - 2
    if n not in CONVOLUTIONS:
        raise Refused(f"it is a convolution in {n} dimensions; 1 to 3 are accepted")
    strides, dilations, begins, ends = window(x, weight.shape[2:], strides, dilations, pads, auto_pad)
    if begins != ends:
        x, begins = pad_ends(x, begins, ends), [0] * n
    return CONVOLUTIONS[n](x, weight, bias, strides, begins, dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor, weight: Weight, bias: Weight | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, output_padding: Ints | None = None,
    output_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """Transposed convolution in one to three dimensions."""
    n = weight.ndim - 2
    if n not in TRANSPOSED:
        raise Refused(f"it is a transposed convolution in {n} dimensions; 1 to 3 are accepted")
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    extra = list(output_padding or [0] * n)
    begins, ends = split_pads(pads or [0] * (2 * n), n)
    full = [
        (x.shape[2 + i] - 1) * strides[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 + extra[i] for i in range(n)
    ]
    if output_shape is not None or auto_pad.startswith("SAME"):
        wanted = list(output_shape or [size * s for size, s in zip(x.shape[2:], strides, strict=True)])[-n:]
        totals = [max(size - want, 0) for size, want in zip(full, wanted, strict=True)]
        less = [t // 2 for t in totals]
        more = [t - small for t, small in zip(totals, less, strict=True)]
        begins, ends = (more, less) if auto_pad == "SAME_LOWER" else (less, more)
    if begins == ends:
        return TRANSPOSED[n](x, weight, bias, strides, begins, extra, group, dilations)
    whole = TRANSPOSED[n](x, weight, bias, strides, [0] * n, extra, group, dilations)
    return pad_ends(whole, [-b for b in begins], [-e for e in ends])
