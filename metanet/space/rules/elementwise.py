"""Elementwise operations: aligned dimensions index the same things."""

from __future__ import annotations

from typing import Any

from torch import fx

from metanet.space.axes import Dim
from metanet.space.calls import shape_of
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk, tensors_in

ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid", "hardtanh",
    "hardswish", "hardsigmoid", "softplus", "sin", "cos", "erf", "exp", "abs", "square",
)  # fmt: skip


@rule("pointwise", "complex", "polar", "real", "imag", "_conj", "_conj_physical", "conj_physical")
def pointwise(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """Any operation that torch tags as pointwise."""
    return walk.like(node, *tensors_in((args, kwargs)))


@rule(*ACTIVATIONS)
def activation(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """A nonlinearity of one argument; it is recorded on the links whose result it receives."""
    name = str(node.target.overloadpacket).removeprefix("aten.")  # type: ignore[union-attr]
    return walk.like(node, *tensors_in((args, kwargs)), activation=name)


@rule("clamp", "clamp_min", "clamp_max")
def clamp(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """Clamping (ReLU6 arrives in this form)."""
    return walk.like(node, *tensors_in((args, kwargs)), activation="clamp")


@rule("prelu", "_prelu_kernel")
def prelu(walk: Walk, node: fx.Node, x: Value, weight: Value) -> Value:
    """PReLU: one slope for all channels, or one per channel (dimension 1)."""
    if weight.dims and weight.dims[-1].size != 1 and len(weight.dims) == 1 and len(x.dims) > 1:
        weight = Value((weight.dims[0], *[Dim(1) for _ in x.dims[2:]]), weight.origin)
    return walk.like(node, x, weight, activation="prelu")


@rule("add", "sub", "rsub")
def add(walk: Walk, node: fx.Node, x: Any, y: Any, *args: Any, **kwargs: Any) -> Value:
    """A sum; a parameter added to data is a bias."""
    return _with_parameter(walk, node, "bias", x, y)


@rule("mul", "div")
def mul(walk: Walk, node: fx.Node, x: Any, y: Any, *args: Any, **kwargs: Any) -> Value:
    """A product; a parameter that multiplies data is a scale."""
    return _with_parameter(walk, node, "scale", x, y)


def _with_parameter(walk: Walk, node: fx.Node, kind: Any, x: Any, y: Any) -> Value:
    values = list(tensors_in((x, y)))
    result = walk.like(node, *values)
    parameters = [v for v in values if v.origin is not None]
    if len(parameters) != 1 or len(values) != 2:
        return result
    found = walk.unary(node, kind, parameters[0], result.depth)
    return Value(result.dims, None, result.depth, result.pending | found)


UNIFORM = (
    "full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "empty", "empty_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "fill",
)  # fmt: skip


@rule(*UNIFORM)
def uniform(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """A constant tensor: all its entries are equal, so its order means nothing."""
    return Value(tuple(Dim(s) for s in shape_of(node)))


@rule("arange", "linspace", "scalar_tensor", "eye", "tril_indices", "triu_indices")
def constant(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """Numbers made in the code: their order matters."""
    return Value(tuple(walk.fixed(node, s) for s in shape_of(node)))


@rule("tril", "triu")
def triangle(walk: Walk, node: fx.Node, x: Value, *args: Any) -> Value:
    """Masking by position: the last two dimensions are ordered."""
    walk.freeze(node, *x.dims[-2:])
    return walk.make(x.dims, x)


@rule("rand", "randn", "randint", "rand_like", "randn_like", "bernoulli", "native_dropout", "uniform", "normal")
def random(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Random numbers at run time: not a function of the weights, so that nothing can be claimed."""
    return walk.unknown(node, "it draws random numbers in eval mode", (args, kwargs))
