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


AUTO = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")


def window(
    x: Tensor, kernel: Sequence[int], strides: Ints | None, dilations: Ints | None, pads: Ints | None, auto_pad: str
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, begins and ends of a sliding window, defaults filled in.

    Raises:
        Refused: They do not fit the input, or are not positive.
    """
    n = len(kernel)
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    if x.ndim != n + 2 or not len(strides) == len(dilations) == n or min(*kernel, *strides, *dilations) < 1:
        raise Refused(
            f"its kernel {list(kernel)}, strides {strides} and dilations {dilations} do not fit an input of the shape "
            f"{list(x.shape)}"
        )
    if auto_pad not in AUTO:
        raise Refused(f"its auto_pad is '{auto_pad}'; {', '.join(AUTO[:4])} are accepted")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = same_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
    begins, ends = split_pads(pads or [0] * (2 * n), n)
    if max(*begins, *ends) > PADDED:
        raise Refused(f"its pads are {[*begins, *ends]}; at most {PADDED:,} are accepted")
    return strides, dilations, begins, ends


PADDED = 2**20
"""Entries that padding may add at one end of a dimension."""


@operator("Conv")
def conv(
    x: Tensor, weight: Weight, bias: Weight | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """Convolution in one to three dimensions."""
    n = weight.ndim - 2
    if n not in CONVOLUTIONS:
        raise Refused(f"it is a convolution in {n} dimensions; 1 to 3 are accepted")
    _check_kernel(weight, kernel_shape)
    strides, dilations, begins, ends = window(x, weight.shape[2:], strides, dilations, pads, auto_pad)
    if begins != ends or min(begins) < 0:
        x, begins = pad_ends(x, begins, ends), [0] * n
    return CONVOLUTIONS[n](x, weight, bias, strides, begins, dilations, group)


def _check_kernel(weight: Tensor, kernel_shape: Ints | None) -> None:
    if kernel_shape is not None and list(kernel_shape) != list(weight.shape[2:]):
        raise Refused(f"its kernel_shape is {list(kernel_shape)}, and its weight has the shape {list(weight.shape)}")


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
    _check_kernel(weight, kernel_shape)
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")  # here it tells how the output is cropped
    strides, dilations, begins, ends = window(x, weight.shape[2:], strides, dilations, pads, "" if same else auto_pad)
    extra = list(output_padding or [0] * n)
    if len(extra) != n or min(extra) < 0 or max(extra) > PADDED:
        raise Refused(f"its output_padding is {extra}")
    full = [(x.shape[2 + i] - 1) * strides[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 for i in range(n)]
    if output_shape is not None or same:
        wanted = list(output_shape or [size * s for size, s in zip(x.shape[2:], strides, strict=True)])
        begins, ends = _cropped(full, extra, wanted, auto_pad, None if pads is None else (begins, ends))
    room = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if begins == ends and min(begins) >= 0 and room:
        return TRANSPOSED[n](x, weight, bias, strides, begins, extra, group, dilations)
    whole = TRANSPOSED[n](x, weight, None, strides, [0] * n, [0] * n, group, dilations)
    whole = pad_ends(whole, [-b for b in begins], [more - e for e, more in zip(ends, extra, strict=True)])
    return whole if bias is None else whole + bias.reshape(-1, *[1] * n)


def _cropped(
    full: Sequence[int], extra: Sequence[int], wanted: Sequence[int], auto_pad: str,
    pads: tuple[list[int], list[int]] | None,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """What is cut off before and behind so that a transposed convolution has the output shape that is asked for.

    Raises:
        Refused: ONNX's text, its reference implementation and its runtime disagree about that.
    """
    if len(wanted) != len(full) or min(wanted) < 1 or max(wanted) > PADDED:
        raise Refused(f"its output_shape is {list(wanted)}; {len(full)} sizes are accepted")
    totals = [size + more - want for size, more, want in zip(full, extra, wanted, strict=True)]
    if pads is not None and [b + e for b, e in zip(*pads, strict=True)] == totals:
        return pads
    if auto_pad.startswith("SAME") and min(totals) >= 0:
        less = [total // 2 for total in totals]
        more = [total - small for total, small in zip(totals, less, strict=True)]
        return (more, less) if auto_pad == "SAME_LOWER" else (less, more)
    if not auto_pad.startswith("SAME") and pads is None and max(totals) <= 0:
        return [0] * len(totals), totals  # nothing is cut off, and the output goes on behind the last entry
    raise Refused(
        f"its output_shape {list(wanted)} does not say how an output that is {totals} larger is cut off, or a smaller "
        f"one goes on: runtimes disagree. Export it with pads and output_padding"
    )
