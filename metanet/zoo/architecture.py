"""Architectures of zoo nets: a list of layers, as data.

:class:`metanet.zoo.plain.SmallCNN` is the module that an architecture describes;
:mod:`metanet.zoo.structure` draws architectures from a distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any

from metanet.errors import ZooError

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "sin", "none")


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
    """Elementwise nonlinearity ``fn(scale * x)``; ``fn`` empty means the hyperparameter ``activation``."""

    fn: str = ""
    scale: float = field(default=1.0, metadata={"optional": True})


@dataclass(frozen=True)
class MeanPool:
    """Mean over all positions: ``[C, H, W]`` to ``[C]``."""


@dataclass(frozen=True)
class MaxPool:
    """Maximum over squares of this width, side by side."""

    size: int = 2


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation of each channel, with scale, shift and running statistics (momentum 0.1, eps 1e-5)."""


@dataclass(frozen=True)
class Add:
    """Adds the output of the layer at position ``source``, over the channels that both have: the first ones."""

    source: int


@dataclass(frozen=True)
class Shift:
    """Adds a constant."""

    by: float


@dataclass(frozen=True)
class Dropout:
    """Zeroes each value with the probability that the hyperparameter ``dropout`` names."""


Layer = Conv | Linear | Activation | MeanPool | MaxPool | BatchNorm | Add | Shift | Dropout
LAYERS: dict[str, type[Layer]] = {
    "conv": Conv,
    "linear": Linear,
    "activation": Activation,
    "mean_pool": MeanPool,
    "max_pool": MaxPool,
    "batch_norm": BatchNorm,
    "add": Add,
    "shift": Shift,
    "dropout": Dropout,
}
AFFINE = (Conv, Linear)


@dataclass(frozen=True)
class Architecture:
    """Input shape, layers in order, and the names of the affine layers if they are not the usual ones.

    The input is an image ``(channels, height, width)`` or, for nets that map points, ``(dimensions,)``.
    """

    input: tuple[int, ...]
    layers: tuple[Layer, ...]
    named: tuple[str, ...] = ()

    def resolve(self, hyperparameters: Mapping[str, Any]) -> Architecture:
        """Fill in what hyperparameters decide about the structure; nets that agree afterwards share a weight space."""
        fn = str(hyperparameters.get("activation", ""))
        layers = [replace(x, fn=fn) if isinstance(x, Activation) and not x.fn else x for x in self.layers]
        return replace(self, layers=tuple(layers))

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape that each layer reads, without the batch, and last the shape of the output.

        Raises:
            ZooError: A layer does not fit what it reads.
        """
        out = [self.input]
        for position, layer in enumerate(self.layers):
            out.append(_next_shape(f"architecture.layers[{position}]", layer, out))
        return out

    def names(self) -> list[str]:
        """Return each layer's module name: its kind, numbered from 1 where the kind occurs more than once."""
        kinds = [kind for layer in self.layers for kind, cls in LAYERS.items() if type(layer) is cls]
        many = {kind for kind in kinds if kinds.count(kind) > 1}
        out = [f"{kind}{kinds[: i + 1].count(kind)}" if kind in many else kind for i, kind in enumerate(kinds)]
        if self.named:
            affine = [i for i, layer in enumerate(self.layers) if isinstance(layer, AFFINE)]
            for i, name in zip(affine, self.named, strict=True):
                out[i] = name
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return what a file says; :func:`parse_architecture` reads it back."""
        out = {"input": list(self.input), "layers": [_layer_dict(layer) for layer in self.layers]}
        return out | ({"names": list(self.named)} if self.named else {})

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        shapes, total = self.shapes(), 0
        for layer, shape in zip(self.layers, shapes, strict=False):
            if isinstance(layer, Conv):
                total += layer.out * (shape[0] * layer.kernel**2 + 1)
            elif isinstance(layer, Linear):
                total += layer.out * (prod(shape) + 1)
            elif isinstance(layer, BatchNorm):
                total += 2 * shape[0]
        return total


def parse_architecture(given: Any) -> Architecture:
    """Read one architecture: ``input``, ``layers``, each ``kind`` or ``kind: {...}``, and ``names`` if there are any.

    Raises:
        ZooError: A key, layer or option is unknown, or a layer does not fit its input.
    """
    check_architecture_keys(given)
    if not isinstance(given["layers"] or [], list):
        raise ZooError(f"Recipe key 'architecture.layers': got {given['layers']!r}. Accepted: a list of layers.")
    names = given.get("names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ZooError(f"Recipe key 'architecture.names': got {names!r}. Accepted: a list of texts.")
    layers = tuple(_parse_layer(f"architecture.layers[{i}]", layer) for i, layer in enumerate(given["layers"] or []))
    architecture = Architecture(parse_input(given["input"]), layers, tuple(names))
    check_architecture(architecture)
    return architecture


def check_architecture_keys(given: Any) -> None:
    """Refuse what is not a mapping with the keys of an architecture.

    Raises:
        ZooError: It is not.
    """
    if not isinstance(given, Mapping) or not {"input", "layers"} <= set(given) <= {"input", "layers", "names"}:
        raise ZooError(
            f"Recipe key 'architecture': got {given!r}. Accepted keys: input, layers (both needed) and names."
        )


def parse_input(shape: Any) -> tuple[int, ...]:
    """Read the shape of the input.

    Raises:
        ZooError: It is no shape.
    """
    if not isinstance(shape, list) or len(shape) not in (1, 3) or not all(type(n) is int and n > 0 for n in shape):
        raise ZooError(
            f"Recipe key 'architecture.input': got {shape!r}. Accepted: [channels, height, width], or [dimensions]."
        )
    return tuple(shape)


def check_architecture(architecture: Architecture) -> None:
    """Check that the layers fit each other and end in a vector, and that names are enough.

    Raises:
        ZooError: They do not.
    """
    shapes = architecture.shapes()
    if len(shapes[-1]) != 1:
        raise ZooError(f"Recipe key 'architecture.layers': the last layer gives {shapes[-1]}, not classes or values.")
    affine = sum(isinstance(layer, AFFINE) for layer in architecture.layers)
    if architecture.named and (len(architecture.named) != affine or len(set(architecture.named)) != affine):
        raise ZooError(
            f"Recipe key 'architecture.names': got {list(architecture.named)}. "
            f"Accepted: {affine} different names, one for each convolution and linear layer."
        )


def split_layer(where: str, given: Any) -> tuple[str, dict[str, Any]]:
    """Return kind and options of a layer as a file gives it.

    Raises:
        ZooError: The kind or an option is unknown, or a needed option is missing.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    kind, options = (given, {}) if isinstance(given, str) else pairs[0] if pairs else ("", {})
    if kind not in LAYERS or not isinstance(options, Mapping) or (not isinstance(given, str) and len(given) != 1):
        raise ZooError(f"Recipe key '{where}': got {given!r}. Accepted layers: {', '.join(LAYERS)}.")
    accepted = [f.name for f in fields(LAYERS[kind])]
    unknown = set(options) - set(accepted)
    needed = next((n for n in ("out", "source", "by") if n in accepted and n not in options), None)
    if unknown or needed:
        problem = f"unknown option '{sorted(map(str, unknown))[0]}'" if unknown else f"option '{needed}' is missing"
        raise ZooError(f"Recipe key '{where}': {kind} has {problem}. Accepted: {', '.join(accepted) or 'no options'}.")
    return kind, dict(options)


