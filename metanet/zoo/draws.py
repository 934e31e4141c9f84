"""Everything random about a zoo: hyperparameters, initial weights, data order, dropout, split.

Each purpose of each net has its own stream, a function of ``(recipe seed, net, purpose)`` alone. Shards can be built
in any order by any process, adding a hyperparameter does not disturb the others, and the plain loop
(:mod:`metanet.zoo.loop`) draws exactly what the batched builder draws.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from metanet.zoo.architecture import Architecture, Conv, Linear
from metanet.zoo.distributions import Value
from metanet.zoo.recipe import SPLITS, Recipe


@dataclass(frozen=True)
class NetPlan:
    """One net to train: its number, hyperparameters and resolved architecture."""

    net: int
    seed: int
    hyperparameters: dict[str, Any]
    architecture: Architecture

    @property
    def steps(self) -> int:
        """Training steps."""
        return int(self.hyperparameters["steps"])


def stream(seed: int, net: int, purpose: str) -> np.random.Generator:
    """Return the random generator of one purpose of one net."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(net, zlib.crc32(purpose.encode())))
    return np.random.Generator(np.random.Philox(sequence))


def plan_net(recipe: Recipe, net: int) -> NetPlan:
    """Draw the hyperparameters of net number ``net`` (from 0)."""
    drawn: dict[str, Value] = {}
    for name, distribution in recipe.hyperparameters:
        drawn[name] = distribution.draw(stream(recipe.seed, net, name), drawn)
    drawn["steps"] = max(1, int(drawn["steps"]))
    if recipe.max_steps is not None:
        drawn["steps"] = min(int(drawn["steps"]), recipe.max_steps)
    return NetPlan(net, recipe.seed, dict(drawn), recipe.architecture.resolve(drawn))


def splits(recipe: Recipe) -> list[str]:
    """Return the split of every net: a random order of the runs, cut by the recipe's fractions."""
    order = stream(recipe.seed, recipe.nets, "split").permutation(recipe.nets)
    edges = np.round(np.cumsum(recipe.split) * recipe.nets).astype(int)
    position = np.empty(recipe.nets, dtype=int)
    position[order] = np.arange(recipe.nets)
    return [SPLITS[min(int(np.searchsorted(edges, p, side="right")), 2)] for p in position]


def initial_weights(plan: NetPlan) -> dict[str, np.ndarray]:
    """Draw the initial ``state_dict`` of a net, float64, by its hyperparameters ``init`` and ``init_gain``.

    ``default`` is PyTorch's, uniform in +-1/sqrt(fan_in) for weights and biases; the others are the functions of
    ``torch.nn.init`` of that name, with zero biases. Weights are then multiplied by the gain.
    """
    rng = stream(plan.seed, plan.net, "weights")
    scheme, gain = plan.hyperparameters["init"], plan.hyperparameters["init_gain"]
    out = {}
    arch = plan.architecture
    for name, layer, shape in zip(arch.names(), arch.layers, arch.shapes(), strict=False):
        if not isinstance(layer, Conv | Linear):
            continue
        full = (
            (layer.out, shape[0], layer.kernel, layer.kernel)
            if isinstance(layer, Conv)
            else (layer.out, math.prod(shape))
        )
        fan_in, fan_out = math.prod(full[1:]), layer.out * math.prod(full[2:])
        bias = np.zeros(layer.out)
        if scheme == "default":
            bound = 1 / math.sqrt(fan_in)
            weight, bias = rng.uniform(-bound, bound, full), rng.uniform(-bound, bound, layer.out)
        elif scheme == "kaiming_normal":
            weight = rng.normal(0, math.sqrt(2 / fan_in), full)
        elif scheme == "xavier_uniform":
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight = rng.uniform(-bound, bound, full)
        else:
            weight = _orthogonal(rng, layer.out, fan_in).reshape(full)
        out[f"{name}.weight"], out[f"{name}.bias"] = gain * weight, bias
    return out


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw a ``[rows, columns]`` matrix with orthonormal rows, or columns where there are fewer of them."""
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T


def training_subset(plan: NetPlan, train: np.ndarray) -> np.ndarray:
    """Return the training images of a net: a random ``train_fraction`` of ``train``, at least one."""
    size = max(1, round(len(train) * float(plan.hyperparameters["train_fraction"])))
    return stream(plan.seed, plan.net, "subset").permutation(train)[:size]


class NetStream:
    """What a net consumes while it trains, step after step: image positions and dropout masks.

    Args:
        plan: The net.
        train: Positions of all training images.
        batch_size: Images a step. Batches run on over the ends of epochs, so that all have this size.
    """

    def __init__(self, plan: NetPlan, train: np.ndarray, batch_size: int) -> None:
        self.batch_size = batch_size
        self._rate = float(plan.hyperparameters["dropout"])
        self._subset = training_subset(plan, train)
        self._order = stream(plan.seed, plan.net, "order")
        self._dropout = stream(plan.seed, plan.net, "dropout_masks")
        self._left = self._subset[:0]

    def positions(self, steps: int) -> np.ndarray:
        """Return the image positions of the next steps, ``[steps, batch]``: epoch after epoch, each in random order."""
        need = steps * self.batch_size
        missing = max(0, need - len(self._left))
        epochs = [self._order.permutation(self._subset) for _ in range(-(-missing // len(self._subset)))]
        pool = np.concatenate([self._left, *epochs])
        self._left = pool[need:]
        return pool[:need].reshape(steps, self.batch_size)

    def masks(self, steps: int, features: int) -> np.ndarray:
        """Return dropout factors of the next steps, ``[steps, features, batch]`` float32: 0 or 1 / (1 - rate)."""
        kept = self._dropout.random((steps, features, self.batch_size), dtype=np.float32) >= self._rate
        return kept * np.float32(1 / (1 - self._rate))
