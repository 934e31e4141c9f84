"""ONNX files: initialisers and Constant nodes of the graph, its subgraphs and its functions. Nothing is run."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanet.checkpoint.budget import allow, charge
from metanet.checkpoint.collect import note
from metanet.checkpoint.registry import Contents, Probe, reader, require
from metanet.checkpoint.wire import check_messages
from metanet.errors import CheckpointError

START = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
"""Field 1 (ir_version, a small number), then one of the other fields of ModelProto."""

FLOATS = {
    1: torch.float32,
    10: torch.float16,
    11: torch.float64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
}
INTEGERS = {2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool}
TYPES = FLOATS | INTEGERS
"""Torch's types by the numbers of ONNX. Torch computes too little with unsigned numbers of 16 to 64 bits."""

FIELDS: dict[int, tuple[str, Any]] = {
    1: ("float_data", np.float32),
    7: ("int64_data", np.int64),
    11: ("double_data", np.float64),
}
FIELDS |= {14: ("float_data", np.float32), 15: ("double_data", np.float64)}
FIELDS |= {2: ("int32_data", np.uint8), 3: ("int32_data", np.int8), 5: ("int32_data", np.int16)}
FIELDS |= {6: ("int32_data", np.int32), 9: ("int32_data", np.bool_)}
FIELDS |= {10: ("int32_data", np.uint16), 16: ("int32_data", np.uint16)}
"""Where a TensorProto without raw bytes keeps its entries: half types bit by bit, complex numbers as pairs."""

NARROW = set(range(17, 40))
"""TensorProto's float8, float4, int4 and newer types, which hold codes of quantised weights."""

HOLDERS = {4, 6, 9, 11, 12}
"""AttributeProto's types that hold weights: a tensor, floats, tensors, a sparse tensor, sparse tensors."""

QUANTISED = re.compile(
    r"(Q|Deq|DynamicQ)uantize.*|QLinear.*|QGemm|QAttention|QMoE|(ConvInteger|MatMulInteger).*|MatMul\w*Bits|MatMulBnb4"
)


def recognises(probe: Probe) -> bool:
    """A plausible beginning, as ONNX has no magic number; a safetensors header of that length is told apart."""
    return bool(START.match(probe.head)) and probe.head[8:10] != b'{"'


@reader("onnx", extensions=(".onnx",), recognises=recognises)
def read(path: Path) -> Contents:
    """Read every floating-point tensor under its own name.

    Integers and texts, which in ONNX files are shapes, axes and counters, are left out and named in
    ``metadata["left_out"]``, and so are tensors and lists of numbers in attributes of other nodes than Constant.

    Weights keep ONNX's layouts: convolutions are ``[out, in, *taps]`` as in PyTorch, ``MatMul`` weights ``[in, out]``,
    ``LSTM`` and ``GRU`` weights ``[directions, gates * hidden, in]`` in the gate order i, o, f, c and z, r, h.

    Raises:
        CheckpointError: The file is damaged or quantised, or external data is missing.
    """
    model = parse(path)
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    for function in model.functions:
        left_out += add(tensors, constants(function.node, function.name), path)
    left_out += add(tensors, weights(model.graph, ""), path)
    left_out += ["training_info"] if model.training_info else []
    return tensors, describe(model) | note(left_out)


def parse(path: Path) -> Any:
    """Parse the ModelProto of a file.

    Raises:
        CheckpointError: The bytes are no protobuf, or hold no graph.
    """
    onnx = require("onnx", "onnx")
    try:
        charge(2 * path.stat().st_size, "the ONNX model")
        data = path.read_bytes()
        check_messages(data)
        model = onnx.load_model_from_string(data)
    except CheckpointError:
        raise
    except Exception as error:  # protobuf's DecodeError is not a public name
        raise CheckpointError(f"the protobuf is truncated or damaged (got {error}). Download it again.") from None
    if not model.HasField("graph"):
        raise CheckpointError("it has no graph: the file is truncated or no ONNX model. Download it again.")
    return model


def describe(model: Any) -> dict[str, str]:
    """Producer, versions and free properties of a model."""
    opsets = ", ".join(f"{one.domain or 'ai.onnx'} {one.version}" for one in model.opset_import)
    said = {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": str(model.ir_version),
        "opset": opsets,
        "graph": model.graph.name,
    }
    return {key: value for key, value in said.items() if value} | {p.key: p.value for p in model.metadata_props}


