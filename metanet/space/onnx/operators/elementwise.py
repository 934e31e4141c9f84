"""Elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.checkpoint.onnx import TYPES
from metanet.space.onnx.registry import Number, Operand, Refused, Unused, Weight, operator

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Asinh": torch.asinh, "Atan": torch.atan, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "IsNaN": torch.isnan,
    "Neg": torch.neg, "Not": torch.logical_not, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign,
    "Tan": torch.tan, "Tanh": torch.tanh, "HardSwish": F.hardswish, "Mish": F.mish, "BitwiseNot": torch.bitwise_not,
}  # fmt: skip
PARTIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Atanh": torch.atanh, "Log": torch.log,
    "Reciprocal": torch.reciprocal, "Sqrt": torch.sqrt,
}  # fmt: skip
"""Functions that are not defined, or not finite, everywhere."""


def _register(name: str, function: Callable[..., Tensor], materialise: bool) -> None:
    @operator(name, materialise=materialise)
    def unary(x: Tensor) -> Tensor:
        return function(x)


for _name, _function in {**UNARY, **PARTIAL}.items():
    _register(_name, _function, _name in PARTIAL)


DTYPES = {number: dtype for number, dtype in TYPES.items() if not dtype.is_complex}
"""Torch's types by the numbers of ONNX."""


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    """The input."""
    return x


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Another type; casts among floating-point types change the precision alone."""
    return x.to(_dtype(to))


@operator("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """The type of another tensor."""
    return x.to(like.dtype)


@operator("BitCast")
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """The same bits read as another type of the same width."""
    if _dtype(to).itemsize != x.element_size() or torch.bool in (x.dtype, _dtype(to)):
        raise Refused(f"it reads {x.dtype} as {_dtype(to)}; types of the same width are accepted")
    return x.view(_dtype(to))


def _dtype(number: int) -> torch.dtype:
    if number not in DTYPES:
        raise Refused(f"its type {number} is none that torch computes with: quantised, text, complex or unsigned")
    return DTYPES[number]


@operator("Dropout")
def dropout(
    x: Tensor, ratio: Unused = None, training_mode: Number | None = None, *, opset: int = 13, outputs: int = 1
) -> Tensor | tuple[Tensor, Tensor]:
    """The input, and a mask that keeps all of it."""
    if training_mode:
        raise Refused("it drops values at random: it is in training mode")
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool if opset >= 10 else x.dtype))


@operator("Add")
def add(x: Operand, y: Operand) -> Operand:
    """``x + y``."""
    return x + y


@operator("Sub")
def sub(x: Operand, y: Operand) -> Operand:
    """``x - y``."""
    return x - y


@operator("Mul")
def mul(x: Operand, y: Operand) -> Operand:
    """``x * y``."""
    return x * y


@operator("Div")
def div(x: Operand, y: Operand) -> Operand:
    """``x / y``; whole numbers are rounded toward zero."""
    whole = all(isinstance(i, int) or (isinstance(i, Tensor) and not i.is_floating_point()) for i in (x, y))
    if not whole:
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


@operator("Pow")
def power(x: Tensor, y: Operand) -> Tensor:
    """``x ** y``, in the type of x."""
    return (x**y).to(x.dtype)


@operator("Mod")
def mod(x: Tensor, y: Operand, *, fmod: int = 0) -> Tensor:
    """Remainder, with the sign of y, or of x with ``fmod``."""
    return torch.fmod(x, torch.as_tensor(y)) if fmod else x % y


COMPARISONS = {
    "Equal": torch.eq, "Greater": torch.gt, "Less": torch.lt, "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le,
}  # fmt: skip
LOGICAL = {
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


def _compare(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def comparison(x: Tensor, y: Operand) -> Tensor:
        return function(x, y)


def _combine(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def combination(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)


for _name, _comparison in COMPARISONS.items():
    _compare(_name, _comparison)
for _name, _combination in LOGICAL.items():
    _combine(_name, _combination)


@operator("BitShift")
def bit_shift(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    """Bits moved to the left or to the right."""
    if direction not in ("LEFT", "RIGHT"):
        raise Refused(f"its direction is '{direction}'; LEFT and RIGHT are accepted")
    return (torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift)(x, y)


@operator("Where")
def where(condition: Tensor, x: Operand, y: Operand) -> Tensor:
    """``x`` where the condition holds, ``y`` elsewhere."""
    return torch.where(condition, x, y)


@operator("Max")
def largest(x: Tensor, *others: Operand) -> Tensor:
    """The largest of several tensors."""
    for y in others:
        x = torch.maximum(x, y) if isinstance(y, Tensor) else torch.clamp(x, min=y)
    return x


@operator("Min")
def smallest(x: Tensor, *others: Operand) -> Tensor:
    """The smallest of several tensors."""
    for y in others:
        x = torch.minimum(x, y) if isinstance(y, Tensor) else torch.clamp(x, max=y)
    return x


@operator("Sum")
def total(x: Operand, *others: Operand) -> Operand:
    """The sum of several tensors."""
    for y in others:
        x = x + y
    return x


@operator("Mean")
def average(x: Operand, *others: Operand) -> Operand:
    """The mean of several tensors."""
    return total(x, *others) / (len(others) + 1)


@operator("Clip")
def clip(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """Clamp to an interval; from zero alone it is a ReLU."""
    if min is None and max is None:
        return x
    return torch.relu(x) if min == 0 and max is None else torch.clamp(x, min, max)


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Leaky ReLU."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Weight) -> Tensor:
    """PReLU with one slope, or with one per channel."""
    aligned = slope.shape[1:] if slope.ndim == x.ndim and slope.ndim > 1 and slope.shape[0] == 1 else slope.shape
    channels = len(aligned) in (1, x.ndim - 1) and all(s == 1 for s in aligned[1:])
    if slope.numel() == 1 or (channels and aligned[0] == x.shape[1] and (len(aligned) > 1 or x.ndim == 2)):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, x * slope)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """ELU."""
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """CELU."""
    return F.celu(x, alpha)


@operator("Selu")
def selu(x: Tensor, *, alpha: float | None = None, gamma: float | None = None, opset: int = 6) -> Tensor:
    """SELU; the operator's first version had defaults of four digits."""
    usual = (1.6732632423543772, 1.0507009873554805) if opset >= 6 else (1.6732, 1.0507)
    return (usual[1] if gamma is None else gamma) * F.elu(x, usual[0] if alpha is None else alpha)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """GELU."""
    return F.gelu(x, approximate=approximate)


@operator("Gelu", domain="com.microsoft")
def exact_gelu(x: Tensor) -> Tensor:
    """GELU as ONNX Runtime's optimiser writes it."""
    return F.gelu(x)


@operator("FastGelu", domain="com.microsoft")
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """``clamp(alpha * x + beta, 0, 1)``."""
    sixth = math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5
    return F.hardsigmoid(x) if sixth else torch.clamp(alpha * x + beta, 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` above alpha, else zero."""
    return torch.where(x > alpha, x, 0.0)


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Soft and hard shrinkage."""
    return torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, 0.0))


@operator("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Whether entries are infinite."""
    up, down = x == math.inf, x == -math.inf
    return (up if detect_positive else ~up & up) | (down if detect_negative else ~down & down)
