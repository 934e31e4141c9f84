"""A network of k nets of one architecture: layers over shared buffers, weights as one flat matrix ``[k, P]``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metanet.zoo import architecture as spec
from metanet.zoo.batched import activations, features, layers
from metanet.zoo.batched.slots import Slot, running_slots, slots

OWNED = (spec.Conv, spec.Linear, spec.BatchNorm, spec.Add)  # their output is read by nobody but the next layer


class Network:
    """Forward and backward pass of k nets, each on its own data.

    Args:
        architecture: Resolved.
        params: ``[k, P]``, read at every call; only running statistics are written.
        batch: Images or points a net and call.
        training: Whether batch normalisation uses and follows the moments of the batch.
        factor: What each net's dropout layers multiply kept values by, ``[k, 1]``; if any are given.
    """

    def __init__(
        self,
        architecture: spec.Architecture,
        params: Tensor,
        batch: int,
        training: bool = False,
        factor: Tensor | None = None,
    ) -> None:
        self.grads = params.new_zeros(len(params), architecture.parameters)
        self._params, self._training = params, training
        self._factor = params.new_ones(len(params), 1) if factor is None else factor
        self._architecture, self._shapes = architecture, architecture.shapes()
        self._slots = slots(architecture)
        self._sources = {layer.source for layer in architecture.layers if isinstance(layer, spec.Add)}
        self._layers: list[layers.Layer] = []
        self.dropouts: list[features.Dropout] = []
        self._affine: list[tuple[Tensor, layers.Affine | features.BatchNorm]] = []
        successor: Tensor | None = None
        for i in reversed(range(len(architecture.layers))):
            full = (len(params), *self._shapes[i + 1], batch)
            fits = successor is not None and successor.shape == full  # if the successor flattens, it will copy
            made = self._make(i, successor if successor is not None and fits else params.new_empty(full))
            self._layers.insert(0, made)
            successor = made.input
        self.dropouts.reverse()
        self.input = successor

    def _make(self, i: int, into: Tensor) -> layers.Layer:
        layer, shape, slot = self._architecture.layers[i], self._shapes[i], self._slots.get(i)
        overwrite = i > 0 and isinstance(self._architecture.layers[i - 1], OWNED) and i - 1 not in self._sources
        if slot is not None:
            return self._weighted(i, layer, shape, slot, into)
        if isinstance(layer, spec.MeanPool):
            return features.MeanPool(into, shape)
        if isinstance(layer, spec.MaxPool):
            return features.MaxPool(into, shape, layer.size)
        if isinstance(layer, spec.Add):
            return features.Add(layer.source, min(shape[0], self._shapes[layer.source + 1][0]), overwrite)
        if isinstance(layer, spec.Shift):
            return features.Shift(layer.by)
        if isinstance(layer, spec.Activation):
            if layer.fn == "none" and layer.scale == 1:
                return activations.Identity()
            return activations.Activation(into, layer.fn, layer.scale, overwrite)
        before = self._architecture.layers[i - 1] if i > 0 and i - 1 not in self._sources else None
        in_place = isinstance(before, spec.Activation) and before.fn in activations.READ_SIGN
        self.dropouts.append(features.Dropout(into, self._factor, in_place))
        return self.dropouts[-1]

    def _weighted(
        self, i: int, layer: spec.Layer, shape: tuple[int, ...], slot: Slot, into: Tensor
    ) -> layers.Conv | layers.Linear | features.BatchNorm:
        weight, need_input = slot.view(self._params), i > min(self._slots)
        made: layers.Conv | layers.Linear | features.BatchNorm
        if isinstance(layer, spec.Conv):
            made = layers.Conv(shape, layer, weight, into, need_input)
        elif isinstance(layer, spec.Linear):
            made = layers.Linear(shape, weight, into, need_input)
        else:
            made = features.BatchNorm(into, weight, running_slots(self._architecture)[i].view(self._params))
            made.training = self._training
        self._affine.append((slot.view(self.grads), made))
        return made

    def forward(self, x: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return the outputs, ``[k, values, batch]``.

        Args:
            x: ``[k, *input, batch]``; if it is :attr:`input` itself, nothing is copied.
            kept: What each dropout layer keeps, bools ``[k, features, batch]``; ``None`` outside training.
        """
        for i, dropout in enumerate(self.dropouts):
            dropout.kept = kept[i] if kept is not None else None
        saved: dict[int, Tensor] = {}
        for i, layer in enumerate(self._layers):
            if isinstance(layer, features.Add):
                layer.earlier = saved[layer.source]
            x = layer.forward(x)
            if i in self._sources:
                saved[i] = x
        return x

    def backward(self, grad: Tensor) -> None:
        """Add to the gradients of the parameters, given those of the outputs."""
        pending: dict[int, list[Tensor]] = {}
        for i in reversed(range(len(self._layers))):
            layer = self._layers[i]
            if i in pending:
                grad = grad.clone()
                for other in pending[i]:
                    grad[:, : other.shape[1]] += other
            grad = layer.backward(grad)
            if isinstance(layer, features.Add) and layer.pending is not None:
                pending.setdefault(layer.source, []).append(layer.pending)

    def gradients(self) -> Tensor:
        """Return the gradients of the parameters since the last call, ``[k, P]``; they may be overwritten."""
        for place, layer in self._affine:
            place.copy_(layer.grad)
            layer.grad.zero_()
        return self.grads
