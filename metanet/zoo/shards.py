"""What a recipe's shards are, and how one is made.

A shard is a file that carries everything about its nets: stacked weights, and in the header their hyperparameters and
labels. The table of a zoo is put together from the headers, so that shards can be made anywhere, in any order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from metanet.zoo.architecture import Architecture
from metanet.zoo.batched.train import blocks, evaluate_block, train_block
from metanet.zoo.draws import NetPlan, plan_net
from metanet.zoo.images import load_images
from metanet.zoo.recipe import Recipe

HEADER = "metanet.nets"  # the only key: safetensors does not promise an order of several


@dataclass(frozen=True)
class Shard:
    """A part of a zoo: nets of one architecture, ``number`` counting the shards of that architecture from 0."""

    architecture: Architecture
    number: int
    plans: tuple[NetPlan, ...]


def plan_shards(recipe: Recipe) -> list[Shard]:
    """Return all shards of a recipe, always the same, whoever asks."""
    groups: dict[str, list[NetPlan]] = {}
    for net in range(recipe.nets):
        plan = plan_net(recipe, net)
        groups.setdefault(json.dumps(plan.architecture.to_dict(), sort_keys=True), []).append(plan)
    out = []
    for _, plans in sorted(groups.items()):
        for number, start in enumerate(range(0, len(plans), recipe.shard_size)):
            part = tuple(plans[start : start + recipe.shard_size])
            out.append(Shard(part[0].architecture, number, part))
    return out


def make_shard(recipe: Recipe, shard: Shard, progress: Callable[[int], None]) -> bytes:
    """Train the nets of a shard.

    Args:
        recipe: The recipe.
        shard: One of its shards.
        progress: Called with the number of nets trained since the last call.

    Returns:
        Content of the shard's file.
    """
    images = load_images(recipe.source)
    place = {plan.net: row for row, plan in enumerate(shard.plans)}
    labels: list[dict[str, Any]] = [{} for _ in place]
    stacked: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for block in blocks(shard.plans, recipe.batch_size):
            tensors = train_block(block, images, recipe.batch_size)
            rows = torch.tensor([place[plan.net] for plan in block])
            for name, value in tensors.items():
                stacked.setdefault(name, value.new_empty(len(place), *value.shape[1:]))[rows] = value
            for plan, measured in zip(block, evaluate_block(block, tensors, images), strict=True):
                labels[place[plan.net]] = {"net": plan.net} | plan.hyperparameters | _plain(measured)
            progress(len(block))
    return safetensors.torch.save(stacked, metadata={HEADER: json.dumps(labels)})


def _plain(measured: dict[str, float | bool]) -> dict[str, float | bool | None]:
    """Replace numbers that are not finite by null, which JSON and the table have a word for."""
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}
