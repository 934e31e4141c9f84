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
from safetensors import SafetensorError, safe_open

from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.zoo.architecture import AFFINE, Add
from metanet.zoo.draws import splits
from metanet.zoo.functions import ARCHITECTURES
from metanet.zoo.recipe import Recipe
from metanet.zoo.shards import HEADER, Shard
from metanet.zoo.store import CARD, TABLE
from metanet.zoo.write import write_file

SCHEMA: dict[str, tuple[pa.DataType, str, str]] = {  # column: type, unit, meaning; those that a zoo has no use for go
    "id": (pa.string(), "", "name of the net"),
    "space": (pa.string(), "", "digest of its weight space"),
    "shard": (pa.int32(), "", "number of the file in weights/<space>/"),
    "row": (pa.int32(), "", "position in that file"),
    "split": (pa.string(), "", "train, validation or test, at random by run; none for nets that diverged"),
    "run": (pa.string(), "", "training that the net comes from"),
    "activation": (pa.string(), "", "nonlinearity"),
    "optimizer": (pa.string(), "", "sgd (with momentum), adam or rmsprop"),
    "learning_rate": (pa.float64(), "", "constant during training, unless there is a schedule"),
    "schedule": (pa.string(), "", "of the learning rate: constant, or falling to 0 as a cosine or linear"),
    "momentum": (pa.float64(), "", "of sgd; the others ignore it"),
    "smoothing": (pa.float64(), "", "of rmsprop; the others ignore it"),
    "epsilon": (pa.float64(), "", "of adam and rmsprop"),
    "weight_decay": (pa.float64(), "", "added to the gradient, times the weight"),
    "decay_biases": (pa.string(), "", "whether biases decay too"),
    "dropout": (pa.float64(), "", "probability of zeroing a feature at each dropout layer"),
    "init": (pa.string(), "", "scheme of the initial weights"),
    "init_gain": (pa.float64(), "", "factor on the initial weights"),
    "init_std": (pa.float64(), "", "deviation of the initial weights, if their scheme is normal or truncated_normal"),
    "train_fraction": (pa.float64(), "fraction", "part of the training images used"),
    "label_noise": (pa.float64(), "fraction", "probability of a wrong class of a training image"),
    "flip": (pa.float64(), "fraction", "probability of flipping a training image left and right"),
    "shift": (pa.int64(), "pixels", "how far training images are shifted at most"),
    "epochs": (pa.float64(), "epochs", "length of the training"),
    "steps": (pa.int64(), "steps", "length of the training"),
    "epoch": (pa.float64(), "epochs", "when these weights were kept"),
    "step": (pa.int64(), "steps", "when these weights were kept"),
    "layers": (pa.int64(), "", "convolutions and linear layers"),
    "parameters": (pa.int64(), "", "numbers trained"),
    "residuals": (pa.int64(), "", "how often an earlier value is added"),
    "image": (pa.int64(), "", "number of the image that the net fits, training images before test images"),
    "image_class": (pa.int64(), "", "class of that image"),
    "mse": (pa.float64(), "", "mean squared error over all pixels and channels; null if not finite"),
    "psnr": (pa.float64(), "dB", "10 log10(span^2 / mse), span the highest minus the lowest possible value"),
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
    table = _table(recipe, shards)
    files[TABLE] = _parquet(table)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for _, _, path in shards:
        with open(path, "rb") as file:
            sums[path.relative_to(building).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    files[CARD] = (json.dumps(_card(recipe, sums, shards, table.column_names), indent=1) + "\n").encode()
    for name in sorted(files, key=lambda name: name == TABLE):
        write_file(building / name, files[name])


def _table(recipe: Recipe, shards: Sequence[tuple[Shard, WeightSpace, Path]]) -> pa.Table:
    split = splits(recipe)
    rows: list[dict[str, Any]] = []
    for shard, space, path in shards:
        nets = _labels(path)
        structure = _structure(recipe, shard)
        for row, labels in enumerate(nets):
            net = labels.pop("net")
            run = f"{net:05d}"
            name = f"{run}-{labels['step']:06d}" if recipe.checkpoints else run
            where = {"id": name, "run": run, "space": space.digest, "shard": shard.number, "row": row}
            rows.append(where | structure | labels | {"split": "none" if labels["diverged"] else split[net]})
    rows.sort(key=lambda row: row["id"])
    return pa.table(
        {name: pa.array([row[name] for row in rows], SCHEMA[name][0]) for name in SCHEMA if name in rows[0]}
    )


def _labels(path: Path) -> list[dict[str, Any]]:
    """What the header of a shard says of its nets.

    Raises:
        ZooError: It says nothing that can be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            nets = json.loads(file.metadata()[HEADER])
        if all({"net", "diverged"} <= set(labels) for labels in nets):
            return list(nets)
        reason = "a net without its number"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"'{error}'"
    raise ZooError(f"Cannot read the labels of shard {path}: got {reason}. Delete the shard and build it again.")


def _structure(recipe: Recipe, shard: Shard) -> dict[str, int]:
    """Return what tells the architectures of a zoo apart, if its recipe draws them."""
    layers = shard.architecture.layers
    if not recipe.architecture.varies:
        return {}
    affine, added = (sum(isinstance(layer, kind) for layer in layers) for kind in (AFFINE, Add))
    return {"layers": affine, "parameters": shard.architecture.parameters, "residuals": added}


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _card(
    recipe: Recipe, sums: dict[str, str], shards: Sequence[tuple[Shard, WeightSpace, Path]], columns: Sequence[str]
) -> dict[str, Any]:
    return {
        "format": 1,
        "name": recipe.name,
        "version": recipe.version,
        "description": recipe.description,
        "licence": recipe.licence,
        "source": recipe.source,
        "nets": recipe.nets,
        "recipe": recipe.digest,
        ARCHITECTURES: {space.digest: shard.architecture.to_dict() for shard, space, _ in shards},
        "columns": {name: {"unit": SCHEMA[name][1], "meaning": SCHEMA[name][2]} for name in columns},
        "sha256": dict(sorted(sums.items())),
    }
