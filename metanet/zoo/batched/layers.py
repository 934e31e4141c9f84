"""Layers of many nets at once, with hand-written gradients and buffers that are allocated once.

Layout: ``[k, *shape, batch]``, k nets, **images innermost**. Then a convolution's patches
``[k, C*K*K, positions*batch]`` are whole rows of a batch, gathered like the rows of a table, its product
``W @ patches`` already has the next layer's layout, and so has the gradient; biases ride along as one more column of
the weights against a row of ones.

A layer writes into the ``input`` buffer of its successor (``into``), so that no value is copied for layout's sake;
gradients take the place of values that are no longer read, so that a step touches little memory. ``backward`` takes the
gradient of what the layer wrote and returns that of what it read; gradients of parameters are added to ``grad``, so
that a batch can be worked on in parts that fit the cache.
"""

from __future__ import annotations

from math import prod
from typing import Protocol

import torch
from torch import Tensor

from metanet.zoo import architecture as spec
from metanet.zoo.batched.patches import tables

SUM = 0  # mode of embedding_bag; the function of torch.nn.functional takes as long to check its arguments


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
        into: Buffer for ``y``, ``[k, out, *positions, batch]``.
    """

    input: Tensor | None

    def __init__(self, weight: Tensor, into: Tensor) -> None:
        k, out, wide = weight.shape
        self.weight, self._into = weight, into
        self.y = into.view(k, out, -1)
        self.x = weight.new_ones(k, wide, self.y.shape[2])
        # of the parameters, summed over calls of backward; transposed, a product with few rows is twice as fast
        self._grad = weight.new_zeros(k, wide, out)
        self.grad = self._grad.transpose(1, 2)

    def product(self) -> Tensor:
        """Return ``W @ x``, in the shape of its buffer."""
        torch.bmm(self.weight, self.x, out=self.y)
        return self._into

    def gradients(self, grad: Tensor, into: Tensor | None) -> None:
        """Add the gradient of the parameters to ``grad``, and put that of ``x`` into ``into`` unless it is ``None``."""
        grad = grad.reshape(self.y.shape)
        self._grad.baddbmm_(self.x, grad.transpose(1, 2))
        if into is not None:
            torch.bmm(self.weight.transpose(1, 2), grad, out=into)


class Linear(Affine):
    """Affine map of flattened features."""

    def __init__(self, shape: tuple[int, ...], weight: Tensor, into: Tensor, need_input: bool) -> None:
        super().__init__(weight, into)
        full = (len(weight), *shape, into.shape[-1])
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
    """Convolution as one product with gathered patches (im2col); the gradient of the input is gathered back.

    ``torch.index_select`` and ``torch.embedding_bag``, which sums bags of rows, move whole rows; strided copies and
    additions of the same values take two to five times as long.
    """

    def __init__(
        self, shape: tuple[int, ...], layer: spec.Conv, weight: Tensor, into: Tensor, need_input: bool
    ) -> None:
        super().__init__(weight, into)
        k, batch, device = len(weight), into.shape[-1], weight.device
        found = tables(shape, layer, k)
        self._patches = self.x.view(-1, batch)
        self._source = torch.cat([weight.new_zeros(k * prod(shape) + 1, batch), weight.new_ones(1, batch)])
        self.input = self._input = self._source[:-2].view(k, *shape, batch)
        self._rows = found.rows.to(device)
        self._bags = (found.order.to(device), found.starts.to(device)) if need_input else None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[k, out, rows, columns, batch]``."""
        if x is not self._input:
            self._input.copy_(x)
        torch.index_select(self._source, 0, self._rows, out=self._patches)
        return self.product()

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of the input, if it is needed."""
        if self._bags is None:
            self.gradients(grad, None)
            return self._input
        self.gradients(grad, self.x)  # in the memory of the patches, which nothing reads any more
        order, starts = self._bags
        return torch.embedding_bag(self._patches, order, starts, mode=SUM)[0].view_as(self._input)
