"""The walk over a traced graph: values, their dims, and the links that weights make.

The walk visits the operations of an exported ATen graph in order. Rules (:mod:`metanet.space.rules`) are called with it
and use the methods here; an operation without a rule freezes whatever it touches and is recorded as opaque.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from metanet.space.axes import Dim, freeze, product, unify
from metanet.space.rules.registry import lookup
from metanet.space.weight_space import LinkKind, Opaque


@dataclass(frozen=True)
class Origin:
    """That a value is a view of one tensor of the state dict.

    Attributes:
        tensor: Name of the tensor.
        dims: For each dimension of the value, the tensor's dimension it runs over, or None.
    """

    tensor: str
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Value:
    """What is known of one tensor value during the walk.

    Attributes:
        dims: The label of each dimension.
        origin: The state-dict tensor it is a view of, if it is one.
        depth: Weight links on the longest path from the input.
        pending: Numbers of the links whose following activation has not been met yet.
    """

    dims: tuple[Dim, ...]
    origin: Origin | None = None
    depth: int = 0
    pending: frozenset[int] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each dimension."""
        return tuple(d.size for d in self.dims)


@dataclass
class LinkDraft:
    """A :class:`~metanet.space.weight_space.Link` whose labels are still dims."""

    tensor: str
    kind: LinkKind
    source: Dim | None
    target: Dim
    source_dims: tuple[int, ...]
    target_dims: tuple[int, ...]
    depth: int
    stride: tuple[int, ...]
    module: str
    activation: str | None = None


