"""Acting with gauges: multiply the parts of tensors that a node set indexes by powers of its factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from metanet.space.gauges import Gauge, GaugePart
from metanet.space.labels import Label
from metanet.space.weight_space import TensorSpec, WeightSpace


def rescale(
    space: WeightSpace, gauge: Gauge, factors: Tensor, tensors: dict[str, Tensor], batched: bool = False
) -> None:
    """Multiply, in place, the tensors that a gauge moves (they must be copies already).

    Args:
        space: The space.
        gauge: One of its gauges.
        factors: One factor per neuron, in the shape of ``gauge.axes``, with a leading dimension if each of the stacked
            networks has its own. Zero, no member of the group, sets to zero whatever the gauge moves.
        tensors: Tensors by name, ``[*shape]`` or stacked ``[B, *shape]``.
        batched: Whether they are stacked.
    """
    own = factors.ndim - len(gauge.axes)
    for part in gauge.parts:
        powers = (factors.to(tensors[part.tensor]) ** part.exponent).masked_fill(factors == 0, 0)
        for view, order in views(space.tensor[part.tensor], part, gauge.axes, tensors[part.tensor], batched):
            shape = [len(powers)] * own + [1] * (view.ndim - own)
            for axis, dim in enumerate(order):
                shape[dim] = powers.shape[own + axis]
            ranks = sorted(range(len(order)), key=order.__getitem__)
            ranked = powers.permute(*range(own), *(own + i for i in ranks)).reshape(shape)
            if part.offset:
                view.add_(part.offset).mul_(ranked).sub_(part.offset)
            else:
                view.mul_(ranked)


def views(
    spec: TensorSpec, part: GaugePart, axes: Sequence[str], tensor: Tensor, batched: bool
) -> Iterator[tuple[Tensor, list[int]]]:
    """Views of the tensor that the axes index as a whole (batched or not), each with the dimension of every axis."""
    named = {axis for d in part.dims for axis in spec.labels[d].axes}
    for view, atoms in atom_views(tensor, int(batched), list(enumerate(spec.labels))):
        wanted = [*axes, *(axis for axis, _ in part.chosen)]
        places = [_place(atoms, name, part.dims if name in named else ()) for name in wanted]
        if None in places:
            continue
        keep = [p + batched for p in places[: len(axes)] if p is not None]
        for place, (_, entry) in sorted(zip(places[len(axes) :], part.chosen, strict=True), key=lambda x: -(x[0] or 0)):
            at = (place or 0) + batched
            view = view.select(at, entry)
            keep = [k - (k > at) for k in keep]
        yield view, keep


def atom_views(
    view: Tensor, at: int, labels: Sequence[tuple[int, Label]]
) -> Iterator[tuple[Tensor, list[tuple[int, str]]]]:
    """Views of a tensor in which every dimension from ``at`` on is one axis, one per choice of concatenated pieces.

    Args:
        view: The tensor.
        at: Its first dimension that ``labels`` describe.
        labels: What indexes each dimension from there on, with the number of the tensor's own dimension.

    Yields:
        The view, and for each of its dimensions the tensor's own dimension and the axis.
    """
    if not labels:
        yield view, []
        return
    (own, label), *rest = labels
    if label.op == "unit":
        yield from atom_views(view.squeeze(at), at, rest)
    elif label.op == "axis":
        for inner, atoms in atom_views(view, at + 1, rest):
            yield inner, [(own, label.axis), *atoms]
    elif label.op == "product":
        factors = [(own, part) for part in label.parts]
        yield from atom_views(view.unflatten(at, [p.size for p in label.parts]), at, [*factors, *rest])
    else:
        start = 0
        for part in label.parts:
            yield from atom_views(view.narrow(at, start, part.size), at, [(own, part), *rest])
            start += part.size


def _place(atoms: Sequence[tuple[int, str]], name: str, dims: Sequence[int]) -> int | None:
    """Which atom an axis is: the first, among those of the dimensions named if any are."""
    return next((i for i, (own, n) in enumerate(atoms) if n == name and (not dims or own in dims)), None)


def draw(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Random factors: distinct ones between 1/e and e, none close to 1; or signs, of which at least one is negative."""
    shape = [space.axis[name].size for name in gauge.axes]
    if gauge.kind == "scale":
        return spread(shape, generator).exp()
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    signs = torch.where(uniform < 0.5, -1.0, 1.0).double()
    signs.view(-1)[0] = -1
    return signs


def spread(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Random numbers in ``[-1, -0.1]`` and ``[0.1, 1]``, no two of which are (nearly) equal: one per interval."""
    size = math.prod(shape)
    place = torch.randperm(size, generator=generator) + 0.2 + 0.6 * torch.rand(size, generator=generator).double()
    number = 2 * place / size - 1
    return (number + number.sign() * (1 - number.abs()) * 0.1).reshape(tuple(shape))


def permuted(factors: Tensor, gauge: Gauge, perms: Mapping[str, Tensor]) -> Tensor:
    """Factors carried along by a permutation of the axes."""
    for dim, name in enumerate(gauge.axes):
        if name in perms:
            factors = factors.index_select(dim, perms[name])
    return factors
