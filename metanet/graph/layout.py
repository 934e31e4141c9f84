"""Layout: how the tensors of a weight space lie as dense blocks between sets of neurons.

A *node set* is what one label indexes: the product of its free axes (``heads x head_dim``), or an ordered axis (inputs,
outputs). A *block* is one weight between two node sets, read as ``[B, D, T, S, K]``: ``D`` entries of axes that source
and target share and the weight couples one to one (the groups of a grouped convolution; all channels of a depthwise
one), ``T`` targets and ``S`` sources within each, ``K`` extents (kernel taps, positions of a flattened map). A *vector*
is a parameter that acts on one node set alone, read as ``[B, N, K]``. Labels that are concatenations give one block or
vector per piece. Everything here is derived from the space once and holds no weights.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from metanet.graph.parts import NODE_KINDS, Block, NodeSet, Piece, Vector
from metanet.graph.placing import Placing, node_sizes, wasteful
from metanet.space.labels import Axis, Label, product_label
from metanet.space.weight_space import WEIGHT_KINDS, Link, TensorSpec, WeightSpace

__all__ = ["NODE_KINDS", "Block", "Layout", "NodeSet", "Piece", "Vector", "layout_of"]

UNIT = "unit@"  # name of a lone neuron, with its depth
UNUSED = f"{UNIT}unused"  # name of the node of tensors that the network does not use
NODES = 2**22  # largest node set


@dataclass(frozen=True)
class Layout:
    """All node sets, blocks and vectors of a weight space.

    Attributes:
        space: The space.
        nodes: Node sets by depth.
        blocks: Weights, in the order of computation.
        vectors: Biases, scales and statistics, in the order of computation.
        unplaced: Tensors that blocks and vectors do not show whole (their node sets would be too large).
    """

    space: WeightSpace
    nodes: tuple[NodeSet, ...]
    blocks: tuple[Block, ...]
    vectors: tuple[Vector, ...]
    unplaced: tuple[str, ...]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First node number of each node set when all are numbered through."""
        return tuple(itertools.accumulate((n.size for n in self.nodes), initial=0))[:-1]

    @cached_property
    def deepest(self) -> int:
        """Depth of the deepest node set."""
        return max(n.depth for n in self.nodes)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return sum(n.size for n in self.nodes)

    @cached_property
    def coverage(self) -> float:
        """Share of the parameters that blocks and vectors show, so that a metanet sees them; 1 if there are none."""
        parts: tuple[Block | Vector, ...] = (*self.blocks, *self.vectors)
        seen = {(p.link.tensor, p.piece.entries): math.prod(p.piece.shape) for p in parts}
        return sum(seen.values()) / self.space.parameters if self.space.parameters else 1.0


Choice = tuple[list[Label], list[Sequence[int]]]  # one piece of every dimension of a tensor: labels and entries
Reader = Callable[[Link, list[Label], list[Sequence[int]]], "Block | Vector | None"]


@lru_cache(maxsize=256)
def layout_of(space: WeightSpace) -> Layout:
    """The layout of a space (computed once per space)."""
    return _Builder(space).build()


