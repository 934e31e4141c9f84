"""Plain modules that published zoos are made of, to trace and certify their weight spaces on."""

from __future__ import annotations

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
