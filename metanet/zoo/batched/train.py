"""Train and evaluate a block of nets: same architecture, same kind of optimiser, everything else their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanet.zoo.architecture import Architecture, Dropout
from metanet.zoo.batched.network import Network, pack, unpack
from metanet.zoo.batched.optimizers import OPTIMIZERS
from metanet.zoo.draws import NetPlan, NetStream, initial_weights, training_subset
from metanet.zoo.images import Images

BLOCK_IMAGES = 128  # images that a block handles a step: enough to hide the cost of calls, few enough for the L2 cache
WINDOW = 64  # steps whose batches and dropout masks are drawn at once
EVALUATE_IMAGES = 64  # images of each net in a step of the evaluation


def blocks(plans: Sequence[NetPlan], batch_size: int) -> list[list[NetPlan]]:
    """Group nets for training: one architecture and optimiser a block, of similar length, the longest first."""
    groups: dict[tuple[Architecture, str], list[NetPlan]] = {}
    for plan in plans:
        groups.setdefault((plan.architecture, plan.hyperparameters["optimizer"]), []).append(plan)
    out = []
    for members in groups.values():
        members.sort(key=lambda plan: (-plan.steps, plan.net))
        count = -(-len(members) * batch_size // BLOCK_IMAGES)
        out += [list(part) for part in _cut(members, count)]
    return out


def _cut(members: list[NetPlan], count: int) -> Iterator[list[NetPlan]]:
    """Cut a list into ``count`` parts of nearly equal size."""
    for i in range(count):
        yield members[i * len(members) // count : (i + 1) * len(members) // count]


def train_block(
    plans: Sequence[NetPlan], images: Images, batch_size: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Train the nets of a block; equal to training them one by one with :func:`metanet.zoo.loop.train_net`.

    Args:
        plans: One of :func:`blocks`.
        images: Images to train on.
        batch_size: Images a step.
        dtype: Of weights and activations.

    Returns:
        Stacked ``state_dict`` tensors, ``[k, *shape]``, in the order of ``plans``.
    """
    architecture = plans[0].architecture
    params = pack(architecture, [initial_weights(plan) for plan in plans], dtype)
    optimizer = OPTIMIZERS[plans[0].hyperparameters["optimizer"]](params, [plan.hyperparameters for plan in plans])
    pixels = torch.from_numpy(images.pixels).to(dtype).flatten(1)
    classes = torch.from_numpy(images.classes)
    streams = [NetStream(plan, images.train, batch_size) for plan in plans]
    done, active = 0, len(plans)
    while active:  # nets end one after the other, the last of the list first
        until = plans[active - 1].steps
        optimizer.narrow(active)
        network = Network(architecture, params[:active], batch_size)
        for positions, factors in _windows(architecture, streams[:active], until - done, dtype):
            for t in range(len(positions)):
                _step(network, pixels, classes, positions[t].flatten(), [f[t] for f in factors], optimizer)
        done = until
        active = sum(plan.steps > done for plan in plans)
    return unpack(architecture, params)


def _step(
    network: Network, pixels: Tensor, classes: Tensor, positions: Tensor, factors: list[Tensor], optimizer: Any
) -> None:
    """Take one training step of every net on the mean cross-entropy of its own batch."""
    logits = network.forward(pixels.index_select(0, positions), factors)
    k, _, batch = logits.shape
    grad = torch.softmax(logits, dim=1).div_(batch)
    grad.scatter_add_(1, classes[positions].view(k, 1, batch), grad.new_full((1, 1, 1), -1 / batch).expand(k, 1, batch))
    optimizer.step(network.backward(grad))


def _windows(
    architecture: Architecture, streams: Sequence[NetStream], steps: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield image positions ``[steps, k, batch]`` and dropout factors ``[steps, k, features, batch]`` in windows."""
    sizes = [
        int(np.prod(s))
        for x, s in zip(architecture.layers, architecture.shapes(), strict=False)
        if isinstance(x, Dropout)
    ]
    for start in range(0, steps, WINDOW):
        n = min(WINDOW, steps - start)
        positions = np.stack([stream.positions(n) for stream in streams], axis=1)
        drawn = np.stack([stream.masks(n, sum(sizes)) for stream in streams], axis=1)
        factors = torch.from_numpy(drawn).to(dtype).split(sizes, dim=2) if sizes else ()
        yield torch.from_numpy(positions), [f.contiguous() for f in factors]


def evaluate_block(
    plans: Sequence[NetPlan], tensors: dict[str, Tensor], images: Images
) -> list[dict[str, float | bool]]:
    """Measure trained nets: accuracy and mean cross-entropy on the images each was trained on and on the test images.

    Returns:
        One mapping a net: ``train_accuracy``, ``test_accuracy`` (fractions), ``train_loss``, ``test_loss`` (nats),
        ``generalization_gap`` (train minus test accuracy) and ``diverged`` (a weight or loss is not finite).
    """
    architecture = plans[0].architecture
    state_dicts = [{name: t[i].numpy() for name, t in tensors.items()} for i in range(len(plans))]
    dtype = next(iter(tensors.values())).dtype
    params = pack(architecture, state_dicts, dtype)
    losses, hits = _outcomes(architecture, params, images)
    finite = torch.isfinite(params).all(dim=1)
    out = []
    for i, plan in enumerate(plans):
        subset = torch.from_numpy(training_subset(plan, images.train))
        out.append(summarise(losses[i], hits[i], subset, torch.from_numpy(images.test), bool(finite[i])))
    return out


def summarise(losses: Tensor, hits: Tensor, train: Tensor, test: Tensor, finite: bool) -> dict[str, float | bool]:
    """Turn a net's loss and hit on every image, ``[N]``, into its labels."""
    accuracy = [float(hits[part].double().mean()) for part in (train, test)]
    loss = [float(losses[part].double().mean()) for part in (train, test)]
    return {
        "train_accuracy": accuracy[0],
        "test_accuracy": accuracy[1],
        "train_loss": loss[0],
        "test_loss": loss[1],
        "generalization_gap": accuracy[0] - accuracy[1],
        "diverged": not (finite and all(map(math.isfinite, loss))),
    }


def _outcomes(architecture: Architecture, params: Tensor, images: Images) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy and the hit of every net on every image, each ``[k, N]``."""
    pixels = torch.from_numpy(images.pixels).to(params.dtype).flatten(1)
    classes = torch.from_numpy(images.classes)
    n, k = len(classes), len(params)
    network = Network(architecture, params, EVALUATE_IMAGES)
    losses, hits = [], []
    for start in range(0, n, EVALUATE_IMAGES):
        chunk = torch.arange(start, start + EVALUATE_IMAGES).clamp_(max=n - 1)  # the last one repeats an image
        logits = network.forward(pixels[chunk].repeat(k, 1))
        truth = classes[chunk].expand(k, 1, -1)
        losses.append(-torch.log_softmax(logits, dim=1).gather(1, truth)[:, 0])
        hits.append(logits.argmax(dim=1) == truth[:, 0])
    return torch.cat(losses, dim=1)[:, :n], torch.cat(hits, dim=1)[:, :n]
