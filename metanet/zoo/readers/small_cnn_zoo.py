"""The Small CNN Zoo (Unterthiner et al. 2020): flat weights in one array, hyperparameters and accuracies in a CSV."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanet.errors import ZooError
from metanet.zoo.architecture import Architecture, Conv, Layer, Linear, MeanPool
from metanet.zoo.readers.networks import Declared, declared
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import parse_columns, read_csv, read_text

FINAL_STEP = 86
SIDE = 28  # of the images; the mean over positions lets the nets read others too
VARIABLE = re.compile(r"sequential/(conv2d|dense)(?:_(\d+))?/(bias|kernel)(?::0)?")
COLUMNS = {
    "activation": ("", "nonlinearity"),
    "step": ("epochs", "epoch of the checkpoint; 86 is the last"),
    "l2reg": ("", "L2 penalty"),
    "dropout": ("", "probability of zeroing a value while training"),
    "learning_rate": ("", "learning rate"),
    "train_fraction": ("fraction", "part of the training images used"),
    "init_std": ("", "scale of the initial weights"),
    "test_accuracy": ("fraction", "on the test images"),
    "train_accuracy": ("fraction", "on the training images"),
    "test_loss": ("nats", "cross-entropy on the test images"),
    "train_loss": ("nats", "cross-entropy on the training images"),
}


def small_cnn(channels: Sequence[int], classes: int, activation: str, padding: int = 0) -> Declared:
    """Convolutions 3x3 with stride 2, each followed by the activation, then the mean over positions, then linear.

    Args:
        channels: Input channels, then those written by each convolution.
        classes: Outputs.
        activation: ``relu`` or ``tanh``.
        padding: Zero padding of the convolutions; the published zoos have none.
    """
    layers: list[Layer] = []
    for written in channels[1:]:
        layers += [Conv(written, kernel=3, stride=2, padding=padding), declared(activation)]
    names = (*(f"conv{number}" for number in range(1, len(channels))), "linear")
    return Declared(Architecture((channels[0], SIDE, SIDE), (*layers, MeanPool(), Linear(classes)), names))


@dataclass(frozen=True)
class Variable:
    """One tensor in a row of ``weights.npy``: its place there, and its name in PyTorch."""

    name: str
    start: int
    end: int
    shape: tuple[int, ...]

    def read(self, row: np.ndarray) -> Tensor:
        """The tensor, from HWIO to OIHW, or from ``[in, out]`` to ``[out, in]``."""
        value = row[self.start : self.end].reshape(self.shape)
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, (0,))
        return torch.from_numpy(np.array(value.transpose(order), dtype=np.float32, order="C"))


@zoo_reader(
    "small-cnn-zoo",
    title="CNNs of the Small CNN Zoo (Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin 2020, arXiv:2002.11448)",
    licence="CC BY 4.0",
    source="https://storage.cloud.google.com/gresearch/smallcnnzoo-dataset/",
    holds="a folder with weights.npy, metrics.csv.gz and layout.csv",
)
def open_small_cnn_zoo(path: Path, *, split: Path | None = None, padding: int = 0) -> Source:
    """Open a folder of the Small CNN Zoo.

    Args:
        path: The folder.
        split: A split file, by default ``split.csv`` or ``*_split.csv[.gz]`` in the folder: columns ``row, split``, or
            the permutation that NFN and its successors share (:func:`nfn_split`).
        padding: Zero padding of the convolutions, 0 as published. It leaves no trace in the weights.
    """
    variables = _layout(path / "layout.csv")
    metrics = path / ("metrics.csv.gz" if (path / "metrics.csv.gz").is_file() else "metrics.csv")
    labels = [_labels(row) for row in parse_columns(read_csv(metrics))]
    try:
        weights = np.load(path / "weights.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ZooError(f"Cannot read {path / 'weights.npy'}: got {error}.") from None
    wanted = (len(labels), max(v.end for v in variables.values()))
    if weights.shape != wanted:
        raise ZooError(
            f"{path}: weights.npy has shape {list(weights.shape)}, metrics and layout.csv say {list(wanted)}."
        )
    splits, notes = _splits(path, split, labels)
    digits = len(str(len(labels) - 1))

    def read(number: int) -> SourceNet:
        row = np.asarray(weights[number])
        tensors = {name: variable.read(row) for name, variable in variables.items()}
        own = dict(labels[number])
        run = str(own.pop("modeldir", ""))
        kernels = [t for name, t in tensors.items() if t.dim() == 4]
        channels = (kernels[0].shape[1], *(k.shape[0] for k in kernels))
        classes = len(tensors["linear.bias"])
        blueprint = small_cnn(channels, classes, str(own["activation"]), padding)
        return SourceNet(tensors, own, splits[number], run, blueprint)

    return Source([f"{i:0{digits}d}" for i in range(len(labels))], read, COLUMNS, notes)


def nfn_split(indices: Sequence[int], steps: Sequence[int]) -> dict[int, str]:
    """The split of Zhou et al. (NFN, arXiv:2302.14040), which later work shares, from its file of row numbers.

    The rows are put in the file's order and those of the last epoch kept; the second half is the test split, and of the
    first half, shuffled by Python's ``random.Random(0)``, 80 % train and the rest validate. A row that occurs twice
    (row 0, see :func:`_permutation`) is in the test split if either place is, else where it trains.

    Args:
        indices: The permutation.
        steps: Epoch of every row.

    Returns:
        Split by row; rows of other epochs have none.
    """
    final = [i for i in indices if steps[i] == FINAL_STEP]
    first, test = final[: len(final) // 2], final[len(final) // 2 :]
    random.Random(0).shuffle(first)
    cut = int(0.8 * len(first))
    return dict.fromkeys(first[cut:], "validation") | dict.fromkeys(first[:cut], "train") | dict.fromkeys(test, "test")


def _splits(path: Path, given: Path | None, labels: list[dict[str, Any]]) -> tuple[list[str], tuple[str, ...]]:
    file = Path(given) if given is not None else next(iter(sorted(path.glob("*split.csv*"))), None)
    if file is None:
        return ["none"] * len(labels), ()
    rows = list(csv.reader(io.StringIO(read_text(file))))
    if rows and rows[0][:2] == ["row", "split"]:
        out = ["none"] * len(labels)
        for row in rows[1:]:
            out[_index(file, row[0], len(labels))] = row[1]
        return out, (f"split of {file.name}",)
    indices = _permutation(file, rows, len(labels))
    chosen = nfn_split(indices, [int(label.get("step", FINAL_STEP)) for label in labels])
    return [chosen.get(i, "none") for i in range(len(labels))], (f"split of NFN from {file.name}, last epoch only",)


def _permutation(file: Path, rows: list[list[str]], count: int) -> list[int]:
    """Row numbers of an NFN split file, read as published work reads it: the header ``0`` is taken for a row number.

    So row 0 comes first and once more in its own place, and there is one index more than rows.
    """
    return [_index(file, row[-1], count) for row in rows if row]


def _index(file: Path, text: str, count: int) -> int:
    if not text.isdecimal() or int(text) >= count:
        raise ZooError(f"Split {file}: got row {text!r}. Accepted: whole numbers below {count}, the rows of the zoo.")
    return int(text)


def _layout(path: Path) -> dict[str, Variable]:
    """Tensors in the order of the network, by their names in PyTorch."""
    found: dict[tuple[str, int, str], Variable] = {}
    for row in read_csv(path):
        match = VARIABLE.fullmatch(row.get("varname", ""))
        if match is None or not {"start_idx", "end_idx", "shape"} <= row.keys():
            raise ZooError(
                f"{path}: got {row}. Accepted: columns varname, start_idx, end_idx, shape, with variables such as "
                "sequential/conv2d_1/kernel:0."
            )
        shape = tuple(int(n) for n in re.findall(r"\d+", row["shape"]))
        layer, number, role = match[1], int(match[2] or 0), {"kernel": "weight", "bias": "bias"}[match[3]]
        name = f"conv{number + 1}.{role}" if layer == "conv2d" else f"linear.{role}"
        found[layer, number, role] = Variable(name, int(row["start_idx"]), int(row["end_idx"]), shape)
    order = sorted(found, key=lambda key: (key[0], key[1], key[2] == "bias"))
    return {found[key].name: found[key] for key in order}


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    """Labels without the prefix ``config.``."""
    return {name.removeprefix("config."): value for name, value in row.items()}
