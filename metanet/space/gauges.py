"""Gauges: continuous and sign symmetries of a weight space, as data.

One gauge multiplies tensors by powers of free factors, one factor per neuron of a node set: ``W -> c^e W`` along the
dimensions that the node set indexes. Positive scaling of ReLU neurons, sign flips of tanh neurons, the query/key and
value/output scalings of attention, those of gated MLPs, of batch norms and of low-rank adapters all have this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

GaugeKind = Literal["scale", "sign", "permutation", "phase", "shift", "linear", "orthogonal"]


@dataclass(frozen=True)
class GaugePart:
    """How one tensor moves under a gauge.

    Attributes:
        tensor: Its name.
        dims: Its dimensions that the factors run over.
        exponent: Power of the factor; -1 is the inverse transpose of a matrix.
        chosen: Entries on ordered axes: the part is the slice of the tensor there (queries in a fused qkv).
        offset: Added to the tensor before it is multiplied and subtracted afterwards; the epsilon of a batch norm's
            variance, ``v -> c^e (v + eps) - eps``.
        shift: Added to the tensor for every unit of the element, in kinds that add: ``pi / omega`` for the bias of a
            sine, 1 for what is shifted, other numbers for what undoes a shift.
        through: Name of a weight: what is added is the element times this weight, summed over ``dims`` of the weight.
    """

    tensor: str
    dims: tuple[int, ...]
    exponent: float
    chosen: tuple[tuple[str, int], ...] = ()
    offset: float = 0.0
    shift: float = 0.0
    through: str = ""

    def __str__(self) -> str:
        where = self.tensor + "".join(f"[{axis}={entry}]" for axis, entry in self.chosen)
        if self.through:
            return f"{where}{self.shift:+g} {self.through}"
        return f"{where}{self.shift:+g}" if self.shift else f"{where}^{self.exponent:g}"


@dataclass(frozen=True)
class Gauge:
    """One family of symmetries with a free factor per neuron.

    Attributes:
        kind: ``"scale"`` for factors in R>0, ``"sign"`` for factors in {-1, +1}; ``"permutation"`` for permutations of
            the last axis that differ between entries of the others; ``"phase"`` for integers, half periods that a sine
            is shifted by; ``"shift"`` for vectors that are added; ``"linear"`` for invertible matrices over the last
            axis, one for every entry of the others; ``"orthogonal"`` for orthogonal ones.
        axes: Axes that index the factors: their shape is the product of these sizes.
        parts: The tensors that move.
    """

    kind: GaugeKind
    axes: tuple[str, ...]
    parts: tuple[GaugePart, ...]

    def __str__(self) -> str:
        moves = ", ".join(map(str, self.parts))
        return f"{self.kind} per ({', '.join(self.axes)}): {moves}"


def gauge_from_data(data: dict[str, Any]) -> Gauge:
    """Inverse of ``dataclasses.asdict`` after a JSON round trip."""
    parts = tuple(
        GaugePart(**{**p, "dims": tuple(p["dims"]), "chosen": tuple((a, n) for a, n in p["chosen"])})
        for p in data["parts"]
    )
    return Gauge(data["kind"], tuple(data["axes"]), parts)
