"""Certificates: act with the symmetries that a space claims and check that the network's function stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from metanet.space.exporting import Inputs
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.evaluation import Evaluation, relative_change
from metanet.symmetry.kinds import KINDS
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
        control: Relative output change when a single tensor of the axis is permuted: the largest over tensors tried,
            which ends with the first that moves the output.
        status: ``"certified"``; ``"dead"`` if even the control moved nothing, so that nothing was shown; ``"failed"``.
        claimed_by: Paths of the modules whose tensors run over it.
    """

    axis: str
    size: int
    error: float
    control: float
    status: Literal["certified", "dead", "failed"]
    claimed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class GaugeCertificate:
    """What was measured for the gauges of one kind.

    Attributes:
        kind: ``"permutation"``, ``"scale"``, ``"sign"``, ``"phase"``, ``"shift"``, ``"linear"``, ``"orthogonal"`` or
            ``"rotation"``.
        count: How many gauges there are.
        error: Relative output change when all of them act at once with random factors.
        control: Relative output change when they act on a single tensor; where that changes nothing, when the change of
            every entry is multiplied with a random number.
        failed: Places in ``space.gauges`` of those that change the output when they act alone.
    """

    kind: str
    count: int
    error: float
    control: float
    failed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """The outcome of :func:`certify`.

    Attributes:
        space: The space, with ``certified`` set accordingly.
        axes: One entry per free axis with two or more entries; empty if single axes were not asked for.
        joint_error: Relative output change when all axes are permuted at once.
        gauges: One entry per kind of gauge that the space claims.
    """

    space: WeightSpace
    axes: tuple[AxisCertificate, ...]
    joint_error: float
    gauges: tuple[GaugeCertificate, ...] = ()

    @property
    def worst_error(self) -> float:
        """The largest relative error, over axes and gauges; infinite if one is not a number."""
        errors = [self.joint_error, *(a.error for a in self.axes), *(g.error for g in self.gauges)]
        return max(errors) if all(e == e for e in errors) else float("inf")

    @property
    def ok(self) -> bool:
        """Whether every claimed symmetry held."""
        return self.worst_error <= TOLERANCE

    @property
    def failed(self) -> tuple[AxisCertificate, ...]:
        """The axes whose claim was refuted."""
        return tuple(a for a in self.axes if a.status == "failed")

    def table(self) -> str:
        """A table for people, one row per axis."""
        rows = [f"{'axis':44s} {'size':>6s} {'error':>9s} {'control':>9s}  status"]
        for a in self.axes:
            where = f" (claimed by {', '.join(a.claimed_by[:4])})" if a.status == "failed" and a.claimed_by else ""
            rows.append(f"{a.axis:44s} {a.size:6d} {a.error:9.1e} {a.control:9.1e}  {a.status}{where}")
        total = sum(a.size for a in self.space.free_axes if a.size > 1)
        rows.append(f"{'all axes together':44s} {total:6d} {self.joint_error:9.1e}")
        for g in self.gauges:
            status = f"failed: {', '.join(map(str, g.failed))}" if g.failed else "certified"
            rows.append(f"{f'{g.kind} gauges together':44s} {g.count:6d} {g.error:9.1e} {g.control:9.1e}  {status}")
        return "\n".join(rows)


def certify(
    module: nn.Module, space: WeightSpace, example_inputs: Inputs, seed: int = 0, per_axis: bool = True
) -> Certificate:
    """Check a space's symmetry group on the network itself.

    Parameters *and* norm statistics are randomised first (fresh ones hide wrong claims), the network runs in eval mode
    in float64 on random inputs, and every axis is permuted alone, then all together. The error is
    ``max|f(g·w) - f(w)| / max|f(w)|``. As a control, single tensors of the axis are permuted: the output must move.
    Gauges act all at once, kind by kind, and one by one where that fails.

    Args:
        module: The network; it is copied, not changed.
        space: The claim.
        example_inputs: As given to :func:`metanet.trace`. Floating-point inputs are replaced by random ones.
        seed: Seed of weights, inputs and permutations.
        per_axis: Whether to permute every axis alone too. If not, single axes are looked at only if all together fail.

    Returns:
        The certificate; ``certificate.space.certified`` says whether everything held.

    Raises:
        SpaceError: The network gives non-finite or constant-zero outputs on randomised weights, or has none.
    """
    return measure(Evaluation(module, example_inputs, seed), space, per_axis)


