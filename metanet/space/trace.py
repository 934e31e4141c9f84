"""From an ``nn.Module`` to its weight space, by tracing it once with ``torch.export``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from metanet.errors import SpaceError
from metanet.space import rules  # noqa: F401  (importing the package registers the rules)
from metanet.space.axes import Dim, freeze
from metanet.space.resolve import resolve
from metanet.space.walk import Origin, Value, Walk
from metanet.space.weight_space import WeightSpace


def trace(module: nn.Module, example_inputs: Tensor | tuple[Any, ...]) -> WeightSpace:
    """Derive the weight space of a module from its computation.

    The module is exported in eval mode to core ATen operations; a walk over them infers which dimensions of which
    tensors share an axis. Parameters are not copied and may be on the meta device.

    Args:
        module: Any network that ``torch.export`` accepts; its weights do not matter, only its structure.
        example_inputs: One input tensor, or the tuple of positional arguments. Their shapes become fixed axes.

    Returns:
        The space, uncertified: :func:`metanet.certify` checks it on the module itself.

    Raises:
        SpaceError: The module cannot be exported; the message carries the reason that ``torch.export`` gave.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    with evaluating(module):
        program = _export(module, inputs)
    walk = Walk()
    tensors = _placeholders(program, module)
    walk.run(list(program.graph.nodes), tensors)
    owned = {v.origin.tensor: v.dims for v in tensors.values() if v.origin is not None}
    return resolve(owned, walk, aliases=_aliases(module))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for the duration, then restore the mode of every submodule."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def _export(module: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns of its own internals; failures raise
            return torch.export.export(module, inputs, strict=False).run_decompositions()
    except Exception as error:  # torch.export raises many unrelated types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SpaceError(
            f"{type(module).__name__} could not be traced: torch.export failed with {type(error).__name__}: "
            f"{reason[0]}. Check that module(*example_inputs) runs in eval mode and that its control flow does not "
            f"depend on tensor values"
        ) from error


def _placeholders(program: torch.export.ExportedProgram, module: nn.Module) -> dict[Any, Value]:
    """The value of every graph input: free dims for parameters and norm statistics, frozen ones for all else."""
    signature = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    values: dict[Any, Value] = {}
    first: dict[str, Value] = {}  # by canonical name: tied parameters share their dims
    aliases = _aliases(module)
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        spec, example = signature[node.name], node.meta.get("val")
        shape = tuple(example.shape) if isinstance(example, Tensor) else ()
        dims = tuple(Dim(int(s)) for s in shape)
        if spec.kind is InputKind.PARAMETER or (
            spec.kind is InputKind.BUFFER and example.is_floating_point() and _owned_by_norm(module, spec.target)
        ):
            name = min([spec.target, *aliases.get(spec.target, ())], key=lambda n: (n not in first, n))
            values[node] = first.setdefault(name, Value(dims, Origin(name, tuple(range(len(dims))))))
            continue
        reason = "input" if spec.kind is InputKind.USER_INPUT else f"constant '{spec.target}'"
        for dim in dims:
            freeze(dim, reason)
        values[node] = Value(dims)
    return values


def _owned_by_norm(module: nn.Module, name: str) -> bool:
    """Whether a buffer belongs to a norm layer, judged by the class of the module that holds it."""
    owner = module.get_submodule(name.rpartition(".")[0])
    return any("norm" in kind.__name__.lower() for kind in type(owner).__mro__)


def _aliases(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every tensor with several state-dict names, the other names."""
    groups: dict[int, list[str]] = {}
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        groups.setdefault(id(tensor), []).append(name)
    return {name: tuple(n for n in names if n != name) for names in groups.values() if len(names) > 1 for name in names}
