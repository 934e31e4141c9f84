"""Acting with gauges that add: phases of sines, and vectors that a network does not see.

An element is a tensor in the shape of ``gauge.axes``: integers for phases, real numbers for shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metanet.space.gauges import Gauge, GaugePart
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.scaling import rescale, views


def draw_phases(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Random integers from -3 to 3, of which the first is odd."""
    shape = [space.axis[name].size for name in gauge.axes]
    phases = torch.randint(-3, 4, shape, generator=generator).double()
    phases.view(-1)[0] = 1
    return phases


def draw_shift(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """A random normal vector."""
    shape = [space.axis[name].size for name in gauge.axes]
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def add(space: WeightSpace, gauge: Gauge, element: Tensor, tensors: dict[str, Tensor], batched: bool = False) -> None:
    """Act, in place, with a phase or a shift (the tensors that it moves must be copies already).

    Args:
        space: The space.
        gauge: One of its gauges of kind ``"phase"`` or ``"shift"``.
        element: Numbers in the shape of ``gauge.axes``.
        tensors: Tensors by name, ``[*shape]`` or stacked ``[B, *shape]``.
        batched: Whether they are stacked.
    """
    flipped = tuple(p for p in gauge.parts if p.exponent)
    if flipped:
        signs = 1 - 2 * element.remainder(2)
        rescale(space, Gauge("sign", gauge.axes, flipped), signs, tensors, batched)
    for part in gauge.parts:
        if part.through:
            tensors[part.tensor].add_(_carried(space, gauge, part, element, tensors[part.through], batched))
        elif part.shift:
            for view, order in views(space.tensor[part.tensor], part, gauge.axes, tensors[part.tensor], batched):
                view.add_(part.shift * _aligned(element.to(view), view, order))


def _carried(
    space: WeightSpace, gauge: Gauge, part: GaugePart, element: Tensor, weight: Tensor, batched: bool
) -> Tensor:
    """What a shift becomes behind a weight: their product, summed over all dimensions but the one that is written."""
    product = torch.zeros_like(weight)
    source = GaugePart(part.through, part.dims, 0.0, part.chosen)
    spec = space.tensor[part.through]
    pairs = zip(
        views(spec, source, gauge.axes, product, batched), views(spec, source, gauge.axes, weight, batched), strict=True
    )
    for (view, order), (read, _) in pairs:
        view.copy_(part.shift * _aligned(element.to(read), read, order) * read)
    kept = next(d for d in range(len(spec.shape)) if d not in part.dims)
    return product.sum([d + batched for d in range(len(spec.shape)) if d != kept])


def _aligned(element: Tensor, view: Tensor, order: Sequence[int]) -> Tensor:
    """The element with its dimensions where a view has them, and size 1 elsewhere."""
    shape = [1] * view.ndim
    for size, dim in zip(element.shape, order, strict=True):
        shape[dim] = size
    return element.permute(sorted(range(len(order)), key=order.__getitem__)).reshape(shape)
