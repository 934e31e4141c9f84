"""Train a block of nets: same architecture, same kind of optimiser, everything else their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metanet.zoo.batched.feeds import Feed, feed_block
from metanet.zoo.batched.network import Network
from metanet.zoo.batched.optimizers import OPTIMIZERS, Optimizer
from metanet.zoo.batched.slots import pack, second_parts, unpack
from metanet.zoo.draws import NetPlan
from metanet.zoo.fields import Fields
from metanet.zoo.images import Images
from metanet.zoo.initial import initial_weights


@torch.no_grad()
def train_block(
    plans: Sequence[NetPlan],
    data: Images | Fields,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Train the nets of a block; equal to training them one by one with :func:`metanet.zoo.loop.train_net`.

    Args:
        plans: One of :func:`metanet.zoo.batched.blocking.blocks`, the longest training first.
        data: What to train on.
        batch_size: Images or points a step.
        dtype: Of weights and activations.
        device: Where to compute.

    Returns:
        Stacked ``state_dict`` tensors on the CPU, ``[r, *shape]``: the first net's checkpoints in order
        (``plan.kept``), then the second's, and so on; without checkpoints, one row a net.
    """
    architecture = plans[0].architecture
    params = pack(architecture, [initial_weights(plan) for plan in plans], dtype).to(device)
    trained, settings = params[:, : architecture.parameters], [plan.settings for plan in plans]
    optimizer = OPTIMIZERS[settings[0]["optimizer"]](trained, settings, second_parts(architecture))
    feed = feed_block(plans, data, batch_size, params)
    kept: dict[tuple[int, int], Tensor] = {}
    done, network = 0, None
    for until in sorted({step for plan in plans for step in plan.kept}):
        active = sum(plan.steps > done for plan in plans)  # nets end one after the other, the last of the list first
        if network is None or active < len(network.grads):
            optimizer.narrow(active)
            network = Network(architecture, params[:active], feed.part, True, feed.factor[:active])
        _train(plans[:active], network, optimizer, feed, done, until)
        done = until
        kept |= {(i, until): params[i].cpu().clone() for i, plan in enumerate(plans) if until in plan.kept}
    return unpack(architecture, torch.stack([kept[i, step] for i, plan in enumerate(plans) for step in plan.kept]))


def _train(plans: Sequence[NetPlan], network: Network, optimizer: Optimizer, feed: Feed, done: int, until: int) -> None:
    """Take the steps ``done`` to ``until - 1`` of every net."""
    for start in range(done, until, feed.window):
        steps = range(start, min(start + feed.window, until))
        feed.draw(len(plans), len(steps))
        rates = torch.tensor([[[plan.rate(step)] for plan in plans] for step in steps], dtype=torch.float64)
        rates = rates.to(network.grads)
        for t in range(len(steps)):
            feed.step(network, t)
            optimizer.step(network.gradients(), rates[t])
