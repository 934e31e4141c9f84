"""Zoos of implicit neural representations: one small network an image, in the layouts of three publications."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanet.checkpoint import load
from metanet.checkpoint.registry import require
from metanet.errors import ZooError
from metanet.zoo.readers.networks import siren
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import as_object, read_text
from metanet.zoo.readers.trees import read_tree
from metanet.zoo.split import split_runs

COLUMNS = {"label": ("", "class of the image"), "image": ("", "number of the image")}
MNIST_NAME = re.compile(r"mnist_png_(training|testing)_(\d+)_(\d+)")
NFN_NAME = re.compile(r"randinit_smaller_(?:aug(\d+)_)?(\d+)s")
NFN_EDGES = (45_000, 50_000)
ARENA_EDGES = {"mnist": (55_000, 60_000), "cifar10": (45_000, 50_000), "shapenet": (27_840, 31_320)}


@zoo_reader(
    "dws-inrs",
    title="Implicit neural representations of MNIST or Fashion-MNIST (Navon et al. 2023, arXiv:2301.12780)",
    licence="not stated",
    source="https://github.com/AvivNavon/DWSNets",
    holds="the folder mnist-inrs (mnist_png_*/checkpoints/*.pth) or fmnist_inrs (train/*.pth, test/*.pth)",
)
def open_dws_inrs(path: Path, *, splits: Path | None = None) -> Source:
    """Open a folder of INRs; the function is a SIREN plus 0.5, on coordinates from -1 to 1.

    Args:
        path: The folder.
        splits: ``fmnist_splits.json`` or ``splits.json`` (also .gz): ``{split: {"path": [...], "label": [...]}}``.
            Without it, nets are trained or tested on as their folder says, and a random part of the training nets
            validates, as published: 5,000 of 60,000 (whose random numbers were not published).
    """
    files = sorted(path.rglob("*.pth"))
    if not files:
        raise ZooError(f"{path} holds no .pth files. It should be the folder mnist-inrs or fmnist_inrs.")
    names = [file.relative_to(path).as_posix() for file in files]
    published = _named_splits(Path(splits)) if splits is not None else _folder_splits(files)

    def read(number: int) -> SourceNet:
        file = files[number]
        state = dict(read_tree(file))
        label = state.pop("label", None)  # an entry that Fashion-MNIST's files have beside the tensors
        found = MNIST_NAME.fullmatch(file.parent.parent.name)
        digits = re.search(r"(\d+)$", file.stem)
        if found is not None:
            labels: dict[str, Any] = {"label": int(found[2]), "image": int(found[3])}
        else:
            labels = {"label": int(label) if label is not None else None, "image": int(digits[1]) if digits else None}
        blueprint = siren(list(state.items()), offset=0.5)
        split = published.get(names[number], published.get(_tail(file), "none"))
        return SourceNet(state, labels, split, blueprint=blueprint)

    note = (
        f"split of {Path(splits).name}" if splits is not None else "test nets as published, validation nets at random"
    )
    return Source(names, read, COLUMNS, (note,))


@zoo_reader(
    "nfn-inrs",
    title="Implicit neural representations of MNIST, Fashion-MNIST or CIFAR-10 (Zhou et al. 2023, arXiv:2302.14040)",
    licence="not stated",
    source="https://github.com/AllanYangZhou/nfn",
    holds="a folder siren_<data>_wts of randinit_smaller_<label>s/net<index>.pth",
)
def open_nfn_inrs(path: Path, *, views: bool = True) -> Source:
    """Open a folder of INRs; the index of the image, counted through training and test images, gives the split.

    Args:
        path: The folder.
        views: Whether to read the further nets of each image (``randinit_smaller_aug<k>_<label>s``), which share the
            image's run and split.
    """
    found = []
    for file in sorted(path.glob("randinit_smaller_*s/net*.pth")):
        folder, digits = NFN_NAME.fullmatch(file.parent.name), re.fullmatch(r"net(\d+)", file.stem)
        if folder is not None and digits is not None and (views or folder[1] is None):
            found.append((file, folder[1], int(folder[2]), int(digits[1])))
    if not found:
        raise ZooError(f"{path} holds no randinit_smaller_<label>s/net<index>.pth. It should be a folder siren_*_wts.")
    ids = [file.relative_to(path).with_suffix("").as_posix() for file, *_ in found]

    def read(number: int) -> SourceNet:
        file, view, label, image = found[number]
        tensors = load(file).tensors
        labels = {"label": label, "image": image, "view": int(view) if view is not None else None}
        split = by_index(image, NFN_EDGES)
        return SourceNet(tensors, labels, split, f"image {image}", siren(list(tensors.items())))

    columns = COLUMNS | {"view": ("", "number of the further net of the same image; null for the first")}
    return Source(ids, read, columns, ("split by index: 45,000 train, then 5,000 validate, then test",))


@zoo_reader(
    "neural-field-arena",
    title="Neural fields of the Fit-a-NeF library (Papa et al. 2024, arXiv:2312.10531)",
    licence="CC BY 4.0",
    source="https://zenodo.org/records/10392793",
    holds="a folder of <prefix>_<start>-<end>.hdf5 files",
)
def open_neural_field_arena(path: Path, *, train: int | None = None, validation: int | None = None) -> Source:
    """Open a folder of neural fields, in the order of their start index.

    Args:
        path: The folder.
        train: How many of the first fields train; by default what is published for the data that the folder is named
            after (MNIST 55,000, CIFAR-10 45,000, ShapeNet 27,840, MicroImageNet 45,000).
        validation: How many follow them to validate (5,000; ShapeNet 3,480); the rest is the test split.
    """
    h5py = require("h5py", "keras")
    places: list[tuple[Path, int, int]] = []
    for file in sorted(path.glob("*.hdf5"), key=_start):
        try:
            with h5py.File(file) as opened:
                count = len(opened["params"])
        except (OSError, KeyError) as error:
            raise ZooError(f"Cannot read {file}: got {error}. A dataset 'params' is needed.") from None
        places += [(file, row, _start(file) + row) for row in range(count)]
    if not places:
        raise ZooError(f"{path} holds no <prefix>_<start>-<end>.hdf5 files.")
    edges = _arena_edges(path.name, train, validation)
    ids = [f"{index:06d}" for _, _, index in places]

    def read(number: int) -> SourceNet:
        file, row, index = places[number]
        with h5py.File(file) as opened:
            layout = json.loads(_text(np.asarray(opened["param_config"]).reshape(-1)[0]))
            flat = np.asarray(opened["params"][row], dtype=np.float32)
            extra = {key: _scalar(opened[key], row) for key in opened if key not in ("params", "param_config")}
        tensors = _unflatten(flat, layout)
        labels = {("label" if key == "labels" else key): value for key, value in extra.items() if value is not None}
        return SourceNet(tensors, labels | {"image": index}, by_index(index, edges), options={"chain": True})

    return Source(ids, read, COLUMNS, (f"split by index: train below {edges[0]}, validation below {edges[1]}",))


def by_index(index: int, edges: tuple[int, int]) -> str:
    """The split of an image by its number."""
    return "train" if index < edges[0] else "validation" if index < edges[1] else "test"


def _named_splits(file: Path) -> dict[str, str]:
    named = as_object(file, read_text(file))
    names = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
    try:
        return {_tail(Path(name)): names[split] for split, part in named.items() for name in part["path"]}
    except (KeyError, TypeError) as error:
        raise ZooError(
            f'{file}: got {error}. Accepted: {{"train": {{"path": [...]}}, "val": ..., "test": ...}}.'
        ) from None


def _folder_splits(files: list[Path]) -> dict[str, str]:
    """Training and test nets as their paths say; one in twelve of the training nets validates, at random."""
    training = sorted(_tail(file) for file in files if "train" in _tail(file))
    part = 1 / 12
    drawn = dict(zip(training, split_runs(training, (1 - part, part, 0.0)), strict=True))
    return {_tail(file): drawn.get(_tail(file), "test") for file in files}


def _tail(file: Path) -> str:
    """The part of a path that names a net wherever the folder lies: its folder of MNIST, or split and file name."""
    found = next((part for part in file.parts if MNIST_NAME.fullmatch(part)), None)
    return found if found is not None else "/".join(file.parts[-2:])


def _start(file: Path) -> int:
    found = re.search(r"_(\d+)-\d+$", file.stem)
    if found is None:
        raise ZooError(f"{file.name} is not named <prefix>_<start>-<end>.hdf5.")
    return int(found[1])


def _arena_edges(name: str, train: int | None, validation: int | None) -> tuple[int, int]:
    known = next(
        (edges for key, edges in ARENA_EDGES.items() if key in name.lower().replace("-", "")), (45_000, 50_000)
    )
    start = known[0] if train is None else train
    return start, start + (known[1] - known[0] if validation is None else validation)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _scalar(column: Any, row: int) -> Any:
    """A label of one net, if the dataset has one number or text a net."""
    if not getattr(column, "shape", ()) or column.shape[0] <= row or int(np.prod(column.shape[1:])) != 1:
        return None
    value = np.asarray(column[row]).reshape(-1)[0]
    return _text(value) if isinstance(value, bytes | str) else value.item()


def _unflatten(flat: np.ndarray, layout: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """Tensors from their row; a ``kernel`` is stored ``[in, out]``, as Flax keeps it, and its name tells ``infer``."""
    tensors, start = {}, 0
    for name, shape in layout:
        size = int(np.prod(shape))
        tensors[name.replace("/", ".")] = torch.from_numpy(flat[start : start + size].reshape(shape).copy())
        start += size
    if start != len(flat):
        raise ZooError(f"param_config describes {start} values, a row of params has {len(flat)}")
    paths = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    return {
        n: tensors[n] for p in paths for n in sorted((x for x in tensors if x.rpartition(".")[0] == p), key=_is_bias)
    }


def _is_bias(name: str) -> bool:
    return name.endswith("bias")
