"""From an ``nn.Module`` to its weight space, by walking its graph once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from metanet.errors import MetanetError, SpaceError
from metanet.space import rules  # noqa: F401  (importing the package registers the rules)
from metanet.space.axes import Dim, settle
from metanet.space.exporting import Inputs, Program
from metanet.space.gauge import infer_gauges
from metanet.space.record import capture
from metanet.space.resolve import Names, resolve
from metanet.space.walk import Origin, Value, Walk
from metanet.space.weight_space import WeightSpace


def trace(module: nn.Module, example_inputs: Inputs, certify: bool = False) -> WeightSpace:
    """Derive the weight space of a module from its computation.

    The module is run once without data, in eval mode, and its core ATen operations are recorded; a walk over them
    infers which dimensions of which tensors share an axis. Parameters are not copied and may be on the meta device.

    Args:
        module: Any network whose control flow ``torch.export`` accepts; its weights do not matter, only its structure.
        example_inputs: One tensor, the tuple of positional arguments or the mapping of keyword arguments. Their shapes
            become fixed axes.
        certify: Whether to check every claim on the module itself, and to freeze what fails. The operation whose rule
            was refuted is then listed in ``space.opaque``.

    Returns:
        The space; its ``certified`` says whether it was checked.

    Raises:
        SpaceError: The module cannot be traced (the message carries the reason that ``torch.export`` gave), or it
            cannot be certified because its outputs are not finite.
    """
    try:
        with _uncollected():
            graph = Traced.of(module, example_inputs)
            if not certify:
                return graph.space()
    except MetanetError:
        raise
    except Exception as error:  # whatever an unusual module leads to
        raise _untraced(module, error) from error
    from metanet.symmetry.soundness import certified_space  # symmetry builds on space: imported where it is used

    return certified_space(graph, module, example_inputs)


def _untraced(module: Any, error: Exception) -> SpaceError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return SpaceError(
        f"{type(module).__name__} could not be traced: got {type(error).__name__}: {reason}. Accepted: an nn.Module "
        f"whose eval-mode run on the example inputs follows from their shapes"
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Put the garbage collector off: a trace makes many objects that live until its end, and it would look at all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Traced:
    """The graph of a module and what its tensors are.

    Attributes:
        program: The graph.
        aliases: For every tensor with several state-dict names, the other names.
        governed: State-dict names of the tensors whose dimensions are axes: parameters and norm statistics.
    """

    program: Program
    aliases: dict[str, tuple[str, ...]]
    governed: frozenset[str]

    @classmethod
    def of(cls, module: nn.Module, example_inputs: Inputs) -> Traced:
        """Capture a module."""
        return cls(capture(module, example_inputs), _aliases(module), _governed(module))

    def walk(self, distrusted: frozenset[str] = frozenset()) -> tuple[Walk, dict[fx.Node, Value]]:
        """Walk the graph: the finished walk, and the value of every placeholder.

        Args:
            distrusted: Names of nodes to treat as not understood.
        """
        walk = Walk(distrusted=distrusted)
        inputs = self._placeholders()
        walk.run(self.program.nodes, inputs)
        return walk, inputs

    def space(self, distrusted: frozenset[str] = frozenset()) -> WeightSpace:
        """The weight space, uncertified."""
        walk, inputs = self.walk(distrusted)
        owned = {v.origin.tensor: v.dims for v in inputs.values() if v.origin is not None}
        for dims in owned.values():
            for dim in dims:
                settle(dim)
        names = Names()
        space = resolve(owned, walk, aliases=self.aliases, names=names)
        held = {n: self.program.constants.get(target or "") for n, (_, target) in self.program.sources.items()}
        constants = {n: t for n, t in held.items() if isinstance(t, Tensor)}
        return replace(space, gauges=infer_gauges(walk, self.program.nodes, names.of, constants))

    def _placeholders(self) -> dict[fx.Node, Value]:
        """The value of every graph input: free dims for parameters and norm statistics, frozen ones for all else."""
        values: dict[fx.Node, Value] = {}
        first: dict[str, Value] = {}  # by first name: tied parameters share their dims
        for node, (kind, target) in self.program.sources.items():
            example: Any = node.meta.get("val")
            shape = tuple(int(s) for s in example.shape) if isinstance(example, Tensor) else ()
            if kind in (InputKind.PARAMETER, InputKind.BUFFER) and target in self.governed:
                name = next((n for n in (target, *self.aliases.get(target, ())) if n in first), target)
                dims = tuple(map(Dim, shape))
                values[node] = first.setdefault(
                    name, Value(dims, Origin(name, tuple(range(len(dims)))), 0, frozenset(), frozenset([name]), False)
                )
            else:
                reason = "input" if kind is InputKind.USER_INPUT else f"constant '{target}'"
                alike = _uniform(self.program.constants.get(target or ""))
                dims = tuple(Dim(s, None if i in alike else reason) for i, s in enumerate(shape))
                values[node] = Value(dims, data=kind is InputKind.USER_INPUT)
        return values


def _uniform(constant: Any) -> set[int]:
    """Dimensions along which a constant of the architecture (no entry of the state dict) repeats one value."""
    if not isinstance(constant, Tensor) or constant.is_meta or 0 in constant.shape:
        return set()
    return {d for d in range(constant.ndim) if torch.equal(constant, constant.narrow(d, 0, 1).expand_as(constant))}


def _governed(module: nn.Module) -> frozenset[str]:
    """Names of all parameters, and of the floating-point buffers in the state dict that norm layers own."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    kept = module.state_dict().keys()
    buffers = {
        name
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if name in kept and buffer.is_floating_point() and _is_norm(module.get_submodule(name.rpartition(".")[0]))
    }
    return frozenset(parameters | buffers)


def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm layer, judged by its class; batch norms of any make have the running statistics."""
    return any("norm" in kind.__name__.lower() for kind in type(module).__mro__) or hasattr(module, "running_var")


def _aliases(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every tensor with several state-dict names, the other names."""
    groups: dict[int, list[str]] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(tensor), []).append(name)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        groups.setdefault(id(buffer), []).append(name)
    return {name: tuple(n for n in names if n != name) for names in groups.values() if len(names) > 1 for name in names}
