"""Reading ONNX files for building: the graph, its constants, and the bodies of functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from metanet.checkpoint.onnx import NARROW, QUANTISED, TYPES, decode, parse
from metanet.checkpoint.registry import require
from metanet.errors import CheckpointError
from metanet.space.onnx.registry import Refused

SEQUENCES = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "String", "TfIdf", "Regex")
GROWTH = 2**25  # bytes that functions may take beyond four times the file when they are written out
DEPENDENT = ("NonMaxSuppression", "Unique")
"""Operators whose results have sizes that depend on values."""


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
        self.path = Path(path)
        try:
            self.model = parse(self.path)
        except CheckpointError as error:
            raise CheckpointError(f"Cannot read {path} as onnx: {error}") from None
        if self.model.functions:
            self.model = inlined(self.model, self.path)
        self.opset = max((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.size = self.path.stat().st_size

    def tensor(self, proto: Any) -> Tensor:
        """The tensor that a TensorProto holds.

        Raises:
            CheckpointError: It is damaged, or holds text, quantised numbers or a type without arithmetic in torch.
        """
        if proto.data_type not in TYPES:
            raise CheckpointError(
                f"'{proto.name}' holds {type_name(proto.data_type)}; numbers that torch has are accepted"
            )
        return decode(proto.name, proto, self.path)

    def body(self, node: Any, inputs: Sequence[Tensor | None]) -> Body:
        """The nodes that ONNX's standard gives as the meaning of an operator.

        Raises:
            Refused: It gives none.
        """
        onnx = require("onnx", "onnx")
        if node.op_type in DEPENDENT:
            raise Refused("the sizes of its results depend on the values that the network is given")
        if QUANTISED.fullmatch(node.op_type):
            raise Refused("it computes with quantised numbers")
        if node.op_type.startswith(SEQUENCES):
            raise Refused("it works on sequences, optional values or text, not on tensors")
        unknown = Refused(f"metanet has no operator '{_name(node)}'")
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except (onnx.defs.SchemaError, TypeError):  # unknown, or a version beyond all numbers
            raise unknown from None
        text = None
        if schema.has_function:
            text = schema.function_body
        elif schema.has_context_dependent_function:
            types = [_type(t).SerializeToString() if t is not None else b"" for t in inputs]
            try:
                text = onnx.FunctionProto.FromString(
                    schema.get_context_dependent_function(node.SerializeToString(), types)
                )
            except Exception:  # pybind's own types
                raise unknown from None
        if text is None:
            raise unknown
        graph = onnx.helper.make_graph(list(text.node), node.op_type, [], _outputs(text.output))
        _fill(graph, {a.name: a for a in node.attribute}, schema)
        return Body(list(text.input), graph)


def inlined(model: Any, path: Path) -> Any:
    """A model with its own functions written out where they are called.

    Raises:
        CheckpointError: A function calls itself, so that this would never end, or functions that call each other many
            times would grow beyond measure.
    """
    own = {(f.domain, f.name): f for f in model.functions}
    called = {name: [(n.domain, n.op_type) for n in _all_nodes(f.node)] for name, f in own.items()}
    sizes: dict[Any, int] = {}  # in bytes, when written out
    while len(sizes) < len(own):
        ready = [name for name in own if name not in sizes and all(c in sizes or c not in own for c in called[name])]
        if not ready:
            recursive = min(name for name in own if name not in sizes)[1]
            raise CheckpointError(f"{path}: the function '{recursive}' calls itself: the file is damaged")
        sizes |= {name: own[name].ByteSize() + sum(sizes.get(c, 0) for c in called[name]) for name in ready}
    size = sum(sizes.get((n.domain, n.op_type), 0) for n in _all_nodes(model.graph.node))
    if size > GROWTH + 4 * model.ByteSize():
        raise CheckpointError(f"{path}: its functions, written out where they are called, take {size:,} bytes")
    return require("onnx.inliner", "onnx").inline_local_functions(model)


def _all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)


def attributes_of(node: Any, file: OnnxFile) -> dict[str, Any]:
    """Attributes of a node by name: numbers, text, lists of them, tensors, graphs."""
    onnx = require("onnx", "onnx")
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise Refused(f"its attribute '{attribute.name}' is that of a function, and the node is in none")
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == 4:
            value = file.tensor(value)
        elif isinstance(value, bytes):
            value = value.decode(errors="replace")  # damaged text is no name of a setting
        elif attribute.type == 8:
            value = [v.decode(errors="replace") for v in value]
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


def type_name(number: int) -> str:
    """What a type of ONNX is called in a message."""
    onnx = require("onnx", "onnx")
    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    kind = "text" if number == 8 else "a quantised type" if number in NARROW else "a type without arithmetic in torch"
    return f"{kind} ({names.get(number, number)})"


def _type(tensor: Tensor) -> Any:
    onnx = require("onnx", "onnx")
    kinds = {dtype: number for number, dtype in TYPES.items()}
    return onnx.helper.make_tensor_type_proto(kinds[tensor.dtype], list(tensor.shape))


def _fill(graph: Any, own: Mapping[str, Any], schema: Any) -> None:
    """Put a node's attributes, or their defaults, where the body refers to them, in subgraphs too."""
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
            for below in (attribute.g, *attribute.graphs):
                _fill(below, own, schema)
            kept.append(attribute)
        del inner.attribute[:]
        inner.attribute.extend(kept)
