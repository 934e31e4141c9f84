"""Convolutional networks of published zoos, rebuilt from the shapes of their tensors and their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metanet.errors import ZooError
from metanet.zoo.readers.networks import activation

SIDES = range(8, 129)


@dataclass(frozen=True)
class PooledBlueprint:
    """Convolutions, each with 2x2 max pooling *before* the nonlinearity unless its kernel is 2x2; then linear layers.

    Source: the CNNs of Schuerholt et al. 2022 (arXiv:2209.14764).

    Attributes:
        shapes: Shapes of the weights, in order.
        nonlinearity: Its name.
    """

    shapes: tuple[tuple[int, ...], ...]
    nonlinearity: str

    def names(self) -> list[str]:
        """Names of the layers: ``conv1``, ..., ``linear1``, ..."""
        convolutions = sum(len(shape) == 4 for shape in self.shapes)
        rest = range(1, len(self.shapes) - convolutions + 1)
        return [*(f"conv{i}" for i in range(1, convolutions + 1)), *(f"linear{i}" for i in rest)]

    def side(self) -> int:
        """The smallest image that leaves as many values as the first linear layer reads.

        Raises:
            ZooError: None does.
        """
        kernels = [shape for shape in self.shapes if len(shape) == 4]
        linear = next((shape for shape in self.shapes if len(shape) == 2), None)
        for side in SIDES:
            left = side
            for kernel in kernels:
                left = left - kernel[-1] + 1
                left = left // 2 if kernel[-1] > 2 else left
            if linear is not None and left > 0 and kernels and kernels[-1][0] * left * left == linear[1]:
                return side
        raise ZooError(f"layers of shapes {[list(s) for s in self.shapes]} do not follow one another")

    def module(self) -> tuple[nn.Module, Tensor]:
        """The network, and an image."""
        out, side = nn.Sequential(), self.side()
        for name, shape in zip(self.names(), self.shapes, strict=True):
            if name == "linear1":
                out.add_module("flatten", nn.Flatten())
            if len(shape) == 4:
                out.add_module(name, nn.Conv2d(shape[1], shape[0], shape[-1]))
                if shape[-1] > 2:
                    out.add_module(f"pool_{name}", nn.MaxPool2d(2))
            else:
                out.add_module(name, nn.Linear(shape[1], shape[0]))
            if name != self.names()[-1]:
                out.add_module(f"act_{name}", activation(self.nonlinearity))
        return out, torch.zeros(1, self.shapes[0][1], side, side)

    @staticmethod
    def rename(state: Mapping[str, Tensor], nonlinearity: str) -> tuple[PooledBlueprint, dict[str, Tensor]]:
        """The blueprint of a state dict and its tensors by the blueprint's names.

        Layers are told by their order, since dropout layers shift the numbers in their names.

        Raises:
            ZooError: A layer lacks its weight or bias, or is of another kind.
        """
        paths = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
        if any({f"{path}.weight", f"{path}.bias"} - state.keys() for path in paths) or len(state) != 2 * len(paths):
            raise ZooError(f"got the tensors {', '.join(state)}; every layer needs a weight and a bias, and no more")
        shapes = tuple(tuple(state[f"{path}.weight"].shape) for path in paths)
        ranks = [len(shape) for shape in shapes]
        if ranks != sorted(ranks, reverse=True) or set(ranks) - {2, 4}:
            raise ZooError(
                f"got weights of shapes {[list(s) for s in shapes]}; convolutions, then linear layers are known"
            )
        blueprint = PooledBlueprint(shapes, nonlinearity)
        named = zip(blueprint.names(), paths, strict=True)
        return blueprint, {f"{new}.{k}": state[f"{old}.{k}"] for new, old in named for k in ("weight", "bias")}


@dataclass(frozen=True)
class ParkBlueprint:
    """A CNN of the CNN Wild Park: residual sums where ``residual`` says so, mean over positions, one linear layer.

    Source: Kofinas et al. 2024 (arXiv:2403.12143).

    Attributes:
        channels: Input channels, then those of every layer.
        kernels: Kernel width of each layer.
        strides: Stride of each layer.
        paddings: Padding of each layer.
        residual: For each layer, the layer whose output is added to its own, or -1.
        nonlinearities: Of each layer.
        classes: Outputs.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    residual: tuple[int, ...]
    nonlinearities: tuple[str, ...]
    classes: int

    def module(self) -> tuple[nn.Module, Tensor]:
        """The network, and an image of 32x32."""
        return ParkNet(self), torch.zeros(1, self.channels[0], 32, 32)


class ParkNet(nn.Module):
    """The network of a :class:`ParkBlueprint`; names of tensors are those of the published files."""

    def __init__(self, blueprint: ParkBlueprint) -> None:
        super().__init__()
        self.residual = blueprint.residual
        steps = zip(blueprint.kernels, blueprint.strides, blueprint.paddings, strict=True)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride, padding)
            for a, b, (kernel, stride, padding) in zip(blueprint.channels, blueprint.channels[1:], steps, strict=False)
        )
        self.activations = nn.ModuleList(map(activation, blueprint.nonlinearities))
        self.fc = nn.Linear(blueprint.channels[-1], blueprint.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``[B, channels[0], H, W]``."""
        kept: list[Tensor] = []
        for layer, act, earlier in zip(self.layers, self.activations, self.residual, strict=True):
            x = layer(x)
            if earlier > -1:
                x = add_channels(x, kept[earlier])
            x = act(x)
            kept.append(x)
        return self.fc(x.mean((2, 3)))


def add_channels(x: Tensor, earlier: Tensor) -> Tensor:
    """Add the first channels, as many as both have, and leave the others as they are."""
    shared = min(x.shape[1], earlier.shape[1])
    total = x[:, :shared] + earlier[:, :shared]
    return total if shared == x.shape[1] else torch.cat([total, x[:, shared:]], 1)


def per_layer(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """A setting of every layer, given once or layer by layer."""
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * count  # type: ignore[arg-type]
