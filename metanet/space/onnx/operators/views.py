"""Operators that move, join, repeat or take parts of dimensions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Fixed, Indices, Ints, Number, Refused, Weight, operator


@operator("Reshape")
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Reshape; 0 keeps a size, -1 infers one."""
    sizes = [x.shape[i] if s == 0 and not allowzero else s for i, s in enumerate(shape)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions: what is before the axis, and the rest."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Drop dimensions of size 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze")
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Insert dimensions of size 1."""
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    """Reorder dimensions; reverse them by default."""
    return x.permute(tuple(perm) if perm is not None else tuple(range(x.ndim))[::-1])


@operator("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast to what x and the shape have in common."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Repeat whole dimensions."""
    return x.repeat(tuple(repeats))


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels to positions: ``[N, C b b, H, W] -> [N, C, H b, W b]``."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Positions to channels, block positions outermost."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


@operator("Concat")
def concat(*items: Tensor, axis: int = 1) -> Tensor:
    """Join along a dimension."""
    return torch.cat(items, axis)


@operator("Split")
def split(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> tuple[Tensor, ...]:
    """Consecutive parts, equal ones (the last may be smaller) unless sizes are given."""
    if split is None:
        count = num_outputs or outputs
        return x.split(-(-x.shape[axis] // count), axis)
    return x.split(list(split), axis)


@operator("Slice")
def take_slice(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Slices along several dimensions; a negative step reverses."""
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[i] if axes is not None else i) % x.ndim, steps[i] if steps is not None else 1
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
    """Entries of one dimension by number; rows of a table by numbers that the network computes are an embedding."""
    axis %= x.ndim
    if not isinstance(indices, Fixed):
        if axis == 0 and x.ndim == 2 and x.is_floating_point():
            return F.embedding(indices.long(), x)
        picked = x.index_select(axis, indices.reshape(-1).long())
        return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    numbers = [i % max(x.shape[axis], 1) for i in indices.numbers]
    if indices.tensor.ndim == 0:
        return x.select(axis, numbers[0])
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        picked = x.narrow(axis, numbers[0], len(numbers))
    else:
        picked = x.index_select(axis, torch.tensor(numbers, dtype=torch.long, device=x.device))
    return picked.reshape(*x.shape[:axis], *indices.tensor.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Entries by numbers that differ from place to place."""
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Entries by tuples of numbers."""
    if batch_dims:
        raise Refused("its batch_dims is not 0")
    return x[tuple(indices.long().unbind(-1))]


@operator("ScatterElements", "Scatter")
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """Write at numbers that differ from place to place."""
    numbers = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    if reduction == "none":
        return x.scatter(axis, numbers, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, numbers, updates, names[reduction])


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Write at tuples of numbers."""
    if reduction not in ("none", "add"):
        raise Refused(f"its reduction is '{reduction}'; 'none' and 'add' are accepted")
    return x.index_put(tuple(indices.long().unbind(-1)), updates, accumulate=reduction == "add")


@operator("Pad")
def pad(
    x: Tensor, pads: Ints, constant_value: Number | None = None, axes: Ints | None = None, *, mode: str = "constant",
    value: float = 0.0,
) -> Tensor:  # fmt: skip
    """Pad with a constant, or with copies of entries."""
    where = [a % x.ndim for a in axes] if axes is not None else list(range(x.ndim))
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
    here = torch.arange(int(depth), device=indices.device) == (indices % int(depth)).unsqueeze(-1)
    return torch.where(here, values[1], values[0]).movedim(-1, axis)
