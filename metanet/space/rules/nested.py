"""Higher-order operations: graphs within the graph are walked like the graph itself."""

from __future__ import annotations

from typing import Any

from torch import fx

from metanet.space.axes import unify
from metanet.space.calls import instances
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk, tensors_in

BLOCKS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap", "tag_activation_checkpoint", "invoke_subgraph")


@rule(*(f"higher_order.{name}" for name in BLOCKS))
def block(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """A block under some setting: settings, the graph, then its operands."""
    at = next(i for i, a in enumerate(args) if isinstance(a, fx.GraphModule))
    operands = [a for a in args[at + 1 :] if not isinstance(a, str)]  # invoke_subgraph names its graph
    return walk.subgraph(args[at], operands)


@rule("higher_order.cond")
def cond(walk: Walk, node: fx.Node, predicate: Any, true: fx.GraphModule, false: fx.GraphModule, operands: Any) -> Any:
    """One of two branches: whichever it is, the results mean the same."""
    taken, other = walk.subgraph(true, list(operands)), walk.subgraph(false, list(operands))
    for a, b in zip(instances(taken, Value), instances(other, Value), strict=True):
        for x, y in zip(a.dims, b.dims, strict=True):
            unify(x, y, walk.where(node))
    for value in tensors_in(predicate):
        walk.freeze(node, *value.dims)
    return taken
