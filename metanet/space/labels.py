"""Axes and labels in their final, immutable form.

A :class:`Label` says what indexes one dimension of a tensor: an axis, a row-major product of labels, or a
concatenation of labels. A permutation of the axes turns into a permutation of that dimension.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

AxisKind = Literal["neuron", "input", "output", "fixed"]


@dataclass(frozen=True)
class Axis:
    """An index that several tensors share.

    Attributes:
        name: Unique in its space; where the axis was first seen (``"conv1.weight[0]"``).
        size: Number of entries.
        kind: ``"neuron"`` if its entries may be permuted; ``"input"`` and ``"output"`` are the network's own
            interface, whose order matters; ``"fixed"`` is everything else that is ordered (positions, kernel taps,
            what an unsupported operation touched).
        reason: Why it is not free; empty for neurons.
    """

    name: str
    size: int
    kind: AxisKind
    reason: str = ""

    @property
    def free(self) -> bool:
        """Whether entries may be permuted without changing the network's function."""
        return self.kind == "neuron"


@dataclass(frozen=True)
class Label:
    """What indexes one dimension of a tensor.

    Attributes:
        size: Entries of the dimension.
        op: ``"axis"``, ``"product"`` (row-major, outer first), ``"concat"``, or ``"unit"`` for size 1.
        axis: Axis name where ``op`` is ``"axis"``.
        parts: Factors or pieces otherwise.
    """

    size: int
    op: Literal["axis", "product", "concat", "unit"]
    axis: str = ""
    parts: tuple[Label, ...] = ()

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes below this label, outer first, repeats kept."""
        return tuple(self._walk())

    def _walk(self) -> Iterator[str]:
        if self.op == "axis":
            yield self.axis
        for part in self.parts:
            yield from part._walk()

    def gather(self, perms: Mapping[str, Tensor]) -> Tensor | None:
        """The index that permutes this dimension: ``new[i] = old[index[i]]``.

        Args:
            perms: A permutation ``[size]`` per axis name; missing axes stay.

        Returns:
            Int64 indices ``[size]``, or None if nothing moves.
        """
        if not any(axis in perms for axis in self.axes):
            return None
        if self.op == "axis":
            return perms[self.axis]
        parts = [p.gather(perms) for p in self.parts]
        full = [torch.arange(p.size) if i is None else i for p, i in zip(self.parts, parts, strict=True)]
        if self.op == "concat":
            starts = [sum(p.size for p in self.parts[:k]) for k in range(len(self.parts))]
            return torch.cat([i + s for i, s in zip(full, starts, strict=True)])
        index = torch.zeros(1, dtype=torch.long)
        for p, i in zip(self.parts, full, strict=True):  # an index may also repeat entries, so sizes are the old ones
            index = (index[:, None] * p.size + i[None, :]).reshape(-1)
        return index

    def pieces(self) -> list[tuple[Label, Sequence[int]]]:
        """The alternatives of concatenations, each with the entries it stands for.

        Products are distributed over concatenations. Entries are a range where they are contiguous.
        """
        if self.op == "concat":
            starts = itertools.accumulate((p.size for p in self.parts), initial=0)
            shifted = zip(starts, (p.pieces() for p in self.parts), strict=False)
            return [(label, _shift(entries, start)) for start, pieces in shifted for label, entries in pieces]
        if self.op == "product":
            sizes = [p.size for p in self.parts]
            choices = itertools.product(*(p.pieces() for p in self.parts))
            return [(product_label([x for x, _ in c]), _joint([e for _, e in c], sizes)) for c in choices]
        return [(self, range(self.size))]

    def to_data(self) -> Any:
        """Plain JSON data: an axis name, ``1``, or ``{"product": [...]}`` / ``{"concat": [...]}``."""
        if self.op == "axis":
            return self.axis
        return self.size if self.op == "unit" else {self.op: [p.to_data() for p in self.parts]}

    @staticmethod
    def from_data(data: Any, sizes: Mapping[str, int]) -> Label:
        """Inverse of :meth:`to_data`; ``sizes`` gives the size of each axis by name."""
        if isinstance(data, str):
            return Label(sizes[data], "axis", data)
        if isinstance(data, int):
            return Label(data, "unit")
        ((op, raw),) = data.items()
        parts = tuple(Label.from_data(d, sizes) for d in raw)
        size = math.prod(p.size for p in parts) if op == "product" else sum(p.size for p in parts)
        return Label(size, op, parts=parts)

    def __str__(self) -> str:
        if self.op in ("axis", "unit"):
            return self.axis or str(self.size)
        return "(" + (" x " if self.op == "product" else " + ").join(map(str, self.parts)) + ")"


def _shift(entries: Sequence[int], start: int) -> Sequence[int]:
    if isinstance(entries, range):
        return range(entries.start + start, entries.stop + start)
    return tuple(e + start for e in entries)


def _joint(entries: Sequence[Sequence[int]], sizes: Sequence[int]) -> Sequence[int]:
    """Row-major numbers of all combinations of entries of dimensions with these sizes."""
    width = math.prod(sizes[1:])
    if isinstance(entries[0], range) and all(len(e) == s for e, s in zip(entries[1:], sizes[1:], strict=True)):
        return range(entries[0].start * width, entries[0].stop * width)
    numbers = [0]
    for chosen, size in zip(entries, sizes, strict=True):
        numbers = [n * size + e for n in numbers for e in chosen]
    return tuple(numbers)


def product_label(parts: Sequence[Label]) -> Label:
    """The row-major product of labels, flattened; units vanish."""
    flat = [f for p in parts for f in (p.parts if p.op == "product" else (p,)) if f.size != 1]
    if len(flat) == 1:
        return flat[0]
    return Label(math.prod(f.size for f in flat), "product", parts=tuple(flat)) if flat else Label(1, "unit")
