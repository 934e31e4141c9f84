"""The Small Transformer Zoo (Tran et al. 2025): two-layer transformers on MNIST and AG News."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.checkpoint import load
from metanet.errors import ZooError
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import parse_columns, read_csv

HEADS = 2
COLUMNS = {
    "test_accuracy": ("fraction", "accuracy on the test set"),
    "ckpt_epoch": ("epochs", "training epochs before the checkpoint"),
}


@dataclass(frozen=True)
class TransformerBlueprint:
    """A transformer as published: blocks *without* skip connections, norms without parameters, mean over tokens.

    Source: code of Tran, Vo, Nguyen, Nguyen-Nhat et al. 2025 (arXiv:2410.04209).

    Attributes:
        shapes: Shapes of all tensors by name.
        heads: Attention heads.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    heads: int

    def module(self) -> tuple[nn.Module, Tensor]:
        """The network, and an image or tokens."""
        net = SmallTransformer(dict(self.shapes), self.heads)
        return net, net.example()


class SmallTransformer(nn.Module):
    """The network of a :class:`TransformerBlueprint`."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], heads: int) -> None:
        super().__init__()
        self.embedding = _Embedding(shapes)
        blocks = len({name.split(".")[1] for name in shapes if name.startswith("encoder.")})
        self.encoder = nn.ModuleList(_Block(shapes, f"encoder.{i}", heads) for i in range(blocks))
        self.classifier = nn.Module()
        for name in ("fc1", "fc2"):
            self.classifier.add_module(name, _linear(shapes, f"classifier.{name}"))
        if {n: tuple(t.shape) for n, t in self.state_dict().items()} != dict(shapes):
            raise ZooError(f"tensors are not those of a small transformer: got {', '.join(shapes)}")

    def example(self) -> Tensor:
        """An input of the length that the positions allow."""
        return self.embedding.example()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embedding(x)
        for block in self.encoder:
            x = block(x)
        x = _norm(x).mean(1)
        return self.classifier.fc2(torch.relu(self.classifier.fc1(x)))  # type: ignore[operator]


class _Embedding(nn.Module):
    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        patches, words = shapes.get("embedding.conv1.weight"), shapes.get("embedding.embedding.weight")
        if patches is not None:
            self.conv1 = nn.Conv2d(patches[1], patches[0], patches[2], stride=patches[2])
        elif words is not None:
            self.embedding = nn.Embedding(words[0], words[1])
        self.pos_embedding = nn.Parameter(torch.zeros(shapes.get("embedding.pos_embedding", (1, 1))))

    def example(self) -> Tensor:
        length = self.pos_embedding.shape[-2]
        if hasattr(self, "conv1"):
            side = math.isqrt(length) * self.conv1.kernel_size[0]
            return torch.zeros(1, self.conv1.in_channels, side, side)
        return torch.zeros(1, min(length, 8), dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv1"):
            tokens = self.conv1(x).flatten(2).transpose(1, 2)
            return tokens + self.pos_embedding
        return self.embedding(x) + self.pos_embedding[: x.shape[1]]


class _Block(nn.Module):
    def __init__(self, shapes: Mapping[str, tuple[int, ...]], prefix: str, heads: int) -> None:
        super().__init__()
        self.heads, self.attention = heads, nn.Module()
        for name in ("queries", "keys", "values", "out_projection"):
            self.attention.add_module(name, _linear(shapes, f"{prefix}.attention.{name}"))
        self.fc1, self.fc2 = _linear(shapes, f"{prefix}.fc1"), _linear(shapes, f"{prefix}.fc2")

    def forward(self, x: Tensor) -> Tensor:
        x = _norm(x)
        parts = (self.attention.get_submodule(name)(x) for name in ("queries", "keys", "values"))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), -1)
        x = self.attention.get_submodule("out_projection")((weights @ v).transpose(1, 2).flatten(2))
        return self.fc2(torch.relu(self.fc1(_norm(x))))


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _linear(shapes: Mapping[str, tuple[int, ...]], path: str) -> nn.Linear:
    weight = shapes.get(f"{path}.weight", ())
    if len(weight) != 2:
        raise ZooError(f"'{path}.weight' is missing or no matrix: got {', '.join(shapes)}")
    return nn.Linear(weight[1], weight[0], bias=f"{path}.bias" in shapes)


@zoo_reader(
    "small-transformer-zoo",
    title="Small Transformer Zoo (Tran, Vo, Nguyen, Nguyen-Nhat et al. 2025, arXiv:2410.04209)",
    licence="see the repository",
    source="https://huggingface.co/datasets/anonymized-acamedia/Small-Transformer-Zoo",
    holds="a folder with metadata/<task>.csv and <task>/*.pt (task: mnist or ag_news)",
)
def open_small_transformer_zoo(path: Path, *, task: str | None = None, epoch: int | None = None) -> Source:
    """Open the zoo of one task. The published split was drawn without a seed, so none is given.

    Args:
        path: The folder.
        task: ``mnist`` or ``ag_news``; by default the only one there.
        epoch: Read checkpoints of this epoch only; published work uses 75.
    """
    tables = sorted((path / "metadata").glob("*.csv"))
    chosen = [file for file in tables if task is None or file.stem == task]
    if len(chosen) != 1:
        found = ", ".join(file.stem for file in tables) or "none"
        raise ZooError(f"{path}: got the tasks {found}. Choose one of them with the option task.")
    rows = [row for row in parse_columns(read_csv(chosen[0])) if row.get("ckpt_file")]
    rows = [row for row in rows if epoch is None or str(row.get("ckpt_epoch")) == str(epoch)]

    def read(number: int) -> SourceNet:
        row = dict(rows[number])
        file = path / str(row.pop("ckpt_file"))
        tensors = load(file).tensors
        heads = next((int(str(row[key])) for key in ("n_attention_heads", "n_heads") if row.get(key)), HEADS)
        if "test_top1_accuracy" in row:
            row["test_accuracy"] = row.pop("test_top1_accuracy")
        shapes = tuple((name, tuple(t.shape)) for name, t in tensors.items())
        run = "_".join(file.stem.split("_")[:-2]) or file.stem
        return SourceNet(tensors, row, run=run, blueprint=TransformerBlueprint(shapes, heads))

    ids = [str(row["ckpt_file"]).removesuffix(".pt") for row in rows]
    return Source(ids, read, COLUMNS)