def measure(evaluation: Evaluation, space: WeightSpace, per_axis: bool = True) -> Certificate:
    """The certificate of a space, given the network ready to run."""
    state, base = evaluation.weights(space)

    def change(moved: Mapping[str, Tensor]) -> float:
        return relative_change(evaluation.outputs(moved), base)

    joint = change(replace(sample(space, evaluation.seed), factors={}).apply(state))
    axes: tuple[AxisCertificate, ...] = ()
    if per_axis or not joint <= TOLERANCE:
        wide = [a.name for a in space.free_axes if a.size > 1]
        axes = tuple(_check_axis(evaluation, space, name, state, base) for name in wide)
    kinds = [k for k in KINDS if any(g.kind == k for g in space.gauges)]
    gauges = tuple(_check_gauges(space, kind, state, change, evaluation.seed) for kind in kinds)
    certificate = Certificate(space, axes, joint, gauges)
    return replace(certificate, space=replace(space, certified=certificate.ok))


def _check_gauges(
    space: WeightSpace, kind: str, state: dict[str, Tensor], change: Callable[[Mapping[str, Tensor]], float], seed: int
) -> GaugeCertificate:
    move = replace(sample(space, seed, kinds=(kind,)), perms={})
    moved = move.apply(state)
    error, control = change(moved), 0.0
    for name in dict.fromkeys(p.tensor for n in move.factors for p in space.gauges[n].parts):
        control = max(control, change({**state, name: moved[name]}))
        if control > ALIVE:
            break
    if not control > ALIVE:  # one tensor alone moves nothing: nor may it, if gauges move one tensor each
        control = change(_distorted(state, moved, seed))
    failed = [] if error <= TOLERANCE else _guilty(lambda one: change(one.apply(state)) <= TOLERANCE, move)
    return GaugeCertificate(kind, len(move.factors), error, control, tuple(failed))


def _distorted(state: Mapping[str, Tensor], moved: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What is left of a move when every entry's change is multiplied with a random number of its own."""
    generator = torch.Generator().manual_seed(seed)
    changed = {name: t for name, t in moved.items() if t is not state[name] and t.is_floating_point()}
    noise = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) for n, t in changed.items()}
    return {**state, **{n: state[n] + (t - state[n]) * noise[n] for n, t in changed.items()}}


def _guilty(holds: Callable[[Move], bool], move: Move) -> list[int]:
    """The gauges of a move that fails which fail by themselves, by halving: thousands hold where one does not."""
    if len(move.factors) == 1:
        return list(move.factors)
    numbers = list(move.factors)
    halves = [numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]]
    parts = [replace(move, factors={n: move.factors[n] for n in half}) for half in halves]
    return [n for part in parts if not holds(part) for n in _guilty(holds, part)]


def _check_axis(
    evaluation: Evaluation, space: WeightSpace, axis: str, state: Mapping[str, Tensor], base: list[Tensor]
) -> AxisCertificate:
    moved = sample(space, evaluation.seed, axes=[axis]).apply(state)
    error = relative_change(evaluation.outputs(moved), base)
    control = 0.0
    owners = [t for t in space.tensors if axis in t.axes]
    for spec in owners:
        alone = {name: moved[name] for name in (spec.name, *spec.aliases) if name in moved}
        control = max(control, relative_change(evaluation.outputs({**state, **alone}), base))
        if control > ALIVE:
            break
    status: Literal["certified", "dead", "failed"]
    status = "failed" if not error <= TOLERANCE else "certified" if control > ALIVE else "dead"
    names = {t.name for t in owners}
    modules = dict.fromkeys(link.module for link in space.links if link.tensor in names and link.module)
    return AxisCertificate(axis, space.axis[axis].size, error, control, status, tuple(modules))
