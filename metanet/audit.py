"""Audit of a trained metanet: how far do its predictions move when a net is rewritten without changing its function?

For every transformation that preserves the function (the space's symmetries; widening, which copies a quarter of every
axis's neurons; duplication of every neuron) two numbers per net: the *functional residual*, ``max |f' - f| / max |f|``
over random inputs, which says that the function did stay, and the *movement* ``|m(theta') - m(theta)|`` of the
prediction in units of its standard deviation over nets. A control that does change the function, one tensor permuted
alone, shows that predictions can move at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metanet.errors import ConfigError, SpaceError
from metanet.graph import NeuronGraph
from metanet.prediction import double_precision, load_run
from metanet.space import WeightSpace
from metanet.symmetry.widening import Widening, widen
from metanet.tasks import PropertyTask
from metanet.zoo.catalogue import open_zoo
from metanet.zoo.functions import Function, function_of
from metanet.zoo.store import ModelZoo

KINDS = ("permutation", "scale", "sign")
EXACT = 1e-10  # movement, in spreads, up to which an invariance counts as exact
PRESERVED = 1e-9  # functional residual up to which a transformation counts as preserving
CONTROL = "control: one tensor"
CHUNK = 32  # nets at once
State = dict[str, Tensor]
Rewriting = Callable[[State, int], tuple[WeightSpace, State]]


@dataclass(frozen=True, eq=False)
class AuditRow:
    """One transformation, over all nets that have it and that the metanet still reads once they are rewritten.

    Attributes:
        transformation: Its name.
        claimed: Whether the metanet claims to be invariant to it.
        before: Predictions for the nets, ``[N, K]``: one number, or the logits of classes.
        after: Predictions for the rewritten nets, ``[N, K]``.
        spread: Standard deviation of the predictions over all nets audited.
        residuals: Functional residual of each net whose function is known.
        control: Whether it is meant to change the function.
    """

    transformation: str
    claimed: bool
    before: Tensor
    after: Tensor
    spread: float
    residuals: Tensor
    control: bool = False

    @property
    def movement(self) -> Tensor:
        """``max over K of |after - before| / spread``, ``[N]``."""
        return (self.after - self.before).abs().amax(1) / self.spread

    @property
    def verdict(self) -> str:
        """What the numbers say."""
        if not len(self.before):
            return "cannot read"
        worst = self.movement.max().item()
        if self.control:
            return "sensitive" if worst > 1e-3 else "blind"
        if len(self.residuals) and self.residuals.max() > PRESERVED:
            return "changes the function"
        if worst <= EXACT:
            return "exact"
        return "CLAIM BROKEN" if self.claimed else "moves"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        known, read = len(self.residuals) > 0, len(self.before) > 0
        return {
            "transformation": self.transformation,
            "claimed": self.claimed,
            "nets": len(self.before),
            "residual_max": self.residuals.max().item() if known else None,
            "movement_median": self.movement.median().item() if read else None,
            "movement_max": self.movement.max().item() if read else None,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, eq=False)
class Audit:
    """The rows of an audit, and what was audited on what."""

    metanet: str
    zoo: str
    rows: tuple[AuditRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no claim is broken and the control moves predictions."""
        return not any(row.verdict in ("CLAIM BROKEN", "blind") for row in self.rows)


def audit(
    run: str | os.PathLike[str] | PropertyTask,
    zoo: str | os.PathLike[str] | ModelZoo,
    *,
    split: str = "test",
    nets: int = 64,
    seed: int = 0,
    trust: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Audit:
    """Measure how far predictions move under transformations that leave the nets' functions unchanged.

    Args:
        run: Run folder, ``.ckpt`` file, or the task itself.
        zoo: Zoo, its folder, or its name in the catalogue.
        split: Split of the zoo that nets are drawn from.
        nets: How many nets, drawn at random over all spaces.
        seed: Seed of the draws.
        trust: Import the metanet's class by name if the run names one that is not metanet's own.
        progress: Told the name of each transformation as it begins.

    Raises:
        MetanetError: The run or the zoo cannot be read, or fewer than two nets are left.
    """
    task = run if isinstance(run, PropertyTask) else load_run(run, trust)
    opened = zoo if isinstance(zoo, ModelZoo) else open_zoo(Path(zoo) if isinstance(zoo, os.PathLike) else zoo)
    graphs = _draw(opened, split, nets, seed)
    functions = {g.space.digest: function_of(opened, g.space) for g in graphs}
    claims = getattr(task.metanet, "claims", frozenset({"permutation"}))
    with double_precision(task):
        before = [_predictions(task, graph) for graph in graphs]
        spread = torch.cat(before).var(0).mean().sqrt().item()
        if not spread > 0:
            raise ConfigError(f"{opened.name}: the metanet predicts the same for all {nets} nets; nothing to compare")
        rows = []
        for name, rewritings in _transformations(graphs, functions, seed):
            progress(name)
            rows.append(_row(task, name, name in claims, graphs, before, spread, functions, rewritings))
    return Audit(type(task.metanet).__name__, opened.name, tuple(rows))


def _draw(zoo: ModelZoo, split: str, nets: int, seed: int) -> list[NeuronGraph]:
    rows = torch.as_tensor(zoo.rows(split))
    chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:nets]]
    graphs = [zoo.graph(group).to(torch.float64) for group in zoo.by_space(chosen.sort().values.numpy()).values()]
    finite = [torch.stack([t.isfinite().flatten(1).all(1) for t in g.tensors.values()]).all(0) for g in graphs]
    kept = [g.select(keep.nonzero().flatten()) for g, keep in zip(graphs, finite, strict=True) if keep.any()]
    if sum(g.batch_size for g in kept) < 2:
        raise ConfigError(f"{zoo.name}: split '{split}' gives fewer than two nets with finite weights to audit")
    return kept


