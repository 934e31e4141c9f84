"""From an ONNX file to a module and example inputs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metanet.errors import MetanetError, SpaceError
from metanet.space.onnx.budget import ROOM, RUN, RUN_WORK, WORK_PER_BYTE, run_bytes
from metanet.space.onnx.builder import Builder
from metanet.space.onnx.file import OnnxFile, type_name
from metanet.space.onnx.module import Node, OnnxModule, Ref, first_line
from metanet.space.onnx.operators.elementwise import DTYPES

BATCH = 1
SIZES = {"tokens": 16, "image": 224, "volume": 64, "signal": 1024}
"""What sizes that a file leaves open become, by kind of input (the first dimension, the batch, becomes 1)."""


def onnx_network(
    path: str | os.PathLike[str], inputs: Sequence[Tensor] | None = None, memory: int | None = None
) -> tuple[OnnxModule, tuple[Tensor, ...]]:
    """The network of an ONNX file, and example inputs for it.

    Sizes that the file leaves open are 1 for the first dimension; the others become 224 in images (four dimensions),
    64 in volumes (five), 16 in whole-number inputs and 1024 elsewhere, unless inputs are given.

    Args:
        path: The file; tensors that it keeps beside itself must be there.
        inputs: Example inputs in the order of the file's inputs.
        memory: Bytes that the file may compute from its constants; by default four times its size and 64 MiB. Networks
            whose weights are computed from shapes need more.

    Returns:
        The module, in eval mode, whose state dict has the file's names, and the inputs.

    Raises:
        CheckpointError: The file cannot be read.
        SpaceError: An operator is not understood, or the network's control flow depends on what it is given; the
            message names operator and node. Or the inputs do not fit the file, or it asks for too much memory.
    """
    try:
        return _network(OnnxFile(path), inputs, memory)
    except MetanetError:
        raise
    except Exception as error:  # damaged files lead anywhere; the cause stays attached
        raise SpaceError(
            f"{path}: its network cannot be built: {type(error).__name__}: {first_line(error)}. The file is damaged: "
            f"export it again"
        ) from error


def _network(
    file: OnnxFile, inputs: Sequence[Tensor] | None, memory: int | None
) -> tuple[OnnxModule, tuple[Tensor, ...]]:
    graph = file.model.graph
    held = {t.name for t in graph.initializer}
    infos = [i for i in graph.input if i.name not in held]
    room = ROOM + 4 * file.size if memory is None else memory
    given = list(inputs) if inputs is not None else [example(info, file.path, room) for info in infos]
    _check(given, infos, file)
    builder = Builder(file, {i.name: x.to("meta") for i, x in zip(infos, given, strict=True)}, room)
    results = builder.graph(graph, builder.scope, "")
    for output, value in zip(graph.output, results, strict=True):
        if value is None:
            raise SpaceError(
                f"{file.path}: the output '{output.name}' {builder.why_lost(output.name)}. Export it again"
            )
    outputs = [v.ref or v.example for v in results if v is not None]
    nodes = needed(builder.nodes, outputs)
    used = {a.source for _, n in nodes for a in n.arguments if isinstance(a, Ref)} | {
        o.source for o in outputs if isinstance(o, Ref)
    }
    weights = {name: tensor for name, tensor in builder.weights.items() if name in used}
    module = OnnxModule([i.name for i in infos], nodes, outputs, weights)
    module.label, module.run_limit = str(file.path), RUN + 4 * file.size
    module.work_limit, module.run_work = RUN_WORK + WORK_PER_BYTE * file.size, sum(n.work for _, n in nodes)
    returned = {o.source for o in outputs if isinstance(o, Ref) and isinstance(o.source, int)}
    steps = [(sorted(n.read), n.made) for _, n in nodes]
    module.run_bytes = run_bytes(steps, builder.sizes, returned, [n.bytes for _, n in nodes])
    return module.eval(), tuple(given)


def example(info: Any, path: Any, room: int) -> Tensor:
    """An example of one input: ones if it holds whole numbers, zeros otherwise.

    Raises:
        SpaceError: It is no tensor of numbers, or larger than there is room for.
    """
    kind = info.type.tensor_type
    dtype = _dtype(info, path)
    named = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
    use = {4: "image", 5: "volume"}.get(len(named), "signal") if dtype.is_floating_point else "tokens"
    shape = [s if s is not None else BATCH if i == 0 else SIZES[use] for i, s in enumerate(named)]
    if math.prod(shape) * dtype.itemsize > room:
        raise SpaceError(
            f"{path}: the input '{info.name}' is {'x'.join(map(str, shape))}, more than {room:,} bytes. Give one"
        )
    return torch.zeros(shape, dtype=dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)


def _dtype(info: Any, path: Any) -> torch.dtype:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        raise SpaceError(f"{path}: the input '{info.name}' is no tensor of numbers. Export the network without it")
    if kind.elem_type not in DTYPES:
        raise SpaceError(
            f"{path}: the input '{info.name}' is no tensor of numbers that torch has: it holds "
            f"{type_name(kind.elem_type)}. Export the network without it"
        )
    return DTYPES[kind.elem_type]


def needed(nodes: Sequence[tuple[str, Node]], outputs: Sequence[Any]) -> list[tuple[str, Node]]:
    """The operations that outputs depend on, in order."""
    wanted = {o.source for o in outputs if isinstance(o, Ref)}
    kept = []
    for name, node in reversed(nodes):
        if wanted & set(range(node.first, node.first + node.width)):
            kept.append((name, node))
            wanted |= {a.source for a in node.arguments if isinstance(a, Ref)}
    return kept[::-1]


def _check(given: Sequence[Tensor], infos: Sequence[Any], file: OnnxFile) -> None:
    names = [i.name for i in infos]
    if len(given) != len(infos):
        raise SpaceError(f"{file.path}: got {len(given)} inputs; it takes {len(infos)} ({', '.join(names)})")
    for x, info in zip(given, infos, strict=True):
        dtype = _dtype(info, file.path)
        if x.dtype != dtype:
            raise SpaceError(f"{file.path}: the input '{info.name}' is of the type {dtype}, got {x.dtype}")
        fixed = [d.dim_value if d.HasField("dim_value") else 0 for d in info.type.tensor_type.shape.dim]
        fits = len(fixed) == x.ndim and all(f in (0, s) or f < 0 for f, s in zip(fixed, x.shape, strict=False))
        if fixed and not fits:
            wanted = "x".join(str(f) if f > 0 else "?" for f in fixed)
            raise SpaceError(f"{file.path}: the input '{info.name}' is {wanted}, got {'x'.join(map(str, x.shape))}")
