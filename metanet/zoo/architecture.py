"""Architectures of zoo nets: a list of layers, as data, and the plain PyTorch module it describes.

The module (:class:`SmallCNN`) is the reference: its ``state_dict`` names are those of the stored weights, tracing it
gives the zoo's weight space, and the batched builder has to agree with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from metanet.errors import ZooError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Conv:
    """Square convolution with a bias: channels written, kernel width, stride, zero padding."""

    out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Linear:
    """Affine map with a bias; flattens what it reads."""

    out: int


@dataclass(frozen=True)
class Activation:
    """Elementwise nonlinearity; ``fn`` empty means the hyperparameter ``activation``."""

    fn: str = ""


@dataclass(frozen=True)
class MeanPool:
    """Mean over all positions: ``[C, H, W]`` to ``[C]``."""


@dataclass(frozen=True)
class Dropout:
    """Zeroes each value with the probability that the hyperparameter ``dropout`` names."""


Layer = Conv | Linear | Activation | MeanPool | Dropout
LAYERS: dict[str, type[Layer]] = {
    "conv": Conv,
    "linear": Linear,
    "activation": Activation,
    "mean_pool": MeanPool,
    "dropout": Dropout,
}


@dataclass(frozen=True)
class Architecture:
    """Input shape ``(channels, height, width)`` and layers, in order."""

    input: tuple[int, int, int]
    layers: tuple[Layer, ...]

    def resolve(self, hyperparameters: Mapping[str, Any]) -> Architecture:
        """Fill in what hyperparameters decide about the structure; nets that agree afterwards share a weight space."""
        fill = {"fn": str(hyperparameters.get("activation", ""))}
        layers = [replace(x, **fill) if isinstance(x, Activation) and not x.fn else x for x in self.layers]
        return replace(self, layers=tuple(layers))

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape that each layer reads, without the batch, and last the shape of the output."""
        shape: tuple[int, ...] = self.input
        out = [shape]
        for position, layer in enumerate(self.layers):
            shape = _next_shape(f"architecture.layers[{position}]", layer, shape)
            out.append(shape)
        return out

    def names(self) -> list[str]:
        """Return each layer's module name: its kind, numbered from 1 where the kind occurs more than once."""
        kinds = [kind for layer in self.layers for kind, cls in LAYERS.items() if type(layer) is cls]
        many = {kind for kind in kinds if kinds.count(kind) > 1}
        return [f"{kind}{kinds[: i + 1].count(kind)}" if kind in many else kind for i, kind in enumerate(kinds)]

    def to_dict(self) -> dict[str, Any]:
        """Return what the recipe file says."""
        return {"input": list(self.input), "layers": [_layer_dict(layer) for layer in self.layers]}


class SmallCNN(nn.Sequential):
    """The plain module of a resolved architecture; modules are named ``conv1``, ``activation1``, ..., ``linear``.

    Args:
        architecture: Resolved, so that every activation is named.
        dropout: Probability of zeroing a value at the dropout layers, while training.

    Raises:
        ZooError: An activation is unknown or unresolved.
    """

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for name, layer, shape in zip(architecture.names(), architecture.layers, architecture.shapes(), strict=False):
            if isinstance(layer, Linear) and len(shape) > 1:
                modules[f"flatten_{name}"] = nn.Flatten()
            modules[name] = _module(layer, shape, dropout)
        super().__init__(modules)


def parse_architecture(given: Any) -> Architecture:
    """Read the ``architecture`` of a recipe: ``input: [C, H, W]`` and ``layers``, each ``kind`` or ``kind: {...}``.

    Raises:
        ZooError: A key, layer or option is unknown, or a layer does not fit its input.
    """
    if not isinstance(given, Mapping) or set(given) != {"input", "layers"}:
        raise ZooError(f"Recipe key 'architecture': got {given!r}. Accepted keys, both needed: input, layers.")
    shape = given["input"]
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ZooError(f"Recipe key 'architecture.input': got {shape!r}. Accepted: [channels, height, width].")
    layers = [_parse_layer(f"architecture.layers[{i}]", layer) for i, layer in enumerate(given["layers"] or [])]
    architecture = Architecture((shape[0], shape[1], shape[2]), tuple(layers))
    if len(architecture.shapes()[-1]) != 1:
        raise ZooError(
            f"Recipe key 'architecture.layers': the last layer gives {architecture.shapes()[-1]}, not classes."
        )
    return architecture


def _parse_layer(where: str, given: Any) -> Layer:
    kind, options = (given, {}) if isinstance(given, str) else next(iter(given.items()), ("", {}))
    if kind not in LAYERS or not isinstance(options, Mapping):
        raise ZooError(f"Recipe key '{where}': got {given!r}. Accepted layers: {', '.join(LAYERS)}.")
    accepted = [field.name for field in fields(LAYERS[kind])]
    unknown = set(options) - set(accepted)
    if unknown or ("out" in accepted and "out" not in options):
        problem = f"unknown option '{sorted(unknown)[0]}'" if unknown else "option 'out' is missing"
        raise ZooError(f"Recipe key '{where}': {kind} has {problem}. Accepted: {', '.join(accepted) or 'no options'}.")
    for name, value in options.items():
        if name != "fn" and (not isinstance(value, int) or value < (0 if name == "padding" else 1)):
            raise ZooError(f"Recipe key '{where}.{name}': got {value!r}. Accepted: a positive whole number.")
    return LAYERS[kind](**options)


def _next_shape(where: str, layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Linear):
        return (layer.out,)
    if isinstance(layer, Activation | Dropout):
        return shape
    if len(shape) != 3:
        raise ZooError(f"Recipe key '{where}': {layer} needs an image [C, H, W], but reads shape {list(shape)}.")
    if isinstance(layer, MeanPool):
        return shape[:1]
    height, width = (1 + (n + 2 * layer.padding - layer.kernel) // layer.stride for n in shape[1:])
    if height < 1 or width < 1:
        raise ZooError(f"Recipe key '{where}': {layer} leaves nothing of an input of shape {list(shape)}.")
    return (layer.out, height, width)


def _layer_dict(layer: Layer) -> Any:
    kind = next(kind for kind, cls in LAYERS.items() if type(layer) is cls)
    options = {field.name: getattr(layer, field.name) for field in fields(layer) if getattr(layer, field.name) != ""}
    return {kind: options} if options else kind


def _module(layer: Layer, shape: tuple[int, ...], dropout: float) -> nn.Module:
    if isinstance(layer, Conv):
        return nn.Conv2d(shape[0], layer.out, layer.kernel, stride=layer.stride, padding=layer.padding)
    if isinstance(layer, Linear):
        size = 1
        for n in shape:
            size *= n
        return nn.Linear(size, layer.out)
    if isinstance(layer, MeanPool):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(layer, Dropout):
        return nn.Dropout(dropout)
    if layer.fn not in ACTIVATIONS:
        raise ZooError(f"Unknown activation: got {layer.fn!r}. Accepted: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[layer.fn]()
