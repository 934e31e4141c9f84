"""Gauge inference: what leaves a traced network's function unchanged, beside permutations of whole axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, fx

from metanet.space.axes import Dim
from metanet.space.gauge.forms import Number, Unknown
from metanet.space.gauge.infer import GaugePass
from metanet.space.gauge.linear import infer_linear
from metanet.space.gauge.orthogonal import infer_orthogonal
from metanet.space.gauge.phase import infer_phases
from metanet.space.gauge.rotary import infer_rotary
from metanet.space.gauge.shift import infer_shifts
from metanet.space.gauge.wreath import infer_wreaths
from metanet.space.gauges import Gauge, GaugePart
from metanet.space.walk import Walk


def infer_gauges(
    walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str], constants: Mapping[fx.Node, Tensor] | None = None
) -> tuple[Gauge, ...]:
    """All gauges: scalings and signs (a basis of each group), permutations apart, phases, shifts, matrices, rotations.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.
        constants: Tensors that the architecture fixes, by graph input.
    """
    found: list[Gauge] = []
    order = {atom: n for n, atom in enumerate(names)}
    for kind, modulus in (("scale", 0), ("sign", 2)):
        gauge_pass = GaugePass(walk, nodes, modulus)
        for solution in gauge_pass.run():
            found.append(_gauge(kind, solution, names, order, gauge_pass.offsets))
    for infer in (infer_wreaths, infer_phases, infer_shifts, infer_linear, infer_orthogonal):
        found.extend(infer(walk, nodes, names))
    found.extend(infer_rotary(walk, nodes, names, constants or {}))
    return tuple(dict.fromkeys(found))


def _gauge(
    kind: str,
    solution: Mapping[Unknown, Number],
    names: Mapping[Dim, str],
    order: Mapping[Dim, int],
    offsets: Mapping[str, float],
) -> Gauge:
    first = next(iter(solution))
    atoms = sorted(first.key - dict(first.chosen).keys(), key=order.__getitem__)
    parts = tuple(
        GaugePart(
            u.tensor,
            u.dims,
            float(exponent),
            tuple(sorted((names[a], n) for a, n in u.chosen)),
            offsets.get(u.tensor, 0.0),
        )
        for u, exponent in solution.items()
    )
    return Gauge(kind, tuple(names[a] for a in atoms), parts)  # type: ignore[arg-type]


__all__ = ["infer_gauges"]
