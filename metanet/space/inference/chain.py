"""A chain of layers, unified step by step as a trace of the same network would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metanet.space.axes import Dim, freeze, product, split_product, unify
from metanet.space.inference.layers import Layer
from metanet.space.inference.options import FLATTEN, GROUPED, Reading
from metanet.space.inference.refusal import refuse
from metanet.space.walk import LinkDraft, Walk
from metanet.space.weight_space import LinkKind

VECTOR_ROLES: tuple[tuple[str, LinkKind], ...] = (
    ("mean", "mean"), ("variance", "variance"), ("weight", "scale"), ("bias", "bias"),
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """What flows between two layers.

    Attributes:
        dim: Its neurons; None before the first layer.
        maps: Whether each neuron is a map of positions, as after a convolution.
        depth: Weight layers so far.
        before: Name of the tensor that wrote it.
        taps: Sizes of the last convolution's kernel.
    """

    dim: Dim | None = None
    maps: bool = True
    depth: int = 0
    before: str = "the input"
    taps: tuple[int, ...] = ()


@dataclass
class Chain:
    """Dims and links of the layers visited so far.

    Attributes:
        reading: What the user said.
        flattens: Whether names say that maps are flattened as they are before linear layers.
        walk: The links, as a trace would leave them.
        dims: Dims of every tensor.
        seen: Sizes of the values so far, the input first.
    """

    reading: Reading = field(default_factory=Reading)
    flattens: bool = False
    walk: Walk = field(default_factory=Walk)
    dims: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)

    def run(self, layers: Sequence[Layer], state: State) -> State:
        """Visit layers one after the other.

        Raises:
            SpaceError: One does not fit what comes before it.
        """
        for layer in layers:
            state = self.step(layer, state)
        return state

    def step(self, layer: Layer, state: State) -> State:
        """Visit one layer."""
        for role, name in layer.names.items():
            self.dims[name] = tuple(Dim(size) for size in layer.shapes[role])
        if layer.kind == "scalar":
            return state
        if layer.kind == "slope" and layer.size == 1:
            self._link(layer, "weight", "scale", Dim(1), state.depth)
            return state
        if layer.kind == "linear":
            return self._linear(layer, state)
        if layer.kind == "convolution":
            return self._convolution(layer, state)
        return self._vectors(layer, state)

    def _linear(self, layer: Layer, state: State) -> State:
        name = layer.names["weight"]
        read = self.dims[name][layer.in_dim]
        source = self._start(read, state)
        source = self._flattened(layer, source, read.size, state)
        if source.size != read.size:
            raise self._misfit(layer, read.size, source.size, state)
        unify(source, read)
        return self._written(layer, source, self.dims[name][layer.out_dim], state, False)

    def _flattened(self, layer: Layer, dim: Dim, size: int, state: State) -> Dim:
        """Return the product of channels and positions, where a layer reads flattened maps."""
        count = size // dim.size
        if not (state.maps and state.depth) or count < 2 or size % dim.size:
            return dim
        last = self.reading.channels_last
        if last is None:
            if not (self.flattens and _is_map(count, state.taps)):
                raise refuse(
                    *layer.main, f"reads {count} times the {dim.size} channels of '{state.before}'",
                    [*FLATTEN, "several poolings joined, as the maximum and the mean"],
                )  # fmt: skip
            last = self.reading.keras
        positions = Dim(count, frozen=f"flattened positions before '{layer.path}'")
        return product((positions, dim) if last else (dim, positions))

    def _convolution(self, layer: Layer, state: State) -> State:
        name, reason = layer.names["weight"], f"aten.convolution at '{layer.path}'"
        weight = self.dims[name]
        outer, inner = weight[layer.out_dim], weight[layer.in_dim]
        source = self._start(inner, state)
        if not state.maps:
            raise refuse(
                name, layer.shapes["weight"], f"is a convolution after the linear layer of '{state.before}'",
                ["a reshape between them, whose sizes are not in the file", "a branch that reads something else"],
            )  # fmt: skip
        groups = self._groups(layer, source.size, inner.size, outer.size, state)
        if groups > 1:
            group, _ = split_product(outer, (groups, outer.size // groups), reason)
            x_group, x_rest = split_product(source, (groups, inner.size), reason)
            unify(x_group, group)
            unify(x_rest, inner)
        else:
            unify(source, inner)
        for at, dim in enumerate(weight):
            if at not in (layer.out_dim, layer.in_dim):
                freeze(dim, reason)
        return self._written(layer, source, outer, state, True)

    def _groups(self, layer: Layer, have: int, read: int, written: int, state: State) -> int:
        """Groups of a convolution, where the shapes leave no doubt."""
        if have == read:
            return 1
        groups = have // read
        if have % read or written % groups or layer.inputs_last:
            raise self._misfit(layer, read, have, state)
        if not self.reading.grouped:
            earlier = [f"a branch that reads an earlier value of {read} channels"] if read in self.seen else []
            raise refuse(
                *layer.main, f"reads {read} of the {have} values that '{state.before}' gives",
                [f"{GROUPED}, here with {groups} groups", *earlier,
                 f"something that leaves {read} of {have} channels, as GLU, maxout and pixel shuffle do"],
            )  # fmt: skip
        return groups

    def _vectors(self, layer: Layer, state: State) -> State:
        """A norm layer, or the slopes of a PReLU."""
        size = layer.size
        dim = self._start(Dim(size), state)
        if (flat := self._flattened(layer, dim, size, state)) is not dim:
            dim, state = flat, State(flat, False, state.depth, state.before)
        if dim.size != size:
            raise self._misfit(layer, size, dim.size, state)
        if layer.norm_groups > 1:
            if size % layer.norm_groups:
                raise refuse(
                    *layer.main, f"cannot be {layer.norm_groups} equal groups", ["another number as norm_groups"]
                )
            split_product(
                dim, (layer.norm_groups, size // layer.norm_groups), f"aten.native_group_norm at '{layer.path}'"
            )
        for role, kind in VECTOR_ROLES:
            if role in layer.names:
                unify(dim, self.dims[layer.names[role]][0])
                self._link(layer, role, kind, dim, state.depth)
        return State(dim, state.maps, state.depth, state.before, state.taps)

    def _start(self, read: Dim, state: State) -> Dim:
        """What a layer reads; the first one defines the input."""
        if state.dim is not None:
            return state.dim
        self.seen.append(read.size)
        return Dim(read.size, frozen="input")

    def _written(self, layer: Layer, source: Dim, target: Dim, state: State, maps: bool) -> State:
        depth, name = state.depth + 1, layer.names["weight"]
        kind: LinkKind = "convolution" if maps else "linear"
        self.walk.links.append(
            LinkDraft(name, kind, source, target, (layer.in_dim,), (layer.out_dim,), depth, (), layer.path)
        )
        if "bias" in layer.names:
            unify(target, self.dims[layer.names["bias"]][0])
            self._link(layer, "bias", "bias", target, depth)
        self.seen.append(target.size)
        return State(target, maps, depth, name, layer.taps if maps else ())

    def _link(self, layer: Layer, role: str, kind: LinkKind, target: Dim, depth: int) -> None:
        at = () if target.size == 1 else (0,)
        self.walk.links.append(LinkDraft(layer.names[role], kind, None, target, (), at, depth, (), layer.path))

    def _misfit(self, layer: Layer, read: int, have: int, state: State) -> Exception:
        name, shape = layer.main
        ways = ["a branch that reads an earlier value", "another net in the same file: take one with select('prefix')"]
        earlier = [size for size in self.seen[:-1] if size == read]
        if earlier:
            ways.insert(0, f"a second head or parallel layer that reads an earlier value of {read}")
        if layer.kind == "convolution" and shape[0] == have:
            ways.insert(0, "a transposed convolution")
        return refuse(name, shape, f"reads {read} values, but '{state.before}' before it gives {have}", ways)


def _is_map(count: int, taps: Sequence[int]) -> bool:
    """Return whether a count of positions is certainly that of a square or cubic map, flattened.

    Two to four values a channel may as well be statistics of a map. Maps of one dimension, and those that are read by
    kernels with unequal sides, show nothing.
    """
    if len(taps) < 2 or len(set(taps)) > 1:
        return False
    side = round(count ** (1 / len(taps)))
    return side ** len(taps) == count and count > 4


def owned(
    names: Sequence[str], dims: Mapping[str, tuple[Dim, ...]], statistics: set[str]
) -> dict[str, tuple[Dim, ...]]:
    """Dims of every tensor, parameters before statistics as in a trace."""
    ordered = sorted(names, key=lambda name: name in statistics)
    return {name: dims[name] for name in ordered}
