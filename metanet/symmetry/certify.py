"""Certificates: act with the symmetries that a space claims and check that the network's function stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from metanet.space.exporting import Inputs
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.evaluation import MAGNIFIED, Evaluation, Point
from metanet.symmetry.generic import BINARY, elements, needed
from metanet.symmetry.kinds import KINDS
from metanet.symmetry.move import Move

TOLERANCE = 1e-9  # relative, float64; true symmetries stay below 1e-12, false ones above 1e-3
ALIVE = 1e-6
SMALL = 2**16  # parameters up to which every element is tried on weights and inputs of its own
TRIALS = 16  # elements that are tried in small networks
FEW = 4  # elements that move everything at once in large ones


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
        error: The largest relative output change when all of them act at once, alone or together with all else.
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
        joint_error: The largest relative output change when all axes are permuted at once.
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
    Gauges act all at once, kind by kind, and one by one where that fails. Then further elements, which together
    generate the group (:mod:`metanet.symmetry.generic`), move all axes and gauges at once: 16 on weights and inputs of
    their own in networks of up to 65,536 parameters; 4, and more for many signs, on two sets of inputs in larger ones.

    Args:
        module: The network; it is left as it was.
        space: The claim.
        example_inputs: As given to :func:`metanet.trace`. Floating-point inputs are replaced by random ones.
        seed: Seed of weights, inputs and permutations.
        per_axis: Whether to permute every axis alone too. If not, single axes are looked at only if all together fail.

    Returns:
        The certificate; ``certificate.space.certified`` says whether everything held.

    Raises:
        SpaceError: The network gives non-finite or constant-zero outputs on randomised weights, or has none; or it does
            not run on such weights in float64.
    """
    return measure(Evaluation(module, example_inputs, seed), space, per_axis)


def measure(evaluation: Evaluation, space: WeightSpace, per_axis: bool = True) -> Certificate:
    """The certificate of a space, given the network ready to run."""
    first = evaluation.point(space)
    trials = _trials(evaluation, space, first)
    found = _Found(space, first, trials[0].move)
    found.permuted(first, trials[0].move)
    for kind in found.kinds:
        found.gauged(first, trials[0].move, kind, control=True)
    for trial in trials[1:]:
        found.together(trial)
    axes: tuple[AxisCertificate, ...] = ()
    if per_axis or not found.joint <= TOLERANCE:
        wide = [a.name for a in space.free_axes if a.size > 1]
        axes = tuple(_check_axis(space, name, first, found.shuffles) for name in wide)
    gauges = tuple(found.kinds.values())
    certificate = Certificate(space, axes, found.joint, gauges)
    return replace(certificate, space=replace(space, certified=certificate.ok))


@dataclass(frozen=True)
class _Trial:
    """A group element, and the weights and inputs on which it is tried."""

    point: Point
    move: Move


def _trials(evaluation: Evaluation, space: WeightSpace, first: Point) -> list[_Trial]:
    """The elements to be tried: on weights of their own in small networks, on two sets of inputs in large ones.

    In large networks the elements that are there to tell many signs apart move these alone, which is quick.
    """
    if space.parameters <= SMALL:
        moves = elements(space, TRIALS if space.gauges or space.neurons else 1, evaluation.seed)
        return [_Trial(evaluation.another(space, first, n) if n else first, move) for n, move in enumerate(moves)]
    moves = elements(space, max(FEW, needed(space)), evaluation.seed)
    signs = {n for n, g in enumerate(space.gauges) if g.kind in BINARY}
    few = [Move(space, {}, {n: e for n, e in m.factors.items() if n in signs}) for m in moves[FEW:]]
    points = first, evaluation.inputs_changed(first)
    return [_Trial(points[n % 2], move) for n, move in enumerate((*moves[:FEW], *few))]


