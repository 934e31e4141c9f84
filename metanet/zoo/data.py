"""ZooDataModule: a zoo as the training, validation and test data of a metanet.

Nets of one weight space are stacked tensors, and no padding exists: a batch is of one space, or, mixed, one graph a
space. Nets that diverged, with a target or weights that are not finite, or with weights whose squares overflow float32,
are left out of every split, counted and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from metanet.errors import ConfigError, ZooError
from metanet.space import WeightSpace
from metanet.zoo.augment import check_kinds
from metanet.zoo.batches import MixedBatches, SpaceBatches, ZooBatch, ZooSplit
from metanet.zoo.catalogue import open_zoo
from metanet.zoo.display import show_build
from metanet.zoo.statistics import WeightStatistics, weight_statistics
from metanet.zoo.store import ModelZoo

__all__ = ["MixedBatches", "SpaceBatches", "ZooBatch", "ZooDataModule", "ZooSplit"]

Split = Literal["train", "validation", "test"]
IN_MEMORY = 1 << 30  # bytes of weights up to which a split is held in memory, not read batch by batch
CHUNK = 256  # nets read at once while their weights are checked
NAMED = 5  # nets left out that the summary names


class ZooDataModule(pl.LightningDataModule):
    """Batches of neuron graphs from a model zoo, with one label as the target.

    The splits are those of the zoo. A zoo of the catalogue that is not there yet is built first.

    Args:
        zoo: Name of a zoo (``digits-cnn``), or the folder of one.
        target: Column of the zoo's table to predict.
        batch_size: Nets a batch at most; all nets of a batch have one weight space, unless ``mixed``.
        train_size: Use only this many training nets, drawn at random with ``seed``; all by default.
        validation_size: The same for validation.
        test_size: The same for test.
        num_workers: Processes that read batches; 0 reads in the training process, right for zoos held in memory.
        seed: Seed of the shuffle, of the subsets and of augmentations; by default torch's, which ``seed_everything``
            sets.
        filter: Nets to use, by columns of the zoo's table: a value, a list of values, or a range with ``min`` and
            ``max``, such as ``{activation: relu, test_accuracy: {min: 0.5}}``.
        mixed: Draw training batches from all spaces together, as one graph a space.
        augment: Symmetries that training nets are moved by, each net anew in every epoch: ``permutation``, ``scale``,
            ``sign``. Nothing is gained for a metanet that is invariant to them.
        classify: Read the target as a class, number or text: ``classes`` are its values among the training nets, and
            targets are their numbers.
        verify_shards: Compare every shard with its checksum when a process first reads it
            (:func:`metanet.zoo.open_zoo`).
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
        filter: dict[str, Any] | None = None,
        mixed: bool = False,
        augment: Sequence[str] = (),
        classify: bool = False,
        verify_shards: bool = True,
    ) -> None:
        super().__init__()
        check_kinds("data.augment", augment)
        sizes: dict[Split, int | None] = {"train": train_size, "validation": validation_size, "test": test_size}
        named = {"batch_size": batch_size} | {f"{split}_size": n for split, n in sizes.items() if n is not None}
        for name, value in named.items():
            if value < 1:
                raise ConfigError(f"data.{name}: got {value}. Accepted: a whole number >= 1.")
        self.zoo, self.target, self.batch_size, self.num_workers = zoo, target, batch_size, num_workers
        self.filter, self.mixed, self.augment = dict(filter or {}), mixed, tuple(augment)
        self.seed = torch.initial_seed() % 2**32 if seed is None else seed
        self.sizes, self.classify, self.verify_shards = sizes, classify, verify_shards
        self.classes: tuple[Any, ...] = ()
        self.splits: dict[Split, ZooSplit] = {}
        self.excluded = 0
        self.left_out: tuple[str, ...] = ()

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
        opened = open_zoo(self.zoo, verify_shards=self.verify_shards)
        opened = opened.filter(**self.filter) if self.filter else opened
        if self.classify:
            self.classes, targets = class_numbers(opened, self.target)
        else:
            targets = _numbers(opened, self.target)
        finite = np.isfinite(targets)
        marked = "diverged" in opened.table.column_names
        if marked:
            finite &= ~opened.column("diverged").astype(bool)
        if not marked or _bytes(opened) <= IN_MEMORY:  # larger zoos are not read through: their marks are trusted
            finite &= _finite_weights(opened, finite)
        self.excluded = int(np.sum(~finite))
        self.left_out = tuple(map(str, opened.column("id")[np.flatnonzero(~finite)[:NAMED]]))
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
        groups = {digest: np.searchsorted(rows, group) for digest, group in zoo.by_space(rows).items()}
        kinds = self.augment if split == "train" else ()
        ids = tuple(zoo.column("id")[rows])
        out = ZooSplit(zoo, rows, targets[rows], ids, groups, None, kinds, self.seed)
        return out.in_memory() if _bytes(zoo, groups) <= IN_MEMORY else out

    @property
    def spaces(self) -> list[WeightSpace]:
        """Weight spaces of the training nets."""
        train = self.split("train")
        return [train.zoo.spaces[digest] for digest in train.groups]

    @cached_property
    def weight_statistics(self) -> dict[str, WeightStatistics]:
        """Mean and deviation of every tensor by digest of the space, over the training nets alone."""
        return weight_statistics(self.split("train").chunks())

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
        which = f"not finite: {', '.join(self.left_out)}" if self.left_out else "not finite"
        which += ", ..." if self.excluded > len(self.left_out) else ""
        return f"zoo {name}: {sizes} nets, {len(self.spaces)} weight spaces, {self.excluded} left out ({which})"

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
        sampler = MixedBatches if self.mixed and split == "train" else SpaceBatches
        batches = sampler(part.groups, self.batch_size, seed)
        workers = self.num_workers
        return DataLoader(
            part, None, sampler=batches, num_workers=workers, collate_fn=_as_is, persistent_workers=workers > 0
        )

    def transfer_batch_to_device(self, batch: ZooBatch, device: torch.device, dataloader_idx: int) -> ZooBatch:
        """Move weights and targets."""
        return batch.to(device)