def make_layer(where: str, kind: str, options: Mapping[str, Any]) -> Layer:
    """Make a layer from values.

    Raises:
        ZooError: A value is not acceptable.
    """
    for name, value in options.items():
        check_option(where, name, value)
    return LAYERS[kind](**options)


def check_option(where: str, name: str, value: Any) -> None:
    """Check the value of one option of a layer.

    Raises:
        ZooError: It is not acceptable.
    """
    accepted = "a whole number >= 0" if name in ("padding", "source") else "a positive whole number"
    if name == "fn":
        good, accepted = value in ("", *ACTIVATIONS), ", ".join(ACTIVATIONS)
    elif name in ("scale", "by"):
        good, accepted = type(value) in (int, float) and abs(value) < 1e30, "a number"
    else:
        good = type(value) is int and value >= (0 if name in ("padding", "source") else 1)
    if not good:
        raise ZooError(f"Recipe key '{where}.{name}': got {value!r}. Accepted: {accepted}.")


def _parse_layer(where: str, given: Any) -> Layer:
    return make_layer(where, *split_layer(where, given))


def _next_shape(where: str, layer: Layer, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    shape = shapes[-1]
    if isinstance(layer, Linear):
        return (layer.out,)
    if isinstance(layer, Add):
        if layer.source >= len(shapes) - 1 or shapes[layer.source + 1][1:] != shape[1:]:
            raise ZooError(
                f"Recipe key '{where}': {layer} reads no earlier layer with the height and width of {list(shape)}."
            )
        return shape
    if isinstance(layer, Activation | Dropout | BatchNorm | Shift):
        return shape
    if len(shape) != 3:
        raise ZooError(f"Recipe key '{where}': {layer} needs an image [C, H, W], but reads shape {list(shape)}.")
    if isinstance(layer, MeanPool):
        return shape[:1]
    if isinstance(layer, MaxPool):
        height, width = (n // layer.size for n in shape[1:])
    else:
        height, width = (1 + (n + 2 * layer.padding - layer.kernel) // layer.stride for n in shape[1:])
    if height < 1 or width < 1:
        raise ZooError(f"Recipe key '{where}': {layer} leaves nothing of an input of shape {list(shape)}.")
    return (layer.out if isinstance(layer, Conv) else shape[0], height, width)


def _layer_dict(layer: Layer) -> Any:
    kind = next(kind for kind, cls in LAYERS.items() if type(layer) is cls)
    options = {
        f.name: getattr(layer, f.name)
        for f in fields(layer)
        if getattr(layer, f.name) != "" and not (f.metadata.get("optional") and getattr(layer, f.name) == f.default)
    }
    return {kind: options} if options else kind
