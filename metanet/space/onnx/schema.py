"""What ONNX's standard says of a node's attributes and inputs, checked before the node is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from metanet.checkpoint.registry import require
from metanet.space.onnx.registry import Refused


@dataclass(frozen=True)
class Signature:
    """One version of an operator: types of its attributes, which of them it needs, and how many inputs and outputs."""

    types: dict[str, int]
    required: frozenset[str]
    inputs: tuple[int, int]
    outputs: tuple[int, int]


def check(node: Any, opset: int) -> None:
    """Compare a node with the signature of its operator. Attributes that the standard does not know are left alone.

    Raises:
        Refused: An attribute is of another type or missing, or there are too few or too many inputs or outputs.
    """
    signature = _signature(node.op_type, opset, node.domain)
    if signature is None:
        return
    names = [a.name for a in node.attribute]
    for attribute in node.attribute:
        wanted = signature.types.get(attribute.name, attribute.type)
        if attribute.type != wanted and not attribute.ref_attr_name:
            raise Refused(
                f"its attribute '{attribute.name}' is of the kind {_kind(attribute.type)}, not {_kind(wanted)}"
            )
    if len(set(names)) != len(names):
        raise Refused("it has an attribute twice")
    if missing := signature.required - set(names):
        raise Refused(f"its attribute '{min(missing)}' is missing")
    for what, count, (least, most) in (
        ("inputs", len(node.input), signature.inputs),
        ("outputs", len(node.output), signature.outputs),
    ):
        if not least <= count <= most:
            raise Refused(f"it has {count} {what}; {least} to {most} are accepted")


@lru_cache(maxsize=4096)
def _signature(op_type: str, opset: int, domain: str) -> Signature | None:
    onnx = require("onnx", "onnx")
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except (onnx.defs.SchemaError, TypeError):  # unknown there, or a version beyond all numbers
        return None
    known = schema.attributes
    return Signature(
        {name: int(a.type.value) for name, a in known.items()},
        frozenset(name for name, a in known.items() if a.required),
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
    )


def _kind(number: int) -> str:
    onnx = require("onnx", "onnx")
    names = {value: name for name, value in onnx.AttributeProto.AttributeType.items()}
    return str(names.get(number, number))