@dataclass
class Walk:
    """State of one walk.

    Attributes:
        links: Uses of tensors found so far.
        opaque: Operations that were not understood.
        values: What each graph node yields: a Value, a tuple of them, or plain data.
    """

    links: list[LinkDraft] = field(default_factory=list)
    opaque: list[Opaque] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)

    def run(self, nodes: Sequence[fx.Node], inputs: Mapping[fx.Node, Value]) -> None:
        """Visit nodes in order, given the value of every placeholder."""
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = inputs[node]
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                for value in _tensors(self._arguments(node.args)):
                    for dim in value.dims:
                        freeze(dim, "output")

    # What rules use -------------------------------------------------------------------------------------------------

    def where(self, node: fx.Node) -> str:
        """``"aten.select at 'blocks.0.attn'"``: the operation and its module, for reasons and reports."""
        return f"{_name(node)} at '{module_path(node)}'"

    def freeze(self, node: fx.Node, *dims: Dim) -> None:
        """Freeze dims because of this operation."""
        for dim in dims:
            freeze(dim, self.where(node))

    def fixed(self, node: fx.Node, size: int) -> Dim:
        """A fresh frozen dim."""
        return Dim(size, frozen=self.where(node))

    def make(self, dims: Sequence[Dim], *inputs: Any, origin: Origin | None = None) -> Value:
        """A value with these dims that inherits depth and pending activations from what it was computed from."""
        values = list(_tensors(inputs))
        return Value(
            tuple(dims),
            origin,
            max((v.depth for v in values), default=0),
            frozenset().union(*(v.pending for v in values)),
        )

    def like(self, node: fx.Node, *inputs: Value, activation: str | None = None) -> Value:
        """The result of an elementwise operation: broadcast the inputs and unify aligned dims.

        Args:
            node: The operation.
            inputs: Its tensor arguments.
            activation: Name of the nonlinearity it is, which then follows every pending link.
        """
        shape = shape_of(node)
        dims = [Dim(1) if s == 1 else None for s in shape]
        for value in inputs:
            offset = len(shape) - len(value.dims)
            for i, dim in enumerate(value.dims):
                here = dims[offset + i]
                if dim.size != shape[offset + i] or dim.size == 1:
                    continue
                if here is None:
                    dims[offset + i] = dim
                else:
                    unify(here, dim, self.where(node))
        full = [d if d is not None else self.fixed(node, s) for d, s in zip(dims, shape, strict=True)]
        whole = [v for v in inputs if v.origin and v.shape == shape]
        origin = whole[0].origin if whole and all(v.origin or not v.depth for v in inputs) else None
        result = self.make(full, *inputs, origin=origin)
        if activation is None:
            return result
        for number in result.pending:
            self.links[number].activation = self.links[number].activation or activation
        return replace(result, pending=frozenset())

    def unknown(self, node: fx.Node, reason: str, arguments: Any) -> Any:
        """Freeze everything an operation touches and record it."""
        self.opaque.append(Opaque(str(node.target), module_path(node), reason))
        inputs = list(_tensors(arguments))
        for value in inputs:
            self.freeze(node, *value.dims)
        return _map(node.meta.get("val"), lambda t: self.make([self.fixed(node, s) for s in t.shape], *inputs))

    def link(
        self,
        node: fx.Node,
        kind: LinkKind,
        weight: Value | None,
        target: tuple[Dim, Sequence[int]],
        source: tuple[Dim, Sequence[int]] | None = None,
        depth: int = 0,
        stride: Sequence[int] = (),
    ) -> frozenset[int]:
        """Record that a tensor connects source to target.

        Args:
            node: The operation that uses it.
            kind: What the tensor does.
            weight: The operand; nothing is recorded unless it is a view of one tensor of the state dict.
            target: Dim written, and which dimensions of the *operand* run over it.
            source: Dim read, and which dimensions of the operand run over it.
            depth: Depth of the link.
            stride: Convolution strides.

        Returns:
            The number of the link, as a set to be added to the pending ones; empty if nothing was recorded.
        """
        if weight is None or weight.origin is None:
            return frozenset()

        def dims_of(operand_dims: Sequence[int]) -> tuple[int, ...]:
            found = [weight.origin.dims[d] for d in operand_dims]  # type: ignore[union-attr]
            return tuple(d for d in found if d is not None)

        source_dims = dims_of(source[1]) if source else ()
        draft = LinkDraft(
            weight.origin.tensor, kind, source[0] if source else None, target[0], source_dims, dims_of(target[1]),
            depth, tuple(stride), module_path(node),
        )  # fmt: skip
        self.links.append(draft)
        return frozenset([len(self.links) - 1])

    def unary(self, node: fx.Node, kind: LinkKind, weight: Value | None, depth: int) -> frozenset[int]:
        """Record a tensor that acts on the neurons of all its dimensions larger than 1 (bias, scale, statistic)."""
        if weight is None:
            return frozenset()
        wide = [i for i, d in enumerate(weight.dims) if d.size != 1]
        return self.link(node, kind, weight, (product([weight.dims[i] for i in wide]), wide), depth=depth)

    # The machinery --------------------------------------------------------------------------------------------------

    def _arguments(self, args: Any) -> Any:
        return fx.node.map_arg(args, lambda n: self.values.get(n))

    def _call(self, node: fx.Node) -> Any:
        args, kwargs = self._arguments(node.args), self._arguments(node.kwargs)
        if node.target is operator.getitem:
            return args[0][args[1]]
        function = lookup(_name(node))
        if function is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            function = lookup("aten.pointwise")
        if function is None:
            return self.unknown(node, "no rule is registered for it", (args, kwargs))
        return function(self, node, *args, **kwargs)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of what a node yields."""
    return tuple(int(s) for s in node.meta["val"].shape)


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that called an operation, as in ``named_modules()``."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")


def _name(node: fx.Node) -> str:
    target = node.target
    packet = getattr(target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(target, "__name__", str(target))


def _tensors(items: Any) -> Iterator[Value]:
    """All values within nested arguments."""
    if isinstance(items, Value):
        yield items
    elif isinstance(items, Mapping):
        for item in items.values():
            yield from _tensors(item)
    elif isinstance(items, list | tuple):
        for item in items:
            yield from _tensors(item)


def _map(example: Any, make: Callable[[Any], Any]) -> Any:
    """Rebuild a (nested) result with one value per tensor."""
    if isinstance(example, torch.Tensor):
        return make(example)
    if isinstance(example, list | tuple):
        return tuple(_map(e, make) for e in example)
    return None
