"""Distributions of architectures, as a recipe declares them.

Layers are those of :mod:`metanet.zoo.architecture`, but any option may be a distribution
(:mod:`metanet.zoo.distributions`), and two more kinds exist::

    - repeat: {times: {choice: [2, 3, 4]}, layers: [...]}   # every turn draws its own options
    - residual                                              # in a repeat: an earlier turn's output, or none

``residual`` draws as CNN Wild Park does (Kofinas et al. 2024, arXiv:2403.12143): turn ``i`` adds nothing or the output
of one of the turns ``0 .. i - 2``, each with the same probability (of those with its height and width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np

from metanet.errors import ZooError
from metanet.zoo.architecture import (
    ACTIVATIONS,
    AFFINE,
    LAYERS,
    Add,
    Architecture,
    Layer,
    check_architecture,
    check_architecture_keys,
    check_option,
    make_layer,
    parse_input,
    split_layer,
)
from metanet.zoo.distributions import Constant, Distribution, parse_distribution

RESIDUAL = "residual"
SAME = "same"  # padding that keeps height and width: half the kernel


@dataclass(frozen=True)
class Part:
    """One layer: its kind, and the distribution of each option."""

    kind: str
    options: tuple[tuple[str, Distribution], ...]

    def to_dict(self) -> Any:
        """Return what the recipe file says."""
        return {self.kind: {name: d.to_dict() for name, d in self.options}} if self.options else self.kind


@dataclass(frozen=True)
class Repeat:
    """Layers several times over; ``times`` is drawn first."""

    times: Distribution
    parts: tuple[Part, ...]

    def to_dict(self) -> Any:
        """Return what the recipe file says."""
        return {"repeat": {"times": self.times.to_dict(), "layers": [part.to_dict() for part in self.parts]}}


@dataclass(frozen=True)
class Structure:
    """A distribution of architectures.

    Attributes:
        input: Shape of the input.
        items: Layers and repeats, in order.
        names: Names of the affine layers, in order, or by kind with ``{}`` for the number from 0; empty for the usual.
    """

    input: tuple[int, ...]
    items: tuple[Part | Repeat, ...]
    names: tuple[str, ...] | tuple[tuple[str, str], ...] = ()

    @property
    def varies(self) -> bool:
        """Whether the layers are drawn."""
        drawn = [d for item in self.items if isinstance(item, Part) for _, d in item.options]
        return any(isinstance(item, Repeat) for item in self.items) or not all(isinstance(d, Constant) for d in drawn)

    def draw(self, rng: np.random.Generator, hyperparameters: Mapping[str, Any]) -> Architecture:
        """Draw one architecture, resolved; nets that draw the same one share a weight space.

        Raises:
            ZooError: The layers drawn do not fit each other.
        """
        layers: list[Layer] = []
        for item in self.items:
            if isinstance(item, Part):
                layers.append(_draw_layer(item, rng))
                continue
            ends: list[int] = []  # position of the last layer of each turn
            for turn in range(int(item.times.draw(rng, {}))):
                for part in item.parts:
                    if part.kind == RESIDUAL:
                        layers += self._residual(layers, ends[: max(turn - 1, 0)], rng)
                    else:
                        layers.append(_draw_layer(part, rng))
                ends.append(len(layers) - 1)
        architecture = Architecture(self.input, tuple(layers)).resolve(hyperparameters)
        architecture = replace(architecture, named=self._named(architecture))
        check_architecture(architecture)
        return architecture

    def _residual(self, layers: list[Layer], earlier: list[int], rng: np.random.Generator) -> list[Layer]:
        shapes = Architecture(self.input, tuple(layers)).shapes()
        fitting = [end for end in earlier if shapes[end + 1][1:] == shapes[-1][1:]]
        drawn = int(rng.integers(-1, len(fitting)))
        return [] if drawn < 0 else [Add(fitting[drawn])]

    def _named(self, architecture: Architecture) -> tuple[str, ...]:
        kinds = [type(layer) for layer in architecture.layers if isinstance(layer, AFFINE)]
        if not self.names or isinstance(self.names[0], str):
            return tuple(str(name) for name in self.names)
        patterns = {LAYERS[str(kind)]: pattern for kind, pattern in self.names}
        return tuple(patterns[kind].format(kinds[:i].count(kind)) for i, kind in enumerate(kinds))

    def to_dict(self) -> dict[str, Any]:
        """Return what the recipe file says; :func:`parse_structure` reads it back."""
        out: dict[str, Any] = {"input": list(self.input), "layers": [item.to_dict() for item in self.items]}
        if self.names:
            out["names"] = (
                list(self.names)
                if isinstance(self.names[0], str)
                else {str(kind): pattern for kind, pattern in self.names}
            )
        return out


def parse_structure(given: Any) -> Structure:
    """Read the ``architecture`` of a recipe: ``input``, ``layers`` and, if the usual names will not do, ``names``.

    Raises:
        ZooError: A key, layer, option or distribution is not acceptable.
    """
    check_architecture_keys(given)
    items: list[Part | Repeat] = []
    for i, layer in enumerate(given["layers"] or []):
        where = f"architecture.layers[{i}]"
        items.append(_parse_repeat(where, layer["repeat"]) if _is(layer, "repeat") else _parse_part(where, layer))
    structure = Structure(parse_input(given["input"]), tuple(items), _parse_names(given.get("names", ())))
    structure.draw(np.random.default_rng(0), {"activation": ACTIVATIONS[0]})  # layers that never fit are found now
    return structure


def _draw_layer(part: Part, rng: np.random.Generator) -> Layer:
    drawn = {name: distribution.draw(rng, {}) for name, distribution in part.options}
    if drawn.get("padding") == SAME:
        drawn["padding"] = int(drawn["kernel"]) // 2
    return make_layer("architecture.layers", part.kind, drawn)


def _is(given: Any, kind: str) -> bool:
    return isinstance(given, Mapping) and set(given) == {kind}


def _parse_repeat(where: str, given: Any) -> Repeat:
    if not isinstance(given, Mapping) or set(given) != {"times", "layers"} or not isinstance(given["layers"], list):
        raise ZooError(f"Recipe key '{where}.repeat': got {given!r}. Accepted keys, both needed: times, layers.")
    parts = [
        Part(RESIDUAL, ()) if layer == RESIDUAL else _parse_part(f"{where}.repeat.layers[{i}]", layer)
        for i, layer in enumerate(given["layers"])
    ]
    times = parse_distribution(f"{where}.repeat.times", given["times"])
    for value in times.support():
        if type(value) is not int or value < 0:
            raise ZooError(f"Recipe key '{where}.repeat.times': got {value!r}. Accepted: a whole number >= 0.")
    return Repeat(times, tuple(parts))


def _parse_part(where: str, given: Any) -> Part:
    kind, options = split_layer(where, given)
    parsed = {name: parse_distribution(f"{where}.{name}", value) for name, value in options.items()}
    for name, distribution in parsed.items():
        for value in distribution.support():
            if value != SAME or name != "padding":
                check_option(where, name, value)
    every: list[tuple[str, Distribution]] = []
    for option in fields(LAYERS[kind]):
        default = None if option.default is MISSING else Constant(option.default)
        chosen = parsed.get(option.name, default)
        unsaid = chosen == default and (option.default == "" or option.metadata.get("optional"))
        if chosen is not None and not unsaid:
            every.append((option.name, chosen))
    return Part(kind, tuple(every))


def _parse_names(given: Any) -> tuple[str, ...] | tuple[tuple[str, str], ...]:
    if isinstance(given, Mapping) and set(given) == {"conv", "linear"} and all(type(v) is str for v in given.values()):
        return tuple((str(kind), str(pattern)) for kind, pattern in given.items())
    if isinstance(given, list | tuple) and all(type(name) is str and name for name in given):
        return tuple(given)
    raise ZooError(
        f"Recipe key 'architecture.names': got {given!r}. Accepted: a list of names, or {{conv: 'layers.{{}}', "
        "linear: fc}, with {} for the number of the layer among its kind, from 0."
    )
