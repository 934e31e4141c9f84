"""The plain way: one ``nn.Module`` after another with ``torch.optim``. Slow, obvious; the builder must equal it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.zoo.batched.evaluate import Labels, measured_images, summarise, summarise_fit
from metanet.zoo.draws import NetPlan, NetStream, image_of, training_classes, training_subset
from metanet.zoo.fields import Fields, move_images
from metanet.zoo.images import Images
from metanet.zoo.initial import initial_weights
from metanet.zoo.plain import SmallCNN


class GivenDropout(nn.Module):
    """Dropout whose factors come from the net's own stream instead of PyTorch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times the factors while training, ``x`` otherwise."""
        if not self.training or self.factors is None:
            return x
        return x * self.factors.to(x.dtype).view(x.shape)


def train_net(
    plan: NetPlan,
    data: Images | Fields,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    keep: Callable[[int, SmallCNN], None] | None = None,
) -> SmallCNN:
    """Train one net of a recipe.

    Args:
        plan: From :func:`metanet.zoo.draws.plan_net`.
        data: What to train on.
        batch_size: Images or points a step.
        dtype: Of weights and activations.
        keep: Called with step and net at every checkpoint, the end included.
    """
    subset = training_subset(plan, data.train) if isinstance(data, Images) else np.arange(len(data.points))
    stream = NetStream(plan, subset, batch_size)
    module, dropouts = _module(plan, dtype)
    optimizer = _optimizer(module, plan.settings)
    loss = _classify(plan, data, dtype) if isinstance(data, Images) else _fit(plan, data, dtype)
    for step in range(plan.steps + 1):
        if keep is not None and step in plan.kept:
            keep(step, module)
        if step == plan.steps:
            return module
        _draw_factors(dropouts, stream)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        optimizer.zero_grad()
        loss(module, stream, batch_size).backward()
        optimizer.step()
    return module


def _module(plan: NetPlan, dtype: torch.dtype) -> tuple[SmallCNN, list[tuple[GivenDropout, tuple[int, ...]]]]:
    """Return the net with its initial weights, and its dropout layers with the shapes they read."""
    module = SmallCNN(plan.architecture).to(dtype)
    module.load_state_dict({name: torch.from_numpy(w).to(dtype) for name, w in initial_weights(plan).items()})
    dropouts = []
    for name, shape in zip(plan.architecture.names(), plan.architecture.shapes(), strict=False):
        if isinstance(dict(module.named_children()).get(name), nn.Dropout):
            setattr(module, name, GivenDropout())
            dropouts.append((module.get_submodule(name), shape))
    return module, dropouts  # type: ignore[return-value]


def _draw_factors(dropouts: list[tuple[GivenDropout, tuple[int, ...]]], stream: NetStream) -> None:
    sizes = [int(np.prod(shape)) for _, shape in dropouts]
    if sizes:
        drawn = torch.from_numpy(stream.masks(1, sum(sizes))[0]).T.contiguous()
        for (dropout, _), part in zip(dropouts, drawn.split(sizes, dim=1), strict=True):
            dropout.factors = part


Loss = Callable[[nn.Module, NetStream, int], Tensor]


def _classify(plan: NetPlan, images: Images, dtype: torch.dtype) -> Loss:
    pixels = torch.from_numpy(images.pixels).to(dtype)
    classes = torch.from_numpy(training_classes(plan, images.classes, images.train))

    def loss(module: nn.Module, stream: NetStream, batch_size: int) -> Tensor:
        batch = torch.from_numpy(stream.positions(1)[0])
        x = pixels[batch]
        if stream.augments:
            x = move_images(x, torch.from_numpy(stream.moves(1)[0]))
        return functional.cross_entropy(module(x), classes[batch])

    return loss


def _fit(plan: NetPlan, fields: Fields, dtype: torch.dtype) -> Loss:
    points = torch.from_numpy(fields.points).to(dtype)
    values = torch.from_numpy(fields.values[image_of(plan, len(fields.values))].T).to(dtype).contiguous()

    def loss(module: nn.Module, stream: NetStream, batch_size: int) -> Tensor:
        if batch_size == len(points):
            return functional.mse_loss(module(points), values)
        batch = torch.from_numpy(stream.positions(1)[0])
        return functional.mse_loss(module(points[batch]), values[batch])

    return loss


def _optimizer(module: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    rate, decay, epsilon = settings["learning_rate"], settings["weight_decay"], settings["epsilon"]
    spared = settings["decay_biases"] == "no"
    groups = [
        {"params": [p], "weight_decay": 0.0 if spared and name.endswith("bias") else decay}
        for name, p in module.named_parameters()
    ]
    if settings["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings["momentum"])
    if settings["optimizer"] == "adam":
        return torch.optim.Adam(groups, lr=rate, eps=epsilon)
    return torch.optim.RMSprop(groups, lr=rate, alpha=settings["smoothing"], eps=epsilon)


@torch.no_grad()
def evaluate_net(
    plan: NetPlan, module: nn.Module, data: Images | Fields, measure: tuple[int, int] | None = None
) -> Labels:
    """Measure a trained net; keys as in :func:`metanet.zoo.batched.evaluate.evaluate_block`, without ``step``."""
    dtype = next(module.parameters()).dtype
    module.eval()
    finite = all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
    if not isinstance(data, Images):
        truth = torch.from_numpy(data.values[image_of(plan, len(data.values))].T).to(dtype)
        error = (module(torch.from_numpy(data.points).to(dtype)) - truth).double().square().mean()
        return summarise_fit(plan, float(error), data, finite)
    train, test = measured_images(plan, data, measure)
    where = np.concatenate([train, test])
    truth = torch.from_numpy(training_classes(plan, data.classes, data.train)[where])
    logits = module(torch.from_numpy(data.pixels[where]).to(dtype))
    losses = functional.cross_entropy(logits, truth, reduction="none")
    return summarise(losses, logits.argmax(dim=1) == truth, len(train), finite)
