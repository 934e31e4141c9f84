"""Function-preserving widening: the same function, written with more neurons.

A neuron that is copied sends each reader the same value several times, so whoever reads it takes a share of each copy
(Net2Net, Chen, Goodfellow and Shlens 2016): with ``n_i`` copies of neuron i, the rows that write it are repeated, and
the columns that read it are repeated and divided by ``n_i``. Not a symmetry of one weight space but a map between two;
it preserves the function where the neurons are read by weights alone. Where something else sums or normalises over them
(attention scores, layer norm) it does not, which only the function itself can tell: see :func:`metanet.audit.audit`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metanet.errors import SpaceError
from metanet.space.labels import Label
from metanet.space.weight_space import WEIGHT_KINDS, WeightSpace
from metanet.symmetry.move import check_state


@dataclass(frozen=True, eq=False)
class Widening:
    """A map from the nets of one space to nets of a wider one.

    Attributes:
        space: The space of the nets it takes.
        wide: The space of those it gives.
        copies: Int64 ``[wide size]`` by axis name: which old entry each new one copies.
    """

    space: WeightSpace
    wide: WeightSpace
    copies: Mapping[str, Tensor]

    def apply(self, state: Mapping[str, Tensor], batched: bool = False) -> dict[str, Tensor]:
        """Widen a state dict; entries that the space does not govern are passed through.

        Args:
            state: Tensors by name, ``[*shape]``.
            batched: Whether they are stacked, ``[B, *shape]``.

        Raises:
            SpaceError: A tensor is missing or has another shape than in the space.
        """
        check_state(self.space, state, batched)
        read = _read_dims(self.space)
        new = dict(state)
        for spec in self.space.tensors:
            moved = state[spec.name]
            for dim, label in enumerate(spec.labels):
                index = label.gather(self.copies)
                if index is None:
                    continue
                index = index.to(moved.device)
                moved = moved.index_select(dim + batched, index)
                if dim in read.get(spec.name, ()):
                    share = 1 / torch.bincount(index, minlength=label.size)[index].to(moved)
                    moved = moved * share.reshape(-1, *[1] * (len(spec.shape) - dim - 1))
            for name in (spec.name, *spec.aliases):
                if name in new:
                    new[name] = moved
        return new


def widen(space: WeightSpace, copies: Mapping[str, Tensor]) -> Widening:
    """Describe a widening.

    Args:
        space: The space.
        copies: Int64 indices by name of a free axis: the old entry that each new one copies. Every entry must occur.

    Raises:
        SpaceError: An axis is not free, indices are out of range or leave an entry out, or a tensor is both written and
            read along a dimension that widens (tied weights).
    """
    sizes = {a.name: a.size for a in space.free_axes}
    for name, index in copies.items():
        if name not in sizes:
            raise SpaceError(f"cannot widen '{name}': got no free axis of that name; accepted: {', '.join(sizes)}")
        if sorted(set(index.tolist())) != list(range(sizes[name])):
            raise SpaceError(
                f"cannot widen '{name}': its {sizes[name]} entries must all be copied at least once; "
                f"got the entries {sorted(set(index.tolist()))[:8]}"
            )
    for link in space.links:
        for dim in set(link.source_dims) & set(link.target_dims):
            if set(space.tensor[link.tensor].labels[dim].axes) & set(copies):
                raise SpaceError(f"cannot widen '{link.tensor}': its dimension {dim} is both written and read")
    return Widening(space, resized(space, {name: len(index) for name, index in copies.items()}), dict(copies))


def resized(space: WeightSpace, sizes: Mapping[str, int]) -> WeightSpace:
    """The same architecture with other sizes of some axes; nobody has certified it."""
    data = json.loads(space.to_json())
    for axis in data["axes"]:
        axis["size"] = sizes.get(axis["name"], axis["size"])
    for tensor, spec in zip(data["tensors"], space.tensors, strict=True):
        tensor["shape"] = [_size(label, sizes) for label in spec.labels]
    data["certified"] = False
    return WeightSpace.from_json(json.dumps(data))


def _size(label: Label, sizes: Mapping[str, int]) -> int:
    """Return the entries of a dimension where some axes have other sizes."""
    if not label.parts:
        return sizes.get(label.axis, label.size)
    parts = [_size(part, sizes) for part in label.parts]
    return sum(parts) if label.op == "concat" else math.prod(parts)


def _read_dims(space: WeightSpace) -> dict[str, set[int]]:
    """The dimensions of every tensor along which it reads neurons."""
    found: dict[str, set[int]] = {}
    for link in space.links:
        if link.kind in WEIGHT_KINDS:
            found.setdefault(link.tensor, set()).update(link.source_dims)
    return found
