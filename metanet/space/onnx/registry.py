"""The table of ONNX operators, and the decorator that fills it.

An operator is a short function in terms of torch. Its positional parameters are the node's inputs, its keyword-only
ones the node's attributes (under ONNX's names), and annotations say in which form an input is wanted::

    @operator("Unsqueeze")
    def unsqueeze(x: Tensor, axes: Ints) -> Tensor: ...

``Tensor`` is computed while the network runs. ``Ints``, ``Floats`` and ``Number`` are plain Python, known when the
network is built; ``Indices`` are :class:`Fixed` if they are known then, and a tensor otherwise. ``Operand`` is a
tensor, or a number if the file holds a single one. ``Weight`` is a tensor that stays a parameter even if it has a
single entry; ``Unused`` is left out. An input that older versions of ONNX give as an attribute is found there.
Keyword-only ``opset`` (version of the operators) and ``outputs`` (how many the node names) are filled in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor

Ints: TypeAlias = Sequence[int]
Floats: TypeAlias = Sequence[float]
Number: TypeAlias = float
Operand: TypeAlias = Tensor | float
Weight: TypeAlias = Tensor


@dataclass(frozen=True, eq=False)
class Fixed:
    """Whole numbers known when the network is built: the tensor, and its entries in a list."""

    tensor: Tensor
    numbers: list[int]


Indices: TypeAlias = Tensor | Fixed

Unused: TypeAlias = None

Form = Literal["Tensor", "Operand", "Weight", "Indices", "Ints", "Floats", "Number", "Unused"]
PLAIN = ("Ints", "Floats", "Number")


class Refused(Exception):
    """Why a node cannot be built; whoever knows the node says where."""


def axis_of(axis: int, rank: int) -> int:
    """The number of a dimension, counted from the end if negative.

    Raises:
        Refused: There is no such dimension.
    """
    if not -rank <= axis < rank:
        raise Refused(f"its axis {axis} is none of the {rank} dimensions of its input")
    return axis % rank


def axes_of(axes: Ints, rank: int) -> list[int]:
    """The numbers of several dimensions.

    Raises:
        Refused: One does not exist, or is named twice.
    """
    found = [axis_of(axis, rank) for axis in axes]
    if len(set(found)) != len(found):
        raise Refused(f"its axes {list(axes)} name a dimension twice")
    return found


@dataclass(frozen=True)
class Input:
    """One input of an operator: its name, its form, and whether it takes all inputs that are left."""

    name: str
    form: Form
    several: bool


@dataclass(frozen=True)
class Operator:
    """A registered operator.

    Attributes:
        function: What computes it.
        inputs: Its inputs in order.
        attributes: Names of its keyword-only parameters.
        materialise: Whether its result on weights alone is a weight of its own: functions that are not defined
            everywhere, such as a logarithm, would not survive other weights.
        unpack: Rewrites the inputs before the call: weights that PyTorch keeps in other pieces.
    """

    function: Callable[..., Any]
    inputs: tuple[Input, ...]
    attributes: frozenset[str] = field(default_factory=frozenset)
    materialise: bool = False
    unpack: Callable[..., Any] | None = None

    def form(self, position: int) -> Input:
        """What is wanted at a position.

        Raises:
            Refused: There is no such input.
        """
        if position < len(self.inputs):
            return self.inputs[position]
        if self.inputs and self.inputs[-1].several:
            return self.inputs[-1]
        raise Refused(f"it has more than {len(self.inputs)} inputs")


_OPERATORS: dict[tuple[str, str], Operator] = {}


def operator(
    *names: str, domain: str = "", materialise: bool = False, unpack: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the operators named, replacing what was registered before.

    Args:
        names: ONNX operator types.
        domain: Their domain; empty for ONNX's own.
        materialise: See :class:`Operator`.
        unpack: See :class:`Operator`.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        described = describe(function)
        for name in names:
            _OPERATORS[domain, name] = replace(described, materialise=materialise, unpack=unpack)
        return function

    return register


def describe(function: Callable[..., Any]) -> Operator:
    """Read the inputs and attributes of a function from its signature."""
    inputs, attributes = [], set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            attributes.add(parameter.name)
            continue
        form = str(parameter.annotation).partition(" |")[0]
        inputs.append(Input(parameter.name, form, parameter.kind is parameter.VAR_POSITIONAL))  # type: ignore[arg-type]
    return Operator(function, tuple(inputs), frozenset(attributes))


def lookup(domain: str, name: str) -> Operator | None:
    """The operator of that name, or None."""
    return _OPERATORS.get(("" if domain == "ai.onnx" else domain, name))


def settings(operator: Operator, attributes: Mapping[str, Any], opset: int, outputs: int) -> dict[str, Any]:
    """Keyword arguments of a call: the attributes that the function has, and what it asks to be told.

    Raises:
        Refused: The node has an attribute that changes what it means and that is not understood.
    """
    told = {"opset": opset, "outputs": outputs}
    known = {name: value for name, value in {**attributes, **told}.items() if name in operator.attributes}
    names = {i.name for i in operator.inputs}
    left = set(attributes) - set(known) - names - IGNORED
    if left:
        raise Refused(f"its attribute '{min(left)}' is not understood")
    return known


IGNORED = {"consumed_inputs", "momentum", "is_test", "training_mode", "stash_type", "seed", "dtype_hint"}
"""Attributes without a meaning for inference."""
