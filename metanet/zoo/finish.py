"""The last part of a build: weight spaces, card and table, put together from the shards."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from metanet.space import WeightSpace
from metanet.zoo.draws import splits
from metanet.zoo.recipe import Recipe
from metanet.zoo.shards import HEADER, Shard
from metanet.zoo.store import CARD, TABLE
from metanet.zoo.write import write_file

SCHEMA: dict[str, tuple[pa.DataType, str, str]] = {  # column: type, unit, meaning
    "id": (pa.string(), "", "name of the net"),
    "space": (pa.string(), "", "digest of its weight space"),
    "shard": (pa.int32(), "", "number of the file in weights/<space>/"),
    "row": (pa.int32(), "", "position in that file"),
    "split": (pa.string(), "", "train, validation or test, at random by run; none for nets that diverged"),
    "run": (pa.string(), "", "training that the net comes from"),
    "activation": (pa.string(), "", "nonlinearity"),
    "optimizer": (pa.string(), "", "sgd (with momentum), adam or rmsprop"),
    "learning_rate": (pa.float64(), "", "constant during training"),
    "momentum": (pa.float64(), "", "of sgd; the others ignore it"),
    "weight_decay": (pa.float64(), "", "added to the gradient, times the weight"),
    "dropout": (pa.float64(), "", "probability of zeroing a feature before the last layer"),
    "init": (pa.string(), "", "scheme of the initial weights"),
    "init_gain": (pa.float64(), "", "factor on the initial weights"),
    "train_fraction": (pa.float64(), "fraction", "part of the training images used"),
    "steps": (pa.int64(), "steps", "length of the training"),
    "train_accuracy": (pa.float64(), "fraction", "on the images trained on"),
    "test_accuracy": (pa.float64(), "fraction", "on the test images"),
    "train_loss": (pa.float64(), "nats", "mean cross-entropy on the images trained on; null if not finite"),
    "test_loss": (pa.float64(), "nats", "mean cross-entropy on the test images; null if not finite"),
    "generalization_gap": (pa.float64(), "fraction", "train_accuracy - test_accuracy"),
    "diverged": (pa.bool_(), "", "a weight or loss is not finite"),
}


def write_table(recipe: Recipe, building: Path, shards: Sequence[tuple[Shard, WeightSpace, Path]]) -> None:
    """Write spaces, card and, last, the table of a build whose shards are all there."""
    files: dict[str, bytes] = {}
    for _, space, _ in shards:
        files[f"spaces/{space.digest}.json"] = (space.to_json(indent=1) + "\n").encode()
    files[TABLE] = _parquet(_table(recipe, shards))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for _, _, path in shards:
        with open(path, "rb") as file:
            sums[path.relative_to(building).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    files[CARD] = (json.dumps(_card(recipe, sums, shards), indent=1) + "\n").encode()
    for name in sorted(files, key=lambda name: name == TABLE):
        write_file(building / name, files[name])


def _table(recipe: Recipe, shards: Sequence[tuple[Shard, WeightSpace, Path]]) -> pa.Table:
    split = splits(recipe)
    rows: list[dict[str, Any]] = []
    for shard, space, path in shards:
        with safe_open(path, framework="np") as file:
            nets = json.loads(file.metadata()[HEADER])
        for row, labels in enumerate(nets):
            net = labels.pop("net")
            name = f"{net:05d}"
            where = {"id": name, "run": name, "space": space.digest, "shard": shard.number, "row": row}
            rows.append(where | labels | {"split": "none" if labels["diverged"] else split[net]})
    rows.sort(key=lambda row: row["id"])
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, (kind, _, _) in SCHEMA.items()})


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _card(recipe: Recipe, sums: dict[str, str], shards: Sequence[tuple[Shard, WeightSpace, Path]]) -> dict[str, Any]:
    return {
        "format": 1,
        "name": recipe.name,
        "version": recipe.version,
        "description": recipe.description,
        "licence": recipe.licence,
        "source": recipe.source,
        "nets": recipe.nets,
        "recipe": recipe.digest,
        "architectures": {space.digest: shard.architecture.to_dict() for shard, space, _ in shards},
        "columns": {name: {"unit": unit, "meaning": text} for name, (_, unit, text) in SCHEMA.items()},
        "sha256": dict(sorted(sums.items())),
    }
