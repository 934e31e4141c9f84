"""Certificates: act with the symmetries that a space claims and check that the network's function stays."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metanet.errors import SpaceError
from metanet.space.trace import evaluating
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.move import Move, sample

TOLERANCE = 1e-9  # relative, float64; true symmetries stay below 1e-12, false ones above 1e-3
ALIVE = 1e-6


@dataclass(frozen=True)
class AxisCertificate:
    """What was measured for one free axis.

    Attributes:
        axis: Its name.
        size: Its entries.
        error: Relative output change when the axis alone is permuted everywhere.
        control: Largest relative output change when a single tensor of the axis is permuted.
        status: ``"certified"``; ``"dead"`` if even the control moved nothing, so that nothing was shown; ``"failed"``.
    """

    axis: str
    size: int
    error: float
    control: float
    status: Literal["certified", "dead", "failed"]


@dataclass(frozen=True)
class Certificate:
    """The outcome of :func:`certify`.

    Attributes:
        space: The space, with ``certified`` set accordingly.
        axes: One entry per free axis with two or more entries.
        joint_error: Relative output change when all axes are permuted at once.
    """

    space: WeightSpace
    axes: tuple[AxisCertificate, ...]
    joint_error: float

    @property
    def worst_error(self) -> float:
        """The largest relative error, over single axes and all together."""
        return max([self.joint_error, *(a.error for a in self.axes)])

    @property
    def ok(self) -> bool:
        """Whether every claimed symmetry held."""
        return self.worst_error <= TOLERANCE

    def table(self) -> str:
        """A table for people, one row per axis."""
        rows = [f"{'axis':44s} {'size':>6s} {'error':>9s} {'control':>9s}  status"]
        rows += [f"{a.axis:44s} {a.size:6d} {a.error:9.1e} {a.control:9.1e}  {a.status}" for a in self.axes]
        rows.append(f"{'all axes together':44s} {sum(a.size for a in self.axes):6d} {self.joint_error:9.1e}")
        return "\n".join(rows)


def certify(module: nn.Module, space: WeightSpace, example_inputs: Tensor | tuple[Any, ...], seed: int = 0) -> Certificate:
    """Check a space's permutation group on the network itself.

    Parameters *and* norm statistics are randomised first (fresh ones hide wrong claims), the network runs in eval mode
    in float64 on random inputs, and every axis is permuted alone, then all together. The error is
    ``max|f(g·w) - f(w)| / max|f(w)|``. As a control, single tensors of the axis are permuted: the output must move.

    Args:
        module: The network; it is copied, not changed.
        space: The claim.
        example_inputs: As given to :func:`metanet.trace`. Floating-point inputs are replaced by random ones.
        seed: Seed of weights, inputs and permutations.

    Returns:
        The certificate; ``certificate.space.certified`` says whether everything held.

    Raises:
        SpaceError: The network gives non-finite or constant-zero outputs on randomised weights.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(module).double()
    state = randomised(net.state_dict(), space, generator)
    inputs = pytree.tree_map_only(Tensor, lambda x: _random_like(x, generator), inputs)
    with evaluating(net), torch.no_grad():
        base = _outputs(net, state, inputs)
        size = base.abs().max().item()
        if not base.isfinite().all() or size == 0:
            raise SpaceError(f"cannot certify {type(module).__name__}: randomised weights give {size} as largest output")

        def change(moved: Mapping[str, Tensor]) -> float:
            return ((_outputs(net, moved, inputs) - base).abs().max() / size).item()

        axes = tuple(_check_axis(space, a.name, a.size, state, change, seed) for a in space.free_axes if a.size > 1)
        joint = change(space.sample(seed).apply(state))
    certificate = Certificate(space, axes, joint)
    return replace(certificate, space=replace(space, certified=certificate.ok))


def _check_axis(space: WeightSpace, axis: str, size: int, state: Mapping[str, Tensor], change: Any, seed: int) -> AxisCertificate:
    move = sample(space, seed, axes=[axis])
    error = change(move.apply(state))
    control = 0.0
    for spec in [t for t in space.tensors if axis in t.axes]:
        alone = {**state, spec.name: move.apply(state)[spec.name]}
        control = max(control, change(alone))
        if control > ALIVE:
            break
    status: Literal["certified", "dead", "failed"]
    status = "failed" if not error <= TOLERANCE else "certified" if control > ALIVE else "dead"
    return AxisCertificate(axis, size, error, control, status)


def randomised(state: Mapping[str, Tensor], space: WeightSpace, generator: torch.Generator) -> dict[str, Tensor]:
    """Random values for every tensor that a space governs, of a size that keeps signals finite.

    Weights are normal with variance ``2 / fan_in``, scales and variances uniform in [0.5, 1.5], biases and means normal
    with deviation 0.3. Everything else is passed through.
    """
    roles: dict[str, str] = {}
    for link in space.links:
        roles.setdefault(link.tensor, link.kind)
    new = dict(state)
    for spec in space.tensors:
        tensor = state[spec.name]
        draw = torch.randn(spec.shape, generator=generator, dtype=torch.float64)
        role = roles.get(spec.name, "bias" if len(spec.shape) < 2 else "linear")
        if role in ("scale", "variance"):
            draw = 0.5 + torch.rand(spec.shape, generator=generator, dtype=torch.float64)
        elif role in ("bias", "mean"):
            draw = 0.3 * draw
        else:
            fan_in = max(tensor[0].numel(), 1) if tensor.ndim else 1
            draw = draw * (2.0 / fan_in) ** 0.5
        for name in (spec.name, *spec.aliases):
            if name in new:
                new[name] = draw.to(tensor.device)
    return new


def _random_like(x: Tensor, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point():
        return x
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)


def _outputs(net: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> Tensor:
    """All floating-point outputs as one vector."""
    result = torch.func.functional_call(net, dict(state), tuple(inputs))
    leaves = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.cat([t.reshape(-1).double() for t in leaves])


__all__ = ["AxisCertificate", "Certificate", "Move", "certify", "randomised"]
