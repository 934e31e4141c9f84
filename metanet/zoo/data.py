"""ZooDataModule: a zoo as the training, validation and test data of a metanet.

A batch holds nets of one weight space only, so that their weights are stacked tensors and no padding exists. Nets that
diverged, with a target or weights that are not finite, are left out of every split and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from metanet.errors import ConfigError, ZooError
from metanet.graph import NeuronGraph
from metanet.space import WeightSpace
from metanet.zoo.catalogue import open_zoo
from metanet.zoo.display import show_build
from metanet.zoo.store import ModelZoo

Split = Literal["train", "validation", "test"]
IN_MEMORY = 1 << 30  # bytes of weights up to which a split is held in memory, not read batch by batch
CHUNK = 256  # nets read at once while their weights are checked


class ZooBatch(NamedTuple):
    """Nets of one space.

    Attributes:
        graph: Their weights, B nets.
        targets: What is to be predicted, ``[B]``, float32.
        ids: Names of the nets in the zoo.
    """

    graph: NeuronGraph
    targets: Tensor
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ZooSplit(Dataset[ZooBatch]):
    """The nets of one split; an item is the batch of the positions asked for.

    Attributes:
        zoo: The zoo.
        rows: Row of each net in the zoo's table, ``[N]``.
        targets: Target of each net, ``[N]``, float64.
        ids: Name of each net.
        groups: Positions in this split by digest of the space; together they are 0..N-1.
        held: Weights in memory by digest, in the order of ``groups``; None if they are read from disk.
    """

    zoo: ModelZoo
    rows: np.ndarray
    targets: np.ndarray
    ids: tuple[str, ...]
    groups: dict[str, np.ndarray]
    held: dict[str, NeuronGraph] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: np.ndarray) -> ZooBatch:
        where = np.asarray(positions)
        if self.held is None:
            graph = self.zoo.graph(self.rows[where])
        else:
            digest = next(d for d, group in self.groups.items() if where[0] in group)
            graph = self.held[digest].select(torch.from_numpy(np.searchsorted(self.groups[digest], where)))
        return ZooBatch(graph, torch.from_numpy(self.targets[where]).float(), tuple(self.ids[i] for i in where))

    def graphs(self) -> Iterator[tuple[NeuronGraph, np.ndarray]]:
        """All nets of each space as one graph, with their targets ``[n]``, float64."""
        for digest, group in self.groups.items():
            graph = self.zoo.graph(self.rows[group]) if self.held is None else self.held[digest]
            yield graph, self.targets[group]

    def in_memory(self) -> ZooSplit:
        """The same split with its weights read once and kept."""
        return replace(self, held={d: self.zoo.graph(self.rows[group]) for d, group in self.groups.items()})


class SpaceBatches(Sampler[np.ndarray]):
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

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.seed is None:
            yield from self._cut(self.groups)
            return
        random = np.random.default_rng((self.seed, self.epoch))
        batches = self._cut([random.permutation(group) for group in self.groups])
        for number in random.permutation(len(batches)):
            yield batches[number]

    def _cut(self, groups: list[np.ndarray]) -> list[np.ndarray]:
        return [group[i : i + self.batch_size] for group in groups for i in range(0, len(group), self.batch_size)]


class ZooDataModule(pl.LightningDataModule):
    """Batches of neuron graphs from a model zoo, with one label as the target.

    The splits are those of the zoo. A zoo of the catalogue that is not there yet is built first.

    Args:
        zoo: Name of a zoo (``digits-cnn``), or the folder of one.
        target: Column of the zoo's table to predict.
        batch_size: Nets a batch at most; all nets of a batch have one weight space.
        train_size: Use only this many training nets, drawn at random with ``seed``; all by default.
        validation_size: The same for validation.
        test_size: The same for test.
        num_workers: Processes that read batches; 0 reads in the training process, right for zoos held in memory.
        seed: Seed of the shuffle and of the subsets; by default torch's, which ``seed_everything`` sets.
    """

    def __init__(
        self,
        zoo: str = "digits-cnn",
        target: str = "test_accuracy",
        batch_size: int = 32,
        train_size: int | None = None,
        validation_size: int | None = None,
        test_size: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes: dict[Split, int | None] = {"train": train_size, "validation": validation_size, "test": test_size}
        named = {"batch_size": batch_size} | {f"{split}_size": n for split, n in sizes.items() if n is not None}
        for name, value in named.items():
            if value < 1:
                raise ConfigError(f"data.{name}: got {value}. Accepted: a whole number >= 1.")
        self.zoo, self.target, self.batch_size, self.num_workers = zoo, target, batch_size, num_workers
        self.seed = torch.initial_seed() % 2**32 if seed is None else seed
        self.sizes = sizes
        self.splits: dict[Split, ZooSplit] = {}
        self.excluded = 0

    def prepare_data(self) -> None:
        """Build the zoo on first use; show how far it is.

        Raises:
            ZooError: It cannot be built or opened.
        """
        with show_build(self.zoo) as progress:
            open_zoo(self.zoo, build=True, progress=progress)

    def setup(self, stage: str | None = None) -> None:
        """Open the zoo and choose the nets of each split.

        Raises:
            ZooError: There is no such zoo or target, or a split is empty.
        """
        if self.splits:
            return
        opened = open_zoo(self.zoo)
        targets = _numbers(opened, self.target)
        finite = np.isfinite(targets)
        if "diverged" in opened.table.column_names:
            finite &= ~opened.column("diverged").astype(bool)
        finite &= _finite_weights(opened, finite)
        self.excluded = int(np.sum(~finite))
        self.splits = {split: self._split(opened, split, finite, targets) for split in get_args(Split)}

    def _split(self, zoo: ModelZoo, split: Split, finite: np.ndarray, targets: np.ndarray) -> ZooSplit:
        rows = zoo.rows(split)
        rows = rows[finite[rows]]
        if len(rows) == 0:
            raise ZooError(
                f"Zoo '{zoo.name}' has no usable net in its split '{split}': got {len(zoo)} nets in all, of which "
                f"{self.excluded} are not finite. Give a zoo with training, validation and test nets."
            )
        size = self.sizes[split]
        if size is not None and size < len(rows):
            rows = np.sort(np.random.default_rng((self.seed, 1)).choice(rows, size, replace=False))
        digests = zoo.column("space")[rows]
        groups = {d: np.flatnonzero(digests == d) for d in zoo.spaces if (digests == d).any()}
        out = ZooSplit(zoo, rows, targets[rows], tuple(zoo.column("id")[rows]), groups)
        size_in_bytes = sum(4 * zoo.spaces[d].parameters * len(group) for d, group in groups.items())
        return out.in_memory() if size_in_bytes <= IN_MEMORY else out

    @property
    def spaces(self) -> list[WeightSpace]:
        """Weight spaces of the training nets."""
        train = self.split("train")
        return [train.zoo.spaces[digest] for digest in train.groups]

    @property
    def target_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the target over the training nets."""
        targets = self.split("train").targets
        return float(targets.mean()), float(targets.std())

    def split(self, name: Split) -> ZooSplit:
        """The nets of a split.

        Raises:
            ZooError: :meth:`setup` was not called.
        """
        if name not in self.splits:
            raise ZooError(f"ZooDataModule: got no split '{name}'; call setup() first, then train, validation or test.")
        return self.splits[name]

    def summary(self) -> str:
        """One line: nets of each split, spaces, nets left out."""
        sizes = ", ".join(f"{len(part)} {split}" for split, part in self.splits.items())
        name = self.split("train").zoo.name
        return f"zoo {name}: {sizes} nets, {len(self.spaces)} weight spaces, {self.excluded} left out (not finite)"

    def train_dataloader(self) -> DataLoader[ZooBatch]:
        """Shuffled batches, in another order each epoch."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> DataLoader[ZooBatch]:
        """Validation batches, in order."""
        return self._loader("validation", None)

    def test_dataloader(self) -> DataLoader[ZooBatch]:
        """Test batches, in order."""
        return self._loader("test", None)

    def _loader(self, split: Split, seed: int | None) -> DataLoader[ZooBatch]:
        part = self.split(split)
        batches = SpaceBatches(part.groups, self.batch_size, seed)
        workers = self.num_workers
        return DataLoader(
            part, None, sampler=batches, num_workers=workers, collate_fn=_as_is, persistent_workers=workers > 0
        )

    def transfer_batch_to_device(self, batch: ZooBatch, device: torch.device, dataloader_idx: int) -> ZooBatch:
        """Move weights and targets."""
        return batch._replace(graph=batch.graph.to(device), targets=batch.targets.to(device))


def _as_is(batch: Any) -> Any:
    """A split gives whole batches, so nothing is left to collate."""
    return batch


def _numbers(zoo: ModelZoo, target: str) -> np.ndarray:
    column = zoo.column(target)
    numeric = [name for name in zoo.table.column_names if np.issubdtype(zoo.column(name).dtype, np.number)]
    if not np.issubdtype(column.dtype, np.number):
        raise ZooError(
            f"Zoo '{zoo.name}': target '{target}' is not a number (got {column.dtype}). Accepted: {', '.join(numeric)}."
        )
    return column.astype(np.float64)


def _finite_weights(zoo: ModelZoo, candidates: np.ndarray) -> np.ndarray:
    """Mask of the nets all of whose weights are finite; only candidates are read."""
    finite = candidates.copy()
    for rows in zoo.by_space(np.flatnonzero(candidates)).values():
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            _, tensors = zoo.stack(chunk)
            finite[chunk] = torch.stack([t.isfinite().flatten(1).all(1) for t in tensors.values()]).all(0).numpy()
    return finite
