"""Layers of many nets at once, with hand-written gradients and buffers that are allocated once.

Layout: ``[k, *shape, batch]``, k nets, **images innermost**. Then a convolution's patches
``[k, C*K*K, positions*batch]`` are copied in runs of whole rows of a batch, its product ``W @ patches`` already has the
next layer's layout, and so has the gradient; biases ride along as one more column of the weights against a row of ones.

A layer writes into the ``input`` buffer of its successor (``into``), padded where that one needs padding, so that no
value is copied for layout's sake; gradients take the place of values that are no longer read, so that a step touches
little memory. ``backward`` takes the gradient of what the layer wrote and returns that of what it read; gradients of
parameters are added to ``grad``, so that a batch can be worked on in parts that fit the cache.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from metanet.zoo import architecture as spec


class Layer(Protocol):
    """What a network needs of a layer."""

    input: Tensor | None  # where the predecessor writes, if the layer needs its input laid out in its own buffer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for its input."""
        ...

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of the input, given that of the output."""
        ...


class Affine:
    """``y = W x + b`` per net, ``W`` of shape ``[k, out, fan_in + 1]`` with the bias in its last column.

    Args:
        weight: Read at every call.
        columns: Of ``x``: images, or positions times images.
    """

    input: Tensor | None

    def __init__(self, weight: Tensor, columns: int) -> None:
        k, out, wide = weight.shape
        self.weight = weight
        self.x = weight.new_ones(k, wide, columns)
        self.y = weight.new_empty(k, out, columns)
        # of the parameters, summed over calls of backward; transposed, a product with few rows is twice as fast
        self._grad = weight.new_zeros(k, wide, out)
        self.grad = self._grad.transpose(1, 2)

    def product(self) -> Tensor:
        """Return ``W @ x``."""
        return torch.bmm(self.weight, self.x, out=self.y)

    def gradients(self, grad: Tensor, into: Tensor | None) -> None:
        """Add the gradient of the parameters to ``grad``, and put that of ``x`` into ``into`` unless it is ``None``."""
        grad = grad.reshape(self.y.shape)
        self._grad.baddbmm_(self.x, grad.transpose(1, 2))
        if into is not None:
            torch.bmm(self.weight.transpose(1, 2), grad, out=into)


class Linear(Affine):
    """Affine map of flattened features."""

    def __init__(self, shape: tuple[int, ...], weight: Tensor, batch: int, need_input: bool) -> None:
        super().__init__(weight, batch)
        full = (len(weight), *shape, batch)
        self.input = self.x[:, :-1].view(full)
        self._grad_x = torch.empty_like(self.x) if need_input else None
        self._grad_input = self._grad_x[:, :-1].view(full) if self._grad_x is not None else self.input

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[k, out, batch]``."""
        if x is not self.input:
            self.input.copy_(x)  # type: ignore[union-attr]
        return self.product()

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of the input."""
        self.gradients(grad, self._grad_x)
        return self._grad_input


class Conv(Affine):
    """Convolution as one product with gathered patches (im2col), its input gradient by a few shifted additions."""

    def __init__(self, shape: tuple[int, ...], layer: spec.Conv, weight: Tensor, batch: int, need_input: bool) -> None:
        channels, height, width = shape
        n, stride, pad, k = layer.kernel, layer.stride, layer.padding, len(weight)
        self.rows, self.columns = ((m + 2 * pad - n) // stride + 1 for m in (height, width))
        super().__init__(weight, self.rows * self.columns * batch)
        self.need_input = need_input
        # The additions of the gradient overhang the windows: their blocks are `stride` wide.
        high, wide = (stride * (m + (n - 1) // stride) for m in (self.rows, self.columns))
        high, wide = max(high, height + 2 * pad), max(wide, width + 2 * pad)
        self._padded = weight.new_zeros(k, channels, high, wide, batch)
        self._grad_padded = weight.new_zeros(self._padded.shape)
        interior = (slice(None), slice(None), slice(pad, pad + height), slice(pad, pad + width))
        self.input = self._padded[interior]
        self._grad_input = self._grad_padded[interior]
        s = self._padded.stride()
        windows = (k, channels, n, n, self.rows, self.columns, batch)
        self._windows = self._padded.as_strided(windows, (s[0], s[1], s[2], s[3], stride * s[2], stride * s[3], 1))
        self._patches = self.x[:, :-1].view(windows)
        self._adds = self._additions(n, stride) if need_input else []
        tiled = (stride * self.rows, stride * self.columns) if n >= stride else (0, 0)  # by the first block
        self._uncovered = [self._grad_padded[:, :, tiled[0] :], self._grad_padded[:, :, : tiled[0], tiled[1] :]]

    def _additions(self, n: int, stride: int) -> list[tuple[Tensor, Tensor]]:
        """Pair blocks of taps with the part of the padded gradient that they add to.

        Taps ``a*stride .. a*stride + stride - 1`` of neighbouring windows tile the image without overlap, so that
        ``ceil(n / stride)`` blocks a dimension suffice instead of ``n``.
        """
        pairs = []
        for i in range(0, n, stride):
            for j in range(0, n, stride):
                part = self._grad_padded[:, :, i : i + stride * self.rows, j : j + stride * self.columns]
                tiles = part.unflatten(3, (self.columns, stride)).unflatten(2, (self.rows, stride))
                tiles = tiles.permute(0, 1, 3, 5, 2, 4, 6)  # [k, C, tap row, tap column, row, column, batch]
                block = self._patches[:, :, i : i + stride, j : j + stride]
                pairs.append((tiles[:, :, : block.shape[2], : block.shape[3]], block))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[k, out, rows, columns, batch]``."""
        if x is not self.input:
            self.input.copy_(x)  # type: ignore[union-attr]
        self._patches.copy_(self._windows)
        y = self.product()
        return y.view(*y.shape[:2], self.rows, self.columns, -1)

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of the input, a view of the padded buffer."""
        self.gradients(grad, self.x if self.need_input else None)  # nothing reads the patches any more
        if self.need_input:
            self.x[:, -1] = 1
            first, taps = self._adds[0]
            for rest in self._uncovered:
                rest.zero_()
            first.copy_(taps)
            for part, taps in self._adds[1:]:
                part.add_(taps)
        return self._grad_input
