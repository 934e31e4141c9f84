"""What a recipe's shards are, and how one is made.

A shard is a file that carries everything about its nets: stacked weights, and in the header their hyperparameters and
labels. The table of a zoo is put together from the headers, so that shards can be made anywhere, in any order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import safetensors.torch
import torch

from metanet.space import WeightSpace, trace
from metanet.symmetry import certify
from metanet.zoo.architecture import Architecture
from metanet.zoo.batched.blocking import blocks
from metanet.zoo.batched.evaluate import evaluate_block
from metanet.zoo.batched.train import train_block
from metanet.zoo.draws import NetPlan, plan_net
from metanet.zoo.fields import load_data
from metanet.zoo.plain import SmallCNN
from metanet.zoo.recipe import Recipe, parse_recipe

HEADER = "metanet.nets"  # the only key: safetensors does not promise an order of several


@dataclass(frozen=True)
class Job:
    """What whoever makes shards has to know.

    Attributes:
        recipe: The recipe.
        device: Where nets are trained, as PyTorch names it.
        images: Folder of images (:func:`metanet.zoo.sources.fetch_images`), or None.
    """

    recipe: Recipe
    device: str = "cpu"
    images: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"recipe": self.recipe.to_dict(), "device": self.device, "images": self.images}


def parse_job(given: Mapping[str, Any]) -> Job:
    """Inverse of :meth:`Job.to_dict`."""
    return Job(parse_recipe(given["recipe"]), given["device"], given["images"])


@dataclass(frozen=True)
class Shard:
    """A part of a zoo: nets of one architecture; ``number`` counts all shards of the recipe from 0."""

    architecture: Architecture
    number: int
    plans: tuple[NetPlan, ...]


@dataclass(frozen=True)
class Made:
    """A shard that was made: the weight space of its nets, and the content of its file."""

    space: WeightSpace
    content: bytes


def plan_shards(recipe: Recipe) -> list[Shard]:
    """Return all shards of a recipe, always the same, whoever asks; each at the position that is its number."""
    groups: dict[str, list[NetPlan]] = {}
    for net in range(recipe.nets):
        plan = plan_net(recipe, net)
        groups.setdefault(json.dumps(plan.architecture.to_dict(), sort_keys=True), []).append(plan)
    out: list[Shard] = []
    for _, plans in sorted(groups.items()):
        for start in range(0, len(plans), recipe.shard_size):
            part = tuple(plans[start : start + recipe.shard_size])
            out.append(Shard(part[0].architecture, len(out), part))
    return out


def make_shard(job: Job, shard: Shard, progress: Callable[[int], None]) -> Made:
    """Train the nets of a shard.

    Args:
        job: The recipe and where to work.
        shard: One of its shards.
        progress: Called with the number of nets trained since the last call.
    """
    recipe = job.recipe
    data = load_data(recipe, job.images)
    place: dict[int, range] = {}  # rows of each net: one a checkpoint
    count = 0
    for plan in shard.plans:
        place[plan.net] = range(count, count + len(plan.kept))
        count += len(plan.kept)
    labels: list[dict[str, Any]] = [{} for _ in range(count)]
    stacked: dict[str, torch.Tensor] = {}
    for block in blocks(shard.plans, recipe.batch_size, job.device):
        tensors = train_block(block, data, recipe.batch_size, device=job.device)
        rows = [row for plan in block for row in place[plan.net]]
        for name, value in tensors.items():
            stacked.setdefault(name, value.new_empty(count, *value.shape[1:]))[torch.tensor(rows)] = value
        measured = evaluate_block(block, tensors, data, recipe.measure, job.device)
        owners = [plan for plan in block for _ in plan.kept]
        for row, plan, found in zip(rows, owners, measured, strict=True):
            labels[row] = {"net": plan.net} | plan.hyperparameters | _plain(found)
        progress(len(block))
    content = safetensors.torch.save(stacked, metadata={HEADER: json.dumps(labels)})
    return Made(space_of(shard.architecture), content)


@cache
def space_of(architecture: Architecture) -> WeightSpace:
    """Derive and certify the weight space of a resolved architecture."""
    module, example = SmallCNN(architecture).eval(), torch.zeros(1, *architecture.input)
    return certify(module, trace(module, example), example).space


def _plain(measured: Mapping[str, float | bool]) -> dict[str, float | bool | None]:
    """Replace numbers that are not finite by null, which JSON and the table have a word for."""
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}
