"""Architectures that one fingerprint cannot tell apart: in what their spaces differ, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metanet.space.labels import Label
from metanet.space.weight_space import Link, WeightSpace

OPEN = ("stride", "activation", "gauges", "structure")


def compare(spaces: Sequence[WeightSpace]) -> set[str]:
    """Return in what spaces differ: a subset of ``OPEN``, empty if they are equal, gauges included.

    ``"structure"`` stands for anything but the strides and the activations of links and the gauges.
    """
    first, *others = spaces
    found: set[str] = set()
    for other in others:
        if _bare(first) != _bare(other):
            return {"structure"}
        for a, b in zip(first.links, other.links, strict=True):
            found |= {"stride"} if a.stride != b.stride else set()
            found |= {"activation"} if a.activation != b.activation else set()
        if set(first.gauges) != set(other.gauges):
            found.add("gauges")
    return found


def common(spaces: Sequence[WeightSpace], unseen: Sequence[str] = ()) -> WeightSpace:
    """Return what spaces that differ in no structure agree on: other strides and activations are left open.

    Args:
        spaces: Spaces of the alternatives.
        unseen: What further alternatives, which are not at hand, differ in; all of it is left open.
    """
    first = spaces[0]
    links = tuple(_agreed(same, unseen) for same in zip(*(s.links for s in spaces), strict=True))
    gauges = [g for g in first.gauges if "gauges" not in unseen and all(g in s.gauges for s in spaces)]
    return replace(first, links=links, gauges=tuple(gauges))


def agrees(guess: WeightSpace, truth: WeightSpace) -> bool:
    """Return whether every permutation that a guessed space claims is one that the true space claims.

    A free axis of the guess must index exactly the dimensions that one or several free axes of the truth index.
    """
    if set(guess.tensor) != set(truth.tensor):
        return False
    places = _places(truth)
    owner = {place: axis for axis, found in places.items() for place in found}
    for found in _places(guess).values():
        axes = {owner.get(place) for place in found}
        if len(axes) != 1 or None in axes or places[axes.pop() or ""] != found:
            return False
    return True


def _places(space: WeightSpace) -> dict[str, set[tuple[str, int, int]]]:
    """Return for every free axis of two or more entries where it stands: tensor, dimension, position in the label."""
    free = {a.name: set[tuple[str, int, int]]() for a in space.free_axes if a.size > 1}
    for tensor in space.tensors:
        for dim, label in enumerate(tensor.labels):
            for position, axis in enumerate(_movable(label, free)):
                if axis in free:
                    free[axis].add((tensor.name, dim, position))
    return free


def _movable(label: Label, free: dict[str, set[tuple[str, int, int]]]) -> tuple[str, ...]:
    return tuple(axis for axis in label.axes if axis in free)


def _bare(space: WeightSpace) -> WeightSpace:
    links = tuple(replace(k, stride=(), activation=None) for k in space.links)
    return replace(space, links=links, gauges=())


def _agreed(links: Sequence[Link], unseen: Sequence[str]) -> Link:
    first = links[0]
    stride = all(k.stride == first.stride for k in links) and "stride" not in unseen
    activation = all(k.activation == first.activation for k in links) and "activation" not in unseen
    return replace(first, stride=first.stride if stride else (), activation=first.activation if activation else None)
