"""Optimisers over many nets at once: parameters ``[k, P]``, hyperparameters ``[k, 1]``.

Updates are those of ``torch.optim`` of the same name (weight decay added to the gradient, defaults elsewhere), written
over the matrix. Gradients are overwritten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Optimizer(ABC):
    """One kind of optimiser for k nets.

    Args:
        params: ``[k, P]``, updated in place.
        hyperparameters: One mapping a net.
    """

    def __init__(self, params: Tensor, hyperparameters: Sequence[dict[str, Any]]) -> None:
        def column(key: str) -> Tensor:
            return torch.tensor([float(h[key]) for h in hyperparameters], dtype=params.dtype)[:, None]

        self.lr, self.decay, self.momentum = column("learning_rate"), column("weight_decay"), column("momentum")
        self.params = params
        self.first, self.second = torch.zeros_like(params), torch.zeros_like(params)
        self.time = 0

    def narrow(self, k: int) -> None:
        """Go on with the first k nets only."""
        for name in ("lr", "decay", "momentum", "params", "first", "second"):
            setattr(self, name, getattr(self, name)[:k])

    def step(self, grads: Tensor) -> None:
        """Update the parameters."""
        self.time += 1
        self.update(grads.addcmul_(self.params, self.decay))

    @abstractmethod
    def update(self, grads: Tensor) -> None:
        """Update the parameters, given gradients that include the weight decay."""


class SGD(Optimizer):
    """Stochastic gradient descent with heavy-ball momentum."""

    def update(self, grads: Tensor) -> None:
        """``b = momentum * b + g;  w = w - lr * b``."""
        self.first.mul_(self.momentum).add_(grads)
        self.params.addcmul_(self.first, self.lr, value=-1)


class Adam(Optimizer):
    """Adam with betas 0.9 and 0.999 (Kingma and Ba 2015, arXiv:1412.6980)."""

    def update(self, grads: Tensor) -> None:
        """``w = w - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + 1e-8)``."""
        self.first.lerp_(grads, 0.1)
        self.second.mul_(0.999).addcmul_(grads, grads, value=0.001)
        bias1, bias2 = 1 - 0.9**self.time, 1 - 0.999**self.time
        scale = torch.sqrt(self.second, out=grads).div_(bias2**0.5).add_(1e-8)
        torch.div(self.first, scale, out=scale)
        self.params.addcmul_(scale, self.lr, value=-1 / bias1)


class RMSprop(Optimizer):
    """RMSprop with smoothing 0.99."""

    def update(self, grads: Tensor) -> None:
        """``v = 0.99 v + 0.01 g^2;  w = w - lr * g / (sqrt(v) + 1e-8)``."""
        self.second.mul_(0.99).addcmul_(grads, grads, value=0.01)
        scale = torch.sqrt(self.second, out=self.first).add_(1e-8)
        torch.div(grads, scale, out=scale)
        self.params.addcmul_(scale, self.lr, value=-1)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}