def _as_is(batch: Any) -> Any:
    """A split gives whole batches, so nothing is left to collate."""
    return batch


def _bytes(zoo: ModelZoo, groups: dict[str, np.ndarray] | None = None) -> int:
    """Memory that the weights of some nets take, by default of all, in float32."""
    groups = zoo.by_space() if groups is None else groups
    return sum(4 * zoo.spaces[digest].parameters * len(group) for digest, group in groups.items())


def _numbers(zoo: ModelZoo, target: str) -> np.ndarray:
    column = zoo.column(target)
    numeric = [name for name in zoo.table.column_names if np.issubdtype(zoo.column(name).dtype, np.number)]
    if not np.issubdtype(column.dtype, np.number):
        raise ZooError(
            f"Zoo '{zoo.name}': target '{target}' is not a number (got {column.dtype}). Accepted: {', '.join(numeric)}."
        )
    return column.astype(np.float64)


def class_numbers(zoo: ModelZoo, target: str) -> tuple[tuple[Any, ...], np.ndarray]:
    """The values that a column takes among the training nets, in order, and their numbers for all nets, ``[N]``.

    A net without a value has NaN for a number.

    Raises:
        ZooError: The zoo has no such column, it takes a value elsewhere that no training net has, or so many that they
            are no classes.
    """
    zoo.column(target)  # refuses what is not there
    values = zoo.table[target].to_pylist()
    train = zoo.rows("train")
    known = {values[i] for i in train} - {None}
    classes = tuple(sorted(known))
    if len(classes) > max(2, len(train) // 2):
        raise ZooError(
            f"Zoo '{zoo.name}': target '{target}' takes {len(classes)} values among {len(train)} training nets, too "
            "many for classes. Predict it as a number (task: regression)."
        )
    numbers = {value: float(i) for i, value in enumerate(classes)}
    unknown = sorted({values[i] for part in ("validation", "test") for i in zoo.rows(part)} - known - {None})
    if unknown:
        raise ZooError(
            f"Zoo '{zoo.name}': target '{target}' is {unknown[0]!r} for a validation or test net, and for no training "
            f"net. Its classes are {', '.join(map(str, classes))}; leave such nets out with data.filter."
        )
    return classes, np.array([numbers.get(value, np.nan) for value in values])


def _finite_weights(zoo: ModelZoo, candidates: np.ndarray) -> np.ndarray:
    """Mask of the nets whose tensors have finite sums of squares in float32, which metanets compute with.

    Only candidates are read.
    """
    finite = candidates.copy()
    for rows in zoo.by_space(np.flatnonzero(candidates)).values():
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            _, tensors = zoo.stack(chunk)
            finite[chunk] = torch.stack([is_tame(t) for t in tensors.values()]).all(0).numpy()
    return finite


def is_tame(stacked: torch.Tensor) -> torch.Tensor:
    """Mask ``[n]`` of the nets whose part of a stacked tensor ``[n, *shape]`` has a finite squared norm in float32."""
    flat = stacked.flatten(1).to(torch.float32)
    return torch.linalg.vector_norm(flat, dim=1).square().isfinite()
