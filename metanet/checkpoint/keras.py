"""Keras files: ``.h5`` of Keras 1 to 3, ``.weights.h5`` and ``.keras`` of Keras 3, in PyTorch's layouts."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.arrays import to_tensor
from metanet.checkpoint.budget import JsonError, parse_json
from metanet.checkpoint.collect import note
from metanet.checkpoint.hdf5 import Hdf5, text, texts
from metanet.checkpoint.keras_layouts import ATTENTION, Array, convert, kind_from_name, roles, snake_case
from metanet.checkpoint.registry import Contents, reader
from metanet.errors import CheckpointError

MAGIC = b"\x89HDF\r\n\x1a\n"
KNOWN = ("config.json", "metadata.json", "model.weights.h5")
SKIPPED = {"optimizer", "compile_metrics", "metrics", "seed_generator"}


class Layer(NamedTuple):
    """What a model's configuration says about one layer."""

    name: str
    kind: str
    config: dict[str, Any]


@reader("keras-h5", extensions=(".h5", ".hdf5"), recognises=lambda probe: probe.head.startswith(MAGIC))
def read_h5(path: Path) -> Contents:
    """Read the weights of an HDF5 file, whole model or weights only; the optimiser's state is left out.

    Raises:
        CheckpointError: The file is damaged, or not one of Keras.
    """
    with Hdf5(path) as file:
        attributes = file.attributes
        metadata = {
            key: value for key in ("keras_version", "backend", "model_config") if (value := text(attributes, key))
        }
        layers = file.child(file.root, "model_weights") or file.root
        config = parse(metadata.get("model_config", ""))
        if texts(layers, "layer_names") is not None:
            tensors = named(file, legacy_layers(file, layers, config))
            return tensors, metadata | note(file.unread())
        if file.child(file.root, "layers") or file.child(file.root, "_layer_checkpoint_dependencies"):
            tensors = named(file, numbered_layers(file, config))
            return tensors, metadata | note(file.unread())
    raise CheckpointError("it is an HDF5 file, but not one of Keras (it has no 'layer_names'). Save it with Keras.")


@reader(
    "keras", extensions=(".keras",), recognises=lambda probe: {"config.json", "model.weights.h5"} <= set(probe.members)
)
def read_zip(path: Path) -> Contents:
    """Read the weights of a ``.keras`` archive; the Python code and layers that it may carry are not opened.

    Raises:
        CheckpointError: The file is damaged.
    """
    with Archive(path) as archive:
        config = archive.read("config.json").decode("utf-8", "replace")
        about = (
            parse(archive.read("metadata.json").decode("utf-8", "replace")) if "metadata.json" in archive.names else {}
        )
        weights = archive.read("model.weights.h5")
        others = [name for name in archive.names if name not in KNOWN and not name.endswith("/")]
    metadata = {key: value for key, value in about.items() if isinstance(value, str)} | {"model_config": config}
    with Hdf5(io.BytesIO(weights)) as file:
        tensors = named(file, numbered_layers(file, parse(config)))
        return tensors, metadata | note([*file.unread(), *others])


def parse(config: str) -> dict[str, Any]:
    """A JSON object, empty if it is damaged: names and shapes still tell most."""
    try:
        found = parse_json(config)
    except JsonError:
        return {}
    return found if isinstance(found, dict) else {}


def named(file: Hdf5, layers: Iterator[tuple[str, str | None, dict[str, Any]]]) -> dict[str, Tensor]:
    """Convert layer after layer; names are ``layer.weight``, ``outer.inner.bias``, ...

    Raises:
        CheckpointError: Two weights have the same name.
    """
    tensors: dict[str, Tensor] = {}
    for name, kind, weights in layers:
        values: dict[str, Array] = {role: file.read(dataset) for role, dataset in weights.items()}
        for role, value in convert(kind, values, name).items():
            if f"{name}.{role}" in tensors:
                raise CheckpointError(f"two weights are named '{name}.{role}': the file is damaged. Save it again.")
            tensors[f"{name}.{role}"] = decode(value, f"{name}.{role}")
    return tensors


def decode(value: Array, name: str) -> Tensor:
    """Copy an array into a tensor; Keras writes bfloat16, which NumPy lacks, as opaque values of two bytes."""
    if value.dtype.str == "|V2":
        return to_tensor(np.ascontiguousarray(value).view(np.int16), name).view(torch.bfloat16)
    return to_tensor(value, name)


