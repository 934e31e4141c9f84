"""Orthogonal matrices: neurons that nothing but linear operations and their norm read may be rotated.

``W1 -> Q W1`` and ``W2 -> W2 Q^T`` around a function ``f(|z|) z``, as in RMS norms without scales: residual streams
behind these, queries and keys that are normed. The pass is that of invertible matrices, over the integers modulo 2,
for a matrix is its own inverse transpose; besides, a sum of squares over the inner atom does not see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from metanet.space.axes import Dim, leaves
from metanet.space.calls import argument, operation_name
from metanet.space.gauge.demands import Moved
from metanet.space.gauge.linear import PASSING, LinearPass, matrices
from metanet.space.gauges import Gauge
from metanet.space.walk import Value, Walk

SQUARES = ("aten.pow", "aten.square")
NORM = "aten.linalg_vector_norm"
SUMS = ("aten.sum", "aten.mean")


def infer_orthogonal(walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str]) -> tuple[Gauge, ...]:
    """All neurons that may be rotated, but not mixed by any invertible matrix.

    Networks without a norm that is spelled out are not looked at.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.

    Returns:
        Gauges of kind ``"orthogonal"`` with axes ``(*outer, inner)``.
    """
    if not any(operation_name(n) in (*SQUARES, NORM) for n in nodes if n.op == "call_function"):
        return ()
    invertible = {_moved(g) for g in matrices(LinearPass(walk, nodes), "linear", names)}
    return tuple(g for g in matrices(OrthogonalPass(walk, nodes), "orthogonal", names) if _moved(g) not in invertible)


def _moved(gauge: Gauge) -> frozenset[tuple[Any, ...]]:
    return frozenset((gauge.axes, p.tensor, p.dims, p.chosen) for p in gauge.parts)


class OrthogonalPass(LinearPass):
    """The gauge pass for orthogonal matrices."""

    modulus = 2
    passing = PASSING | {*SQUARES, NORM}

    def op_pow(self, node: fx.Node, value: Value, x: Any, exponent: Any = 2, *rest: Any) -> Moved:
        """Squares that are summed over the inner atom wherever they are read."""
        if not isinstance(x, Moved) or exponent != 2:
            return self.fixed(value, *(item for item in (x, exponent) if isinstance(item, Moved)))
        summed = [_summed(user, x) if operation_name(user) in SUMS else frozenset() for user in node.users]
        return self._normed(value, x, frozenset.intersection(*summed) if summed else frozenset())

    op_square = op_pow

    def op_linalg_vector_norm(
        self, node: fx.Node, value: Value, x: Moved, order: Any = 2, *rest: Any
    ) -> Moved:  # fmt: skip
        """The Euclidean norm along dimensions that hold the inner atom."""
        return self._normed(value, x, _summed(node, x) if order == 2 else frozenset())

    def _normed(self, value: Value, x: Moved, summed: Iterable[Dim]) -> Moved:
        """The result of a function of sums of squares over atoms; keys of other atoms may not move."""
        atoms = frozenset(summed)
        self.untangle([x])
        for key, form in x.forms.items():
            if self.mixed(key) not in atoms:
                self.system.vanish(form)
        return Moved(value)


def _summed(node: fx.Node, x: Moved) -> frozenset[Dim]:
    """The atoms of the dimensions that a reduction sums over."""
    chosen = argument(node, "dim")
    count = len(x.value.dims)
    every = range(count) if chosen is None or chosen == [] else chosen if isinstance(chosen, list | tuple) else [chosen]
    return frozenset(a for d in every for a in leaves(x.value.dims[int(d) % count]))
