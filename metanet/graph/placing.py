"""Where a tensor belongs that no link of the space shows whole: its labels alone tell.

Every dimension of every tensor is labelled, so a tensor can always be read without breaking a symmetry: one dimension
over neurons is a parameter of these neurons; of two, one writes and the other reads; of three or more, one stands
against the product of the others. Which side reads only decides in which direction a metanet calls messages forward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from metanet.space.labels import Label, product_label
from metanet.space.weight_space import VECTOR_KINDS, Link, LinkKind, TensorSpec, WeightSpace

WASTE = 4  # a link's own sides are kept unless they need that many times as many nodes as the best split
Key = tuple[str, ...]


class Placing:
    """Makes links for what the links of a space leave out.

    Args:
        space: The space.
        written: Depth at which links of the space write each node set that they write.
        read: Node sets that links of the space read.
    """

    def __init__(self, space: WeightSpace, written: Mapping[Key, int], read: Collection[Key]) -> None:
        self.space, self.written, self.read = space, written, read
        self.hints: dict[str, Link] = {}
        for link in space.links:
            self.hints.setdefault(link.tensor, link)
        self.holders = Counter(axis for spec in space.tensors for axis in spec.axes)
        self.near: dict[str, int] = {}
        depth = 1
        for spec in space.tensors:
            depth = self.hints[spec.name].depth if spec.name in self.hints else depth
            self.near[spec.name] = depth

    def link(self, spec: TensorSpec, labels: Sequence[Label]) -> Link:
        """How to read one piece of a tensor.

        Args:
            spec: The tensor.
            labels: What indexes each of its dimensions in this piece.

        Returns:
            A link that the space does not have; its kind is the one of a link of the same tensor, if there is one.
        """
        hint, sizes = self.hints.get(spec.name), node_sizes(self.space, labels)
        if hint is None and self._lonely(spec):
            return self._link(spec, labels, "bias", (), (), None)
        if len(sizes) < 2:
            kind: LinkKind = hint.kind if hint is not None and hint.kind in VECTOR_KINDS else "bias"
            return self._link(spec, labels, kind, tuple(sizes), (), hint)
        kind = hint.kind if hint is not None and hint.kind not in VECTOR_KINDS else "linear"
        target, source = self._sides(labels, sizes, hint)
        return self._link(spec, labels, kind, target, source, hint)

    def _link(
        self, spec: TensorSpec, labels: Sequence[Label], kind: LinkKind, target: tuple[int, ...],
        source: tuple[int, ...], hint: Link | None,
    ) -> Link:  # fmt: skip
        sides = [product_label([labels[d] for d in dims]) for dims in (source, target)]
        depth = hint.depth if hint is not None else self.near[spec.name]
        more = (hint.activation, hint.stride, hint.module) if hint is not None else (None, (), "")
        return Link(spec.name, kind, sides[0] if source else None, sides[1], source, target, depth, *more)

    def _lonely(self, spec: TensorSpec) -> bool:
        """Whether a tensor is used nowhere and shares no axis: its entries are a set, whatever their places."""
        return all(self.space.axis[a].free and self.holders[a] == 1 for a in spec.axes)

    def _sides(
        self, labels: Sequence[Label], sizes: Mapping[int, int], hint: Link | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dimensions of target and source."""
        if hint is not None and not wasteful(sizes, hint.target_dims):
            target = tuple(d for d in sizes if d in hint.target_dims)
            source = tuple(d for d in sizes if d not in target)
            if target and source:
                return target, source
        alone = max(sizes, key=lambda d: (sizes[d], self._key(labels[d]) is not None, -d))
        rest = tuple(d for d in sizes if d != alone)
        if hint is not None and hint.source is not None:
            writes = alone in hint.target_dims
        elif len(sizes) > 2:  # [.., read, written], as einsums have it
            writes = alone == max(sizes)
        else:
            writes = self._writes(labels[alone], labels[rest[0]], alone < rest[0])
        return ((alone,), rest) if writes else (rest, (alone,))

    def _writes(self, one: Label, other: Label, first: bool) -> bool:
        """Whether the first of two dimensions is written.

        It is if nothing else writes its neurons and something reads them, or if they are deeper than the others; where
        neither tells, if it stands first, as in a linear layer.
        """
        mine, its = self._key(one), self._key(other)
        missing = [key in self.read and key not in self.written and self._hidden(key) for key in (mine, its)]
        if missing[0] != missing[1]:
            return missing[0]
        depths = [None if key is None else self.written.get(key, 0) for key in (mine, its)]
        if depths[0] is None or depths[1] is None or depths[0] == depths[1]:
            return first
        return depths[0] > depths[1]

    def _hidden(self, key: Key | None) -> bool:
        return key is not None and all(name in self.space.axis and self.space.axis[name].free for name in key)

    def _key(self, label: Label) -> Key | None:
        """The node set that a dimension runs over, if a link of the space connects it."""
        names = {a for a in label.axes if self.space.axis[a].free} or set(label.axes)
        return next((k for k in (*self.written, *self.read) if set(k) == names), None)


def node_sizes(space: WeightSpace, labels: Sequence[Label]) -> dict[int, int]:
    """Neurons (or inputs, outputs) of every dimension that has any; of the first two wide ones, if none has."""
    found = {}
    for d, label in enumerate(labels):
        axes = [space.axis[a] for a in label.axes]
        kept = [a for a in axes if a.free] or [a for a in axes if a.kind in ("input", "output")]
        if kept:
            found[d] = math.prod(a.size for a in kept)
    return found or dict([(d, label.size) for d, label in enumerate(labels) if label.size > 1][:2])


def wasteful(sizes: Mapping[int, int], target: Sequence[int]) -> bool:
    """Whether a split into two sides needs many more nodes than the largest dimension against the others."""

    def nodes(side: Sequence[int]) -> int:
        return math.prod(sizes[d] for d in side) + math.prod(n for d, n in sizes.items() if d not in side)

    if len(sizes) < 3:
        return False
    return nodes([d for d in sizes if d in target]) > WASTE * nodes([max(sizes, key=lambda d: sizes[d])])
