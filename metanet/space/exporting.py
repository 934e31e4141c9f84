"""From an ``nn.Module`` to a flat graph of ATen operations, by ``torch.export``."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.distributions import Distribution
from torch.export.graph_signature import InputKind

from metanet.errors import MetanetError, SpaceError
from metanet.space.outputs import readable

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""Example inputs: one tensor, the tuple of positional arguments, or the mapping of keyword arguments."""

KEPT = (
    "linear", "lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention", "im2col", "col2im", "glu",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_trilinear3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle",
)  # fmt: skip
"""Operations with a rule of their own: whole, they are exact and quick to walk; a recurrent layer would unroll."""


def arguments(example_inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call.

    Raises:
        SpaceError: The inputs are none of the accepted types.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise SpaceError(
        f"example inputs must be a tensor, a tuple of positional arguments or a mapping of keyword arguments, "
        f"got {type(example_inputs).__name__}"
    )


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for the duration, and leave it as it was: modes, and caches kept in attributes.

    A cache that fills on the first call would hold the symbolic tensors of a trace, or what other weights gave. Outputs
    of unusual types come as plain containers of their tensors, and distributions do not look at their arguments.
    """
    own = [(m, m.training, dict(m.__dict__)) for m in module.modules()]
    held = [(c, copy.copy(c)) for _, _, attributes in own for c in attributes.values() if type(c) in (dict, list)]
    hook = nn.Module.register_forward_hook(module, readable)
    validated = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        module.eval()
        yield
    finally:
        Distribution.set_default_validate_args(validated)
        hook.remove()
        for m, mode, attributes in own:
            m.__dict__.clear()
            m.__dict__.update(attributes)
            m.training = mode
        for container, content in held:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)


@dataclass(frozen=True)
class Program:
    """A module as a flat graph.

    Attributes:
        graph: The operations.
        sources: For every placeholder, what it is and the name of the tensor that it stands for.
        constants: Tensors that are no entries of the state dict, by the names that sources give them.
    """

    graph: fx.Graph
    sources: Mapping[fx.Node, tuple[InputKind, str | None]]
    constants: Mapping[str, Any]

    @property
    def nodes(self) -> list[fx.Node]:
        """The graph's nodes, in order."""
        return list(self.graph.nodes)

    def interpreter(self) -> fx.Interpreter:
        """What runs the operations one by one."""
        return fx.Interpreter(self.graph.owning_module or nn.Module(), graph=self.graph)


def export(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """The graph of a module in eval mode, by ``torch.export``.

    Raises:
        SpaceError: ``torch.export`` failed; the message carries its reason.
    """
    try:
        with evaluating(module), torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # torch.export warns of its own internals; failures raise
            program = torch.export.export(module, args, dict(kwargs), strict=False)
            program = program.run_decompositions(decompositions())
    except MetanetError:
        raise
    except Exception as error:  # torch.export raises many unrelated types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SpaceError(
            f"{type(module).__name__} could not be traced: torch.export failed with {type(error).__name__}: {reason}. "
            f"Check that module(*example_inputs) runs in eval mode and that its control flow does not depend on tensor "
            f"values"
        ) from error
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    starts = [n for n in program.graph.nodes if n.op == "placeholder"]
    sources = {n: (specs[n.name].kind, specs[n.name].target) for n in starts}
    return Program(program.graph, sources, program.constants)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export from logging and printing the failures that it raises anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """What torch.export decomposes by default, without the operations that have a rule of their own."""
    table = dict(torch.export.default_decompositions().items())
    return {operation: function for operation, function in table.items() if operation not in kept()}


@functools.cache
def kept() -> frozenset[Any]:
    """All overloads of the operations with a rule of their own."""
    packets = [getattr(torch.ops.aten, name) for name in KEPT]
    return frozenset(getattr(packet, overload) for packet in packets for overload in packet.overloads())
