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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from metanet.space.labels import Axis, Label, product_label
from metanet.space.weight_space import WEIGHT_KINDS, Link, WeightSpace

NODE_KINDS = ("neuron", "input", "output", "fixed")
UNIT = "unit@"  # name of a lone neuron, with its depth


@dataclass(frozen=True)
class NodeSet:
    """Neurons that one label indexes.

    Attributes:
        name: Name of the first axis, or of the label.
        axes: Axes whose product it is, outer first.
        sizes: Their sizes.
        kind: ``"neuron"``, ``"input"``, ``"output"`` or ``"fixed"``.
        depth: Depth of the first link that writes it; 0 for inputs.
        activation: Nonlinearity after the first link that writes it and has one.
    """

    name: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    kind: str
    depth: int = 0
    activation: str | None = None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Piece:
    """Where a block or vector lies in its tensor: a slice of each dimension, seen as atoms.

    Attributes:
        entries: Entries per tensor dimension; a range where they are contiguous.
        atoms: Sizes of all atoms, dimension by dimension, outer first.
        order: Permutation of the atoms into the order of ``shape``.
        shape: Final shape without the batch.
    """

    entries: tuple[Sequence[int], ...]
    atoms: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def read(self, tensor: Tensor) -> Tensor:
        """``[B, *tensor shape] -> [B, *shape]``."""
        for dim, entries in enumerate(self.entries, start=1):
            if not isinstance(entries, range):
                tensor = tensor.index_select(dim, torch.tensor(entries, device=tensor.device))
            elif len(entries) != tensor.shape[dim]:
                tensor = tensor.narrow(dim, entries.start, len(entries))
        batch = tensor.shape[0]
        atoms = tensor.reshape(batch, *self.atoms).permute(0, *(i + 1 for i in self.order))
        return atoms.reshape(batch, *self.shape)


@dataclass(frozen=True)
class Block:
    """One weight between two node sets, ``[B, D, T, S, K]``.

    Attributes:
        link: The link it comes from.
        source: Index of the node set read.
        target: Index of the node set written.
        piece: Where it lies in the tensor.
        source_order: Node features ``[B, N_s, F]`` come as ``[B, *sizes, F]``; this permutation of the source's axes
            puts the shared ones first, so that they can be read as ``[B, D, S, F]``.
        target_order: The same for the target.
        coordinates: Place of each extent, ``[K, 3]`` in [-1, 1].
        fan_in: Connections that each target neuron sums over.
    """

    link: Link
    source: int
    target: int
    piece: Piece
    source_order: tuple[int, ...]
    target_order: tuple[int, ...]
    coordinates: tuple[tuple[float, ...], ...]
    fan_in: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(D, T, S, K)``."""
        return self.piece.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class Vector:
    """A parameter that acts on one node set, ``[B, N, K]``."""

    link: Link
    target: int
    piece: Piece


@dataclass(frozen=True)
class Layout:
    """All node sets, blocks and vectors of a weight space.

    Attributes:
        space: The space.
        nodes: Node sets by depth.
        blocks: Weights, in the order of computation.
        vectors: Biases, scales and statistics, in the order of computation.
        unplaced: Tensors that no block or vector shows (their dimensions are not one target and one source).
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

    def build(self) -> Layout:
        blocks: list[Block] = []
        vectors: list[Vector] = []
        for link in self.space.links:
            for labels, entries in self._choices(link):
                if link.kind in WEIGHT_KINDS:
                    blocks.extend(self._block(link, labels, entries))
                else:
                    vectors.extend(self._vector(link, labels, entries))
        read = {b.source for b in blocks}
        nodes = [self._node(key, number, number in read) for key, number in self.keys.items()]
        rank = sorted(range(len(nodes)), key=lambda i: (nodes[i].depth, i))
        place = {old: new for new, old in enumerate(rank)}
        blocks = [replace(b, source=place[b.source], target=place[b.target]) for b in blocks]
        vectors = [replace(v, target=place[v.target]) for v in vectors]
        shown = {b.link.tensor for b in blocks} | {v.link.tensor for v in vectors}
        unplaced = tuple(t.name for t in self.space.tensors if t.name not in shown)
        return Layout(self.space, tuple(nodes[i] for i in rank), tuple(blocks), tuple(vectors), unplaced)

    def _choices(self, link: Link) -> Iterator[tuple[list[Label], list[Sequence[int]]]]:
        """Every way to take one piece of each tensor dimension: their labels and entries."""
        for choice in itertools.product(*(label.pieces() for label in self.space.tensor[link.tensor].labels)):
            yield [label for label, _ in choice], [entries for _, entries in choice]

    def _node(self, key: tuple[str, ...], number: int, read: bool) -> NodeSet:
        depth, activation = self.written.get(number, 0), self.activations.get(number)
        if key[0].startswith(UNIT):
            kind = "input" if number not in self.written else "neuron" if read else "output"
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

    def _block(self, link: Link, labels: list[Label], entries: list[Sequence[int]]) -> Iterator[Block]:
        source = _side(link.source or Label(1, "unit"), [labels[d] for d in link.source_dims])
        target = _side(link.target, [labels[d] for d in link.target_dims])
        if source is None or target is None:
            return
        source_key, target_key = self._key(source, link.depth - 1), self._key(target, link.depth)
        atoms = [(d, name) for d, label in enumerate(labels) for name in label.axes]
        sources = {n: i for i, (d, n) in enumerate(atoms) if d in link.source_dims and n in source_key}
        targets = {n: i for i, (d, n) in enumerate(atoms) if d in link.target_dims and n in target_key}
        shared = [n for n in target_key if n in source_key and (n in sources) != (n in targets)]
        absent = [n for n in source_key if n not in sources and n not in shared]
        absent += [n for n in target_key if n not in targets and n not in shared]
        if any(not n.startswith(UNIT) for n in absent):
            return
        groups = [
            [targets.get(n, sources.get(n, -1)) for n in shared],
            [targets[n] for n in target_key if n in targets and n not in shared],
            [sources[n] for n in source_key if n in sources and n not in shared],
        ]
        groups.append([i for i in range(len(atoms)) if all(i not in g for g in groups)])
        piece = self._piece(labels, entries, groups)
        yield Block(
            link,
            self._set(source_key, link, False),
            self._set(target_key, link, True),
            piece,
            _first(source_key, shared),
            _first(target_key, shared),
            _grid([piece.atoms[i] for i in groups[3]]),
            piece.shape[2] * piece.shape[3],
        )

    def _vector(self, link: Link, labels: list[Label], entries: list[Sequence[int]]) -> Iterator[Vector]:
        key = self._key(product_label([labels[d] for d in link.target_dims]), link.depth)
        atoms = [name for label in labels for name in label.axes]
        mine = [atoms.index(n) for n in key if n in atoms]
        rest = [i for i in range(len(atoms)) if i not in mine]
        yield Vector(link, self._set(key, link, True), self._piece(labels, entries, [mine, rest]))

    def _piece(
        self, labels: Sequence[Label], entries: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]
    ) -> Piece:
        sizes = tuple(self.space.axis[name].size for label in labels for name in label.axes)
        shape = tuple(math.prod(sizes[i] for i in g) for g in groups)
        return Piece(tuple(entries), sizes, tuple(i for g in groups for i in g), shape)


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
