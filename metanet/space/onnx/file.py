"""Reading ONNX files for building: the graph, its constants, and the bodies of functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metanet.checkpoint.onnx import FLOATS, NARROW, QUANTISED, decode
from metanet.checkpoint.registry import require
from metanet.errors import CheckpointError
from metanet.space.onnx.registry import Refused

SEQUENCES = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "String", "Tfidf", "Regex")


@dataclass(frozen=True)
class Body:
    """What a function consists of: the names of its inputs, and a graph."""

    inputs: Sequence[str]
    graph: Any


class OnnxFile:
    """An ONNX model on disk.

    Raises:
        CheckpointError: It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        onnx = require("onnx", "onnx")
        self.path = Path(path)
        try:
            self.model = onnx.load_model_from_string(self.path.read_bytes())
        except Exception as error:  # protobuf's DecodeError is not a public name
            raise CheckpointError(f"Cannot read {path} as onnx: it is damaged (got {error})") from None
        if self.model.functions:
            self.model = require("onnx.inliner", "onnx").inline_local_functions(self.model)
        self.opset = max((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=1)

    def tensor(self, proto: Any) -> Tensor:
        """The tensor that a TensorProto holds.

        Raises:
            CheckpointError: It is damaged, quantised, or holds text.
        """
        if proto.data_type in NARROW or proto.data_type == 8:
            kind = "text" if proto.data_type == 8 else "a quantised type"
            raise CheckpointError(f"{self.path}: '{proto.name}' holds {kind}; numbers are accepted")
        if proto.data_type in FLOATS:
            return decode(proto.name, proto, self.path)
        array = require("onnx", "onnx").numpy_helper.to_array(proto, str(self.path.parent))
        return torch.from_numpy(array.astype("int64") if array.dtype.kind == "u" else array.copy())

    def body(self, node: Any, inputs: Sequence[Tensor | None]) -> Body:
        """The nodes that ONNX's standard gives as the meaning of an operator.

        Raises:
            Refused: It gives none.
        """
        onnx = require("onnx", "onnx")
        if QUANTISED.fullmatch(node.op_type):
            raise Refused("it computes with quantised numbers")
        if node.op_type.startswith(SEQUENCES):
            raise Refused("it works on sequences, optional values or text, not on tensors")
        unknown = Refused(f"metanet has no operator '{_name(node)}'")
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except onnx.defs.SchemaError:
            raise unknown from None
        if schema.has_function:
            text = schema.function_body
            graph = onnx.helper.make_graph(list(text.node), node.op_type, [], _outputs(text.output))
            _fill(graph, node, schema)
            return Body(list(text.input), graph)
        if schema.has_context_dependent_function:
            types = [_type(t).SerializeToString() if t is not None else b"" for t in inputs]
            try:
                made = schema.get_context_dependent_function(node.SerializeToString(), types)
            except Exception:  # pybind's own types
                raise unknown from None
            text = onnx.FunctionProto.FromString(made)
            graph = onnx.helper.make_graph(list(text.node), node.op_type, [], _outputs(text.output))
            _fill(graph, node, schema)
            return Body(list(text.input), graph)
        raise unknown


def attributes_of(node: Any, file: OnnxFile) -> dict[str, Any]:
    """Attributes of a node by name: numbers, text, lists of them, tensors, graphs."""
    onnx = require("onnx", "onnx")
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == 4:
            value = file.tensor(value)
        elif isinstance(value, bytes):
            value = value.decode()
        elif attribute.type == 8:
            value = [v.decode() for v in value]
        elif attribute.type in (6, 7):
            value = list(value)
        found[attribute.name] = value
    return found


def label_of(node: Any, index: int) -> str:
    """``"'/conv1/Conv' (Conv)"``: the name of a node, or its number, and its operator."""
    return f"'{node.name or index}' ({_name(node)})"


def _name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def _outputs(names: Sequence[str]) -> list[Any]:
    onnx = require("onnx", "onnx")
    return [onnx.ValueInfoProto(name=name) for name in names]


def _type(tensor: Tensor) -> Any:
    onnx = require("onnx", "onnx")
    kinds = {v: k for k, v in FLOATS.items()} | {torch.int64: 7, torch.int32: 6, torch.bool: 9, torch.uint8: 2}
    return onnx.helper.make_tensor_type_proto(kinds[tensor.dtype], list(tensor.shape))


def _fill(graph: Any, node: Any, schema: Any) -> None:
    """Put the node's attributes, or their defaults, where the body refers to them."""
    own = {a.name: a for a in node.attribute}
    for inner in graph.node:
        kept = []
        for attribute in inner.attribute:
            if attribute.ref_attr_name:
                name, wanted = attribute.name, attribute.ref_attr_name
                value = own.get(wanted) or schema.attributes[wanted].default_value
                if not value.type:
                    continue
                attribute = type(attribute)()
                attribute.CopyFrom(value)
                attribute.name = name
            kept.append(attribute)
        del inner.attribute[:]
        inner.attribute.extend(kept)
