"""A network of k nets of one architecture: layers over shared buffers, parameters as one flat matrix ``[k, P]``."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from metanet.zoo import architecture as spec
from metanet.zoo.batched import layers


@dataclass(frozen=True)
class Slot:
    """Where a layer's parameters lie in the flat matrix: ``out`` rows of ``fan_in`` weights and one bias."""

    name: str
    offset: int
    out: int
    fan_in: int
    shape: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """Return the layer's parameters, ``[k, out, fan_in + 1]``, as a view."""
        size = self.out * (self.fan_in + 1)
        return flat[:, self.offset : self.offset + size].unflatten(1, (self.out, self.fan_in + 1))


def slots(architecture: spec.Architecture) -> dict[int, Slot]:
    """Return the slots of an architecture's layers by position, in order."""
    out: dict[int, Slot] = {}
    offset = 0
    names, shapes = architecture.names(), architecture.shapes()
    for i, layer in enumerate(architecture.layers):
        if not isinstance(layer, spec.Conv | spec.Linear):
            continue
        taps = (layer.kernel, layer.kernel) if isinstance(layer, spec.Conv) else ()
        fan = (shapes[i][0], *taps) if isinstance(layer, spec.Conv) else (prod(shapes[i]),)
        out[i] = Slot(names[i], offset, layer.out, prod(fan), (layer.out, *fan))
        offset += layer.out * (prod(fan) + 1)
    return out


def pack(architecture: spec.Architecture, state_dicts: list[dict[str, np.ndarray]], dtype: torch.dtype) -> Tensor:
    """Return ``state_dict`` arrays of k nets as the flat matrix ``[k, P]``."""
    rows = []
    for tensors in state_dicts:
        parts = []
        for slot in slots(architecture).values():
            weight = tensors[f"{slot.name}.weight"].reshape(slot.out, slot.fan_in)
            parts.append(np.concatenate([weight, tensors[f"{slot.name}.bias"][:, None]], axis=1).ravel())
        rows.append(np.concatenate(parts))
    return torch.from_numpy(np.stack(rows)).to(dtype)


def unpack(architecture: spec.Architecture, flat: Tensor) -> dict[str, Tensor]:
    """Return the flat matrix as stacked ``state_dict`` tensors ``[k, *shape]``, contiguous."""
    out = {}
    for slot in slots(architecture).values():
        both = slot.view(flat)
        out[f"{slot.name}.weight"] = both[:, :, :-1].reshape(len(flat), *slot.shape)
        out[f"{slot.name}.bias"] = both[:, :, -1].contiguous()
    return out


class Network:
    """Forward and backward pass of k nets, each on its own images.

    Args:
        architecture: Resolved.
        params: ``[k, P]``, read at every call, never written.
        batch: Images a net.
    """

    def __init__(self, architecture: spec.Architecture, params: Tensor, batch: int) -> None:
        self.grads = torch.zeros_like(params)
        self._batch, self._image = batch, architecture.input
        self._layers: list[layers.Layer] = []
        self._dropouts: list[layers.Dropout] = []
        shapes, where = architecture.shapes(), slots(architecture)
        first = min(where, default=0)
        successor: Tensor | None = None
        for i in reversed(range(len(architecture.layers))):
            layer, full = architecture.layers[i], (len(params), *shapes[i + 1], batch)
            into = successor if successor is not None else params.new_empty(full)
            if successor is not None and successor.shape != full:
                into = params.new_empty(full)  # the successor flattens: it will copy
            made = self._make(layer, shapes[i], into, params, where.get(i), i - 1 in where, need_input=i > first)
            self._layers.insert(0, made)
            successor = made.input
        self._dropouts.reverse()

    def _make(
        self,
        layer: spec.Layer,
        shape: tuple[int, ...],
        into: Tensor,
        params: Tensor,
        slot: Slot | None,
        after_affine: bool,
        need_input: bool,
    ) -> layers.Layer:
        if slot is not None:
            weight, grad = slot.view(params), slot.view(self.grads)
            if isinstance(layer, spec.Conv):
                return layers.Conv(shape, layer, weight, grad, self._batch, need_input)
            return layers.Linear(shape, weight, grad, self._batch, need_input)
        if isinstance(layer, spec.MeanPool):
            return layers.MeanPool(into, shape)
        if isinstance(layer, spec.Activation):
            return layers.Activation(into, layer.fn, overwrite=after_affine)
        self._dropouts.append(layers.Dropout(into))
        return self._dropouts[-1]

    def forward(self, images: Tensor, factors: list[Tensor] | None = None) -> Tensor:
        """Return the logits, ``[k, classes, batch]``.

        Args:
            images: ``[k * batch, C * H * W]``, the images of net 0 first.
            factors: Dropout factors ``[k, features, batch]`` of every dropout layer; ``None`` outside training.
        """
        for i, dropout in enumerate(self._dropouts):
            dropout.factors = factors[i] if factors is not None else None
        x = images.view(-1, self._batch, *self._image).permute(0, 2, 3, 4, 1)
        for layer in self._layers:
            x = layer.forward(x)
        return x

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradients of the parameters, ``[k, P]``, given those of the logits."""
        for layer in reversed(self._layers):
            grad = layer.backward(grad)
        return self.grads
