"""The store: many nets with labels, on disk, memory-mapped, grouped by weight space.

::

    zoo.json                          name, version, licence, source, label schema with units, checksums
    recipe.json                       what built it, if it was built here
    spaces/<digest>.json              one per architecture
    weights/<digest>/00000.safetensors    stacked [n, *shape] per tensor, memory-mapped
    models.parquet                    id, space, shard, row, split, run, hyperparameters, labels: one row a net

Opening reads card and table. Spaces and shards are read, and compared with the table, when nets of theirs are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from metanet.errors import ZooError
from metanet.graph import NeuronGraph
from metanet.space import WeightSpace
from metanet.zoo.card import CARD, REBUILD, checksums, read_card
from metanet.zoo.selection import Filter, Where, mask_of, mask_where
from metanet.zoo.shard_files import ShardFiles, Spaces, shard_path
from metanet.zoo.split import FRACTIONS, split_runs
from metanet.zoo.table import COLUMNS, TABLE, read_table

__all__ = ["CARD", "COLUMNS", "TABLE", "ModelZoo", "Net", "read_zoo", "shard_path"]


@dataclass(frozen=True, eq=False)
class Net:
    """One net of a zoo: a copy of its ``state_dict``, and its labels: split, run, hyperparameters, measurements."""

    id: str
    space: WeightSpace
    tensors: dict[str, Tensor]
    labels: dict[str, Any]


class ModelZoo:
    """A zoo, or the part of one that :meth:`filter` keeps.

    Args:
        path: Folder of the zoo.
        table: One row a net; columns id, space, shard, row, split, run, then hyperparameters and labels. A label that a
            net lacks is null.
        card: Content of ``zoo.json``.
        spaces: Weight spaces by digest.
        files: Its shards; by default those that ``table`` names, with the checksums that the spaces are read with.
    """

    def __init__(
        self, path: Path, table: pa.Table, card: dict[str, Any], spaces: Spaces, files: ShardFiles | None = None
    ) -> None:
        self.path, self.table, self.card, self.spaces = path, table, card, spaces
        self._files = files
        self._columns: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """Name of the zoo."""
        return str(self.card["name"])

    @property
    def unreadable(self) -> list[dict[str, str]]:
        """Nets of the published zoo that an import left out: ``id`` and ``reason``."""
        return list(self.card.get("unreadable", []))

    @property
    def files(self) -> ShardFiles:
        """The shards, mapped when they are needed."""
        if self._files is None:
            self._files = ShardFiles(self.path, self.spaces, nets_by_shard(self.table), self.spaces.sums)
        return self._files

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"ModelZoo({self.name!r}, {len(self)} nets, {len(self.spaces)} spaces, {str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": {}}

    def __getitem__(self, index: int) -> Net:
        row = range(len(self))[index]  # raises IndexError past the end, as a sequence must
        try:
            labels = self.table.slice(row, 1).to_pylist()[0]
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise self._unreadable(f"row {row}", error) from error
        stored = self.files.tensors(labels["space"], labels["shard"])
        tensors = {name: t[labels["row"]].clone() for name, t in stored.items()}
        own = {name: value for name, value in labels.items() if name not in COLUMNS or name in ("split", "run")}
        return Net(labels["id"], self.spaces[labels["space"]], tensors, own)

    def column(self, name: str) -> np.ndarray:
        """Return a column of the table, one value a net: NaN for numbers that are missing, None for other values.

        Raises:
            ZooError: There is no such column.
        """
        if name not in self.table.column_names:
            raise ZooError(f"Zoo '{self.name}' has no column '{name}'. Accepted: {', '.join(self.table.column_names)}.")
        if name not in self._columns:
            try:
                self._columns[name] = np.asarray(self.table[name].to_numpy())
            except (pa.ArrowException, ValueError, OverflowError) as error:  # of a type or date that Python lacks
                raise self._unreadable(f"column '{name}'", error) from error
            self._columns[name].flags.writeable = False  # it is handed out again
        return self._columns[name]

    def _unreadable(self, what: str, error: Exception) -> ZooError:
        return ZooError(f"Cannot read {what} of {self.path / TABLE}: got '{' '.join(str(error).split())}'. {REBUILD}")

    def rows(self, split: str | None = None, where: Where | None = None, **filters: Filter) -> np.ndarray:
        """Return the positions of nets, ascending: those of a split that pass every filter.

        Args:
            split: ``train``, ``validation`` or ``test``; nets that diverged are in none. ``None`` takes all nets.
            where: A pyarrow expression over columns, such as ``pyarrow.compute.field("test_accuracy") > 0.5``, or a
                function from the table to a mask.
            filters: Column and what it must be: a value, a list of accepted values, a range ``{"min": a, "max": b}``,
                or a function from the column (NumPy array) to a mask, e.g.
                ``rows("train", activation="relu", test_accuracy=lambda a: a > 0.5)``.

        Raises:
            ZooError: There is no such column, or no net of that split in the whole zoo.
        """
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            filters = {"split": split, **filters}
            known = sorted(set(self.table["split"].unique().to_pylist()) - {"none"})
            if len(self) and split not in (*known, "train", "validation", "test"):
                raise ZooError(f"Zoo '{self.name}' has no split '{split}'. Accepted: {', '.join(known)}.")
        for name, want in filters.items():
            keep &= mask_of(name, self.column(name), want)
        return np.flatnonzero(keep if where is None else keep & mask_where(self.table, where))

    def filter(self, split: str | None = None, where: Where | None = None, **filters: Filter) -> ModelZoo:
        """Return the part of the zoo that :meth:`rows` selects; weights stay where they are."""
        return self.take(self.rows(split, where, **filters))

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> ModelZoo:
        """Return the nets at some positions, in that order, with all columns of the table or some."""
        table = (self.table if columns is None else self.table.select(list(columns))).take(pa.array(rows, pa.int64()))
        kept = set(table["space"].unique().to_pylist())
        spaces = self.spaces.only([digest for digest in self.spaces if digest in kept])
        return ModelZoo(self.path, table, self.card, spaces, self.files)

    def split(
        self, fractions: Sequence[float] = FRACTIONS, seed: int = 0, by: str = "run", column: str | None = None
    ) -> ModelZoo:
        """Return the zoo with other splits.

        Args:
            fractions: Parts to train, validate and test on.
            seed: Seed of the draw.
            by: Column whose values are never divided: ``run`` keeps the checkpoints of one training together.
            column: Take the splits from this column (values train, validation, test) instead of drawing them.

        Returns:
            All nets; those that diverged or were in no split, with ``split`` none, stay outside.

        Raises:
            ZooError: There is no such column, or the fractions do not sum to 1.
        """
        outside = self.column("split") == "none"
        if column is not None:
            given = self.column(column)
            wrong = sorted({str(value) for value in set(given)} - {"train", "validation", "test", "none", "None"})
            if wrong:
                raise ZooError(
                    f"Column '{column}' names no splits: got {wrong[:3]}. Accepted: train, validation, test."
                )
            chosen = np.where(given == None, "none", given)  # noqa: E711 - elementwise
        else:
            chosen = outside.astype(object)
            chosen[outside] = "none"
            chosen[~outside] = split_runs(self.column(by)[~outside], fractions, seed)
        place = self.table.column_names.index("split")
        coded = pa.array(list(chosen), pa.string()).dictionary_encode()
        table = self.table.set_column(place, "split", coded)
        return ModelZoo(self.path, table, self.card, self.spaces, self.files)

    def by_space(self, indices: Iterable[int] | None = None) -> dict[str, np.ndarray]:
        """Group positions, by default all, by the digest of their weight space, each group in the order given."""
        positions = np.arange(len(self)) if indices is None else np.asarray(list(indices), dtype=int)
        digests, codes = self._codes()
        order = np.argsort(codes[positions], kind="stable")
        found, starts = np.unique(codes[positions][order], return_index=True)
        groups = dict(zip((digests[code] for code in found), np.split(positions[order], starts[1:]), strict=False))
        return {digest: groups[digest] for digest in self.spaces if digest in groups}

    def batches(self, size: int = 256, seed: int | None = None) -> Iterator[tuple[np.ndarray, NeuronGraph]]:
        """Go over the zoo once in batches of one space each; no more than a batch is held in memory.

        Args:
            size: Nets a batch at most.
            seed: Seed of a shuffle; None goes in the order of the files, where batches are views of them.

        Yields:
            Positions in this zoo, and the nets as one graph.
        """
        random = None if seed is None else np.random.default_rng(seed)
        groups = [rows if random is None else random.permutation(rows) for rows in self.by_space().values()]
        parts = [rows[start : start + size] for rows in groups for start in range(0, len(rows), size)]
        for number in range(len(parts)) if random is None else random.permutation(len(parts)):
            yield parts[number], self.graph(parts[number])

    def stack(self, indices: Sequence[int] | np.ndarray) -> tuple[WeightSpace, dict[str, Tensor]]:
        """Read nets of one weight space.

        Args:
            indices: Positions in this zoo, in any order. Neighbours in one file are read without a copy.

        Returns:
            Their space and stacked tensors ``[n, *shape]``, in the order of ``indices``. They may be views of the
            files: copy them before changing them in place.

        Raises:
            ZooError: There are none, they are of several spaces, or a shard cannot be read.
        """
        positions = np.asarray(indices, dtype=int)
        digests, codes = self._codes()
        found = np.unique(codes[positions])
        if len(found) != 1:
            raise ZooError(
                f"Nets stacked together share one weight space, got {len(found)} spaces for {len(positions)} nets. "
                "Group them with zoo.by_space()."
            )
        digest = digests[found[0]]
        place = self.column("shard")[positions], self.column("row")[positions]
        return self.spaces[digest], self.files.stack(digest, *place)

    def graph(self, indices: Sequence[int] | np.ndarray) -> NeuronGraph:
        """Return nets of one weight space as one batched neuron graph; arguments and errors as :meth:`stack`."""
        space, tensors = self.stack(indices)
        return NeuronGraph(space, tensors)

    def _codes(self) -> tuple[list[str], np.ndarray]:
        """Digests, and for every net which of them is its space's."""
        if "" not in self._columns:
            coded = self.table["space"].combine_chunks()
            coded = coded if isinstance(coded, pa.DictionaryArray) else coded.dictionary_encode()
            self._columns[""] = np.asarray(coded.indices)
            self._digests = list(coded.dictionary.to_pylist())
        return self._digests, self._columns[""]


