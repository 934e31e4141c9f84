"""Acting with complex numbers on pairs of entries: queries and keys under rotary positions.

An element is a complex tensor ``[*outer sizes, pairs]``. Parts with exponent 1 are multiplied by it, those with
exponent -1 by its inverse conjugate, ``1 / conj(z)``: as 2 x 2 matrices, the inverse transpose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.scaling import spread


def draw_rotations(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Random numbers of distinct angles, and distinct moduli in ``[1/2, 2]`` or 1 if the gauge does not scale."""
    sizes = [space.axis[name].size for name in gauge.axes]
    shape = (*sizes, pairs_of(gauge))
    angles = 0.95 * math.pi * spread(shape, generator)
    exponents = spread(shape, generator)
    return torch.polar(2**exponents if scales(gauge) else torch.ones_like(exponents), angles)


def rotate(
    space: WeightSpace, gauge: Gauge, numbers: Tensor, tensors: dict[str, Tensor], batched: bool = False
) -> None:
    """Multiply, in place, the pairs of entries that a gauge moves (tensors must be copies already).

    Args:
        space: The space.
        gauge: One of its gauges of kind ``"rotation"``.
        numbers: The complex numbers.
        tensors: Tensors by name, ``[*shape]`` or stacked ``[B, *shape]``.
        batched: Whether they are stacked.
    """
    factors = {1.0: numbers.flatten(), -1.0: (1 / numbers.conj()).flatten()}
    for part in gauge.parts:
        if part.pairs is None:
            continue
        tensor = tensors[part.tensor].movedim(part.dims[0] + batched, -1)  # a view
        first = part.pairs.first(numbers.shape[:-1]).flatten().to(tensor.device)
        second = first + part.pairs.apart
        real, imaginary = (t.to(tensor) for t in (factors[part.exponent].real, factors[part.exponent].imag))
        a, b = tensor[..., first], tensor[..., second]
        tensor[..., first] = real * a - imaginary * b
        tensor[..., second] = imaginary * a + real * b


def scales(gauge: Gauge) -> bool:
    """Whether the numbers of a gauge may have another modulus than one."""
    return any(part.exponent != 1 for part in gauge.parts)


def pairs_of(gauge: Gauge) -> int:
    """How many pairs there are for every entry of the axes."""
    return next(part.pairs.count for part in gauge.parts if part.pairs is not None)
