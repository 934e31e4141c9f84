"""The walk over a traced graph: values, their dims, and the links that weights make.

The walk visits the operations of an exported ATen graph in order. Rules (:mod:`metanet.space.rules`) are called with it
and use the methods here; an operation without a rule freezes whatever it touches and is recorded as opaque.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from metanet.space.axes import Dim, freeze, product, unify
from metanet.space.calls import bind, instances, is_read, map_results, module_path, operation_name, shape_of
from metanet.space.rules.registry import lookup
from metanet.space.values import SELECTIONS, LinkDraft, Origin, Use, Value, marked, tensors_in
from metanet.space.weight_space import LinkKind, Opaque

__all__ = ["LinkDraft", "Origin", "Value", "Walk", "tensors_in"]


@dataclass
class Walk:
    """State of one walk.

    Attributes:
        links: Uses of tensors that rules recorded, so far.
        uses: By tensor, where it met data; from these follow links of tensors for which no rule recorded one.
        linked: Names of the tensors that have links.
        opaque: Operations that were not understood.
        values: What each graph node yields: a Value, a tuple of them, or plain data.
        distrusted: Names of nodes whose rules are not to be believed: they are treated as not understood.
    """

    links: list[LinkDraft] = field(default_factory=list)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    linked: set[str] = field(default_factory=set)
    opaque: list[Opaque] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    distrusted: frozenset[str] = frozenset()

    def run(self, nodes: Sequence[fx.Node], inputs: Mapping[fx.Node, Any]) -> None:
        """Visit the nodes of the whole graph in order, given the value of every placeholder; outputs are frozen."""
        for value in tensors_in(self.visit(nodes, inputs)):
            for dim in value.dims:
                freeze(dim, "output")

    def visit(self, nodes: Sequence[fx.Node], inputs: Mapping[fx.Node, Any]) -> Any:
        """Visit the nodes of a graph in order, and return what it yields."""
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = inputs[node]
            elif node.op == "get_attr":
                self.values[node] = _attribute(node)
            elif node.op == "call_function":
                self.values[node] = self._followed(node, self._call(node))
            elif node.op == "output":
                return self._arguments(node.args[0])
        return None

    def subgraph(self, module: fx.GraphModule, operands: Sequence[Any]) -> Any:
        """Visit the graph of a higher-order operation, given the value of every operand."""
        nodes = list(module.graph.nodes)
        starts = [n for n in nodes if n.op == "placeholder"]
        return self.visit(nodes, dict(zip(starts, operands, strict=True)))

    # What rules use -------------------------------------------------------------------------------------------------

    def where(self, node: fx.Node) -> str:
        """``"aten.select at 'blocks.0.attn'"``: the operation and its module, for reasons and reports."""
        return f"{operation_name(node)} at '{module_path(node)}'"

    def freeze(self, node: fx.Node, *dims: Dim) -> None:
        """Freeze dims because of this operation."""
        for dim in dims:
            freeze(dim, self.where(node))

    def fixed(self, node: fx.Node, size: int) -> Dim:
        """A fresh frozen dim."""
        return Dim(size, frozen=self.where(node))

    def make(self, dims: Sequence[Dim], *inputs: Any, origin: Origin | None = None) -> Value:
        """A value with these dims that inherits depth and pending activations from what it was computed from."""
        values = list(tensors_in(inputs))
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
        inputs = list(tensors_in(arguments))
        for value in inputs:
            self.freeze(node, *value.dims)
        return map_results(node.meta.get("val"), lambda t: self.make([self.fixed(node, s) for s in t.shape], *inputs))

    def several(self, node: fx.Node, first: Value, *inputs: Value) -> Any:
        """The results of an operation that yields more than its main one: ``inputs`` are frozen if others are read."""
        example = node.meta["val"]
        if not isinstance(example, tuple | list):
            return first
        if any(is_read(node, number) for number in range(1, len(example))):
            for value in (first, *inputs):
                self.freeze(node, *value.dims)
        rest = [map_results(e, lambda t: self.make([self.fixed(node, s) for s in t.shape], first)) for e in example[1:]]
        return (first, *rest)

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
        self.linked.add(draft.tensor)
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
            return args[0][args[1]] if args[0] is not None else None
        inputs = (args, kwargs)
        if not any(True for _ in instances(node.meta.get("val"), torch.Tensor)):
            return None  # assertions, sizes: nothing here has dimensions
        if node.name in self.distrusted:
            return self.unknown(node, "its rule was refuted by the certificate", inputs)
        function = lookup(operation_name(node)) or self._pointwise(node)
        if function is None:
            return self.unknown(node, "no rule is registered for it", inputs)
        bound, named = bind(node, args, kwargs)
        try:
            result = function(self, node, *bound, **named)
        except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:  # a form the rule does not know
            return self.unknown(node, f"its rule failed with {type(error).__name__}: {error}", inputs)
        if not _fits(node.meta["val"], result):
            return self.unknown(node, "its rule gave dims that do not fit the shape of the result", (inputs, result))
        return result

    def _followed(self, node: fx.Node, result: Any) -> Any:
        """The result, told which tensors it is made of; their meeting with data is recorded."""
        if node.target is operator.getitem:
            return result
        inputs = list(tensors_in([self.values.get(n) for n in node.all_input_nodes]))
        data = any(v.data for v in inputs)
        tensors = frozenset().union(*(v.tensors for v in inputs))
        if data and tensors and len(inputs) > 1:
            results = list(tensors_in(result))
            self._meet(node, inputs, tensors - self.linked, results)
            chosen = operation_name(node) in SELECTIONS
            kept = (v for v in inputs if chosen or (v.data and results and v.shape == results[0].shape))
            tensors = frozenset().union(*(v.tensors for v in kept))
        return marked(result, tensors, data)

    def _meet(self, node: fx.Node, inputs: Sequence[Value], tensors: frozenset[str], results: Sequence[Value]) -> None:
        depth = max((v.depth for v in results), default=0)
        given = tuple(d for v in results for d in v.dims)
        for name in sorted(tensors):
            others = tuple(d for v in inputs if name not in v.tensors for d in v.dims)
            use = Use(operation_name(node), module_path(node), given, others, depth)
            self.uses.setdefault(name, []).append(use)

    def _pointwise(self, node: fx.Node) -> Any:
        tagged = torch.Tag.pointwise in getattr(node.target, "tags", ())
        return lookup("aten.pointwise") if tagged and isinstance(node.meta["val"], torch.Tensor) else None


def _fits(example: Any, result: Any) -> bool:
    """Whether a rule's result has the shape of what the operation yields."""
    if isinstance(example, torch.Tensor):
        return isinstance(result, Value) and result.shape == tuple(example.shape)
    if isinstance(example, list | tuple):
        return isinstance(result, list | tuple) and all(map(_fits, example, result)) and len(example) == len(result)
    return True


def _attribute(node: fx.Node) -> Any:
    """What a graph refers to by name: the graph module of a higher-order operation, or a constant tensor."""
    owner: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    if isinstance(owner, torch.Tensor):
        return Value(tuple(Dim(int(s), frozen=f"constant '{node.target}'") for s in owner.shape))
    return owner
