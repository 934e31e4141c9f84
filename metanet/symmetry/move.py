"""Moves: elements of a weight space's symmetry group, acting on plain state dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metanet.errors import SpaceError
from metanet.space.gauges import Gauge
from metanet.space.labels import Axis
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.kinds import ACTIONS, KINDS, Action


@dataclass(frozen=True, eq=False)
class Move:
    """An element of the symmetry group: gauges act one after the other, then neurons are permuted.

    The direction of permutations is the same everywhere: ``new[i] = old[perm[i]]``.

    Attributes:
        space: The space whose group this is an element of.
        perms: Int64 permutation ``[size]`` by axis name; axes left out stay.
        factors: Elements of gauges, by place of the gauge in ``space.gauges``, in the order in which they act: factors
            in the shape of ``gauge.axes``, integers for phases, vectors for shifts, permutations ``[*outer, inner]``,
            matrices ``[*outer, inner, inner]``, complex numbers ``[*outer, pairs]``.
        first: A move that acts before this one, where the two cannot be written as one.
    """

    space: WeightSpace
    perms: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[int, Tensor] = field(default_factory=dict)
    first: Move | None = None

    def apply(self, state: Mapping[str, Tensor], batched: bool = False) -> dict[str, Tensor]:
        """Act on a state dict.

        Args:
            state: Tensors by name, ``[*shape]``; entries that the space does not govern are passed through.
            batched: Whether tensors are stacked, ``[B, *shape]``.

        Returns:
            New tensors in the order of ``state``; nothing is changed in place.

        Raises:
            SpaceError: A tensor is missing or has another shape than in the space.
        """
        check_state(self.space, state, batched)
        state = self.first.apply(state, batched) if self.first is not None else state
        new = dict(state)
        gauges = {n: self.space.gauges[n] for n in self.factors}
        moved = {p.tensor: state[p.tensor].clone() for g in gauges.values() for p in g.parts}
        read = {p.through: state[p.through] for g in gauges.values() for p in g.parts if p.through}
        tensors = {**read, **moved}
        for number, element in self.factors.items():
            ACTIONS[gauges[number].kind].act(self.space, gauges[number], element, tensors, batched)
        for spec in self.space.tensors:
            tensor = tensors.get(spec.name, state[spec.name])
            for dim, label in enumerate(spec.labels):
                index = label.gather(self.perms)
                if index is not None:
                    tensor = tensor.index_select(dim + batched, index.to(tensor.device))
            for name in (spec.name, *spec.aliases):
                if name in new:
                    new[name] = tensor
        return new

    def inverse(self) -> Move:
        """The move that undoes this one."""
        back = {name: torch.argsort(perm) for name, perm in self.perms.items()}
        factors = {}
        for number, element in reversed(self.factors.items()):  # type: ignore[call-overload]
            action, gauge = self._action(number)
            factors[number] = action.carried(action.inverse(element), gauge, self.perms)
        undone = Move(self.space, back, factors)
        return undone if self.first is None else self.first.inverse()._after(undone)

    def compose(self, other: Move) -> Move:
        """The move that acts like ``other`` first and then this one."""
        if self.first is not None or other.first is not None or not (self._commutes() and other._commutes()):
            return self._after(other)
        back = {name: torch.argsort(perm) for name, perm in other.perms.items()}
        factors = dict(other.factors)
        for number, element in self.factors.items():  # moved before the other's permutation
            action, gauge = self._action(number)
            element = action.carried(element, gauge, back)
            factors[number] = action.compose(element, factors[number]) if number in factors else element
        perms = dict(other.perms)
        for name, perm in self.perms.items():
            perms[name] = perms[name][perm] if name in perms else perm
        return Move(self.space, perms, factors)

    def _after(self, other: Move) -> Move:
        """This move after another one, step by step."""
        return replace(self, first=other if self.first is None else self.first._after(other))

    def _action(self, number: int) -> tuple[Action, Gauge]:
        gauge = self.space.gauges[number]
        return ACTIONS[gauge.kind], gauge

    def _commutes(self) -> bool:
        return all(self._action(number)[0].commuting for number in self.factors)

    def __repr__(self) -> str:
        moved = sum(len(p) for p in self.perms.values())
        gauged = f", acts with {len(self.factors)} gauges" if self.factors else ""
        then = f" after {self.first!r}" if self.first is not None else ""
        return f"Move(permutes {moved} neurons on {len(self.perms)} axes{gauged}){then}"


def sample(
    space: WeightSpace, seed: int = 0, kinds: Sequence[str] = ("permutation",), axes: Sequence[str] | None = None
) -> Move:
    """Draw a random element of the symmetry group.

    Args:
        space: The space.
        seed: Seed of the draw.
        kinds: Generators to draw from: ``"permutation"``, ``"scale"``, ``"sign"``, ``"phase"``, ``"shift"``,
            ``"linear"``, ``"orthogonal"``, ``"rotation"``.
        axes: Names of the free axes to move; all by default.

    Returns:
        A move in which no axis of size two or more keeps its order.

    Raises:
        SpaceError: A kind is not known, or an axis is not a free axis of the space.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise SpaceError(f"cannot sample symmetries of kind {unknown}; accepted: {', '.join(KINDS)}")
    absent = sorted(set(axes or ()) - {a.name for a in space.free_axes})
    if absent:
        raise SpaceError(f"cannot permute {absent}: got names that are not free axes of the space (space.free_axes)")
    perms = shuffles(space.free_axes, seed) if "permutation" in kinds else {}
    perms = {name: p for name, p in perms.items() if (axes is None or name in axes) and len(p) > 1}
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = [n for n, g in enumerate(space.gauges) if g.kind in kinds and (axes is None or set(g.axes) <= set(axes))]
    return Move(
        space, perms, {n: ACTIONS[space.gauges[n].kind].draw(space.gauges[n], space, generator) for n in chosen}
    )