def configured(config: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Layer]]:
    """Layers of a configuration, nested models included, each with its path of groups in a ``.keras`` file."""
    inner = config.get("config")
    layers = inner.get("layers", []) if isinstance(inner, dict) else inner if isinstance(inner, list) else []
    counts: dict[str, int] = {}
    for entry in layers if len(above) < 40 else ():
        settings = entry.get("config") if isinstance(entry, dict) else None
        if not isinstance(settings, (dict, list)):
            continue
        kind = str(entry.get("class_name", ""))
        base = snake_case(kind)
        group = f"{base}_{counts[base]}" if base in counts else base
        counts[base] = counts.get(base, 0) + 1
        plain = settings if isinstance(settings, dict) else {}
        yield (*above, "layers", group), Layer(str(plain.get("name", entry.get("name", group))), kind, plain)
        yield from configured(entry, (*above, "layers", group))


def legacy_layers(file: Hdf5, root: Any, config: dict[str, Any]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Layers of the format of Keras 1 and 2: a group a layer, which lists the names of its weights in order."""
    kinds = {layer.name: layer.kind for _, layer in configured(config)}
    for layer in texts(root, "layer_names") or []:
        group = file.child(root, layer)
        owners: dict[str, dict[str, Any]] = {}
        for weight in texts(group, "weight_names") or []:
            scope, _, role = weight.removesuffix(":0").rpartition("/")
            owners.setdefault(inner_path(scope, layer), {})[role] = file.dataset(group, weight)
        for owner, weights in owners.items():
            leaf = owner.rpartition(".")[2]
            kind = kinds.get(leaf or layer) or kind_from_name(leaf or layer)
            if kinds.get(layer) in ATTENTION:
                kind = "EinsumDense"
            yield f"{layer}.{owner}" if owner else layer, kind, weights


def inner_path(scope: str, layer: str) -> str:
    """Dotted path from a layer to the owner of a weight, given the weight's scope; cells of recurrent layers vanish."""
    if f"/{scope}/".endswith(f"/{layer}/"):
        return ""
    rest = f"/{scope}/".rpartition(f"/{layer}/")[2].strip("/")
    parts = [part for part in rest.split("/") if part and not is_cell(part)]
    return ".".join(parts)


def is_cell(name: str) -> bool:
    """Whether a scope is the inner cell that every recurrent layer of Keras has."""
    return kind_from_name(name) in ("LSTM", "GRU", "SimpleRNN") and "_cell" in name


def numbered_layers(file: Hdf5, config: dict[str, Any]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Layers of the format of Keras 3: nested groups, whose group ``vars`` numbers the weights of a layer."""
    known = dict(configured(config))
    rank = {path: index for index, path in enumerate(known)}
    found = [entry for entry in file.groups() if entry[0][-1] == "vars" and not SKIPPED.intersection(entry[0])]
    for path, group in sorted(found, key=lambda entry: rank.get(owner_path(entry[0], rank), len(rank))):
        count = len(group)
        if not count or len(path) == 1:
            continue
        names = [
            display(file, known, path[: end + 1]) for end in range(len(path) - 1) if path[end] not in ("layers", "cell")
        ]
        layer = known.get(path[:-1])
        kind = layer.kind if layer else kind_from_name(file.label(path[:-1])) or kind_from_name(path[-2])
        owner = known.get(owner_path(path, rank))
        if owner and owner.kind in ATTENTION:
            kind = "EinsumDense"
        if path[-2] == "cell":
            kind = "SimpleRNN"  # the number of gates follows from the shapes
        label = ".".join(names)
        weights = roles(kind, layer.config if layer else {}, count, label)
        yield label, kind, {role: file.dataset(group, str(index)) for index, role in enumerate(weights)}


def owner_path(path: tuple[str, ...], known: dict[tuple[str, ...], Any]) -> tuple[str, ...]:
    """The longest part of a path that is a configured layer."""
    return next((path[:end] for end in range(len(path), 0, -1) if path[:end] in known), ())


def display(file: Hdf5, known: dict[tuple[str, ...], Layer], path: tuple[str, ...]) -> str:
    """Name that the user gave a layer: from the configuration, from the file's label, else the group's."""
    return known[path].name if path in known else file.label(path) or path[-1]
