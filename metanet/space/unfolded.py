"""Convolutions in double precision, for which torch copies the window of every output, in pieces that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 2**19
"""Entries that are copied at once, 4 MiB: larger blocks leave holes in the heap."""

_plain = torch.ops.aten.convolution.default


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """``aten.convolution``, cut along its longest dimension (batch or space) where its windows are many.

    Returns:
        ``[N, channels, *space]``, equal up to rounding to what the operation itself gives.
    """
    n = x.ndim - 2
    stride, padding, dilation = (list(s) * n if len(s) == 1 else list(s) for s in (stride, padding, dilation))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    space = [(a + 2 * p - r) // s + 1 for a, p, r, s in zip(x.shape[2:], padding, reach, stride, strict=True)]
    many = not transposed and x.dtype == torch.float64 and windows(weight, x.shape[:1] + tuple(space)) > PIECE
    if not many:
        return _plain(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    x = F.pad(x, [p for one in reversed(padding) for p in (one, one)])
    result = x.new_empty(x.shape[0], weight.shape[0], *space)
    sizes = [x.shape[0], *space]
    longest = sizes.index(max(sizes))
    count = max(1, PIECE * sizes[longest] // windows(weight, sizes))
    step, width, at = (1, 1, 0) if longest == 0 else (stride[longest - 1], reach[longest - 1], longest + 1)
    for first in range(0, sizes[longest], count):
        rows = min(count, sizes[longest] - first)
        part = x.narrow(at, first * step, (rows - 1) * step + width)
        made = _plain(part, weight, bias, stride, [0] * n, dilation, False, output_padding, groups)
        result.narrow(at, first, rows).copy_(made)
    return result


def windows(weight: Tensor, sizes: Sequence[int]) -> int:
    """Entries of the windows of all outputs, given batch size and space: ``N space (channels of a group) taps``."""
    return math.prod(sizes) * weight[0].numel()


def copied(x: Tensor, weight: Tensor, result: Tensor, transposed: bool) -> int:
    """Entries that :func:`convolution` copies at once for a result."""
    if transposed:
        return windows(weight, x.shape[2:])
    sizes = [result.shape[0], *result.shape[2:]]
    total = windows(weight, sizes)
    return total if total <= PIECE else max(PIECE, total // max(sizes))
