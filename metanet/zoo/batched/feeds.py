"""What the nets of a block are fed, step after step: their own batches, and the gradient of their own loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from metanet.zoo.architecture import Architecture, Dropout
from metanet.zoo.batched.blocking import part_size
from metanet.zoo.batched.network import Network
from metanet.zoo.draws import NetPlan, NetStream, image_of, training_classes, training_subset
from metanet.zoo.fields import Fields, move_images
from metanet.zoo.images import Images

WINDOW = 64  # steps whose batches are drawn at once ...
WINDOW_NUMBERS = 1 << 21  # ... or fewer, if that many numbers are drawn: beyond the cache, drawing is slower


class Feed(ABC):
    """Data of a block; ``k`` is the number of nets that still train, the first of the block.

    Args:
        plans: The block.
        subset: Data positions of each net.
        batch_size: Images or points a net and step.
        params: Tells type and device.
    """

    def __init__(self, plans: Sequence[NetPlan], subset: Sequence[np.ndarray], batch_size: int, params: Tensor) -> None:
        self._streams = [NetStream(plan, part, batch_size) for plan, part in zip(plans, subset, strict=True)]
        self._architecture, self._batch = plans[0].architecture, batch_size
        self._params = params
        self._sizes = _dropout_sizes(self._architecture)
        self._kept: list[Tensor] = []
        self.factor = torch.tensor([[stream.factor] for stream in self._streams]).to(params)
        self.part = part_size(self._architecture, len(plans), batch_size, params.device)
        self.window = max(1, min(WINDOW, WINDOW_NUMBERS // (len(plans) * batch_size * (sum(self._sizes) + 1))))

    def draw(self, k: int, steps: int) -> None:
        """Draw what the next steps need."""
        if self._sizes:
            parts = self._batch // self.part
            kept = [np.empty((steps, parts, k, size, self.part), dtype=bool) for size in self._sizes]
            for i, stream in enumerate(self._streams[:k]):
                stream.kept_units(steps, [layer[:, :, i].swapaxes(1, 2) for layer in kept])
            self._kept = [self._move(layer) for layer in kept]

    def step(self, network: Network, t: int) -> None:
        """Add the gradients of step ``t`` of those drawn, part of the batch by part."""
        for number in range(self._batch // self.part):
            x, truth = self._data(network, t, number)
            out = network.forward(x, [layer[t, number] for layer in self._kept] or None)
            network.backward(self._gradient(out, truth))

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array).to(self._params.device)
        return tensor.to(self._params.dtype) if tensor.is_floating_point() else tensor

    def _positions(self, k: int, steps: int) -> np.ndarray:
        return np.stack([stream.positions(steps) for stream in self._streams[:k]], axis=1)

    def _parts(self, array: np.ndarray) -> Tensor:
        """Move ``[steps, k, ..., batch]`` as ``[steps, parts, k, ..., part]``: each part of a step is one piece."""
        cut = array.reshape(*array.shape[:-1], -1, self.part)
        return self._move(np.ascontiguousarray(np.moveaxis(cut, -2, 1)))

    @abstractmethod
    def _data(self, network: Network, t: int, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs ``[k, *input, part]`` of a part of step ``t`` of those drawn, and targets."""

    @abstractmethod
    def _gradient(self, out: Tensor, truth: Tensor) -> Tensor:
        """Return the gradient of each net's mean loss by its outputs ``[k, values, part]``."""