def nets_by_shard(table: pa.Table) -> dict[tuple[str, int], int]:
    """Nets of each shard by digest and number; -1 where its rows are not 0..n-1."""
    rows = table.select(["space", "shard", "row"]).group_by(["space", "shard"])
    counted = rows.aggregate([("row", "count"), ("row", "min"), ("row", "max")]).to_pylist()
    return {
        (r["space"], r["shard"]): r["row_count"] if (r["row_min"], r["row_max"]) == (0, r["row_count"] - 1) else -1
        for r in counted
    }


def read_zoo(path: Path, verify_shards: bool = True) -> ModelZoo:
    """Open the zoo in a folder: its card and its table are read, nothing else.

    Args:
        path: Folder of the zoo.
        verify_shards: Compare shards and weight spaces with their checksums when they are first read
            (:func:`metanet.zoo.open_zoo`).

    Raises:
        ZooError: There is none, or card or table are unreadable. Spaces and shards are checked when they are read;
            :func:`metanet.zoo.verify_zoo` checks them all.
    """
    if not (path / TABLE).is_file() or not (path / CARD).is_file():
        raise ZooError(_why_missing(path))
    card, table = read_card(path), read_table(path)
    sums = checksums(card) if verify_shards else {}
    return ModelZoo(path, table, card, Spaces(path, sorted(table["space"].unique().to_pylist()), sums))


def _why_missing(path: Path) -> str:
    building = path.with_name(path.name + ".building")
    if building.is_dir():
        return (
            f"The zoo {path} is half-built ({building.name}). Resume it with open_zoo({path.name!r}, build=True) or "
            "build_zoo(recipe, path): finished shards are kept."
        )
    if path.is_dir():
        return f"No zoo in {path}: got a folder without {TABLE} and {CARD}. Delete it, or give the folder of a zoo."
    return f"No zoo at {path}. Give the folder of a zoo, or build one: open_zoo('digits-cnn', build=True)."
