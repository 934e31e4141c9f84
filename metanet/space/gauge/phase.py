"""Phases of sines: ``sin(z + pi j) = (-1)^j sin(z)``, so a bias moves by half periods and what reads the sine flips.

With the sign flips that every odd function has, this makes the infinite dihedral group per neuron: the symmetries of
sinusoidal networks (Sitzmann et al. 2020, Zhao et al. 2025 for the group). The same holds for the cosine.

Shifts by whole periods need nobody's help: they are claimed
where nothing can take the sign.

A bias qualifies if all it does is to be added to what a sine is taken of, possibly times a constant ``omega``: it then
moves by ``pi / omega``. Whether what comes after the sine can take the sign is asked of the pass over signs, with one
more unknown per sine, which multiplies its result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from metanet.space.axes import Dim
from metanet.space.calls import argument, is_real, operation_name
from metanet.space.gauge.demands import Moved
from metanet.space.gauge.forms import Form, Key, Unknown, combine
from metanet.space.gauge.infer import GaugePass, combinations
from metanet.space.gauges import Gauge, GaugePart
from metanet.space.walk import Value, Walk

WAVES = ("sin", "cos")
ADDING = {"linear": "bias", "addmm": "self", "convolution": "bias", "add": None}
PHASE = "phase of "


def infer_phases(walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str]) -> tuple[Gauge, ...]:
    """All phases that sines of the network may be shifted by.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.

    Returns:
        Gauges of kind ``"phase"``: an integer j per neuron adds ``pi j / omega`` to the bias and multiplies what reads
        the sine by ``(-1)^j``.
    """
    waves = {node: found for node in nodes if (found := _biased(walk, node)) is not None}
    if not waves:
        return ()
    phases = _PhasePass(walk, nodes, waves)
    gauges, done = [], set()
    for solution in phases.run():
        shifted = [u for u in solution if u.tensor.startswith(PHASE)]
        biases = {u.tensor.removeprefix(PHASE) for u in shifted}
        if shifted and not any(u.tensor in biases for u in solution):  # else a reflection, which is no shift
            done.update(shifted)
            gauges.append(_gauge(solution, phases.units, names))
    whole = [u for u in phases.system.unknowns if u.tensor.startswith(PHASE) and u not in done]
    return (*gauges, *(_gauge([u], {u.tensor: 2 * phases.units[u.tensor]}, names) for u in whole))


class _PhasePass(GaugePass):
    """The pass over signs, with a sign of its own for the result of every sine.

    Args:
        walk: The finished axis walk.
        nodes: The graph's nodes, in order.
        waves: For sines (and cosines) of biased values, the bias and the factor that it is multiplied with.
    """

    def __init__(self, walk: Walk, nodes: Sequence[fx.Node], waves: Mapping[fx.Node, tuple[fx.Node, float]]) -> None:
        super().__init__(walk, nodes, 2)
        self.waves = waves
        self.units: dict[str, float] = {}
        for bias, factor in waves.values():
            value = walk.values[bias]
            name = PHASE + value.origin.tensor
            self.units[name] = math.pi / factor
            for key in self._phase_keys(value):
                self.system.unknown(name, tuple(range(len(value.dims))), key)

    def _phase_keys(self, bias: Value) -> list[Key]:
        """The node sets that a bias runs over; none if a neuron has several entries of it."""
        wide = [d for d in bias.dims if d.size > 1]
        if len(wide) != 1:
            return []
        pieces = combinations(wide[0])
        keys = [frozenset(p) for p in pieces]
        if any(a < b for a in keys for b in keys):  # one piece's neurons index another piece too
            return []
        return [k for k, p in zip(keys, pieces, strict=True) if len(k) == len(p) and all(a.frozen is None for a in p)]

    def op_sin(self, node: fx.Node, value: Value, x: Moved) -> Moved:
        """An odd function whose phase may be shifted."""
        return self._wave(node, self.unary(value, x, 1))

    def op_cos(self, node: fx.Node, value: Value, x: Moved) -> Moved:
        """An even function whose phase may be shifted."""
        return self._wave(node, self.unary(value, x, 0))

    def _wave(self, node: fx.Node, result: Moved) -> Moved:
        if node not in self.waves:
            return result
        bias = self.walk.values[self.waves[node][0]]
        forms = dict(result.forms)
        for key in self._phase_keys(bias):
            unknown = self.system.unknown(PHASE + bias.origin.tensor, tuple(range(len(bias.dims))), key)
            flipped: Form = {unknown: 1}
            if key <= result.atoms:
                forms[key] = combine([(forms.get(key, {}), 1), (flipped, 1)])
            else:
                self.system.vanish(flipped)
        return self.keep(result.value, forms)


def _biased(walk: Walk, node: fx.Node) -> tuple[fx.Node, float] | None:
    """The bias of what a sine is taken of, and the factor between: None unless the sine is all that the bias serves."""
    if node.op != "call_function" or operation_name(node).removeprefix("aten.") not in WAVES:
        return None
    here, factor = node.args[0], 1.0
    while isinstance(here, fx.Node) and here.op == "call_function" and len(here.users) == 1:
        name = operation_name(here).removeprefix("aten.")
        if name in ADDING:
            bias = _bias(walk, here, name)
            return None if bias is None or factor == 0 else (bias, factor)
        step = _constant(here, name)
        if step is None:
            return None
        here, factor = here.args[0], factor * step
    return None


def _constant(node: fx.Node, name: str) -> float | None:
    """The number that an operation multiplies its argument with; None if it does anything else."""
    if name in ("alias", "clone", "detach", "_to_copy"):
        return 1.0 if is_real(node) else None
    if name == "neg":
        return -1.0
    number = node.args[1] if len(node.args) > 1 else None
    if not isinstance(number, int | float) or name not in ("mul", "div") or not number:
        return None
    return float(number) if name == "mul" else 1 / number


def _bias(walk: Walk, node: fx.Node, name: str) -> fx.Node | None:
    """The parameter that an operation adds as a whole, if nothing else reads it."""
    role = ADDING[name]
    found: list[Any] = [argument(node, role)] if role else list(node.args[:2])
    if any(argument(node, scale, 1) != 1 for scale in ("alpha", "beta")):
        return None
    own = [n for n in found if isinstance(n, fx.Node) and n.op == "placeholder" and len(n.users) == 1]
    values = [walk.values.get(n) for n in own]
    biases = [n for n, v in zip(own, values, strict=True) if isinstance(v, Value) and v.origin is not None]
    return biases[0] if len(biases) == 1 else None


def _gauge(solution: Iterable[Unknown], units: Mapping[str, float], names: Mapping[Dim, str]) -> Gauge:
    order = {atom: n for n, atom in enumerate(names)}
    parts, atoms = [], []
    for u in solution:
        chosen = tuple(sorted((names[a], n) for a, n in u.chosen))
        if u.tensor.startswith(PHASE):
            atoms = sorted(u.key, key=order.__getitem__)
            parts.append(GaugePart(u.tensor.removeprefix(PHASE), u.dims, 0.0, chosen, shift=units[u.tensor]))
        else:
            parts.append(GaugePart(u.tensor, u.dims, 1.0, chosen))
    return Gauge("phase", tuple(names[a] for a in atoms), tuple(parts))