class _Builder:
    def __init__(self, space: WeightSpace) -> None:
        self.space = space
        self.rank = {a.name: i for i, a in enumerate(space.axes)}
        self.keys: dict[tuple[str, ...], int] = {}
        self.activations: dict[int, str] = {}
        self.written: dict[int, int] = {}
        self.blocks: list[Block] = []
        self.vectors: list[Vector] = []
        self.shown: set[tuple[str, tuple[Sequence[int], ...]]] = set()

    def build(self) -> Layout:
        flat = {link.tensor for link in self.space.links if set(link.source_dims) & set(link.target_dims)}
        for link in self.space.links:
            for labels, entries in self._part(link) if link.tensor in flat else self._choices(link.tensor):
                show = self._block if link.kind in WEIGHT_KINDS and link.tensor not in flat else None
                self._show(link, labels, entries, show)
        names = dict(enumerate(self.keys))
        written = {names[number]: depth for number, depth in self.written.items()}
        placing = Placing(self.space, written, {names[b.source] for b in self.blocks})
        for spec in self.space.tensors:
            for labels, entries in self._missing(spec):
                self._show(placing.link(spec, labels), labels, entries)
        read = {b.source for b in self.blocks}
        nodes = [self._node(key, number, number in read) for key, number in self.keys.items()]
        rank = sorted(range(len(nodes)), key=lambda i: (nodes[i].depth, i))
        place = {old: new for new, old in enumerate(rank)}
        blocks = tuple(replace(b, source=place[b.source], target=place[b.target]) for b in self.blocks)
        vectors = tuple(replace(v, target=place[v.target]) for v in self.vectors)
        unplaced = tuple(spec.name for spec in self.space.tensors if self._missing(spec))
        return Layout(self.space, tuple(nodes[i] for i in rank), blocks, vectors, unplaced)

    def _show(self, link: Link, labels: list[Label], entries: list[Sequence[int]], read: Reader | None = None) -> None:
        """Add what a link shows of one piece of its tensor, if it does."""
        read = read or (self._joined if link.kind in WEIGHT_KINDS else self._vector)
        part = read(link, labels, entries)
        if part is None:
            return
        if isinstance(part, Block):
            self.blocks.append(part)
        else:
            self.vectors.append(part)
        self.shown.add((link.tensor, tuple(entries)))

    def _part(self, link: Link) -> Iterator[Choice]:
        """The piece that a link means, of a tensor that holds several weights in one dimension (a flat vector).

        It is the first that has the axes of the link's two sides, and that no other link took if there is such a one.
        """
        wanted = sorted((*link.target.axes, *(link.source.axes if link.source else ())))
        free = [a for a in wanted if self.space.axis[a].free]
        found = []
        for labels, entries in self._choices(link.tensor):
            axes = [a for label in labels for a in label.axes]
            if not Counter(wanted) - Counter(axes) and sorted(a for a in axes if self.space.axis[a].free) == free:
                found.append((labels, entries))
        fresh = [c for c in found if (link.tensor, tuple(c[1])) not in self.shown]
        yield from (fresh or found)[:1]

    def _missing(self, spec: TensorSpec) -> list[Choice]:
        """The pieces of a tensor that nothing shows yet."""
        if 0 in spec.shape:
            return []
        return [c for c in self._choices(spec.name) if (spec.name, tuple(c[1])) not in self.shown]

    def _choices(self, tensor: str) -> Iterator[Choice]:
        """Every way to take one piece of each tensor dimension: their labels and entries."""
        for choice in itertools.product(*(label.pieces() for label in self.space.tensor[tensor].labels)):
            yield [label for label, _ in choice], [entries for _, entries in choice]

    def _node(self, key: tuple[str, ...], number: int, read: bool) -> NodeSet:
        depth, activation = self.written.get(number, 0), self.activations.get(number)
        if key[0].startswith(UNIT):
            kind = "input" if number not in self.written else "neuron" if read else "output"
            kind = "fixed" if key[0] == UNUSED else kind
            return NodeSet(key[0], key, (1,), kind, depth, activation)
        axes = [self.space.axis[name] for name in key]
        return NodeSet(key[0], key, tuple(a.size for a in axes), _kind(axes), depth, activation)

    def _set(self, key: tuple[str, ...], link: Link, writes: bool) -> int:
        number = self.keys.setdefault(key, len(self.keys))
        if writes:
            self.written.setdefault(number, link.depth)
            if link.activation:
                self.activations.setdefault(number, link.activation)
        return number

    def _key(self, label: Label, depth: int) -> tuple[str, ...]:
        """The axes that make the node set of a label, in the space's order.

        These are its free axes. If it has none: those of the largest ordered set met before that it contains (a
        flattened map of ordered channels), else all. A lone neuron has no axis; it is told apart by its depth.
        """
        axes = {a for a in label.axes if self.space.axis[a].free}
        if not axes and label.axes:
            met = [set(key) for key in self.keys if set(key) <= set(label.axes)]
            axes = max(met, key=len, default=set(label.axes))
        return tuple(sorted(axes, key=self.rank.__getitem__)) or (f"{UNIT}{depth}",)

    def _keyed(self, label: Label, depth: int) -> tuple[str, ...]:
        """As :meth:`_key`, with an axis that stands twice in the label twice in the node set."""
        free = sorted((a for a in label.axes if self.space.axis[a].free), key=self.rank.__getitem__)
        return tuple(free) or self._key(label, depth)

    def _block(self, link: Link, labels: list[Label], entries: list[Sequence[int]]) -> Block | None:
        """One piece of a weight between the node sets of its two sides, which may share axes."""
        source = _side(link.source or Label(1, "unit"), [labels[d] for d in link.source_dims])
        target = _side(link.target, [labels[d] for d in link.target_dims])
        if source is None or target is None:
            return None
        if len(link.source_dims) > 1 and wasteful(node_sizes(self.space, labels), link.target_dims):
            return None
        source_key, target_key = self._key(source, link.depth - 1), self._key(target, link.depth)
        atoms = [(d, name) for d, label in enumerate(labels) for name in label.axes]
        sources = {n: i for i, (d, n) in enumerate(atoms) if d in link.source_dims and n in source_key}
        targets = {n: i for i, (d, n) in enumerate(atoms) if d in link.target_dims and n in target_key}
        shared = [n for n in target_key if n in source_key and (n in sources) != (n in targets)]
        absent = [n for n in source_key if n not in sources and n not in shared]
        absent += [n for n in target_key if n not in targets and n not in shared]
        if any(not n.startswith(UNIT) for n in absent):
            return None
        groups = [
            [targets.get(n, sources.get(n, -1)) for n in shared],
            [targets[n] for n in target_key if n in targets and n not in shared],
            [sources[n] for n in source_key if n in sources and n not in shared],
        ]
        return self._between(link, labels, entries, source_key, target_key, shared, groups)

    def _joined(self, link: Link, labels: list[Label], entries: list[Sequence[int]]) -> Block | None:
        """The same where every axis of the two sides is one of the tensor's own, and may stand there twice."""
        source_key = self._keyed(link.source or Label(1, "unit"), link.depth - 1)
        target_key = self._keyed(link.target, link.depth)
        atoms = [(d, name) for d, label in enumerate(labels) for name in label.axes]
        targets = _take(atoms, target_key, link.target_dims, [])
        sources = _take(atoms, source_key, link.source_dims, targets or [])
        if targets is None or sources is None:
            return None
        return self._between(link, labels, entries, source_key, target_key, [], [[], targets, sources])

    def _between(
        self, link: Link, labels: list[Label], entries: list[Sequence[int]], source_key: tuple[str, ...],
        target_key: tuple[str, ...], shared: list[str], groups: list[list[int]],
    ) -> Block | None:  # fmt: skip
        """The block whose atoms are grouped so; None if a free axis would be an extent, or a side is too large."""
        atoms = [name for label in labels for name in label.axes]
        rest = [i for i in range(len(atoms)) if all(i not in g for g in groups)]
        if any(self.space.axis[atoms[i]].free for i in rest) or not self._fits(source_key, target_key):
            return None
        piece = self._piece(labels, entries, [*groups, rest])
        return Block(
            link,
            self._set(source_key, link, False),
            self._set(target_key, link, True),
            piece,
            _first(source_key, shared),
            _first(target_key, shared),
            _grid([piece.atoms[i] for i in rest]),
            piece.shape[2] * piece.shape[3],
        )

    def _vector(self, link: Link, labels: list[Label], entries: list[Sequence[int]]) -> Vector | None:
        """One piece of a parameter of one node set; of a lone node, all entries of a tensor as a set."""
        key = self._keyed(product_label([labels[d] for d in link.target_dims]), link.depth)
        atoms = [(d, name) for d, label in enumerate(labels) for name in label.axes]
        mine = _take(atoms, key, link.target_dims, [])
        rest = [i for i in range(len(atoms)) if i not in (mine or [])]
        if not link.target_dims and rest:
            key = (UNUSED,)
        elif mine is None or any(self.space.axis[atoms[i][1]].free for i in rest) or not self._fits(key):
            return None
        return Vector(link, self._set(key, link, True), self._piece(labels, entries, [mine or [], rest]))

    def _fits(self, *keys: tuple[str, ...]) -> bool:
        """Whether node sets are small enough to be held."""
        sizes = [math.prod(self.space.axis[n].size for n in key if not n.startswith(UNIT)) for key in keys]
        return max(sizes) <= NODES

    def _piece(
        self, labels: Sequence[Label], entries: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]
    ) -> Piece:
        sizes = tuple(self.space.axis[name].size for label in labels for name in label.axes)
        shape = tuple(math.prod(sizes[i] for i in g) for g in groups)
        return Piece(tuple(entries), sizes, tuple(i for g in groups for i in g), shape)


