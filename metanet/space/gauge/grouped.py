"""Scalings and signs of queries that share their keys, where norms or positions leave no more.

The passes over scalings and signs (:mod:`.infer`) know one factor per neuron of a layer; that the queries of all heads
of a group move with the one key that they share is tried (:mod:`.products`) instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from metanet.space.axes import Dim, leaves
from metanet.space.calls import argument
from metanet.space.gauge.heads import Rows, batch_factors, entries, weight_rows
from metanet.space.gauge.products import Act, Products
from metanet.space.gauge.trial import Trial
from metanet.space.gauges import Gauge, GaugePart

DRAWS = 24  # of signs: those that a network allows form a group, of which all are or else half of them at most


def grouped(products: Products, rows: tuple[Rows, Rows], names: Mapping[Dim, str]) -> Iterator[Gauge]:
    """Scalings and signs with one factor per head of keys and entry (or pair of entries) of the width.

    Args:
        products: Tries changes of queries and keys.
        rows: The rows that make the heads of queries and keys.
        names: The axis name of every atom that indexes a tensor.
    """
    trial, layers = products.trial, products.scores.layers
    tensors = [_tensors(trial, layer) for layer in layers]
    if layers[0] is layers[1] or not all(tensors) or all(r.table.shape[-2] == 1 for r in rows):
        return
    dims = [weight_rows(trial, layer) for layer in layers]
    factors = batch_factors(trial, products.scores.keys)
    outer = [factors[n] for n in rows[1].outer]
    both = set(leaves(dims[0]))
    for inner in dict.fromkeys(a for a in leaves(dims[1]) if a in both and a not in outer and a.size > 1):
        atoms = (*outer, inner)
        places = [p for p in (_joint(d, atoms) for d in dims) if p is not None]
        if len(places) < 2 or not all(a in names for a in atoms):
            continue
        for kind, exponent in (("scale", -1.0), ("sign", 1.0)):
            draws = range(DRAWS if kind == "sign" else 1)
            if all(_stay(products, places, kind, math.prod(a.size for a in atoms), draw) for draw in draws):
                parts = [GaugePart(t, (0,), e) for own, e in zip(tensors, (1.0, exponent), strict=True) for t in own]
                yield Gauge(kind, tuple(names[a] for a in atoms), tuple(parts))  # type: ignore[arg-type]


def _stay(products: Products, places: Sequence[Tensor], kind: str, size: int, draw: int) -> bool:
    """Whether products stay when queries are multiplied by random factors and keys by their inverses."""
    number = products.trial.random([size])
    factor = number.exp() if kind == "scale" else number.sign()
    query, key = (_scaling(p, f) for p, f in zip(places, (factor, 1 / factor), strict=True))
    return products.stay(query, key, (*(tuple(p.tolist()) for p in places), kind, draw))


def _tensors(trial: Trial, layer: fx.Node) -> list[str]:
    """The weight of a layer and its bias, if that is a parameter that serves nothing else; empty if it is not."""
    weight, bias = layer.args[1], argument(layer, "bias")
    nodes = [weight] if bias is None else [weight, bias]
    own = bias is None or trial.alone(bias)
    return [trial.tensor(n) for n in nodes] if own else []


def _joint(dim: Dim, atoms: Sequence[Dim]) -> Tensor | None:
    """For every entry of a dim, which factor it has, counted in row-major order; -1 if none."""
    joint = torch.zeros(dim.size, dtype=torch.long)
    every = torch.ones(dim.size, dtype=torch.bool)
    for atom in atoms:
        own = entries(dim, atom)
        if (own < -1).any():
            return None
        joint, every = joint * atom.size + own, every & (own >= 0)
    return joint.where(every, -1)


def _scaling(places: Tensor, factors: Tensor) -> Act:
    rows = torch.where(places >= 0, factors[places.clamp(min=0)], 1.0)
    return lambda z: z * rows
