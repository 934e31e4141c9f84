"""What a layout consists of: node sets, blocks and vectors, and where each lies in its tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metanet.space.weight_space import Link

NODE_KINDS = ("neuron", "input", "output", "fixed")


@dataclass(frozen=True)
class NodeSet:
    """Neurons that one label indexes.

    Attributes:
        name: Name of the first axis, or of the label.
        axes: Axes whose product it is, outer first.
        sizes: Their sizes.
        kind: ``"neuron"``, ``"input"``, ``"output"`` or ``"fixed"``.
        depth: Depth of the first link that writes it; 0 for inputs.
        activation: Nonlinearity after the first link that writes it and has one.
    """

    name: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    kind: str
    depth: int = 0
    activation: str | None = None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Piece:
    """Where a block or vector lies in its tensor: a slice of each dimension, seen as atoms.

    Attributes:
        entries: Entries per tensor dimension; a range where they are contiguous.
        atoms: Sizes of all atoms, dimension by dimension, outer first.
        order: Permutation of the atoms into the order of ``shape``.
        shape: Final shape without the batch.
    """

    entries: tuple[Sequence[int], ...]
    atoms: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def read(self, tensor: Tensor) -> Tensor:
        """``[B, *tensor shape] -> [B, *shape]``."""
        for dim, entries in enumerate(self.entries, start=1):
            if not isinstance(entries, range):
                tensor = tensor.index_select(dim, torch.tensor(entries, device=tensor.device))
            elif len(entries) != tensor.shape[dim]:
                tensor = tensor.narrow(dim, entries.start, len(entries))
        batch = tensor.shape[0]
        atoms = tensor.reshape(batch, *self.atoms).permute(0, *(i + 1 for i in self.order))
        return atoms.reshape(batch, *self.shape)


@dataclass(frozen=True)
class Block:
    """One weight between two node sets, ``[B, D, T, S, K]``.

    Attributes:
        link: The link it comes from.
        source: Index of the node set read.
        target: Index of the node set written.
        piece: Where it lies in the tensor.
        source_order: Node features ``[B, N_s, F]`` come as ``[B, *sizes, F]``; this permutation of the source's axes
            puts the shared ones first, so that they can be read as ``[B, D, S, F]``.
        target_order: The same for the target.
        coordinates: Place of each extent, ``[K, 3]`` in [-1, 1].
        fan_in: Connections that each target neuron sums over.
    """

    link: Link
    source: int
    target: int
    piece: Piece
    source_order: tuple[int, ...]
    target_order: tuple[int, ...]
    coordinates: tuple[tuple[float, ...], ...]
    fan_in: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(D, T, S, K)``."""
        return self.piece.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class Vector:
    """A parameter that acts on one node set, ``[B, N, K]``."""

    link: Link
    target: int
    piece: Piece
