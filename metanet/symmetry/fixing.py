"""Gauge fixing: of all networks that differ by scalings of neurons only, the one that every other is led to.

Every scale gauge gets a *frame*: a positive number per neuron, made of the weights, that is multiplied by ``c`` when
the gauge acts with ``c``. Acting with its inverse gives the same network for every member of the orbit. The frame of a
ReLU neuron is the norm of its incoming weights once those of the neurons before it are fixed; that of a neuron behind a
batch norm, the norm's own scale and variance. Signs are fixed in the same way where a norm's scale carries them, and
nowhere else, for the sign of a bias near zero would be noise.

What is multiplied like ``c`` (covariant) or like ``1 / c`` (contravariant) becomes invariant by division by the frame
or multiplication with it, so that any function may follow; nothing is lost, for frame times invariant is the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from metanet.space.gauges import Gauge, GaugePart
from metanet.space.weight_space import WEIGHT_KINDS, WeightSpace
from metanet.symmetry.scaling import rescale, views


@dataclass(frozen=True)
class Step:
    """One gauge to fix.

    Attributes:
        gauge: The gauge; a combination of several of the space's in the case of signs.
        frame: The parts of tensors that its frame is made of.
        rank: What they are: 0 incoming weights, 1 variances, 2 scales of norms, 3 outgoing weights, 4 biases.
        others: Axes of gauges yet to be fixed that move the same parts: over these the frame is a geometric mean.
    """

    gauge: Gauge
    frame: tuple[GaugePart, ...]
    rank: int
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fixing:
    """How to fix the gauges of a space.

    Attributes:
        steps: What to fix, in this order.
        signs: Sign gauges of the fixed networks. They generate what is left of the space's sign group.
        left: Scale gauges for which no frame was found.
    """

    steps: tuple[Step, ...]
    signs: tuple[Gauge, ...]
    left: tuple[Gauge, ...]


@lru_cache(maxsize=256)
def fixing_of(space: WeightSpace) -> Fixing:
    """The order in which to fix the gauges of a space, and what of its group is left then."""
    open_gauges = [g for g in space.gauges if g.kind == "scale"]
    steps: list[Step] = []
    while open_gauges:
        ranked = [(_rank(space, p), n) for n, g in enumerate(open_gauges) for p in _alone(g, open_gauges)]
        if not ranked:
            step = next((s for g in open_gauges if (s := _together(space, g, open_gauges)) is not None), None)
            if step is None:
                break
            steps.append(step)
            done = [
                g for g in open_gauges if set(g.axes) <= set(step.gauge.axes) and _tensors(g) == _tensors(step.gauge)
            ]
            open_gauges = [g for g in open_gauges if g not in done]
            continue
        rank, number = min(ranked)
        gauge = open_gauges[number]
        frame = tuple(p for p in _alone(gauge, open_gauges) if _rank(space, p) == rank)
        steps.append(Step(gauge, frame, rank))
        open_gauges.remove(gauge)
    signs, signed = _signs(space)
    return Fixing((*steps, *signed), tuple(signs), tuple(open_gauges))


def fix(space: WeightSpace, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Lead networks to the member of their orbit that all others are led to.

    A neuron whose frame is zero has no incoming weights at all; everything that its gauge moves becomes zero, which
    leaves the function as it is in the absence of a bias. So does one whose frame is so small that the square of its
    inverse overflows (below 9e-18 in float32, 4e-139 in float64). No gradient passes through either.

    Args:
        space: Their space.
        tensors: Stacked ``[B, *shape]``; not changed.

    Returns:
        The fixed tensors, and the frame of every step, ``[B, *sizes of the gauge's axes]``.
    """
    fixed = dict(tensors)
    steps = fixing_of(space).steps
    fixed.update({p.tensor: tensors[p.tensor].clone() for s in steps for p in s.gauge.parts})
    frames = []
    for step in steps:
        frame = _frame(space, step, fixed)
        frames.append(frame)
        rescale(space, step.gauge, _inverse(frame), fixed, batched=True)
    return fixed, frames


def _alone(gauge: Gauge, others: Sequence[Gauge]) -> list[GaugePart]:
    """Parts that no other of these gauges moves."""
    taken = {(p.tensor, p.chosen) for g in others if g is not gauge for p in g.parts}
    return [p for p in gauge.parts if not any(t == p.tensor and _meet(c, p.chosen) for t, c in taken)]


def _together(space: WeightSpace, gauge: Gauge, others: Sequence[Gauge]) -> Step | None:
    """The step for a gauge all of whose parts others move too, along other axes of the same tensors alike.

    With ``W_ij -> c_i a_j W_ij`` the geometric mean over ``j`` of the sizes of rows is multiplied by ``c_i`` and one
    constant, which the step of ``a`` then takes away. Where ``j`` may be permuted in another way for every ``i``, such
    permutations and ``a`` make all scalings ``c_ij``, so that one step takes them all.
    """
    moved = {p.tensor: p.exponent for p in gauge.parts}
    along: list[str] = []
    for other in others:
        if other is gauge or not moved.keys() & {p.tensor for p in other.parts}:
            continue
        if {p.tensor: p.exponent for p in other.parts} != moved or len(other.parts) != len(moved):
            return None
        along += other.axes
    if len(gauge.parts) != len(moved) or any(p.chosen or p.offset for g in (gauge, *others) for p in g.parts):
        return None
    axes = [*gauge.axes, *along]
    plain = [p for p in gauge.parts if all(_plain(space, p.tensor, name) for name in axes)]
    if len(set(axes)) < len(axes) or not plain:
        return None
    part = min(plain, key=lambda p: _rank(space, p))
    apart = (g for g in space.gauges if g.kind == "permutation" and _tensors(g) == _tensors(gauge))
    if any(set(g.axes) == set(axes) for g in apart) and len(plain) == len(gauge.parts):
        parts = tuple(replace(p, dims=()) for p in gauge.parts)
        return Step(replace(gauge, axes=tuple(axes), parts=parts), (replace(part, dims=()),), _rank(space, part))
    return Step(gauge, (part,), _rank(space, part), tuple(along))


