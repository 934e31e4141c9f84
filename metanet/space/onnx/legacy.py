"""What the inputs of operators meant in early versions of ONNX's standard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from metanet.space.onnx.registry import Refused, axis_of, describe
from metanet.space.onnx.values import Given

if TYPE_CHECKING:
    from metanet.space.onnx.builder import Builder

BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less", "Gemm"}


def aligned(builder: Builder, op_type: str, inputs: Sequence[Given], found: dict[str, Any]) -> list[Given]:
    """The inputs of a node as today's versions want them; takes ``axis`` and ``broadcast`` out of ``found``.

    Before version 11 ``Resize`` had no region. Before version 7, with ``broadcast``, the dimensions of the second
    input stood for those of the first from ``axis`` on, or for the last ones; and a slope per channel of ``PRelu``
    stood for the second dimension.

    Raises:
        Refused: Shapes differ, and the node does not ask for broadcasting.
    """
    given = list(inputs)
    opset = builder.file.opset
    if op_type == "Resize" and opset < 11:
        return [given[0], None, *given[1:]]
    if opset >= 7:
        return given
    if op_type == "PRelu" and len(given) == 2 and given[1] is not None and given[1].example.ndim == 1:
        x = given[0]
        if x is not None and x.example.ndim > 2 and given[1].example.numel() == x.example.shape[1]:
            given[1] = _reshaped(builder, given[1], x.example.ndim - 2)
    if op_type not in BINARY:
        return given
    wanted, axis = bool(found.pop("broadcast", 0)), found.pop("axis", None)
    if op_type == "Gemm" or len(given) != 2 or given[0] is None or given[1] is None:
        return given
    first, second = given[0].example, given[1].example
    if first.shape != second.shape and not wanted:
        raise Refused(
            f"its inputs have the shapes {list(first.shape)} and {list(second.shape)}; before version 7 they had to be "
            f"equal unless its attribute 'broadcast' is 1"
        )
    if wanted and axis is not None:
        behind = first.ndim - axis_of(axis, first.ndim) - second.ndim
        if behind < 0:
            raise Refused(f"its second input does not fit behind its axis {axis}")
        given[1] = _reshaped(builder, given[1], behind)
    return given


def _reshaped(builder: Builder, value: Given, behind: int) -> Given:
    """A value with further dimensions of size 1 at its end."""
    if value is None or not behind:
        return value

    def unsqueeze(x: Tensor) -> Tensor:
        return x.reshape(*x.shape, *[1] * behind)

    return builder.call(describe(unsqueeze), [value], {}, "broadcast", ["broadcast"])[0]
