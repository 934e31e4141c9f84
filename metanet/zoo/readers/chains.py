"""Convolutional networks of published zoos, rebuilt from the shapes of their tensors and their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from metanet.errors import ZooError
from metanet.zoo.architecture import Add, Architecture, Conv, Layer, Linear, MaxPool, MeanPool
from metanet.zoo.readers.networks import Declared, declared

SIDES = range(8, 129)
SIDE = 32  # of CIFAR-10's images


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

    def declared(self) -> Declared:
        """The network, for images of :meth:`side`."""
        layers: list[Layer] = []
        for shape in self.shapes:
            if len(shape) == 4:
                layers += [Conv(shape[0], kernel=shape[-1]), *([MaxPool(2)] if shape[-1] > 2 else [])]
            else:
                layers.append(Linear(shape[0]))
            layers.append(declared(self.nonlinearity))
        side, names = self.side(), tuple(self.names())
        return Declared(Architecture((self.shapes[0][1], side, side), tuple(layers[:-1]), names))

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


def park_cnn(
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    residual: Sequence[int],
    nonlinearities: Sequence[str],
    classes: int,
) -> Declared:
    """A CNN of the CNN Wild Park: residual sums over the first channels, mean over positions, one linear layer.

    Source: Kofinas et al. 2024 (arXiv:2403.12143).

    Args:
        channels: Input channels, then those of every layer.
        kernels: Kernel width of each layer.
        strides: Stride of each layer.
        paddings: Padding of each layer.
        residual: For each layer, the layer whose output is added to its own before its nonlinearity, or -1.
        nonlinearities: Of each layer.
        classes: Outputs.

    Raises:
        ZooError: The settings of the layers are not equally many, or do not fit each other.
    """
    settings = (channels[1:], kernels, strides, paddings, residual, nonlinearities)
    if len({len(given) for given in settings}) != 1:
        raise ZooError(f"the settings are of {[len(given) for given in settings]} layers")
    layers: list[Layer] = []
    ends: list[int] = []  # position of the last layer of each block
    for written, kernel, stride, padding, earlier, name in zip(*settings, strict=True):
        layers.append(Conv(written, kernel, stride, padding))
        if earlier >= len(ends):
            raise ZooError(f"layer {len(ends)} adds the output of layer {earlier}, which is not known yet")
        layers += [*([Add(ends[earlier])] if earlier > -1 else []), declared(name)]
        ends.append(len(layers) - 1)
    names = (*(f"layers.{i}" for i in range(len(ends))), "fc")
    return Declared(Architecture((channels[0], SIDE, SIDE), (*layers, MeanPool(), Linear(classes)), names))


def per_layer(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """A setting of every layer, given once or layer by layer."""
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * count  # type: ignore[arg-type]