def weights(graph: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Name, place and TensorProto of everything constant in a graph and its subgraphs."""
    if graph.sparse_initializer:
        raise CheckpointError(f"'{graph.sparse_initializer[0].values.name}' is a sparse initialiser. Export it dense.")
    yield from ((tensor.name, where, tensor) for tensor in graph.initializer)
    yield from constants(graph.node, where)


def constants(nodes: Iterable[Any], where: str) -> Iterator[tuple[str, str, Any]]:
    """Name, place and TensorProto of the Constant nodes among ``nodes`` and of all weights in their subgraphs.

    In place of a TensorProto stands ``None`` for other attributes that hold tensors or lists of numbers.

    Raises:
        CheckpointError: A node computes with quantised weights.
    """
    for index, node in enumerate(nodes):
        if QUANTISED.fullmatch(node.op_type):
            raise CheckpointError(
                f"node '{node.name or index}' is {node.op_type}: the model is quantised. "
                "Only float weights are accepted: load the float model that it was made from."
            )
        inner = f"{where}{'.' if where else ''}{node.name or f'{node.op_type}_{index}'}"
        for attribute in node.attribute:
            if node.op_type == "Constant" and len(node.output) == 1:
                yield node.output[0], where, constant(attribute)
            elif attribute.type in HOLDERS:
                yield f"{inner}.{attribute.name}", "", None
            for graph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from weights(graph, f"{inner}.{attribute.name}")


def constant(attribute: Any) -> Any:
    """The TensorProto of a Constant node's attribute, also of ``value_float`` and ``value_floats``; else ``None``."""
    if attribute.name == "value":
        return attribute.t
    if attribute.name == "value_float":
        return type(attribute.t)(data_type=1, float_data=[attribute.f])
    if attribute.name == "value_floats":
        return type(attribute.t)(data_type=1, dims=[len(attribute.floats)], float_data=attribute.floats)
    return None


def add(tensors: dict[str, Tensor], found: Iterable[tuple[str, str, Any]], model: Path) -> list[str]:
    """Decode floating-point tensors into ``tensors``; a name that is taken gets its subgraph in front.

    Returns:
        Names of what is left out.

    Raises:
        CheckpointError: A tensor is damaged, quantised, or a name occurs twice in one graph.
    """
    left_out: list[str] = []
    for name, where, proto in found:
        if proto is None:
            left_out.append(name)
            continue
        if proto.data_type in NARROW:
            raise CheckpointError(
                f"'{name}' has the ONNX type {proto.data_type}, a quantised one. Load the float model."
            )
        if proto.data_type not in FLOATS:
            left_out.append(name)
            continue
        key = f"{where}.{name}" if name in tensors and where else name
        if key in tensors:
            raise CheckpointError(f"two weights are named '{key}': the graph is damaged. Export it again.")
        tensors[key] = decode(name, proto, model)
    return left_out


def decode(name: str, proto: Any, model: Path) -> Tensor:
    """Copy one TensorProto of the file ``model`` into a tensor; its type is one of ``TYPES``.

    Raises:
        CheckpointError: It has fewer or more values than its shape promises.
    """
    dtype, shape = TYPES[proto.data_type], tuple(proto.dims)
    if min(shape, default=0) < 0:
        raise CheckpointError(f"'{name}' has the shape {list(shape)}: it is damaged. Export it again.")
    promised = math.prod(shape) * dtype.itemsize
    damaged = f"'{name}' {list(shape)} is truncated or damaged (got {{:,}} bytes, {promised:,} promised)."
    kept, parts = FIELDS[proto.data_type]
    field = getattr(proto, kept)
    if proto.data_location == 1:
        file, start, length = external_place(name, proto, model)
        if length != promised:  # before so many bytes are read
            raise CheckpointError(damaged.format(length))
        allow(file)
        charge(length, f"'{name}'")
        data = read_at(file, start, length)
    elif len(field):
        charge(16 * len(field), f"'{name}'")
        entries = np.fromiter(field, np.int64 if kept == "int32_data" else parts, len(field))  # no list of objects
        data = entries.astype(parts).tobytes()
    else:
        data = proto.raw_data
    if len(data) != promised:
        raise CheckpointError(damaged.format(len(data)))
    charge(promised, f"'{name}'")
    if dtype is torch.bool:  # bytes other than 0 and 1 are no booleans
        data = bytes(map(bool, data))
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def external_place(name: str, proto: Any, model: Path) -> tuple[Path, int, int]:
    """The file beside the model in which a tensor lies, where its bytes begin, and how many they are.

    A download cache may keep model and data as links into one folder, so links are accepted where both lead there.

    Raises:
        CheckpointError: The file is missing, too short, or outside the model's folder.
    """
    entries = {entry.key: entry.value for entry in proto.external_data}
    place = entries.get("location", "")
    if "\0" in place:
        raise CheckpointError(f"'{name}' lies in a file whose name is damaged (got {place!r}).")
    file = (model.parent / place).resolve()
    inside = file.is_relative_to(model.parent.resolve()) or file.parent == model.resolve().parent
    if not place or ".." in Path(place).parts or Path(place).is_absolute() or not inside:
        raise CheckpointError(f"'{name}' lies in '{place}', accepted are files in the model's own folder.")
    if not file.is_file():
        raise CheckpointError(f"'{name}' lies in the file '{place}', which is missing. Put it beside the model.")
    try:
        start = int(entries.get("offset", 0))
        length = int(entries.get("length", file.stat().st_size - start))
    except ValueError as error:
        raise CheckpointError(f"'{name}' has a damaged place in '{place}' (got {error}).") from None
    if start < 0 or length < 0 or start + length > file.stat().st_size:
        raise CheckpointError(f"'{place}' is truncated: '{name}' needs bytes {start:,} to {start + length:,}.")
    return file, start, length


def read_at(file: Path, start: int, length: int) -> bytes:
    """Bytes of a file at a position."""
    with file.open("rb") as data:
        data.seek(start)
        return data.read(length)
