"""The plain way: one ``nn.Module`` after another with ``torch.optim``. Slow, obvious; the builder must equal it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.zoo.architecture import SmallCNN
from metanet.zoo.batched.train import summarise
from metanet.zoo.draws import NetPlan, NetStream, initial_weights, training_subset
from metanet.zoo.images import Images


class GivenDropout(nn.Module):
    """Dropout whose factors come from the net's own stream instead of PyTorch's generator."""

    def __init__(self, stream: NetStream) -> None:
        super().__init__()
        self._stream = stream

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times the next factors while training, ``x`` otherwise."""
        if not self.training:
            return x
        factors = torch.from_numpy(self._stream.masks(1, x[0].numel())[0].T.copy())
        return x * factors.to(x.dtype).view(x.shape)


def train_net(plan: NetPlan, images: Images, batch_size: int, dtype: torch.dtype = torch.float32) -> SmallCNN:
    """Train one net of a recipe.

    Args:
        plan: From :func:`metanet.zoo.draws.plan_net`.
        images: Images to train on.
        batch_size: Images a step.
        dtype: Of weights and activations.
    """
    stream = NetStream(plan, images.train, batch_size)
    module = SmallCNN(plan.architecture).to(dtype)
    module.load_state_dict({name: torch.from_numpy(w).to(dtype) for name, w in initial_weights(plan).items()})
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Dropout):
            setattr(module, name, GivenDropout(stream))
    optimizer = _optimizer(module, plan.hyperparameters)
    pixels, classes = torch.from_numpy(images.pixels).to(dtype), torch.from_numpy(images.classes)
    for _ in range(plan.steps):
        batch = torch.from_numpy(stream.positions(1)[0])
        optimizer.zero_grad()
        functional.cross_entropy(module(pixels[batch]), classes[batch]).backward()
        optimizer.step()
    return module


def _optimizer(module: nn.Module, hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    lr, decay = hyperparameters["learning_rate"], hyperparameters["weight_decay"]
    if hyperparameters["optimizer"] == "sgd":
        momentum = hyperparameters["momentum"]
        return torch.optim.SGD(module.parameters(), lr=lr, weight_decay=decay, momentum=momentum)
    if hyperparameters["optimizer"] == "adam":
        return torch.optim.Adam(module.parameters(), lr=lr, weight_decay=decay)
    return torch.optim.RMSprop(module.parameters(), lr=lr, weight_decay=decay)


@torch.no_grad()
def evaluate_net(plan: NetPlan, module: nn.Module, images: Images) -> dict[str, float | bool]:
    """Measure a trained net; keys as in :func:`metanet.zoo.batched.train.evaluate_block`."""
    dtype = next(module.parameters()).dtype
    module.eval()
    logits, classes = module(torch.from_numpy(images.pixels).to(dtype)), torch.from_numpy(images.classes)
    losses = functional.cross_entropy(logits, classes, reduction="none")
    subset = torch.from_numpy(training_subset(plan, images.train))
    finite = all(bool(torch.isfinite(p).all()) for p in module.parameters())
    return summarise(losses, logits.argmax(dim=1) == classes, subset, torch.from_numpy(images.test), finite)