def shuffles(axes: Sequence[Axis], seed: int) -> dict[str, Tensor]:
    """A random permutation per axis name; none is the identity if the axis has two or more entries."""
    generator = torch.Generator().manual_seed(seed)
    return {a.name: _shuffle(a.size, generator) for a in axes}


def _shuffle(size: int, generator: torch.Generator) -> Tensor:
    """A random permutation that is not the identity."""
    perm = torch.randperm(size, generator=generator)
    return perm.roll(1) if size > 1 and torch.equal(perm, torch.arange(size)) else perm


def check_state(space: WeightSpace, state: Mapping[str, Tensor], batched: bool = False) -> None:
    """Raise unless a state dict has every tensor of a space, in its shape (a leading batch dimension if batched)."""
    for spec in space.tensors:
        if spec.name not in state:
            raise SpaceError(
                f"tensor '{spec.name}' {list(spec.shape)} is missing; got {_some(state)}. "
                f"The state dict must come from the architecture of the space"
            )
        shape = tuple(state[spec.name].shape)[1 if batched else 0 :]
        if shape != spec.shape:
            raise SpaceError(f"tensor '{spec.name}' has shape {list(shape)}, the space says {list(spec.shape)}")
        kind = state[spec.name].dtype
        if not kind.is_complex and (kind.itemsize == 1 or not kind.is_floating_point):
            raise SpaceError(
                f"tensor '{spec.name}' holds {str(kind).removeprefix('torch.')}, a weight is a floating-point number "
                "of 16 bits or more. Codes of a quantised network mean nothing alone: dequantise it first"
            )


SHARED_BYTES = 32 << 20


def check_shared(space: WeightSpace, state: Mapping[str, Tensor]) -> None:
    """Raise if a state dict shows the same memory so often that a copy of its tensors would be far larger.

    A few bytes of a file may stand under thousands of names, or be repeated along a dimension. Accepted are twice the
    bytes that the tensors hold + 32 MiB.
    """
    tensors = [state[spec.name] for spec in space.tensors]
    copied = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    if copied <= SHARED_BYTES:
        return
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if copied > 2 * sum(held.values()) + SHARED_BYTES:
        raise SpaceError(
            f"the tensors share their memory: a copy of each would take {copied:,} bytes, they hold "
            f"{sum(held.values()):,} (accepted are twice that + {SHARED_BYTES >> 20} MiB). If they are meant to be "
            "equal, save each as a tensor of its own"
        )


def check_real(space: WeightSpace, state: Mapping[str, Tensor]) -> None:
    """Raise if a tensor of a space holds complex numbers: graphs and zoos hold real ones."""
    turned = next((spec.name for spec in space.tensors if state[spec.name].is_complex()), None)
    if turned is not None:
        raise SpaceError(
            f"tensor '{turned}' holds complex numbers; a neuron graph and a zoo hold real ones. Give real and "
            "imaginary part as tensors of their own (torch.view_as_real)"
        )


def _some(state: Mapping[str, Tensor]) -> str:
    names = list(state)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "no tensors"
