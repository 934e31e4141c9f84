"""Operators that move, join, repeat or take parts of dimensions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Fixed, Indices, Ints, Number, Refused, Weight, axes_of, axis_of, operator


@operator("Reshape")
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Reshape; 0 keeps a size, -1 infers one."""
    sizes = [x.shape[i] if s == 0 and not allowzero else s for i, s in enumerate(shape)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions: what is before the axis, and the rest."""
    axis = axis if axis == x.ndim else axis_of(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Drop dimensions of size 1."""
    if axes is None:
        return x.squeeze()
    places = axes_of(axes, x.ndim)
    if any(x.shape[a] != 1 for a in places):
        raise Refused(f"its axes {list(axes)} of the shape {list(x.shape)} are not of size 1")
    return x.squeeze(tuple(places))


@operator("Unsqueeze")
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Insert dimensions of size 1."""
    rank = x.ndim + len(axes)
    for axis in sorted(axes_of(axes, rank)):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    """Reorder dimensions; reverse them by default."""
    if perm is not None and sorted(perm) != list(range(x.ndim)):
        raise Refused(f"its order {list(perm)} is none of {x.ndim} dimensions")
    return x.permute(tuple(perm) if perm is not None else tuple(range(x.ndim))[::-1])


@operator("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast to what x and the shape have in common."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Repeat whole dimensions."""
    if len(repeats) != x.ndim or min(repeats, default=0) < 0:
        raise Refused(f"it repeats {list(repeats)} times an input of {x.ndim} dimensions")
    return x.repeat(tuple(repeats))


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels to positions: ``[N, C b b, H, W] -> [N, C, H b, W b]``."""
    _check_blocks(blocksize, mode)
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Positions to channels, block positions outermost, or innermost with ``CRD``."""
    _check_blocks(blocksize, mode)
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def _check_blocks(size: int, mode: str) -> None:
    if size < 1 or mode not in ("DCR", "CRD"):
        raise Refused(f"its blocks are of size {size} and mode '{mode}'; modes DCR and CRD are accepted")


@operator("Concat")
def concat(*items: Tensor, axis: int | None = None, opset: int = 13) -> Tensor:
    """Join along a dimension."""
    if axis is None and opset >= 4:
        raise Refused("its attribute 'axis' is missing")
    return torch.cat(items, axis_of(1 if axis is None else axis, items[0].ndim))


@operator("Split")
def split(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1,
    opset: int = 18,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Consecutive parts, equal ones (from version 18 on the last may be smaller) unless sizes are given."""
    axis = axis_of(axis, x.ndim)
    size = x.shape[axis]
    if split is not None:
        if len(split) != outputs or sum(split) != size or min(split) < 0:
            raise Refused(f"its parts {list(split)} for {outputs} outputs are not those of a dimension of {size}")
        return x.split(list(split), axis)
    each = -(-size // outputs)
    if num_outputs not in (None, outputs) or each * (outputs - 1) > size or (opset < 18 and size % outputs):
        raise Refused(
            f"a dimension of {size} cannot be split into {num_outputs or outputs} parts for {outputs} outputs"
        )
    return x.split([*[each] * (outputs - 1), size - each * (outputs - 1)], axis)


@operator("Slice")
def take_slice(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Slices along several dimensions; a negative step reverses."""
    where = axes_of(axes if axes is not None else range(len(starts)), x.ndim)
    if not len(starts) == len(ends) == len(where) == len(steps if steps is not None else starts):
        raise Refused("its starts, ends, axes and steps are not equally many")
    for axis, start, end, step in zip(where, starts, ends, steps or [1] * len(starts), strict=True):
        size = x.shape[axis]
        places = range(*slice(start, end, step).indices(size))
        if step < 0:
            first = places[-1] if places else 0
            x = _every(x, axis, first, places[0] + 1 if places else 0, -step).flip(axis)
        else:
            x = _every(x, axis, places.start, max(places.stop, places.start), step)
    return x


def _every(x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


@operator("Gather")
def gather(x: Weight, indices: Indices, *, axis: int = 0) -> Tensor:
    """Entries of one dimension by number; rows of a table by numbers that the network computes are an embedding.

    Negative numbers count from the end.
    """
    axis = axis_of(axis, x.ndim)
    size = x.shape[axis]
    if not isinstance(indices, Fixed):
        places = _from_start(indices, size)
        if axis == 0 and x.ndim == 2 and x.is_floating_point():
            return F.embedding(places, x)
        picked = x.index_select(axis, places.reshape(-1))
        return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if not all(-size <= i < size for i in indices.numbers):
        raise Refused(f"it takes the entry {max(indices.numbers, key=abs)} of {size} along axis {axis}")
    numbers = [i % size for i in indices.numbers]
    if indices.tensor.ndim == 0:
        return x.select(axis, numbers[0])
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        picked = x.narrow(axis, numbers[0], len(numbers))
    else:
        picked = x.index_select(axis, torch.tensor(numbers, dtype=torch.long, device=x.device))
    return picked.reshape(*x.shape[:axis], *indices.tensor.shape, *x.shape[axis + 1 :])


def _from_start(indices: Tensor, size: int) -> Tensor:
    """Numbers of entries, those that count from the end made positive."""
    return torch.where(indices < 0, indices + size, indices).long()


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Entries by numbers that differ from place to place."""
    axis = axis_of(axis, x.ndim)
    return torch.gather(x, axis, _from_start(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Entries by tuples of numbers, for each entry of the first ``batch_dims`` dimensions."""
    if not 0 <= batch_dims < min(x.ndim, indices.ndim) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise Refused(f"its batch_dims is {batch_dims} on inputs of the shapes {list(x.shape)}, {list(indices.shape)}")
    rank = indices.ndim - 1
    each = [
        torch.arange(x.shape[d], device=x.device).reshape([-1 if i == d else 1 for i in range(rank)])
        for d in range(batch_dims)
    ]
    return x[(*each, *indices.long().unbind(-1))]


REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""Torch's names of ONNX's reductions."""


def _reduction(name: str) -> str:
    if name not in REDUCE:
        raise Refused(f"its reduction is '{name}'; none, {', '.join(REDUCE)} are accepted")
    return REDUCE[name]


@operator("ScatterElements", "Scatter")
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """Write at numbers that differ from place to place."""
    axis = axis_of(axis, x.ndim)
    if indices.shape != updates.shape:
        raise Refused(f"its indices have the shape {list(indices.shape)}, its updates {list(updates.shape)}")
    numbers = _from_start(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, numbers, updates)
    return x.scatter_reduce(axis, numbers, updates, _reduction(reduction))


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Write at tuples of numbers."""
    width = indices.shape[-1]
    if updates.shape != (*indices.shape[:-1], *x.shape[width:]):
        raise Refused(f"its indices {list(indices.shape)} and updates {list(updates.shape)} do not fit {list(x.shape)}")
    if reduction in ("none", "add"):
        return x.index_put(tuple(indices.long().unbind(-1)), updates, accumulate=reduction == "add")
    rows = torch.zeros_like(indices[..., 0], dtype=torch.long)
    for d, places in enumerate(indices.unbind(-1)):
        rows = rows * x.shape[d] + _from_start(places, x.shape[d])
    flat = x.reshape(math.prod(x.shape[:width]), -1)
    new = updates.reshape(rows.numel(), flat.shape[1])
    return flat.scatter_reduce(0, rows.reshape(-1, 1).expand_as(new), new, _reduction(reduction)).reshape(x.shape)


@operator("Compress")
def compress(x: Tensor, condition: Ints, *, axis: int | None = None) -> Tensor:
    """The entries, of one dimension or of all in a row, where a known condition holds."""
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis_of(axis, x.ndim))
    rows = [i for i, kept in enumerate(condition) if kept]
    if rows and rows[-1] >= x.shape[axis]:
        raise Refused(f"it takes the entry {rows[-1]} of {x.shape[axis]}")
    return x.index_select(axis, torch.tensor(rows, dtype=torch.long, device=x.device))


@operator("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Ints, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Sequences turned around, each up to its own known length."""
    if sorted((batch_axis, time_axis)) != [0, 1] or len(lengths) != x.shape[batch_axis]:
        raise Refused(f"its axes are {batch_axis} and {time_axis} and it has {len(lengths)} lengths")
    size = x.shape[time_axis]
    if not all(0 <= n <= size for n in lengths):
        raise Refused(f"its lengths are {list(lengths)} of {size} steps")
    turned = torch.tensor([[n - 1 - i if i < n else i for i in range(size)] for n in lengths], device=x.device)
    rows = turned if batch_axis == 0 else turned.t()
    return x.gather(time_axis, rows.reshape(*rows.shape, *[1] * (x.ndim - 2)).expand(x.shape))


PADDED = 2**20
"""Entries that padding may add at one end of a dimension."""


@operator("Pad")
def pad(
    x: Tensor, pads: Ints, constant_value: Number | None = None, axes: Ints | None = None, *, mode: str = "constant",
    value: float = 0.0,
) -> Tensor:  # fmt: skip
    """Pad with a constant, or with copies of entries."""
    where = axes_of(axes, x.ndim) if axes is not None else list(range(x.ndim))
    if len(pads) != 2 * len(where) or max(pads, default=0) > PADDED:
        raise Refused(f"its pads {list(pads)[:8]} do not fit {len(where)} dimensions")
    befores, afters = pads[: len(where)], pads[len(where) :]
    if mode == "constant":
        pairs = [0] * (2 * x.ndim)
        for axis, before, after in zip(where, befores, afters, strict=True):
            pairs[2 * (x.ndim - 1 - axis)], pairs[2 * (x.ndim - 1 - axis) + 1] = before, after
        while len(pairs) > 2 and pairs[-2:] == [0, 0]:
            pairs = pairs[:-2]
        fill = constant_value if constant_value is not None else value
        return F.pad(x, pairs, value=fill) if any(pairs) else x
    for axis, before, after in zip(where, befores, afters, strict=True):
        if before or after:
            places = _places(x.shape[axis], before, after, mode)
            x = x.index_select(axis, torch.tensor(places, device=x.device))
    return x


def _places(size: int, before: int, after: int, mode: str) -> list[int]:
    """Where each entry of a padded dimension comes from."""
    places = range(-before, size + after)
    if size == 0 or size + before + after < 0:
        raise Refused(f"it pads a dimension of size {size} by {before} and {after} in mode '{mode}'")
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in places]
    if mode == "wrap":
        return [i % size for i in places]
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        return [min(i % period, period - i % period) if size > 1 else 0 for i in places]
    raise Refused(f"its mode '{mode}' is not one of constant, reflect, edge, wrap")


@operator("Trilu")
def trilu(x: Tensor, k: Number | None = None, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle of matrices."""
    return (torch.triu if upper else torch.tril)(x, int(k or 0))


@operator("OneHot")
def one_hot(indices: Tensor, depth: Number, values: Tensor, *, axis: int = -1) -> Tensor:
    """``on`` at the numbers named, ``off`` elsewhere, along a new dimension."""
    if depth < 1 or values.numel() != 2:
        raise Refused(f"its depth is {depth} and it has {values.numel()} values; two are accepted")
    places = _from_start(indices, int(depth))  # those beyond the depth are off everywhere
    here = torch.arange(int(depth), device=indices.device) == places.unsqueeze(-1)
    return torch.where(here, values[1], values[0]).movedim(-1, axis_of(axis, here.ndim))
