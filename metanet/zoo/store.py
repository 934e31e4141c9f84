"""The store: many nets with labels, on disk, memory-mapped, grouped by weight space.

::

    zoo.json                          name, version, licence, source, label schema with units, checksums
    recipe.json                       what built it, if it was built here
    spaces/<digest>.json              one per architecture
    weights/<digest>/00000.safetensors    stacked [n, *shape] per tensor, memory-mapped
    models.parquet                    id, space, shard, row, split, run, hyperparameters, labels: one row a net

Opening reads the table, and the headers of the shards to see that they fit it. Weights are read when asked for.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metanet.errors import MetanetError, ZooError
from metanet.graph import NeuronGraph
from metanet.space import WeightSpace

TABLE, CARD = "models.parquet", "zoo.json"
COLUMNS = ("id", "space", "shard", "row", "split", "run")
OPEN_SHARDS = 64  # mapped at once; more would approach the limit of open files
Filter = Any  # a value, a list of values, or a function of a column that returns a mask


@dataclass(frozen=True, eq=False)
class Net:
    """One net of a zoo: a copy of its ``state_dict``, and its labels: split, run, hyperparameters, measurements."""

    id: str
    space: WeightSpace
    tensors: dict[str, Tensor]
    labels: dict[str, Any]


def shard_path(zoo: Path, digest: str, shard: int) -> Path:
    """Return the file of a shard."""
    return zoo / "weights" / digest / f"{shard:05d}.safetensors"


class ModelZoo:
    """A zoo, or the part of one that :meth:`filter` keeps.

    Args:
        path: Folder of the zoo.
        table: One row a net; columns id, space, shard, row, split, run, then hyperparameters and labels.
        card: Content of ``zoo.json``.
        spaces: Weight spaces by digest.
    """

    def __init__(self, path: Path, table: pa.Table, card: dict[str, Any], spaces: dict[str, WeightSpace]) -> None:
        self.path, self.table, self.card, self.spaces = path, table, card, spaces
        self._shards: OrderedDict[Path, dict[str, Tensor]] = OrderedDict()

    @property
    def name(self) -> str:
        """Name of the zoo."""
        return str(self.card["name"])

    @property
    def unreadable(self) -> list[dict[str, str]]:
        """Nets of the published zoo that an import left out: ``id`` and ``reason``."""
        return list(self.card.get("unreadable", []))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"ModelZoo({self.name!r}, {len(self)} nets, {len(self.spaces)} spaces, {str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": OrderedDict()}  # worker processes map the files themselves

    def __getitem__(self, index: int) -> Net:
        row = range(len(self))[index]  # raises IndexError past the end, as a sequence must
        labels = self.table.slice(row, 1).to_pylist()[0]
        tensors = {name: t[labels["row"]].clone() for name, t in self._shard(labels["space"], labels["shard"]).items()}
        own = {name: value for name, value in labels.items() if name not in COLUMNS or name in ("split", "run")}
        return Net(labels["id"], self.spaces[labels["space"]], tensors, own)

    def column(self, name: str) -> np.ndarray:
        """Return a column of the table, one value a net.

        Raises:
            ZooError: There is no such column.
        """
        if name not in self.table.column_names:
            raise ZooError(f"Zoo '{self.name}' has no column '{name}'. Accepted: {', '.join(self.table.column_names)}.")
        return np.asarray(self.table[name].to_numpy())

    def rows(self, split: str | None = None, **filters: Filter) -> np.ndarray:
        """Return the positions of nets, ascending: those of a split that pass every filter.

        Args:
            split: ``train``, ``validation`` or ``test``; nets that diverged are in none. ``None`` takes all nets.
            filters: Column and what it must be: a value, a list of accepted values, or a function from the column
                (NumPy array) to a mask, e.g. ``rows("train", activation="relu", test_accuracy=lambda a: a > 0.5)``.

        Raises:
            ZooError: There is no such column, or no net of that split in the whole zoo.
        """
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            filters = {"split": split, **filters}
            known = sorted(set(self.column("split")) - {"none"})
            if len(self) and split not in (*known, "train", "validation", "test"):
                raise ZooError(f"Zoo '{self.name}' has no split '{split}'. Accepted: {', '.join(known)}.")
        for name, want in filters.items():
            keep &= _mask(self.column(name), want)
        return np.flatnonzero(keep)

    def filter(self, split: str | None = None, **filters: Filter) -> ModelZoo:
        """Return the part of the zoo that :meth:`rows` selects; weights stay where they are."""
        table = self.table.take(pa.array(self.rows(split, **filters)))
        kept = set(table["space"].to_pylist())
        spaces = {digest: space for digest, space in self.spaces.items() if digest in kept}
        return ModelZoo(self.path, table, self.card, spaces)

    def by_space(self, indices: Iterable[int] | None = None) -> dict[str, np.ndarray]:
        """Group positions, by default all, by the digest of their weight space."""
        positions = np.arange(len(self)) if indices is None else np.asarray(list(indices), dtype=int)
        digests = self.column("space")[positions]
        return {digest: positions[digests == digest] for digest in self.spaces if (digests == digest).any()}

    def stack(self, indices: Sequence[int] | np.ndarray) -> tuple[WeightSpace, dict[str, Tensor]]:
        """Read nets of one weight space.

        Args:
            indices: Positions in this zoo, in any order.

        Returns:
            Their space and stacked tensors ``[n, *shape]``, in the order of ``indices``.

        Raises:
            ZooError: There are none, they are of several spaces, or a shard cannot be read.
        """
        positions = np.asarray(indices, dtype=int)
        part = self.table.select(["space", "shard", "row"]).take(pa.array(positions))
        digests = set(part["space"].to_pylist())
        if len(digests) != 1:
            raise ZooError(
                f"Nets stacked together share one weight space, got {len(digests)} spaces for {len(positions)} nets. "
                "Group them with zoo.by_space()."
            )
        digest = digests.pop()
        shards, rows = part["shard"].to_numpy(), torch.from_numpy(part["row"].to_numpy().astype(np.int64))
        space = self.spaces[digest]
        out: dict[str, Tensor] = {}
        for shard in np.unique(shards):
            here = torch.from_numpy(np.flatnonzero(shards == shard))
            for name, stored in self._shard(digest, int(shard)).items():
                if name not in out:
                    out[name] = stored.new_empty(len(positions), *stored.shape[1:])
                out[name][here] = stored[rows[here]]
        return space, out

    def graph(self, indices: Sequence[int] | np.ndarray) -> NeuronGraph:
        """Return nets of one weight space as one batched neuron graph; arguments and errors as :meth:`stack`."""
        space, tensors = self.stack(indices)
        return NeuronGraph(space, tensors)

    def _shard(self, digest: str, shard: int) -> dict[str, Tensor]:
        path = shard_path(self.path, digest, shard)
        if path in self._shards:
            self._shards.move_to_end(path)
            return self._shards[path]
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in self.spaces[digest].shapes}
        except (OSError, SafetensorError) as error:
            raise ZooError(f"Zoo '{self.name}': cannot read shard {path}: {error}. {_REBUILD}") from error
        self._shards[path] = tensors
        while len(self._shards) > OPEN_SHARDS:
            self._shards.popitem(last=False)
        return tensors


_REBUILD = "Restore the file, or delete the zoo's folder and build it again."


def read_zoo(path: Path) -> ModelZoo:
    """Open the zoo in a folder.

    Raises:
        ZooError: There is none, its files are unreadable, or table and shards disagree.
    """
    if not (path / TABLE).is_file() or not (path / CARD).is_file():
        raise ZooError(_why_missing(path))
    try:
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
        table = pq.read_table(path / TABLE)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ZooError(f"Cannot open the zoo {path}: {error}. {_REBUILD}") from error
    lacking = [name for name in COLUMNS if name not in table.column_names]
    if lacking or not isinstance(card, dict) or "name" not in card:
        problem = f"the table lacks the columns {', '.join(lacking)}" if lacking else "zoo.json names no zoo"
        raise ZooError(f"Cannot open the zoo {path}: {problem}. Columns needed: {', '.join(COLUMNS)}.")
    digests = table["space"].unique().to_pylist()
    spaces = {digest: _read_space(path / "spaces" / f"{digest}.json") for digest in sorted(digests)}
    _check_shards(path, table, spaces)
    return ModelZoo(path, table, card, spaces)


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


def _read_space(path: Path) -> WeightSpace:
    try:
        space = WeightSpace.from_json(path.read_text(encoding="utf-8"))
    except (OSError, MetanetError) as error:
        raise ZooError(f"Cannot read the weight space {path}: {error}. {_REBUILD}") from error
    if space.digest != path.stem:
        raise ZooError(f"The weight space {path} does not match its name: its digest is {space.digest}. {_REBUILD}")
    return space


def _check_shards(path: Path, table: pa.Table, spaces: Mapping[str, WeightSpace]) -> None:
    """Compare the table with the headers of the shards: names, shapes, and one table row for every row of a shard."""
    rows = (
        table.select(["space", "shard", "row"])
        .group_by(["space", "shard"])
        .aggregate([("row", "count"), ("row", "min"), ("row", "max"), ("row", "count_distinct")])
    )
    for entry in rows.to_pylist():
        digest, shard, count = entry["space"], entry["shard"], entry["row_count"]
        file = shard_path(path, digest, shard)
        if not file.is_file():
            raise ZooError(
                f"Table and shards of {path} disagree: shard {file} is missing, "
                f"the table has {count} nets in it. {_REBUILD}"
            )
        stored = _header(file)
        want = {name: (count, *shape) for name, shape in spaces[digest].shapes.items()}
        if stored != want:
            raise ZooError(f"Table and shards of {path} disagree: {file} {_difference(stored, want)}. {_REBUILD}")
        if (entry["row_min"], entry["row_max"], entry["row_count_distinct"]) != (0, count - 1, count):
            raise ZooError(
                f"Table and shards of {path} disagree: rows of {file} are not 0..{count - 1}, each once. {_REBUILD}"
            )


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ZooError(f"Cannot read shard {file}: {error}. {_REBUILD}") from error


def _difference(stored: dict[str, tuple[int, ...]], want: dict[str, tuple[int, ...]]) -> str:
    for name, shape in want.items():
        if name not in stored:
            return f"lacks the tensor '{name}' of its weight space"
        if stored[name][1:] != shape[1:]:
            return f"holds '{name}' as {list(stored[name][1:])}, its weight space says {list(shape[1:])}"
        if stored[name][:1] != shape[:1]:
            return f"holds {stored[name][0] if stored[name] else 0} nets, the table {shape[0]}"
    return f"holds tensors that its weight space does not know: {', '.join(sorted(set(stored) - set(want)))}"


def _mask(column: np.ndarray, want: Filter | Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if callable(want):
        return np.asarray(want(column), dtype=bool)
    if isinstance(want, list | tuple | set | frozenset | np.ndarray):
        return np.isin(column, list(want))
    return np.asarray(column == want)
