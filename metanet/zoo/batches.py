"""Batches of nets: those of one split, the order in which they are read, and what a batch is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.zoo.augment import augment
from metanet.zoo.store import ModelZoo

Positions = np.ndarray | tuple[int, np.ndarray]
"""Positions in a split, in training with the number of the epoch, which augmentations are drawn from."""
PLACES = ("space", "shard", "row")


class ZooBatch(NamedTuple):
    """Some nets, grouped by weight space.

    Attributes:
        graphs: Their weights, one graph a space; one alone unless batches are mixed.
        targets: What is to be predicted, ``[B]``, float32, in the order of the nets of all graphs.
        ids: Names of the nets in the zoo, in the same order.
    """

    graphs: tuple[NeuronGraph, ...]
    targets: Tensor
    ids: tuple[str, ...]

    @property
    def graph(self) -> NeuronGraph:
        """The nets of a batch of one space.

        Raises:
            ConfigError: The batch is of several.
        """
        if len(self.graphs) != 1:
            raise ConfigError(
                f"This batch holds nets of {len(self.graphs)} weight spaces, one is wanted. Go over batch.graphs, "
                "or set data.mixed to false."
            )
        return self.graphs[0]

    def to(self, device: torch.device) -> ZooBatch:
        """Move weights and targets."""
        return ZooBatch(tuple(g.to(device) for g in self.graphs), self.targets.to(device), self.ids)


@dataclass(frozen=True, eq=False)
class ZooSplit(Dataset[ZooBatch]):
    """The nets of one split; an item is the batch of the positions asked for.

    Attributes:
        zoo: The zoo.
        rows: Row of each net in the zoo's table, ``[N]``.
        targets: Target of each net, ``[N]``, float64.
        ids: Name of each net.
        groups: Positions in this split by digest of the space, ascending; together they are 0..N-1.
        held: Weights in memory by digest, in the order of ``groups``; None if they are read from disk.
        kinds: Symmetries that nets of a training batch are moved by, each net by its own draw.
        seed: Seed of those draws.
    """

    zoo: ModelZoo
    rows: np.ndarray
    targets: np.ndarray
    ids: tuple[str, ...]
    groups: dict[str, np.ndarray]
    held: dict[str, NeuronGraph] | None = None
    kinds: tuple[str, ...] = ()
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: of the zoo, where the nets of this split are."""
        if self.held is not None:
            return self.__dict__
        zoo = self.zoo.take(self.rows, PLACES)
        return self.__dict__ | {"zoo": zoo, "rows": np.arange(len(self.rows))}

    def __getitem__(self, positions: Positions) -> ZooBatch:
        epoch, where = positions if isinstance(positions, tuple) else (None, positions)
        where = np.asarray(where)
        parts = [(d, where[np.isin(where, group)]) for d, group in self.groups.items()]
        parts = [(digest, part) for digest, part in parts if len(part)]
        graphs = [self._read(digest, part) for digest, part in parts]
        if self.kinds and epoch is not None:
            draws = [[(self.seed, epoch, int(p)) for p in part] for _, part in parts]
            graphs = [augment(graph, self.kinds, seeds) for graph, seeds in zip(graphs, draws, strict=True)]
        order = np.concatenate([part for _, part in parts])
        targets = torch.from_numpy(self.targets[order]).float()
        return ZooBatch(tuple(graphs), targets, tuple(self.ids[i] for i in order))

    def graphs(self) -> Iterator[tuple[NeuronGraph, np.ndarray]]:
        """All nets of each space as one graph, with their targets ``[n]``, float64."""
        for digest, group in self.groups.items():
            yield self._read(digest, None), self.targets[group]

    def chunks(self, size: int = 256) -> Iterator[NeuronGraph]:
        """All nets, some of one space at a time, so that a split need not fit into memory."""
        for digest, group in self.groups.items():
            for start in range(0, len(group), size):
                yield self._read(digest, group[start : start + size])

    def in_memory(self) -> ZooSplit:
        """The same split with its weights read once and kept."""
        return replace(self, held={digest: self._read(digest, None) for digest in self.groups})

    def _read(self, digest: str, part: np.ndarray | None) -> NeuronGraph:
        """Nets of one space at some positions, by default all, in float32."""
        group = self.groups[digest]
        if self.held is None:
            return self.zoo.graph(self.rows[group if part is None else part]).to(torch.float32)
        if part is None:
            return self.held[digest]
        return self.held[digest].select(torch.from_numpy(np.searchsorted(group, part)))


class SpaceBatches(Sampler[Positions]):
    """Batches of positions, each within one space; the last batch of a space may be small, none is dropped.

    Args:
        groups: Positions by space.
        batch_size: Nets a batch at most.
        seed: Seed of the shuffle, which differs from epoch to epoch; None keeps the order.
    """

    def __init__(self, groups: dict[str, np.ndarray], batch_size: int, seed: int | None = None) -> None:
        self.groups, self.batch_size, self.seed = list(groups.values()), batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of an epoch; the trainer calls it before each, so that a resumed run goes on alike."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Positions]:
        if self.seed is None:
            yield from self._cut(self.groups)
            return
        random = np.random.default_rng((self.seed, self.epoch))
        batches = self._cut([random.permutation(group) for group in self.groups])
        for number in random.permutation(len(batches)):
            yield self.epoch, batches[number]

    def _cut(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [group[i : i + self.batch_size] for group in groups for i in range(0, len(group), self.batch_size)]


class MixedBatches(SpaceBatches):
    """Batches drawn from all spaces together: each step sees several architectures."""

    def __init__(self, groups: dict[str, np.ndarray], batch_size: int, seed: int | None = None) -> None:
        super().__init__({"": np.sort(np.concatenate(list(groups.values())))}, batch_size, seed)
