"""The CNN Wild Park (Kofinas et al. 2024): CNNs of many architectures, several checkpoints a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metanet.errors import ZooError
from metanet.zoo.architecture import Activation, Add, Conv
from metanet.zoo.readers.chains import park_cnn, per_layer
from metanet.zoo.readers.networks import Declared
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import as_object, read_text
from metanet.zoo.readers.trees import read_tree

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
COLUMNS = {
    "test_accuracy": ("fraction", "accuracy on the test images (published as test/acc)"),
    "step": ("", "training iterations before the checkpoint"),
    "layers": ("", "convolutions"),
    "residuals": ("", "how often an earlier value is added"),
    "activation": ("", "nonlinearities, one name if all are alike"),
}


@zoo_reader(
    "cnn-wild-park",
    title="CNN Wild Park (Kofinas, Knyazev, Zhang, Chen, Burghouts, Gavves, Snoek, Zhang 2024, arXiv:2403.12143)",
    licence="see the record",
    source="https://zenodo.org/records/12797219",
    holds="a folder of <trial>/<checkpoint_*>/checkpoint.pt",
)
def open_wild_park(path: Path, *, splits: Path | None = None) -> Source:
    """Open a folder of trials; all checkpoints of a trial are one run.

    Args:
        path: The folder.
        splits: ``cnn_park_splits.json``: ``{split: {"path": [...], "score": [...], "step": [...]}}``; by default the
            file of that name in the folder or beside it.
    """
    files = sorted(path.glob("*/*/checkpoint.pt"))
    if not files:
        raise ZooError(f"{path} holds no <trial>/<checkpoint_*>/checkpoint.pt.")
    beside = [file for file in (path / "cnn_park_splits.json", path.parent / "cnn_park_splits.json") if file.is_file()]
    index = Path(splits) if splits is not None else next(iter(beside), None)
    published = _splits(index) if index is not None else {}

    def read(number: int) -> SourceNet:
        file = files[number]
        tree = read_tree(file)
        config = _mapping(tree, "config")
        state = {name: t for name, t in _mapping(tree, "model").items() if isinstance(t, Tensor)}
        blueprint = blueprint_of(config, state)
        layers = blueprint.architecture.layers
        kinds = [layer.fn for layer in layers if isinstance(layer, Activation)]
        last = tree.get("last_result") or config.get("last_result") or {}
        labels = {
            "test_accuracy": last.get("test/acc"),
            "step": tree.get("iteration", last.get("training_iteration")),
            "layers": sum(isinstance(layer, Conv) for layer in layers),
            "residuals": sum(isinstance(layer, Add) for layer in layers),
            "activation": kinds[0] if len(set(kinds)) == 1 else ",".join(kinds),
        }
        trial = file.parent.parent.name
        split = published.get(_tail(file.parent), published.get(trial, "none"))
        return SourceNet(state, labels, split, trial, blueprint)

    ids = [_tail(file.parent) for file in files]
    return Source(ids, read, COLUMNS, (f"split of {index.name}",) if index is not None else ())


def blueprint_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Declared:
    """The architecture of a net from its settings, checked against its tensors.

    Raises:
        ZooError: A setting is missing, or tensors have other shapes.
    """
    try:
        count = int(config["n_layers"])
        channels, kernels = tuple(map(int, config["channels"])), per_layer(config["kernel_size"], count)
        blueprint = park_cnn(
            channels,
            kernels,
            per_layer(config["stride"], count),
            per_layer(config["padding"], count),
            tuple(-1 if r is None else int(r) for r in config["residual"]),
            tuple(map(str, config["activation"])),
            int(config["n_classes"]),
        )
    except ZooError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ZooError(
            f"the settings describe no network: {type(error).__name__} {error}, got {sorted(config)}"
        ) from None
    wanted = {f"layers.{i}.weight": (b, a, k, k) for i, (a, b, k) in enumerate(
        zip(channels, channels[1:], kernels, strict=False))}  # fmt: skip
    for name, shape in wanted.items():
        if name not in state or tuple(state[name].shape) != shape:
            got = list(state[name].shape) if name in state else "nothing"
            raise ZooError(f"'{name}' should be {list(shape)} by the settings, got {got}")
    return blueprint


def _mapping(tree: Any, key: str) -> Mapping[str, Any]:
    found = tree.get(key) if isinstance(tree, Mapping) else None
    if not isinstance(found, Mapping):
        raise ZooError(f"a checkpoint needs the entry '{key}', got {list(tree) if isinstance(tree, Mapping) else tree}")
    return found


def _splits(file: Path) -> dict[str, str]:
    """Split by checkpoint and by trial: all checkpoints of a trial are on one side."""
    out: dict[str, str] = {}
    for name, part in as_object(file, read_text(file)).items():
        if name not in SPLITS or not isinstance(part, dict) or "path" not in part:
            raise ZooError(
                f'{file}: got \'{name}\'. Accepted: {{"train": {{"path": [...]}}, "val": ..., "test": ...}}.'
            )
        for path in part["path"]:
            folder = Path(path).parent if Path(path).suffix else Path(path)
            for key in (_tail(folder), folder.parent.name):
                if out.setdefault(key, SPLITS[name]) != SPLITS[name]:
                    raise ZooError(f"{file}: '{key}' is in two splits.")
    return out


def _tail(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
