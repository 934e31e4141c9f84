"""The ModelZoos of Schuerholt et al. 2022, as ray tune wrote them and as their authors prepared them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metanet.checkpoint import load
from metanet.errors import ZooError
from metanet.zoo.readers.chains import PooledBlueprint
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import read_json, read_json_lines
from metanet.zoo.readers.trees import read_tree

CHECKPOINT = re.compile(r"checkpoint_(\d+)")
LAYER = re.compile(r"module_list\.\d+\.(weight|bias)")
PARTS = {"trainset": "train", "valset": "validation", "testset": "test"}
RATIOS = (0.7, 0.15)
MEASURED = (
    "test_acc",
    "test_loss",
    "train_acc",
    "train_loss",
    "validation_acc",
    "validation_loss",
    "val_acc",
    "val_loss",
)
COLUMNS = {
    "epoch": ("epochs", "training epochs before the checkpoint"),
    "test_acc": ("fraction", "accuracy on the test images"),
    "train_acc": ("fraction", "accuracy on the training images"),
    "test_loss": ("nats", "loss on the test images"),
    "train_loss": ("nats", "loss on the training images"),
    "ggap": ("fraction", "train_acc - test_acc"),
    "activation": ("", "nonlinearity (published as model::nlin)"),
    "init_type": ("", "initialisation"),
    "lr": ("", "learning rate"),
    "wd": ("", "weight decay"),
}
SMALL = ((8, -1, 5, 5), (6, 8, 5, 5), (4, 6, 2, 2), (20, 36), (10, 20))
PUBLISHED = "model zoos on Zenodo, see https://www.modelzoos.cc"


@zoo_reader(
    "modelzoos",
    title="ModelZoos (Schuerholt, Taskiran, Knyazev, Giro-i-Nieto, Borth 2022, arXiv:2209.14764), raw",
    licence="CC BY 4.0",
    source=PUBLISHED,
    holds="a folder tune_zoo_* of trainings with params.json, result.json and checkpoint_*/checkpoints",
)
def open_modelzoos(path: Path, *, epochs: str | None = None) -> Source:
    """Open a raw zoo: one folder a training, one file a kept epoch.

    Args:
        path: The folder.
        epochs: Epochs to read, such as ``50`` or ``21,22,23``; all by default.
    """
    wanted = None if epochs is None else {int(e) for e in str(epochs).split(",")}
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    found = []
    for folder in folders:
        for checkpoint in folder.glob("checkpoint_*"):
            match = CHECKPOINT.fullmatch(checkpoint.name)
            if match is not None and (wanted is None or int(match[1]) in wanted):
                found.append((folder, int(match[1]), checkpoint / "checkpoints"))
    found.sort(key=lambda item: (item[0].name, item[1]))
    if not found:
        raise ZooError(f"{path} holds no <training>/checkpoint_<epoch>/checkpoints. It should be a folder tune_zoo_*.")
    splits = folder_splits([folder.name for folder in dict.fromkeys(folder for folder, *_ in found)])
    known: dict[Path, tuple[dict[str, Any], dict[int, dict[str, Any]]]] = {}

    def read(number: int) -> SourceNet:
        folder, epoch, file = found[number]
        if folder not in known:
            known.clear()  # trainings come one after the other
            known[folder] = settings(read_json(folder / "params.json")), results(folder / "result.json")
        own, lines = known[folder]
        net = as_net(load(file).tensors, own | {"epoch": epoch} | measured(lines.get(epoch, {})))
        return SourceNet(
            net.tensors,
            net.labels,
            splits[folder.name],
            folder.name,
            net.blueprint,
            net.activation,
            options=net.options,
        )

    note = (
        "split by training, 70/15/15 after random.seed(42) on sorted folders; the published one is of unsorted folders"
    )
    return Source([f"{folder.name}/{epoch}" for folder, epoch, _ in found], read, COLUMNS, (note,))


@zoo_reader(
    "modelzoos-dataset",
    title="ModelZoos (Schuerholt, Taskiran, Knyazev, Giro-i-Nieto, Borth 2022, arXiv:2209.14764), prepared",
    licence="CC BY 4.0",
    source=PUBLISHED,
    holds="a file dataset_*.pt: a dictionary of trainset, valset and testset",
)
def open_modelzoos_dataset(path: Path, *, activation: str | None = None) -> Source:
    """Open a prepared zoo, whose pickled dataset objects are read as plain data; the code of their class is not run.

    Args:
        path: The file.
        activation: Nonlinearity of all nets, if the properties do not name it.
    """
    tree = read_tree(path)
    if not isinstance(tree, dict) or not set(PARTS) & set(tree):
        got = ", ".join(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
        raise ZooError(f"{path}: got {got}. Accepted: a dictionary of {', '.join(PARTS)}.")
    parts = [(PARTS[key], tree[key]) for key in PARTS if isinstance(tree.get(key), dict)]
    nets = [(split, held, number) for split, held in parts for number in range(len(held.get("data_in") or ()))]

    def read(number: int) -> SourceNet:
        split, held, place = nets[number]
        properties = held.get("properties") or {}
        own = settings({key: values[place] for key, values in properties.items() if len(values) > place})
        epochs, paths = held.get("epochs") or (), held.get("paths") or ()
        if len(epochs) > place:
            own["epoch"] = int(epochs[place])
        own.setdefault("activation", activation)
        run = _text_path(paths[place]) if len(paths) > place else ""
        net = as_net(state_of(held["data_in"][place], held), own)
        return SourceNet(net.tensors, net.labels, split, run, net.blueprint, net.activation, options=net.options)

    ids = [f"{split}/{place:05d}" for split, _, place in nets]
    return Source(ids, read, COLUMNS, ("split as published",))


def folder_splits(names: list[str]) -> dict[str, str]:
    """The authors' rule: shuffle the folders with ``random.seed(42)``, cut at 70 and 85 %."""
    order = list(names)
    random.Random(42).shuffle(order)
    first = int(RATIOS[0] * len(order))
    second = first + int(RATIOS[1] * len(order))
    parts = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
    return {name: split for split, part in parts.items() for name in part}


