"""Architectures that one fingerprint cannot tell apart: in what their spaces differ, and what they have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from metanet.errors import SpaceError
from metanet.space.labels import Label
from metanet.space.trace import trace
from metanet.space.weight_space import Link, WeightSpace

OPEN = ("stride", "activation", "depth", "gauges", "structure")
SOURCES = ("training", "pretrained_cfg", "default_cfg", "name_or_path")  # attributes that change no function
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def distinct(made: Sequence[tuple[str, Callable[[], tuple[nn.Module, Any]]]]) -> tuple[list[list[str]], set[str]]:
    """Return sets of architectures of equal spaces, and in what the sets differ: a subset of ``OPEN``.

    Modules of equal settings are equal; one of each setting is traced. What cannot be constructed with the installed
    version is left out; what cannot be traced may compute anything.

    Args:
        made: Name of each architecture, and what constructs its module and inputs.
    """
    alike: dict[str, list[str]] = {}
    for name, make in made:
        try:
            alike.setdefault(settings(make()[0]), []).append(name)
        except SpaceError:
            continue
    if len(alike) < 2:
        return list(alike.values()), set()
    classes: list[tuple[WeightSpace | None, list[str]]] = []
    for names in alike.values():
        try:
            space = trace(*dict(made)[names[0]]())
        except SpaceError:
            classes.append((None, names))
            continue
        same = next((members for other, members in classes if other is not None and not compare([other, space])), None)
        if same is None:
            classes.append((space, names))
        else:
            same.extend(names)
    spaces = [space for space, _ in classes if space is not None]
    differs = {"structure"} if len(spaces) < len(classes) else compare(spaces)
    return [names for _, names in classes], differs


def settings(module: nn.Module) -> str:
    """Return everything but the weights that a module computes by: the classes of its parts and their attributes.

    Modules of equal settings, names and shapes compute the same function of their weights.
    """
    lines = []
    for path, part in module.named_modules(remove_duplicate=False):
        own = {} if "Drop" in type(part).__name__ else vars(part)
        plain = {k: _plain(v) for k, v in own.items() if not k.startswith("_") and k not in SOURCES}
        lines.append(f"{path} {type(part).__module__}.{type(part).__qualname__} {sorted(plain.items())}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    return ADDRESS.sub("", repr(value))


def compare(spaces: Sequence[WeightSpace]) -> set[str]:
    """Return in what spaces differ: a subset of ``OPEN``, empty if they are equal, gauges included.

    ``"structure"`` stands for anything but the strides, activations and depths of links and the gauges; pooling between
    layers adds to their depths.
    """
    first, *others = spaces
    found: set[str] = set()
    for other in others:
        if _bare(first) != _bare(other):
            return {"structure"}
        for a, b in zip(first.links, other.links, strict=True):
            found |= {"stride"} if a.stride != b.stride else set()
            found |= {"depth"} if a.depth != b.depth else set()
            found |= {"activation"} if a.activation != b.activation else set()
        if set(first.gauges) != set(other.gauges):
            found.add("gauges")
    return found


def common(spaces: Sequence[WeightSpace], unseen: Sequence[str] = ()) -> WeightSpace:
    """Return what spaces that differ in no structure agree on: other strides and activations are left open.

    Depths are those of the first: no claim rests on them.

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
    links = tuple(replace(k, stride=(), activation=None, depth=0) for k in space.links)
    return replace(space, links=links, gauges=())


def _agreed(links: Sequence[Link], unseen: Sequence[str]) -> Link:
    first = links[0]
    stride = all(k.stride == first.stride for k in links) and "stride" not in unseen
    activation = all(k.activation == first.activation for k in links) and "activation" not in unseen
    return replace(first, stride=first.stride if stride else (), activation=first.activation if activation else None)