def _predictions(task: PropertyTask, graph: NeuronGraph) -> Tensor:
    parts = [graph.select(slice(i, i + CHUNK)) for i in range(0, graph.batch_size, CHUNK)]
    return torch.cat([task.audited(part) for part in parts])


def _row(
    task: PropertyTask,
    name: str,
    claimed: bool,
    graphs: Sequence[NeuronGraph],
    before: Sequence[Tensor],
    spread: float,
    functions: Mapping[str, Function | None],
    rewritings: Mapping[str, Rewriting],
) -> AuditRow:
    old, new, residuals = [before[0][:0]], [before[0][:0]], []
    for graph, base in zip(graphs, before, strict=True):
        rewrite = rewritings.get(graph.space.digest)
        if rewrite is None:
            continue
        states = [graph.select(slice(i, i + 1)).state_dict() for i in range(graph.batch_size)]
        found = [rewrite(state, i) for i, state in enumerate(states)]
        moved = NeuronGraph.from_state_dicts(found[0][0], [state for _, state in found])
        try:
            new.append(_predictions(task, moved))
        except SpaceError:  # a metanet made for one architecture, and a wider net
            continue
        old.append(base)
        function = functions[graph.space.digest]
        if function is not None:
            residuals += [function.residual(a, b) for a, (_, b) in zip(states, found, strict=True)]
    return AuditRow(name, claimed, torch.cat(old), torch.cat(new), spread, torch.tensor(residuals), name == CONTROL)


def _transformations(
    graphs: Sequence[NeuronGraph], functions: Mapping[str, Function | None], seed: int
) -> Iterator[tuple[str, dict[str, Rewriting]]]:
    """Every transformation by name, with how it rewrites the nets of each space that has it."""
    spaces = {g.space.digest: g.space for g in graphs}
    for kind in KINDS:
        having = {d: s for d, s in spaces.items() if kind == "permutation" or any(g.kind == kind for g in s.gauges)}
        if having:
            yield kind, {digest: _symmetry(space, kind, seed) for digest, space in having.items()}
    for name, copies in (("widening", _quarter), ("duplication", _twice)):
        wide = {g.space.digest: _widening(g, functions[g.space.digest], copies, seed) for g in graphs}
        if any(wide.values()):
            yield name, {d: _widened(w) for d, w in wide.items() if w is not None}
    yield CONTROL, {d: _uncoupled(s, seed) for d, s in spaces.items() if s.free_axes}


def _symmetry(space: WeightSpace, kind: str, seed: int) -> Rewriting:
    return lambda state, i: (space, space.sample(seed=seed + i, kinds=(kind,)).apply(state))


def _uncoupled(space: WeightSpace, seed: int) -> Rewriting:
    count = {axis.name: sum(axis.name in t.axes for t in space.tensors) for axis in space.free_axes if axis.size > 1}
    name = next(t.name for t in space.tensors if any(count.get(axis, 0) > 1 for axis in t.axes))
    return lambda state, i: (space, {**state, name: space.sample(seed=seed + i).apply(state)[name]})


def _widened(widening: Widening) -> Rewriting:
    return lambda state, i: (widening.wide, widening.apply(state))


def _quarter(size: int, generator: torch.Generator) -> Tensor:
    extra = torch.randint(size, (max(1, size // 4),), generator=generator)
    return torch.cat([torch.arange(size), extra])


def _twice(size: int, generator: torch.Generator) -> Tensor:
    return torch.arange(2 * size) % size


def _widening(
    graph: NeuronGraph, function: Function | None, copies: Callable[[int, torch.Generator], Tensor], seed: int
) -> Widening | None:
    """The widening of all axes along which it preserves the function, as far as the function can tell."""
    if function is None:
        return None
    generator, state, chosen = torch.Generator().manual_seed(seed), graph.state_dict(), {}
    for axis in graph.space.free_axes:
        index = copies(axis.size, generator)
        try:
            if function.residual(state, widen(graph.space, {axis.name: index}).apply(state)) <= PRESERVED:
                chosen[axis.name] = index
        except (SpaceError, RuntimeError):  # tied weights; a forward pass that fixes its widths
            continue
    return widen(graph.space, chosen) if chosen else None