class ImageFeed(Feed):
    """Images to classify, with the mean cross-entropy."""

    def __init__(self, plans: Sequence[NetPlan], images: Images, batch_size: int, params: Tensor) -> None:
        super().__init__(plans, [training_subset(plan, images.train) for plan in plans], batch_size, params)
        self._pixels = self._move(images.pixels)
        self._classes = [training_classes(plan, images.classes, images.train) for plan in plans]
        self._moves: Tensor | None = None

    def draw(self, k: int, steps: int) -> None:
        """Draw what the next steps need."""
        super().draw(k, steps)
        where = self._positions(k, steps)
        truth = np.stack([classes[where[:, i]] for i, classes in enumerate(self._classes[:k])], axis=1)
        self._where = self._parts(where).flatten(2)
        classes = self._parts(truth)[:, :, :, None]
        self._truth = self._params.new_zeros(*classes.shape[:3], self._architecture.shapes()[-1][0], self.part)
        self._truth.scatter_(3, classes, -1 / self._batch)
        if any(stream.augments for stream in self._streams):
            moves = np.stack([stream.moves(steps) for stream in self._streams[:k]], axis=1)
            self._moves = self._parts(moves.swapaxes(2, 3)).transpose(3, 4).flatten(2, 3)

    def _data(self, network: Network, t: int, number: int) -> tuple[Tensor, Tensor]:
        images = self._pixels.index_select(0, self._where[t, number])
        if self._moves is not None:
            images = move_images(images, self._moves[t, number])
        k, x = len(network.grads), network.input
        if x is None or not x.is_contiguous():
            x = images.new_empty(k, *images.shape[1:], self.part)
        for net, own in zip(x.view(k, -1, self.part), images.view(k, self.part, -1), strict=True):
            net.copy_(own.T)  # of matrices, PyTorch has a fast transpose
        return x, self._truth[t, number]

    def _gradient(self, out: Tensor, truth: Tensor) -> Tensor:
        """Return ``softmax(out) / batch + truth``, where ``truth`` is ``-1 / batch`` for the true class, else 0."""
        return torch.add(truth, torch.softmax(out, dim=1), alpha=1 / self._batch)


class FieldFeed(Feed):
    """Points of one image a net, with the mean squared error; all of them if the batch holds as many."""

    def __init__(self, plans: Sequence[NetPlan], fields: Fields, batch_size: int, params: Tensor) -> None:
        count = len(fields.points)
        super().__init__(plans, [np.arange(count)] * len(plans), batch_size, params)
        self._points = self._move(fields.points).T.contiguous()
        self._values = self._move(fields.values[[image_of(plan, len(fields.values)) for plan in plans]])
        self._whole = batch_size == count
        self._loaded: Network | None = None

    def draw(self, k: int, steps: int) -> None:
        """Draw what the next steps need."""
        super().draw(k, steps)
        if not self._whole:
            self._where = self._move(self._positions(k, steps))

    def _data(self, network: Network, t: int, number: int) -> tuple[Tensor, Tensor]:
        part, into = slice(number * self.part, (number + 1) * self.part), network.input
        k = len(network.grads)
        if self._whole:
            x = self._points[:, part].expand(k, -1, -1)
            if into is not None and self.part == self._batch:  # the same points at every step: copied once
                x = into if self._loaded is network else into.copy_(x)
                self._loaded = network
            return x, self._values[:k, :, part]
        where = self._where[t, :, part]
        x = self._points.index_select(1, where.flatten()).view(len(self._points), *where.shape).transpose(0, 1)
        values = self._values[:k]
        return x, values.gather(2, where[:, None].expand(k, values.shape[1], where.shape[1]))

    def _gradient(self, out: Tensor, truth: Tensor) -> Tensor:
        return (out - truth).mul_(2 / (self._batch * out.shape[1]))


def feed_block(plans: Sequence[NetPlan], data: Images | Fields, batch_size: int, params: Tensor) -> Feed:
    """Return the feed of a block."""
    if isinstance(data, Images):
        return ImageFeed(plans, data, batch_size, params)
    return FieldFeed(plans, data, batch_size, params)


def _dropout_sizes(architecture: Architecture) -> list[int]:
    shapes = architecture.shapes()
    return [prod(s) for layer, s in zip(architecture.layers, shapes, strict=False) if isinstance(layer, Dropout)]
