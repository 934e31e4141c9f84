"""Gauges: continuous and sign symmetries of a weight space, as data.

One gauge multiplies tensors by powers of free factors, one factor per neuron of a node set: ``W -> c^e W`` along the
dimensions that the node set indexes. Positive scaling of ReLU neurons, sign flips of tanh neurons, the query/key and
value/output scalings of attention, those of gated MLPs, of batch norms and of low-rank adapters all have this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

GaugeKind = Literal["scale", "sign", "permutation", "phase", "shift", "linear", "orthogonal", "rotation"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of entries of one dimension, ``count`` of them for every entry of the axes of a gauge.

    Attributes:
        start: The first entry of the first pair.
        strides: How far it moves from one entry of each axis to the next.
        count: How many pairs there are.
        step: How far it is from one pair to the next.
        apart: How far it is from the first entry of a pair to the second.
    """

    start: int
    strides: tuple[int, ...]
    count: int
    step: int
    apart: int

    def first(self, sizes: Sequence[int]) -> Tensor:
        """The first entries of all pairs, ``[*sizes, count]``, given the sizes of the axes."""
        found = self.start + self.step * torch.arange(self.count)
        for size, stride in zip(reversed(sizes), reversed(self.strides), strict=True):
            found = found + (stride * torch.arange(size)).view(-1, *[1] * found.ndim)
        return found

    def __str__(self) -> str:
        return f"[{self.start}+{self.step}n, +{self.apart}]"


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
        pairs: Which entries, along the one dimension, complex numbers multiply.
    """

    tensor: str
    dims: tuple[int, ...]
    exponent: float
    chosen: tuple[tuple[str, int], ...] = ()
    offset: float = 0.0
    shift: float = 0.0
    through: str = ""
    pairs: Pairs | None = None

    def __str__(self) -> str:
        where = self.tensor + "".join(f"[{axis}={entry}]" for axis, entry in self.chosen) + str(self.pairs or "")
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
            axis, one for every entry of the others; ``"orthogonal"`` for orthogonal ones; ``"rotation"`` for complex
            numbers, one per pair of entries, of modulus one if all exponents are 1.
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
    return Gauge(data["kind"], tuple(data["axes"]), tuple(map(_part_from_data, data["parts"])))


def _part_from_data(data: dict[str, Any]) -> GaugePart:
    pairs = data.get("pairs")
    made = Pairs(**{**pairs, "strides": tuple(pairs["strides"])}) if pairs else None
    chosen = tuple((axis, entry) for axis, entry in data["chosen"])
    return GaugePart(**{**data, "dims": tuple(data["dims"]), "chosen": chosen, "pairs": made})
