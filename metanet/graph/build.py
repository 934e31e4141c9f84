"""``build``: the neuron graph of a module, of a checkpoint file or of a state dict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

from torch import Tensor, nn

from metanet.checkpoint import Checkpoint, load
from metanet.errors import GraphError, MetanetError, SpaceError
from metanet.graph.coverage import warn_of_unplaced
from metanet.graph.neuron_graph import NeuronGraph
from metanet.space import WeightSpace, trace
from metanet.space.exporting import Inputs, arguments
from metanet.space.infer import infer
from metanet.space.inference.options import InferOptions
from metanet.space.onnx import OnnxModule, onnx_network
from metanet.space.onnx.module import first_line
from metanet.symmetry.move import check_state

SPACE_KEY = "metanet.space"
"""Metadata of a checkpoint that metanet exported: the JSON of its weight space."""

Source = nn.Module | Checkpoint | Mapping[str, Tensor] | str | os.PathLike[str]


def build(
    module_or_path_or_state_dict: Source,
    example_inputs: Any = None,
    activation: str | None = None,
    **options: Unpack[InferOptions],
) -> NeuronGraph:
    """The neuron graph of one network.

    A module is traced. A file is read without running anything in it; if metanet exported it, it carries its space. An
    ONNX file holds its graph: the network is rebuilt from it, traced and certified like a module. Otherwise, as for
    a state dict, the space is that of the known architecture that has these names and shapes, or it is inferred from
    them; it is not certified.

    Args:
        module_or_path_or_state_dict: The network: a module, the path of a checkpoint file, a loaded
            :class:`~metanet.checkpoint.Checkpoint`, or a state dict.
        example_inputs: Input tensor or tuple of inputs of the module; needed for a module. For an ONNX file they
            replace the sizes that it leaves open (:func:`metanet.space.onnx.onnx_network` has the defaults).
            Meaningless otherwise.
        activation: Name of the nonlinearity between the layers, which no state dict tells; for inferred spaces.
        **options: What else a state dict does not tell, for inferred spaces: the options of :func:`metanet.infer`.

    Returns:
        A graph of batch size 1. Its tensors share memory with the network's.

    Raises:
        GraphError: The argument is of another kind, or ``example_inputs`` are missing or given in vain.
        CheckpointError: The file cannot be read.
        SpaceError: The module cannot be traced, or names and shapes do not tell one architecture.
    """
    source = module_or_path_or_state_dict
    if isinstance(source, nn.Module):
        if example_inputs is None:
            raise GraphError(
                f"{type(source).__name__} is a module, which is traced: pass example_inputs, one input tensor or the "
                f"tuple of positional arguments, as in metanet.build(module, torch.zeros(1, 3, 224, 224))"
            )
        return _graph(trace(source, example_inputs), source.state_dict())
    if isinstance(source, str | os.PathLike):
        source = load(source)
    if isinstance(source, Checkpoint) and source.format == "onnx":
        return from_onnx(source.path, example_inputs)[0]
    if example_inputs is not None:
        raise GraphError(
            f"example_inputs go with a module or an ONNX file; got a {type(source).__name__}. Leave them out"
        )
    if isinstance(source, Checkpoint):
        return from_checkpoint(source, activation, **options)
    if isinstance(source, Mapping):
        return _graph(infer(source, activation, **options), source)
    raise GraphError(
        f"cannot build a neuron graph from a {type(source).__name__}; accepted: a torch.nn.Module with example_inputs, "
        f"the path of a checkpoint file, or a state dict"
    )


def from_checkpoint(
    checkpoint: Checkpoint, activation: str | None = None, **options: Unpack[InferOptions]
) -> NeuronGraph:
    """The neuron graph of a checkpoint, with the space that it carries or an inferred one.

    Raises:
        SpaceError: The space that it carries is damaged or does not fit its tensors, or none can be inferred.
    """
    text = checkpoint.metadata.get(SPACE_KEY)
    try:
        space = infer(checkpoint, activation, **options) if text is None else WeightSpace.from_json(text)
        return _graph(space, checkpoint.tensors)
    except SpaceError as error:
        raise SpaceError(f"{checkpoint.path}: {error}") from None


def from_onnx(
    path: str | os.PathLike[str], example_inputs: Inputs | None = None
) -> tuple[NeuronGraph, OnnxModule, tuple[Tensor, ...]]:
    """The neuron graph of an ONNX file, the network that it was traced from, and the inputs that it was traced on.

    The space is certified, unless the network gives no finite outputs on random weights, or a run takes more memory
    than a file of its size may ask for: then it is as traced.

    Raises:
        CheckpointError: The file cannot be read.
        SpaceError: An operator is not understood; the message names it and its node.
    """
    given = None if example_inputs is None else arguments(example_inputs)[0]
    module, inputs = onnx_network(path, given)
    try:
        space = _traced(module, inputs)
        return _graph(replace(space, source="onnx"), module.state_dict()), module, inputs
    except MetanetError as error:
        raise SpaceError(f"{path}: {error}") from error
    except Exception as error:  # damaged files lead anywhere; the cause stays attached
        raise SpaceError(
            f"{path}: its network cannot be traced: {type(error).__name__}: {first_line(error)}. The file may be "
            f"damaged: export it again"
        ) from error


def _traced(module: OnnxModule, inputs: tuple[Tensor, ...]) -> WeightSpace:
    try:
        module.check_run()
        return trace(module, inputs, certify=True)
    except SpaceError:
        return trace(module, inputs)


def _graph(space: WeightSpace, state: Mapping[str, Tensor]) -> NeuronGraph:
    check_state(space, state)
    warn_of_unplaced(space, "the neuron graph", stacklevel=4)
    return NeuronGraph(space, {name: state[name].detach()[None] for name in space.tensor})