def _take(
    atoms: Sequence[tuple[int, str]], key: Sequence[str], dims: Sequence[int], taken: Sequence[int]
) -> list[int] | None:
    """Places of a node set's axes among the atoms of some dimensions of a tensor; None if one is missing."""
    found: list[int] = []
    for name in key:
        if name.startswith(UNIT):
            continue
        own = (i for i, (d, n) in enumerate(atoms) if n == name and d in dims and i not in found and i not in taken)
        place = next(own, None)
        if place is None:
            return None
        found.append(place)
    return found


def _side(label: Label, chosen: Sequence[Label]) -> Label | None:
    """Label of one side of a link, for one choice of pieces of the tensor's dimensions.

    A side with axes that are no dimension of the tensor (groups of a convolution) is taken as a whole; that of a
    concatenation within groups cannot be shown as one block (None).
    """
    have = {axis for part in chosen for axis in part.axes}
    if any(piece.axes and set(piece.axes) <= have for piece, _ in label.pieces()) or not label.axes:
        return product_label(chosen)
    return None if len(label.pieces()) > 1 else label


def _kind(axes: Sequence[Axis]) -> str:
    kinds = {a.kind for a in axes}
    return next((k for k in ("neuron", "output", "input") if k in kinds), "fixed")


def _first(key: Sequence[str], shared: Sequence[str]) -> tuple[int, ...]:
    """Order of a node set's axes that puts the shared ones first, in the order given."""
    return (*(key.index(n) for n in shared), *(i for i, n in enumerate(key) if n not in shared))


def _grid(sizes: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Coordinates in [-1, 1] of every combination of extents; of more than three, the last three."""
    lines = [[2 * i / (s - 1) - 1 for i in range(s)] if s > 1 else [0.0] for s in sizes]
    return tuple(tuple(([0.0] * 3 + list(place))[-3:]) for place in itertools.product(*lines))