class _Found:
    """What is known so far of a space whose elements are tried one by one.

    Args:
        space: The space.
        first: The first weights and inputs.
        move: The first element.

    Attributes:
        joint: The largest error of permutations of all axes.
        kinds: What was measured for every kind of gauge.
        shuffles: The permutations of all axes that are to be tried axis by axis: the first, and those that failed.
    """

    def __init__(self, space: WeightSpace, first: Point, move: Move) -> None:
        self.space, self.joint = space, 0.0
        present = [k for k in KINDS if any(g.kind == k for g in space.gauges)]
        counts = {k: sum(g.kind == k for g in space.gauges) for k in present}
        self.kinds = {k: GaugeCertificate(k, count, 0.0, 0.0) for k, count in counts.items()}
        self.shuffles = [(first, move.perms)]

    def permuted(self, point: Point, move: Move) -> bool:
        """Try the permutations of axes of an element; whether the outputs stay."""
        error = point.change(Move(self.space, move.perms).apply(point.state)) if move.perms else 0.0
        self.joint = max(self.joint, error)
        if not error <= TOLERANCE and move.perms is not self.shuffles[0][1]:
            self.shuffles.append((point, move.perms))
        return error <= TOLERANCE

    def gauged(self, point: Point, move: Move, kind: str, control: bool = False) -> bool:
        """Try the gauges of one kind of an element; whether the outputs stay."""
        own = Move(self.space, {}, {n: e for n, e in move.factors.items() if self.space.gauges[n].kind == kind})
        moved, before = own.apply(point.state), self.kinds[kind]
        error = point.change(moved)
        failed = [] if error <= TOLERANCE else _guilty(lambda m: point.change(m.apply(point.state)) <= TOLERANCE, own)
        self.kinds[kind] = replace(
            before,
            error=max(before.error, error),
            control=_control(point, own, moved) if control else before.control,
            failed=tuple(sorted({*before.failed, *failed})),
        )
        return error <= TOLERANCE

    def together(self, trial: _Trial) -> None:
        """Try all of an element at once; if it fails, find out which of its parts do."""
        point, move = trial.point, trial.move
        error = point.change(move.apply(point.state))
        if error <= TOLERANCE:
            self.joint = max(self.joint, 0.0 if self.kinds else error)
            self.kinds = {k: replace(g, error=max(g.error, error)) for k, g in self.kinds.items()}
            return
        if error == error and point.magnified(self.space) > MAGNIFIED:
            return  # the difference may be rounding
        moved = [k for k in self.kinds if any(self.space.gauges[n].kind == k for n in move.factors)]
        held = [self.permuted(point, move), *(self.gauged(point, move, kind) for kind in moved)]
        if all(held):  # no kind fails alone: none is believed
            self.joint = self.joint if self.kinds else error
            self.kinds = {k: replace(g, error=max(g.error, error)) for k, g in self.kinds.items()}


def _control(point: Point, move: Move, moved: Mapping[str, Tensor]) -> float:
    """What acting on one tensor alone changes: the largest over tensors tried, which ends with the first that shows."""
    control = 0.0
    for name in dict.fromkeys(p.tensor for n in move.factors for p in move.space.gauges[n].parts):
        control = max(control, point.change({**point.state, name: moved[name]}))
        if control > ALIVE:
            return control
    return point.change(_distorted(point.state, moved, point.seed))  # nothing shows if gauges move one tensor each


def _distorted(state: Mapping[str, Tensor], moved: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What is left of a move when every entry's change is multiplied with a random number of its own."""
    generator = torch.Generator().manual_seed(seed)
    changed = {
        name: t for name, t in moved.items() if t is not state[name] and (t.is_floating_point() or t.is_complex())
    }
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
    space: WeightSpace, axis: str, first: Point, shuffles: Sequence[tuple[Point, Mapping[str, Tensor]]]
) -> AxisCertificate:
    """Permute one axis alone, everywhere and in single tensors."""
    error = 0.0
    for point, perms in shuffles[::-1]:  # the first one comes last, and is what the control looks at
        moved = Move(space, {axis: perms[axis]}).apply(point.state)
        error = max(error, point.change(moved))
    control = 0.0
    owners = [t for t in space.tensors if axis in t.axes]
    for spec in owners:
        alone = {name: moved[name] for name in (spec.name, *spec.aliases) if name in moved}
        control = max(control, first.change({**first.state, **alone}))
        if control > ALIVE:
            break
    status: Literal["certified", "dead", "failed"]
    status = "failed" if not error <= TOLERANCE else "certified" if control > ALIVE else "dead"
    names = {t.name for t in owners}
    modules = dict.fromkeys(link.module for link in space.links if link.tensor in names and link.module)
    return AxisCertificate(axis, space.axis[axis].size, error, control, status, tuple(modules))