def _tensors(gauge: Gauge) -> set[str]:
    return {p.tensor for p in gauge.parts}


def _plain(space: WeightSpace, tensor: str, axis: str) -> bool:
    """Whether an axis indexes a tensor once, and no concatenation in it."""
    labels = space.tensor[tensor].labels
    names = [name for label in labels for name in label.axes]
    return names.count(axis) == 1 and all(len(label.pieces()) == 1 for label in labels if axis in label.axes)


def _meet(one: tuple[tuple[str, int], ...], other: tuple[tuple[str, int], ...]) -> bool:
    """Whether two choices of entries share any."""
    return all(dict(other).get(axis, entry) == entry for axis, entry in one)


def _rank(space: WeightSpace, part: GaugePart) -> int:
    """Which parts make the best frames: incoming weights, variances, scales of norms, outgoing weights, then biases."""
    kinds = {link.kind for link in space.links if link.tensor == part.tensor}
    if kinds & set(WEIGHT_KINDS):
        return 0 if part.exponent > 0 else 3
    return 1 if "variance" in kinds else 2 if "scale" in kinds else 4


def _frame(space: WeightSpace, step: Step, tensors: Mapping[str, Tensor]) -> Tensor:
    """``[B, *sizes]``: root of the summed squares of the parts, or the sign of the norm's scale."""
    if step.others:
        return _averaged(space, step, tensors)
    total: Tensor | None = None
    for part in step.frame:
        for view, order in views(space.tensor[part.tensor], part, step.gauge.axes, tensors[part.tensor], True):
            if step.gauge.kind == "sign":
                found = view.permute(0, *order).sign()
            else:
                rest = [d for d in range(1, view.ndim) if d not in order]
                ranked = view.permute(0, *order, *rest).flatten(1 + len(order)) if rest else view.permute(0, *order)
                size = _power((ranked + part.offset).abs(), 2 / abs(part.exponent))
                found = size.sum(-1) if rest else size
                found = found if part.exponent > 0 else _inverse(found)
            total = found if total is None else total + found
    if total is None:
        raise RuntimeError(f"no part of {[p.tensor for p in step.frame]} is indexed by {step.gauge.axes}")
    return total if step.gauge.kind == "sign" else _root(total)


def _averaged(space: WeightSpace, step: Step, tensors: Mapping[str, Tensor]) -> Tensor:
    """The same where other gauges move the part: a geometric mean over their axes; zero if any of its terms is."""
    (part,) = step.frame
    both = replace(step.gauge, axes=(*step.gauge.axes, *step.others))
    sizes = _frame(space, Step(both, (replace(part, dims=()),), step.rank), tensors).flatten(1 + len(step.gauge.axes))
    logarithms = torch.where(sizes == 0, 1, sizes).log().mean(-1)
    return torch.where((sizes == 0).any(-1), 0, logarithms.exp())


def _inverse(values: Tensor) -> Tensor:
    """``1 / x``, with zero for the inverse of zero; its gradient is finite, where that of ``1 / 0`` would spread."""
    return torch.where(values == 0, 0, 1 / torch.where(values == 0, 1, values))


def _power(values: Tensor, exponent: float) -> Tensor:
    """``x ** p``, without a gradient at zero, where that of a power below one is infinite."""
    if exponent >= 1:
        return values**exponent
    return torch.where(values == 0, 0, torch.where(values == 0, 1, values) ** exponent)


def _root(squares: Tensor) -> Tensor:
    """The root of sums of squares; zero, without a gradient, where it is too small for its inverse to be squared."""
    seen = squares > torch.finfo(squares.dtype).tiny ** 0.9
    return torch.where(seen, torch.where(seen, squares, 1).sqrt(), 0)


def _signs(space: WeightSpace) -> tuple[list[Gauge], list[Step]]:
    """Fix the sign gauges that scales of norms carry; the rest, in terms of the fixed networks."""
    scales = {link.tensor for link in space.links if link.kind == "scale"}
    rest = [g for g in space.gauges if g.kind == "sign"]
    steps = []
    for name in space.tensor:
        moving = [g for g in rest if any(p.tensor == name and not p.chosen for p in g.parts)] if name in scales else []
        if not moving or len({g.axes for g in moving}) > 1:
            continue
        chosen = min(moving, key=lambda g: len(g.parts))
        steps.append(Step(chosen, tuple(p for p in chosen.parts if p.tensor == name), 2))
        rest = [_combined(g, chosen) if g in moving else g for g in rest if g is not chosen]
    return rest, steps


def _combined(one: Gauge, other: Gauge) -> Gauge:
    """The sign gauge that acts as both at once."""
    parts = {(p.tensor, p.dims, p.chosen): p for p in one.parts}
    for p in other.parts:
        key = (p.tensor, p.dims, p.chosen)
        if parts.pop(key, None) is None:
            parts[key] = p
    return Gauge("sign", one.axes, tuple(parts.values()))
