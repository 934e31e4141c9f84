"""Where the patches of a convolution come from, as tables of rows: a row is one value of all images of one net."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metanet.zoo import architecture as spec


class Tables(NamedTuple):
    """How patches are gathered from the input, and the gradient of the input from that of the patches.

    The source has the rows of the inputs ``[k, C, H, W]``, then one of zeros (padding) and one of ones (for biases).

    Attributes:
        rows: Row of the source for every row of the patches ``[k, C*K*K + 1, positions]``, flat.
        order: Rows of the patches, sorted by the row of the input that they hold, the last two left out.
        starts: Where in ``order`` each row of the input begins, so that its gradient is the sum of one bag of rows.
    """

    rows: Tensor
    order: Tensor
    starts: Tensor


@lru_cache(maxsize=64)
def tables(shape: tuple[int, ...], layer: spec.Conv, nets: int) -> Tables:
    """Return the tables of a layer of several nets whose input is ``shape``; all int32, do not change them."""
    count, pad = prod(shape), [layer.padding] * 4
    values = functional.pad(torch.arange(count, dtype=torch.float64).view(shape), pad, value=-1).long()
    taps = values.unfold(1, layer.kernel, layer.stride).unfold(2, layer.kernel, layer.stride)
    positions = taps.shape[1] * taps.shape[2]
    taps = taps.permute(0, 3, 4, 1, 2).reshape(-1)  # C, K, K, rows, columns
    zeros, ones = nets * count, nets * count + 1
    own = torch.where(taps >= 0, taps + count * torch.arange(nets)[:, None], zeros)
    rows = torch.cat([own, torch.full((nets, positions), ones)], dim=1).flatten()
    sizes = rows.bincount(minlength=ones + 1)[:zeros]
    order = rows.argsort(stable=True)[: int(sizes.sum())]
    return Tables(rows.int(), order.int(), (sizes.cumsum(0) - sizes).int())
