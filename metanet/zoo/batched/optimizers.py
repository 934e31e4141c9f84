"""Optimisers over many nets at once: parameters ``[k, P]``, hyperparameters ``[k, 1]``.

Updates are those of ``torch.optim`` of the same name (weight decay added to the gradient), written over the matrix.
Gradients are overwritten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Optimizer(ABC):
    """One kind of optimiser for k nets.

    Args:
        params: ``[k, P]``, updated in place.
        settings: The hyperparameters of each net; smoothing and epsilon are those of the first.
        biases: Mask ``[P]`` of the parameters without weight decay where a net's ``decay_biases`` is ``no``.
    """

    def __init__(self, params: Tensor, settings: Sequence[Mapping[str, Any]], biases: Tensor) -> None:
        def column(key: str) -> Tensor:
            return torch.tensor([float(s[key]) for s in settings], dtype=params.dtype, device=params.device)[:, None]

        self.decay, self.momentum = column("weight_decay"), column("momentum")
        self.smoothing, self.epsilon = float(settings[0]["smoothing"]), float(settings[0]["epsilon"])
        spared = torch.tensor([s["decay_biases"] == "no" for s in settings], device=params.device)[:, None]
        if spared.any():
            self.decay = self.decay * ~(spared & biases.to(params.device))
        self._decays = bool(self.decay.any())
        self.params = params
        self.first, self.second = torch.zeros_like(params), torch.zeros_like(params)
        self.time = 0

    def narrow(self, k: int) -> None:
        """Go on with the first k nets only."""
        for name in ("decay", "momentum", "params", "first", "second"):
            setattr(self, name, getattr(self, name)[:k])

    def step(self, grads: Tensor, rate: Tensor) -> None:
        """Update the parameters with the learning rates ``[k, 1]``."""
        self.time += 1
        self.update(grads.addcmul_(self.params, self.decay) if self._decays else grads, rate)

    @abstractmethod
    def update(self, grads: Tensor, rate: Tensor) -> None:
        """Update the parameters, given gradients that include the weight decay."""


class SGD(Optimizer):
    """Stochastic gradient descent with heavy-ball momentum."""

    def update(self, grads: Tensor, rate: Tensor) -> None:
        """``b = momentum * b + g;  w = w - lr * b``."""
        self.first.mul_(self.momentum).add_(grads)
        self.params.addcmul_(self.first, rate, value=-1)


class Adam(Optimizer):
    """Adam with betas 0.9 and 0.999 (Kingma and Ba 2015, arXiv:1412.6980)."""

    def update(self, grads: Tensor, rate: Tensor) -> None:
        """``w = w - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + epsilon)``."""
        self.first.lerp_(grads, 0.1)
        self.second.mul_(0.999).addcmul_(grads, grads, value=0.001)
        bias1, bias2 = 1 - 0.9**self.time, 1 - 0.999**self.time
        scale = torch.sqrt(self.second, out=grads).div_(bias2**0.5).add_(self.epsilon)
        torch.div(self.first, scale, out=scale)
        self.params.addcmul_(scale, rate, value=-1 / bias1)


class RMSprop(Optimizer):
    """RMSprop."""

    def update(self, grads: Tensor, rate: Tensor) -> None:
        """``v = smoothing * v + (1 - smoothing) * g^2;  w = w - lr * g / (sqrt(v) + epsilon)``."""
        self.second.mul_(self.smoothing).addcmul_(grads, grads, value=1 - self.smoothing)
        scale = torch.sqrt(self.second, out=self.first).add_(self.epsilon)
        torch.div(grads, scale, out=scale)
        self.params.addcmul_(scale, rate, value=-1)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}
