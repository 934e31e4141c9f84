"""Folders of safetensors files with labels in their metadata: Model-J (Horwitz et al. 2025) and LoRA adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metanet.checkpoint import load
from metanet.errors import ZooError
from metanet.zoo.readers.networks import place
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import Value, parse, weights_first

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
DOWN = (".lora.down.weight", ".lora_A.weight")
UP = (".lora.up.weight", ".lora_B.weight")
COLUMNS = {
    "dataset_chosen_targets": ("", "classes trained on"),
    "imagenet_class_id": ("", "class trained on"),
    "folder": ("", "part of the zoo that the file lies in"),
}


@dataclass(frozen=True)
class LoraBlueprint:
    """Low-rank adapters: each adds ``up @ down`` to a matrix of the adapted network.

    Nothing of that network is known, so that inputs and outputs of every adapter keep their order, and only the rank
    axis between its two factors is free.

    Attributes:
        pairs: Names and shapes of each adapter's factors: down, up.
    """

    pairs: tuple[tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]], ...]

    def module(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """A module that applies every adapter to an input of its own."""
        return Adapters(self), tuple(torch.zeros(2, down[1]) for (_, down), _ in self.pairs)


class Adapters(nn.Module):
    """The adapters of a :class:`LoraBlueprint`, side by side."""

    def __init__(self, blueprint: LoraBlueprint) -> None:
        super().__init__()
        self.pairs: list[tuple[nn.Linear, nn.Linear]] = []
        for pair in blueprint.pairs:
            down, up = (nn.Linear(shape[1], shape[0], bias=False) for _, shape in pair)
            for (name, _), layer in zip(pair, (down, up), strict=True):
                place(self, name.removesuffix(".weight"), layer)
            self.pairs.append((down, up))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of all adapters."""
        return tuple(up(down(x)) for (down, up), x in zip(self.pairs, inputs, strict=True))


@zoo_reader(
    "model-j",
    title="Model-J and other folders of safetensors files (Horwitz, Shul, Hoshen 2025, arXiv:2410.13569)",
    licence="see the repository",
    source="https://huggingface.co/ProbeX/Model-J",
    holds="a folder of train/, val/, test/ or any folders of *.safetensors files with labels in their metadata",
)
def open_model_j(path: Path) -> Source:
    """Open a folder of files; the part of the path that is named train, val or test is the split.

    Adapters (``*.lora.down.weight`` and ``*.lora.up.weight``) are read as products of low rank; of other networks the
    space is inferred from names and shapes.

    Args:
        path: The folder.
    """
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        raise ZooError(f"{path} holds no .safetensors files.")
    ids = [file.relative_to(path).with_suffix("").as_posix() for file in files]

    def read(number: int) -> SourceNet:
        file = files[number]
        checkpoint = load(file)
        parts = file.relative_to(path).parts[:-1]
        split = next((SPLITS[part.lower()] for part in parts if part.lower() in SPLITS), "none")
        own = labels_of(checkpoint.metadata) | {"folder": "/".join(parts)}
        pairs = adapters(checkpoint.tensors)
        if pairs is None:
            return SourceNet(weights_first(checkpoint.tensors), own, split)
        return SourceNet(checkpoint.tensors, own, split, blueprint=LoraBlueprint(pairs))

    return Source(ids, read, COLUMNS, ("split by folder; holdouts and other folders are in none",))


def adapters(tensors: Mapping[str, Tensor]) -> Any:
    """Names and shapes of all adapters, or None if the file holds something else.

    Raises:
        ZooError: An adapter lacks a factor, or its factors do not fit.
    """
    if not any(name.endswith(DOWN) for name in tensors):
        return None
    pairs, used = [], set()
    for name, tensor in tensors.items():
        for down, up in zip(DOWN, UP, strict=True):
            if name.endswith(down):
                other = name.removesuffix(down) + up
                shapes = tuple(tensor.shape), tuple(tensors[other].shape) if other in tensors else ()
                if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][1]:
                    raise ZooError(
                        f"'{name}' {list(shapes[0])} and '{other}' {list(shapes[1])} are no adapter of low rank"
                    )
                pairs.append(((name, shapes[0]), (other, shapes[1])))
                used |= {name, other}
    if used != set(tensors):
        raise ZooError(f"beside adapters the file holds '{sorted(set(tensors) - used)[0]}'")
    return tuple(pairs)


def labels_of(metadata: Mapping[str, str]) -> dict[str, Value]:
    """Labels from the texts of a file's metadata; lists and dictionaries stay text."""
    out: dict[str, Value] = {}
    for key, text in metadata.items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if key != "format":
            out[key] = value if isinstance(value, int | float | bool) else parse(text) if value == text else text
    return out
