"""The plain PyTorch module that an architecture describes.

It is the reference: its ``state_dict`` names are those of the stored weights, tracing it gives the zoo's weight space,
and the batched builder has to agree with it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.errors import ZooError
from metanet.zoo.architecture import (
    ACTIVATIONS,
    Activation,
    Add,
    Architecture,
    BatchNorm,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    MeanPool,
    Shift,
)

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "none": lambda x: x,
}


class SmallCNN(nn.Module):
    """The plain module of a resolved architecture; modules are named ``conv1``, ``activation1``, ..., ``linear``.

    Args:
        architecture: Resolved, so that every activation is named.
        dropout: Probability of zeroing a value at the dropout layers, while training.

    Raises:
        ZooError: An activation is unknown or unresolved.
    """

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        self._sources = {layer.source for layer in architecture.layers if isinstance(layer, Add)}
        self._places = architecture.names()
        for name, layer, shape in zip(self._places, architecture.layers, architecture.shapes(), strict=False):
            module = _module(layer, shape, dropout)
            if module is not None:
                _place(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, or the values at points, of a batch."""
        saved: dict[int, Tensor] = {}
        for i, (layer, name) in enumerate(zip(self.architecture.layers, self._places, strict=True)):
            if isinstance(layer, Add):
                x = _add(x, saved[layer.source])
            elif isinstance(layer, Activation):
                x = FUNCTIONS[layer.fn](x if layer.scale == 1 else layer.scale * x)
            elif isinstance(layer, MeanPool):
                x = x.mean(dim=(2, 3))
            elif isinstance(layer, Shift):
                x = x + layer.by
            else:
                x = self.get_submodule(name)(x.flatten(1) if isinstance(layer, Linear) and x.ndim > 2 else x)
            if i in self._sources:
                saved[i] = x
        return x


def _add(x: Tensor, earlier: Tensor) -> Tensor:
    """Add an earlier value over the channels that both have."""
    n = min(x.shape[1], earlier.shape[1])
    both = x[:, :n] + earlier[:, :n]
    return both if n == x.shape[1] else torch.cat([both, x[:, n:]], dim=1)


def _module(layer: Layer, shape: tuple[int, ...], dropout: float) -> nn.Module | None:
    """Return the module of a layer that has parameters or behaves differently in training; None for the others."""
    if isinstance(layer, Conv):
        return nn.Conv2d(shape[0], layer.out, layer.kernel, stride=layer.stride, padding=layer.padding)
    if isinstance(layer, Linear):
        return nn.Linear(prod(shape), layer.out)
    if isinstance(layer, MaxPool):
        return nn.MaxPool2d(layer.size)
    if isinstance(layer, Dropout):
        return nn.Dropout(dropout)
    if isinstance(layer, BatchNorm):
        norm = nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])
        norm.num_batches_tracked = None  # says nothing about the function
        return norm
    if isinstance(layer, Activation) and layer.fn not in FUNCTIONS:
        raise ZooError(f"Unknown activation: got {layer.fn!r}. Accepted: {', '.join(ACTIVATIONS)}.")
    return None


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name."""
    *folders, last = name.split(".")
    for folder in folders:
        if folder not in dict(root.named_children()):
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    root.add_module(last, module)
