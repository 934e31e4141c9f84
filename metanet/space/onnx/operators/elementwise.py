"""Elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Number, Operand, Refused, Weight, operator

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


@operator("Identity", "Dropout", "Cast", "CastLike")
def identity(x: Tensor, *rest: Tensor, to: int | None = None, ratio: float = 0.5, saturate: int = 1) -> Tensor:
    """The input; casts among floating-point types change its precision alone."""
    dtype = rest[0].dtype if to is None and rest and rest[0].ndim else DTYPES.get(to or 0, x.dtype)
    if to is not None and to not in DTYPES:
        raise Refused(f"its type {to} is a quantised one, or text")
    return x.to(dtype)


DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""Torch's types by the numbers of ONNX."""


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
def power(x: Operand, y: Operand) -> Tensor:
    """``x ** y``, in the type of x."""
    result: Tensor = x**y
    return result.to(x.dtype) if isinstance(x, Tensor) else result


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
def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    """SELU."""
    return gamma * F.elu(x, alpha)


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
    sixth = math.isclose(alpha, 1 / 6, rel_tol=1e-4) and beta == 0.5
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
