"""Recurrent layers: all gates of a layer share its hidden neurons, and so does what it carries over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from metanet.space.axes import Dim, concat, product, split_product, unify
from metanet.space.calls import is_read, operation_name
from metanet.space.rules.elementwise import UNIFORM
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk

COPIES = ("alias", "detach", "clone", "expand", "contiguous", "_to_copy", "lift_fresh", "unsqueeze", "permute")


@rule("lstm")
def lstm(walk: Walk, node: fx.Node, x: Value, state: Sequence[Value], *args: Any) -> Any:
    """LSTM: gates i, f, g, o. ``state`` is ``(h_0, c_0)``."""
    return _recurrent(walk, node, x, state, 4, *args)


@rule("gru")
def gru(walk: Walk, node: fx.Node, x: Value, state: Value, *args: Any) -> Any:
    """GRU: gates r, z, n."""
    return _recurrent(walk, node, x, (state,), 3, *args)


@rule("rnn_tanh", "rnn_relu")
def rnn(walk: Walk, node: fx.Node, x: Value, state: Value, *args: Any) -> Any:
    """Elman network: one gate."""
    return _recurrent(walk, node, x, (state,), 1, *args)


def _recurrent(
    walk: Walk,
    node: fx.Node,
    x: Value,
    states: Sequence[Value],
    gates: int,
    weights: Sequence[Value],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """All layers and directions. Time is ordered, and the batch is not."""
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    walk.freeze(node, x.dims[1 if batch_first else 0])
    value, hidden, written = x, [], []
    for layer in range(layers):
        outs = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            out, cell = _cell(walk, node, value, weights[at : at + each], biases, gates)
            outs.append(out)
            hidden.append(cell)
        written += [o.dims[-1] for o in outs]
        value = Value((*x.dims[:2], concat([o.dims[-1] for o in outs])), None, outs[0].depth, outs[0].pending)
    carried = [written, hidden]  # the state h runs over what is written, c over the cells
    batch = x.dims[0 if batch_first else 1]
    last = [
        _state(walk, node, k, s, dims, batch, value) for k, (s, dims) in enumerate(zip(states, carried, strict=False))
    ]
    return (value, *last)


def _cell(walk: Walk, node: fx.Node, x: Value, weights: Sequence[Value], biases: bool, gates: int) -> tuple[Value, Dim]:
    """One layer in one direction: what it writes, and the dim of its cells."""
    reason, depth = walk.where(node), x.depth + 1
    inputs, recurrent, *rest = weights
    projection = rest[-1] if len(rest) % 2 else None
    rows = (gates, inputs.dims[0].size // gates)
    gate, hidden = split_product(inputs.dims[0], rows, reason)
    walk.freeze(node, gate)
    for other in (recurrent, *rest[: 2 if biases else 0]):
        unify(inputs.dims[0], other.dims[0], reason)
    out = projection.dims[0] if projection is not None else hidden
    unify(recurrent.dims[1], out, reason)
    unify(inputs.dims[1], x.dims[-1], reason)
    target = product((gate, hidden))
    found = walk.link(node, "linear", inputs, (target, (0,)), (x.dims[-1], (1,)), depth)
    found |= walk.link(node, "linear", recurrent, (target, (0,)), (out, (1,)), depth)
    for bias in rest[: 2 if biases else 0]:
        found |= walk.unary(node, "bias", bias, depth)
    if projection is not None:
        unify(projection.dims[1], hidden, reason)
        found |= walk.link(node, "linear", projection, (out, (0,)), (hidden, (1,)), depth)
    for number in found:
        walk.links[number].activation = "tanh"
    return Value((*x.dims[:2], out), None, depth, frozenset()), hidden


def _uniform(given: Any) -> bool:
    """Whether all entries of a value are equal by the way it is made."""
    while isinstance(given, fx.Node) and given.op == "call_function":
        name = operation_name(given).removeprefix("aten.")
        if name not in COPIES:
            return name in UNIFORM
        given = given.args[0]
    return False


def _state(
    walk: Walk, node: fx.Node, number: int, state: Value, dims: Sequence[Dim], batch: Dim, value: Value
) -> Value:
    """The last state ``[layers * directions, batch, hidden]``; layers share an axis only where states are used."""
    given = node.args[1][number] if isinstance(node.args[1], list | tuple) else node.args[1]
    if not _uniform(given):
        walk.freeze(node, state.dims[0])
        unify(state.dims[1], batch, walk.where(node))
        for dim in dims:
            unify(state.dims[2], dim, walk.where(node))
    elif is_read(node, number + 1):
        for dim in dims[1:]:
            unify(dims[0], dim, walk.where(node))
    return walk.make((walk.fixed(node, state.dims[0].size), batch, dims[0]), value)