def results(file: Path) -> dict[int, dict[str, Any]]:
    """Lines of ``result.json`` by epoch.

    A zoo that measured its nets before training has one line more in front. Line ``E`` or ``E - 1`` is that of epoch
    ``E``, and its ``training_iteration`` tells which; a resumed training repeats epochs, of which the last counts.
    """
    return {int(line["training_iteration"]): line for line in read_json_lines(file) if "training_iteration" in line}


def measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says was measured; numbers that are not finite are missing."""
    found = {key: float(line[key]) for key in MEASURED if isinstance(line.get(key), int | float)}
    out: dict[str, Any] = {key: value if math.isfinite(value) else None for key, value in found.items()}
    if out.get("train_acc") is not None and out.get("test_acc") is not None:
        out["ggap"] = out["train_acc"] - out["test_acc"]
    return out


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters by their names without groups: ``optim::lr`` is ``lr``, and ``model::nlin`` is ``activation``."""
    names = {"nlin": "activation", "training_iteration": "epoch"}
    out: dict[str, Any] = {}
    for key, value in given.items():
        short = str(key).rpartition("::")[2]
        name = names.get(short, short if short not in out else str(key))
        if isinstance(value, int | float | str | bool):
            out[name] = value if not isinstance(value, float) or math.isfinite(value) else None
    return out


def as_net(state: Mapping[str, Tensor], labels: dict[str, Any]) -> SourceNet:
    """A net with the blueprint of the published CNNs if it is one of theirs, otherwise to be inferred."""
    kind = str(labels["activation"]) if labels.get("activation") else None
    if kind is not None and all(LAYER.fullmatch(name) for name in state):
        blueprint, tensors = PooledBlueprint.rename(state, kind)
        return SourceNet(tensors, labels, blueprint=blueprint.declared())
    return SourceNet(state, labels, activation=kind, options={"chain": True, "channels_last": False})


def state_of(held: Any, dataset: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state dict of a prepared net, which may be kept as the vector of weight, bias, weight, bias, ...

    Raises:
        ZooError: It is neither, or a vector of an architecture that is not known.
    """
    if isinstance(held, Mapping):
        return held
    base = dataset.get("checkpoint_base")
    shapes = {name: tuple(t.shape) for name, t in base.items()} if isinstance(base, Mapping) else None
    if isinstance(held, Tensor) and held.dim() == 1:
        shapes = shapes if shapes is not None else _small(len(held))
        if shapes is not None and sum(math.prod(shape) for shape in shapes.values()) == len(held):
            parts = held.split([math.prod(shape) for shape in shapes.values()])
            return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    got = f"a tensor {list(held.shape)}" if isinstance(held, Tensor) else type(held).__name__
    raise ZooError(f"a net is neither a state dict nor a vector of known layers: got {got}")


def _small(size: int) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the small CNN with as many values: 2,464 for one input channel, 2,864 for three."""
    for channels in (1, 3):
        weights = [tuple(channels if n == -1 else n for n in shape) for shape in SMALL]
        shapes: dict[str, tuple[int, ...]] = {}
        for number, shape in zip((0, 3, 6, 9, 11), weights, strict=True):
            shapes |= {f"module_list.{number}.weight": shape, f"module_list.{number}.bias": shape[:1]}
        if sum(math.prod(shape) for shape in shapes.values()) == size:
            return shapes
    return None


def _text_path(value: Any) -> str:
    """A pickled path, which is a list of its parts, as the name of its folder."""
    return str(value[-1]) if isinstance(value, list) and value else str(value).rpartition("/")[2]
