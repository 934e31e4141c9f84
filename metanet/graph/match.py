"""Which of some known weight spaces a checkpoint's tensors belong to, by names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from metanet.space import WeightSpace


@dataclass(frozen=True)
class Match:
    """A space that fits, and the prefix that all names have in front (``"module."``), often empty."""

    space: WeightSpace
    prefix: str


def matches(tensors: Mapping[str, Tensor], spaces: Iterable[WeightSpace]) -> list[Match]:
    """Every space, with a prefix, whose tensors are exactly those given, by name and shape.

    Counters (whole numbers without dimensions, such as ``num_batches_tracked``) are ignored. Activations cannot be seen
    in tensors, so spaces that differ in them alone all match.
    """
    weights = {name: tuple(t.shape) for name, t in tensors.items() if t.is_floating_point() or t.dim()}
    found = []
    for space in spaces:
        for prefix in _prefixes(weights, space):
            wanted = {prefix + name: shape for name, shape in space.shapes.items()}
            tied = {prefix + alias for spec in space.tensors for alias in spec.aliases}
            if wanted.items() <= weights.items() and set(weights) <= set(wanted) | tied:
                found.append(Match(space, prefix))
    return found


def _prefixes(names: Iterable[str], space: WeightSpace) -> list[str]:
    first = space.tensors[0].name
    ends = [name.removesuffix(first) for name in names if name.endswith(first)]
    return [prefix for prefix in ends if prefix == "" or prefix.endswith(".")]


def activations(space: WeightSpace) -> str:
    """The nonlinearities of a space, as one text: ``"relu"``, ``"relu+tanh"``, ``""`` if none is known."""
    return "+".join(sorted({link.activation for link in space.links if link.activation}))
