"""From the dims of a finished walk to an immutable weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from metanet.space.axes import Dim, factors_of, find, pieces_of
from metanet.space.labels import Axis, AxisKind, Label
from metanet.space.uses import drafts_of_uses
from metanet.space.walk import Value, Walk
from metanet.space.weight_space import Link, TensorSpec, WeightSpace

BARE = "no tensor runs over it"


def resolve(
    tensors: Mapping[str, Sequence[Dim]],
    walk: Walk,
    aliases: Mapping[str, tuple[str, ...]] | None = None,
    source: str = "trace",
    names: Names | None = None,
) -> WeightSpace:
    """Name the axes and write everything down in final form.

    An axis is named after the first tensor dimension, in state-dict order, that it indexes.

    Args:
        tensors: Dims of every tensor of the space, in state-dict order.
        walk: The finished walk.
        aliases: Other names of tied tensors.
        source: How the dims were found.
        names: Empty; holds the name of every atom afterwards.
    """
    names = names if names is not None else Names()
    specs = []
    for name, dims in tensors.items():
        labels = tuple(names.label(dim, f"{name}[{i}]") for i, dim in enumerate(dims))
        specs.append(TensorSpec(name, tuple(d.size for d in dims), labels, (aliases or {}).get(name, ())))
    links = tuple(
        Link(
            d.tensor,
            d.kind,
            None if d.source is None else names.label(d.source, f"{d.tensor}.source"),
            names.label(d.target, f"{d.tensor}.target"),
            d.source_dims,
            d.target_dims,
            d.depth,
            d.activation,
            d.stride,
            d.module,
        )
        for d in (*walk.links, *drafts_of_uses(tensors, walk))
    )
    opaque = tuple(dict.fromkeys(walk.opaque))
    indexed = {axis for spec in specs for axis in spec.axes}
    axes = (a if a.name in indexed or not a.free else replace(a, kind="fixed", reason=BARE) for a in names.axes)
    return WeightSpace(tuple(axes), tuple(specs), links, opaque, source=source)


class Names:
    """Assigns a name to every atom on first sight; ``axes`` lists them, ``of`` has the name of each."""

    def __init__(self) -> None:
        self.axes: list[Axis] = []
        self.of: dict[Dim, str] = {}
        self._taken: set[str] = set()
        self._labels: dict[Dim, Label] = {}  # of products and concatenations, all of whose atoms have names

    def labels(self, value: Value) -> list[Label]:
        """The labels of all dimensions of a value."""
        return [self.label(dim, "value") for dim in value.dims]

    def label(self, dim: Dim, place: str) -> Label:
        """The label of a dim; new atoms in it are named after the place."""
        node = find(dim)
        if node.form != "atom":
            if node not in self._labels:
                parts = factors_of(node) if node.form == "product" else pieces_of(node)
                labels = tuple(self.label(p, place) for p in parts)
                self._labels[node] = Label(node.size, node.form, parts=labels)  # type: ignore[arg-type]
            return self._labels[node]
        if node.size == 1:
            return Label(1, "unit")
        if node not in self.of:
            self.of[node] = self._name(place)
            self.axes.append(Axis(self.of[node], node.size, _kind(node.frozen), node.frozen or ""))
        return Label(node.size, "axis", self.of[node])

    def _name(self, place: str) -> str:
        name, count = place, 1
        while name in self._taken:
            count += 1
            name = f"{place}.{count}"
        self._taken.add(name)
        return name


def _kind(frozen: str | None) -> AxisKind:
    if frozen is None:
        return "neuron"
    return "input" if frozen == "input" else "output" if frozen == "output" else "fixed"
