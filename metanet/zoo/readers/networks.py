"""Plain modules that published zoos are made of, to trace and certify their weight spaces on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from metanet.errors import ZooError
from metanet.zoo.architecture import ACTIVATIONS as DECLARED
from metanet.zoo.architecture import Activation, Architecture, Layer, Linear, Shift
from metanet.zoo.plain import SmallCNN

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "leakyrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "none": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """The module of a nonlinearity.

    Raises:
        ZooError: Its name is not known.
    """
    if name.lower() not in ACTIVATIONS:
        raise ZooError(f"Unknown activation: got '{name}'. Accepted: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name.lower()]()


def declared(name: str) -> Activation:
    """The layer of a nonlinearity, in a declared architecture.

    Raises:
        ZooError: Its name is not known.
    """
    found = {"leakyrelu": "leaky_relu"}.get(name.lower(), name.lower())
    if found not in DECLARED:
        raise ZooError(f"Unknown activation: got '{name}'. Accepted: {', '.join(DECLARED)}.")
    return Activation(found)


def place(root: nn.Module, path: str, item: nn.Module | nn.Parameter) -> None:
    """Put a module or parameter below another module under a dotted name, making plain modules on the way."""
    *parents, leaf = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    if isinstance(item, nn.Parameter):
        root.register_parameter(leaf, item)
    else:
        root.add_module(leaf, item)


@dataclass(frozen=True)
class Declared:
    """A net whose layers a recipe could declare; the zoo's card keeps them, so that its function stays known.

    Attributes:
        architecture: The layers, with the names that the tensors have.
    """

    architecture: Architecture

    def module(self) -> tuple[nn.Module, Tensor]:
        """The network, with a few inputs."""
        return SmallCNN(self.architecture), torch.zeros(2, *self.architecture.input)


def siren(tensors: Sequence[tuple[str, Tensor]], frequency: float = 30.0, offset: float = 0.0) -> Declared:
    """An implicit neural representation: linear layers, ``sin(frequency x)`` between them (arXiv:2006.09661).

    Args:
        tensors: Names and tensors, in order.
        frequency: Factor inside the sine.
        offset: Added to the output.

    Raises:
        ZooError: They are no linear layers, each reading what the one before writes.
    """
    state = dict(tensors)
    names = tuple(name.removesuffix(".weight") for name in state if name.endswith(".weight"))
    shapes = [tuple(state[f"{name}.weight"].shape) for name in names]
    sizes = (*(shape[1] for shape in shapes[:1]), *(shape[0] for shape in shapes))
    wanted: dict[str, tuple[int, ...]] = {
        f"{n}.weight": (b, a) for n, (a, b) in zip(names, pairwise(sizes), strict=True)
    }
    wanted |= {f"{n}.bias": (b,) for n, b in zip(names, sizes[1:], strict=True)}
    if not names or {name: tuple(t.shape) for name, t in state.items()} != wanted:
        got = ", ".join(f"{name} {list(t.shape)}" for name, t in state.items())
        raise ZooError(f"these tensors are no chain of linear layers with biases: got {got or 'none'}")
    layers: list[Layer] = []
    for size in sizes[1:-1]:
        layers += [Linear(size), Activation("sin", scale=frequency)]
    layers += [Linear(sizes[-1]), *([Shift(offset)] if offset else [])]
    return Declared(Architecture(sizes[:1], tuple(layers), names))
