"""Pooling, normalisation, residual sums, shifts and dropout of many nets at once; layout as in ``layers``."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

MOMENTUM, EPSILON = 0.1, 1e-5  # of batch normalisation, as in PyTorch


class MeanPool:
    """Mean over all positions."""

    input: Tensor | None = None

    def __init__(self, into: Tensor, shape: tuple[int, ...]) -> None:
        self._into, self._shape = into, shape

    def forward(self, x: Tensor) -> Tensor:
        """Return the means, ``[k, C, batch]``."""
        torch.mean(x.flatten(2, 3), dim=2, out=self._into)  # one dimension: half the time of two
        return self._into

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient spread evenly over the positions."""
        k, channels, batch = grad.shape
        share = (grad / prod(self._shape[1:])).view(k, channels, 1, 1, batch)
        return share.expand(k, channels, *self._shape[1:], batch)


class MaxPool:
    """Maximum over squares, side by side; the first of several equal values gets the gradient, as in PyTorch."""

    input: Tensor | None = None

    def __init__(self, into: Tensor, shape: tuple[int, ...], size: int) -> None:
        self._into, self._size = into, size
        self._best = torch.zeros_like(into, dtype=torch.int8)
        self._grad = into.new_zeros(len(into), *shape, into.shape[-1])

    def _taps(self, x: Tensor) -> list[Tensor]:
        n = self._size
        rows, columns = (n * m for m in self._into.shape[2:4])
        return [x[:, :, i:rows:n, j:columns:n] for i in range(n) for j in range(n)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        first, *others = self._taps(x)
        self._into.copy_(first)
        self._best.zero_()
        for number, tap in enumerate(others, 1):
            self._best.masked_fill_(tap > self._into, number)
            torch.maximum(self._into, tap, out=self._into)
        return self._into

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient at the places of the maxima."""
        for number, tap in enumerate(self._taps(self._grad)):
            torch.mul(grad, self._best == number, out=tap)
        return self._grad


class BatchNorm:
    """Batch normalisation of each channel.

    Args:
        into: Buffer for the output, ``[k, C, ..., batch]``.
        weight: Scale and shift, ``[k, C, 2]``.
        state: Running mean and variance, ``[k, C, 2]``, updated in training.
    """

    input: Tensor | None = None

    def __init__(self, into: Tensor, weight: Tensor, state: Tensor) -> None:
        self._into, self.weight, self._state = into, weight, state
        self.grad = torch.zeros_like(weight)
        self.training = True
        self._normal = self._factor = into.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``scale * (x - mean) / sqrt(variance + 1e-5) + shift``; moments of the batch in training."""
        x = x.flatten(2)
        if self.training:
            variance, mean = torch.var_mean(x, dim=2, correction=0)
            count = x.shape[2]
            moments = torch.stack([mean, variance * (count / max(count - 1, 1))], dim=2)
            self._state.lerp_(moments, MOMENTUM)
        else:
            mean, variance = self._state.unbind(2)
        self._factor = torch.rsqrt(variance + EPSILON)[..., None]
        self._normal = (x - mean[..., None]) * self._factor
        y = torch.addcmul(self.weight[..., 1:], self._normal, self.weight[..., :1])
        self._into.copy_(y.view(self._into.shape))
        return self._into

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient through the batch's moments."""
        flat = grad.flatten(2)
        sums = torch.stack([(flat * self._normal).sum(2), flat.sum(2)], dim=2)
        self.grad += sums
        mean = sums / flat.shape[2]
        out = flat - mean[..., 1:] - self._normal * mean[..., :1]
        return out.mul_(self._factor).mul_(self.weight[..., :1]).view(grad.shape)


class Add:
    """Adds an earlier value over the channels that both have.

    ``earlier`` is set before each forward pass; ``pending`` is its gradient after a backward pass.
    """

    input: Tensor | None = None

    def __init__(self, source: int, channels: int, overwrite: bool) -> None:
        self.source, self._channels, self._overwrite = source, channels, overwrite
        self.earlier: Tensor | None = None
        self.pending: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with the earlier value added, in the memory of ``x`` if no other layer reads that."""
        x = x if self._overwrite else x.clone()
        if self.earlier is not None:
            x[:, : self._channels] += self.earlier[:, : self._channels]
        return x

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of ``x``, and leave that of the earlier value."""
        self.pending = grad[:, : self._channels].clone()
        return grad


class Shift:
    """Adds a constant."""

    input: Tensor | None = None

    def __init__(self, by: float) -> None:
        self._by = by

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + by``."""
        return x + self._by

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient."""
        return grad


class Dropout:
    """``x * kept * factor``, or ``x`` while nothing is given.

    Args:
        into: Buffer for the output.
        factor: Of each net, ``[k, 1]``.
        in_place: Whether the layer before may write into ``into``, too: its gradient does not mind.

    Attributes:
        kept: Whether each feature of each image is kept, bools ``[k, features, batch]``.
    """

    def __init__(self, into: Tensor, factor: Tensor, in_place: bool) -> None:
        self._into, self._factor = into, factor[..., None]
        self.input = into if in_place else None
        self.kept: Tensor | None = None
        self._factors = into.new_empty(into.shape)
        self._rows = self._factors.flatten(1, -2)
        cpu = into.device.type == "cpu"
        self._arrays = (self._factor.numpy(), self._rows.numpy()) if cpu else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        if self.kept is None:
            return x
        if self._arrays is not None:  # on the CPU: NumPy multiplies bools five times as fast as PyTorch
            factor, rows = self._arrays
            np.multiply(self.kept.numpy(), factor, out=rows)
        else:
            torch.mul(self.kept, self._factor, out=self._rows)
        torch.mul(x, self._factors, out=self._into)
        return self._into

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of the input, in the memory of the factors."""
        return grad if self.kept is None else torch.mul(grad, self._factors, out=self._factors)
