"""Plain modules that published zoos are made of, to trace and certify their weight spaces on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from metanet.errors import ZooError

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


class Sine(nn.Module):
    """``sin(frequency * x)``."""

    def __init__(self, frequency: float = 30.0) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return torch.sin(self.frequency * x)


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
class SirenBlueprint:
    """An implicit neural representation: linear layers, ``sin(frequency x)`` between them (arXiv:2006.09661).

    Attributes:
        names: Names of the linear layers.
        sizes: Coordinates read, then values written by each layer.
        frequency: Factor inside the sine.
        offset: Added to the output.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    frequency: float = 30.0
    offset: float = 0.0

    def module(self) -> tuple[nn.Module, Tensor]:
        """The network, with a few coordinates."""
        return Siren(self), torch.zeros(4, self.sizes[0])


class Siren(nn.Module):
    """The network of a :class:`SirenBlueprint`."""

    def __init__(self, blueprint: SirenBlueprint) -> None:
        super().__init__()
        self.blueprint, self.sine = blueprint, Sine(blueprint.frequency)
        for name, (read, written) in zip(blueprint.names, pairwise(blueprint.sizes), strict=True):
            place(self, name, nn.Linear(read, written))

    def forward(self, x: Tensor) -> Tensor:
        """Values at coordinates ``[n, sizes[0]]``, which the published zoos take from -1 to 1."""
        for name in self.blueprint.names[:-1]:
            x = self.sine(self.get_submodule(name)(x))
        return self.get_submodule(self.blueprint.names[-1])(x) + self.blueprint.offset


def siren(tensors: Sequence[tuple[str, Tensor]], frequency: float = 30.0, offset: float = 0.0) -> SirenBlueprint:
    """The blueprint of an implicit neural representation with these tensors.

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
    return SirenBlueprint(names, sizes, frequency, offset)
