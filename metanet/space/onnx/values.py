"""Values of an ONNX graph while its network is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metanet.space.onnx.module import Ref
from metanet.space.onnx.registry import PLAIN, Fixed, Operator, Refused


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a value.

    Attributes:
        example: The value itself if it does not depend on the network's input, else its shape and type on the meta
            device.
        ref: Where the running network finds it; None for constants, which are written into the network.
        weight: Name of the weight that it is, if it is one. A weight with one entry is a constant unless an operator
            asks for a weight.
    """

    example: Tensor
    ref: Ref | None = None
    weight: str | None = None

    @property
    def known(self) -> bool:
        """Whether it does not depend on the network's input."""
        return not self.example.is_meta


def weight(name: str, tensor: Tensor) -> Value:
    """A floating-point tensor of the file."""
    return Value(tensor, Ref(name) if tensor.numel() > 1 else None, name)


Given = Value | None


def bind(operator: Operator, inputs: Sequence[Given], attributes: dict[str, Any]) -> list[Any]:
    """Arguments of a call: values where tensors go, plain data elsewhere.

    Raises:
        Refused: An input that has to be known depends on the network's input, or is missing.
    """
    bound: list[Any] = []
    for position, value in enumerate(inputs):
        wanted = operator.form(position)
        if wanted.form == "Unused":
            bound.append(None)
        elif value is None and wanted.name in attributes:
            bound.append(attributes[wanted.name])
        elif value is None:
            bound.append(None)
        elif wanted.form in PLAIN:
            bound.append(_plain(value, wanted.form, wanted.name))
        elif wanted.form == "Indices":
            bound.append(Fixed(value.example, _numbers(value.example)) if _fixed(value) else value)
        elif wanted.form == "Weight" and value.weight is not None:
            bound.append(replace(value, ref=Ref(value.weight)))
        else:
            bound.append(value)
    for missing in operator.inputs[len(inputs) :]:  # given as attributes, as older versions do
        if missing.several:
            break
        bound.append(attributes.get(missing.name))
    while bound and bound[-1] is None:
        bound.pop()
    return bound


ROWS = 2**16
"""Entries of shapes, axes and other lists."""

NUMBERS = 2**20
"""Entries of indices that become plain numbers; more remain a tensor."""


def _fixed(value: Value) -> bool:
    return value.known and not value.example.is_floating_point() and value.example.numel() <= NUMBERS


def _numbers(tensor: Tensor) -> list[int]:
    return [int(i) for i in tensor.reshape(-1).tolist()]


def _plain(value: Value, form: str, name: str) -> Any:
    if not value.known:
        raise Refused(f"its input '{name}' depends on the values that the network is given")
    if value.example.numel() > ROWS:
        raise Refused(f"its input '{name}' has {value.example.numel():,} entries; at most {ROWS:,} are accepted")
    numbers = value.example.reshape(-1).tolist()
    if form != "Number":
        return [int(i) for i in numbers] if form == "Ints" else [float(f) for f in numbers]
    if len(numbers) != 1:
        raise Refused(f"its input '{name}' has {len(numbers)} entries; one is accepted")
    return numbers[0]


def numbers_for_operands(operator: Operator, bound: list[Any]) -> list[Any]:
    """Constants with one entry as numbers, where the operator takes numbers and broadcasting stays as it is."""
    tensors = [v for v in bound if isinstance(v, Value) and not _single(v)]
    rank = max((v.example.ndim for v in tensors if v.ref is not None), default=0)
    found = []
    for position, value in enumerate(bound):
        operand = operator.form(position).form == "Operand" and isinstance(value, Value) and _single(value)
        if operand and value.example.ndim <= rank and any(_keeps_type(v.example, value.example) for v in tensors):
            found.append(value.example.item())
        else:
            found.append(value)
    return found


def _single(value: Value) -> bool:
    return value.ref is None and value.example.numel() == 1


def _keeps_type(tensor: Tensor, number: Tensor) -> bool:
    """Whether the result of both is of the tensor's type, as a plain number has none."""
    return tensor.dtype == number.dtype or (tensor.is_floating_point() and number.dtype != torch.bool)


def examples(bound: Sequence[Any], meta: bool) -> list[Any]:
    """The tensors that stand for the values, all of them on the meta device if one is."""

    def example(item: Any) -> Any:
        if isinstance(item, Fixed) and meta:
            return Fixed(item.tensor.to("meta"), item.numbers)
        if not isinstance(item, Value):
            return item
        return item.example.to("meta") if meta else item.example

    return [example(item) for item in bound]


def is_data(tensor: Tensor) -> bool:
    """Whether a tensor of a file can be a weight: floating-point numbers."""
    return tensor.is_floating_point() or tensor.is_complex()
