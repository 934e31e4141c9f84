"""Gauges: continuous and sign symmetries of a weight space, as data.

One gauge multiplies tensors by powers of free factors, one factor per neuron of a node set: ``W -> c^e W`` along the
dimensions that the node set indexes. Positive scaling of ReLU neurons, sign flips of tanh neurons, the query/key and
value/output scalings of attention, those of gated MLPs, of batch norms and of low-rank adapters all have this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class GaugePart:
    """How one tensor moves under a gauge.

    Attributes:
        tensor: Its name.
        dims: Its dimensions that the factors run over.
        exponent: Power of the factor.
        chosen: Entries on ordered axes: the part is the slice of the tensor there (queries in a fused qkv).
        offset: Added to the tensor before it is multiplied and subtracted afterwards; the epsilon of a batch norm's
            variance, ``v -> c^e (v + eps) - eps``.
    """

    tensor: str
    dims: tuple[int, ...]
    exponent: float
    chosen: tuple[tuple[str, int], ...] = ()
    offset: float = 0.0


@dataclass(frozen=True)
class Gauge:
    """One family of symmetries with a free factor per neuron.

    Attributes:
        kind: ``"scale"`` for factors in R>0, ``"sign"`` for factors in {-1, +1}.
        axes: Axes that index the factors: their shape is the product of these sizes.
        parts: The tensors that move.
    """

    kind: Literal["scale", "sign"]
    axes: tuple[str, ...]
    parts: tuple[GaugePart, ...]

    def __str__(self) -> str:
        moves = ", ".join(f"{p.tensor}{''.join(f'[{a}={n}]' for a, n in p.chosen)}^{p.exponent:g}" for p in self.parts)
        return f"{self.kind} per ({', '.join(self.axes)}): {moves}"


def gauge_from_data(data: dict[str, Any]) -> Gauge:
    """Inverse of ``dataclasses.asdict`` after a JSON round trip."""
    parts = tuple(
        GaugePart(p["tensor"], tuple(p["dims"]), p["exponent"], tuple((a, n) for a, n in p["chosen"]), p["offset"])
        for p in data["parts"]
    )
    return Gauge(data["kind"], tuple(data["axes"]), parts)
