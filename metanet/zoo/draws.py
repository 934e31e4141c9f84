"""Everything random about a zoo: hyperparameters, architecture, weights, data order, augmentation, dropout, split.

Each purpose of each net has its own stream, a function of ``(recipe seed, net, purpose)`` alone. Shards can be built
in any order by any process, adding a hyperparameter does not disturb the others, and the plain loop
(:mod:`metanet.zoo.loop`) draws exactly what the batched builder draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metanet.zoo.architecture import Architecture
from metanet.zoo.distributions import Value
from metanet.zoo.hyperparameters import DEFAULTS
from metanet.zoo.images import TRAIN_IMAGES
from metanet.zoo.recipe import SPLITS, Recipe

CHUNK = 1 << 16  # random numbers made at once: more would push everything else out of the cache


@dataclass(frozen=True)
class NetPlan:
    """One net to train: its number, hyperparameters and resolved architecture.

    Attributes:
        net: Number, from 0.
        seed: Of the recipe.
        hyperparameters: What was drawn, and the number of ``steps``.
        architecture: Resolved.
        checkpoints: Steps after which weights are kept besides the end, rising; those beyond the end do not count.
    """

    net: int
    seed: int
    hyperparameters: dict[str, Any]
    architecture: Architecture
    checkpoints: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Training steps."""
        return int(self.hyperparameters["steps"])

    @property
    def settings(self) -> dict[str, Any]:
        """Every hyperparameter, by default where the recipe says nothing."""
        return DEFAULTS | self.hyperparameters

    @property
    def kept(self) -> tuple[int, ...]:
        """Steps after which weights are kept, the last one the end."""
        return (*(step for step in self.checkpoints if step < self.steps), self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0: ``constant``, or falling to 0 as a ``cosine`` or ``linear``."""
        done, schedule = step / self.steps, self.settings["schedule"]
        factor = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done}.get(schedule, 1.0)
        return float(self.settings["learning_rate"]) * factor


def stream(seed: int, net: int, purpose: str) -> np.random.Generator:
    """Return the random generator of one purpose of one net."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(net, zlib.crc32(purpose.encode())))
    return np.random.Generator(np.random.Philox(sequence))


def plan_net(recipe: Recipe, net: int) -> NetPlan:
    """Draw the hyperparameters and the architecture of net number ``net`` (from 0)."""
    drawn: dict[str, Value] = {}
    for name, distribution in recipe.hyperparameters:
        drawn[name] = distribution.draw(stream(recipe.seed, net, name), drawn)
    unit = 1
    if "epochs" in drawn:
        fraction = float(drawn.get("train_fraction", DEFAULTS["train_fraction"]))
        unit = max(1, max(1, round(TRAIN_IMAGES[recipe.source] * fraction)) // recipe.batch_size)
        drawn["steps"] = int(drawn["epochs"]) * unit
    drawn["steps"] = max(1, int(drawn["steps"]))
    if recipe.max_steps is not None:
        drawn["steps"] = min(int(drawn["steps"]), recipe.max_steps)
        if "epochs" in drawn:
            drawn["epochs"] = int(drawn["steps"]) / unit
    architecture = recipe.architecture.draw(stream(recipe.seed, net, "architecture"), drawn)
    return NetPlan(net, recipe.seed, dict(drawn), architecture, tuple(unit * n for n in recipe.checkpoints))


def splits(recipe: Recipe) -> list[str]:
    """Return the split of every net: a random order of the runs, cut by the recipe's fractions."""
    order = stream(recipe.seed, recipe.nets, "split").permutation(recipe.nets)
    edges = np.round(np.cumsum(recipe.split) * recipe.nets).astype(int)
    position = np.empty(recipe.nets, dtype=int)
    position[order] = np.arange(recipe.nets)
    return [SPLITS[min(int(np.searchsorted(edges, p, side="right")), 2)] for p in position]


def training_subset(plan: NetPlan, train: np.ndarray) -> np.ndarray:
    """Return the training images of a net: a random ``train_fraction`` of ``train``, at least one."""
    size = max(1, round(len(train) * float(plan.settings["train_fraction"])))
    return stream(plan.seed, plan.net, "subset").permutation(train)[:size]


def training_classes(plan: NetPlan, classes: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the classes a net is trained on: each of a training image wrong with probability ``label_noise``."""
    noise = float(plan.settings["label_noise"])
    if noise == 0:
        return classes
    rng, count = stream(plan.seed, plan.net, "label_noise"), int(classes.max()) + 1
    wrong = train[rng.random(len(train)) < noise]
    out = classes.copy()
    out[wrong] = (out[wrong] + rng.integers(1, count, len(wrong))) % count
    return out


def image_of(plan: NetPlan, images: int) -> int:
    """Return the image that a net fits: all images in a random order, and again when there are more nets."""
    order = stream(plan.seed, plan.net // images, "images").permutation(images)
    return int(order[plan.net % images])


class NetStream:
    """What a net consumes while it trains, step after step: data positions, augmentation, dropout masks.

    Args:
        plan: The net.
        subset: Positions of its training images, or of the points of the image that it fits.
        batch_size: Images a step. Batches run on over the ends of epochs, so that all have this size.
    """

    def __init__(self, plan: NetPlan, subset: np.ndarray, batch_size: int) -> None:
        self.batch_size = batch_size
        self._rate = float(plan.settings["dropout"])
        self._flip, self._shift = float(plan.settings["flip"]), int(plan.settings["shift"])
        self._subset = subset
        self._order = stream(plan.seed, plan.net, "order")
        self._dropout = stream(plan.seed, plan.net, "dropout_masks")
        self._moves = stream(plan.seed, plan.net, "moves")
        self._left = self._subset[:0]
        self._half = np.empty(0, dtype="<u4")

    @property
    def augments(self) -> bool:
        """Whether images are moved at all."""
        return self._flip > 0 or self._shift > 0

    def positions(self, steps: int) -> np.ndarray:
        """Return the data positions of the next steps, ``[steps, batch]``: epoch after epoch, each in random order."""
        need = steps * self.batch_size
        missing = max(0, need - len(self._left))
        epochs = [self._order.permutation(self._subset) for _ in range(-(-missing // len(self._subset)))]
        pool = np.concatenate([self._left, *epochs])
        self._left = pool[need:]
        return pool[:need].reshape(steps, self.batch_size)

    def moves(self, steps: int) -> np.ndarray:
        """Return how images are moved in the next steps, ``[steps, batch, 3]``: flipped or not, rows, columns."""
        drawn = self._moves.random((steps, self.batch_size, 3))
        shifts = np.floor(drawn[..., 1:] * (2 * self._shift + 1)) - self._shift
        return np.concatenate([drawn[..., :1] < self._flip, shifts], axis=2).astype(np.int64)

    def masks(self, steps: int, features: int) -> np.ndarray:
        """Return dropout factors of the next steps, ``[steps, features, batch]`` float32: 0 or 1 / (1 - rate)."""
        kept = self._dropout.random((steps, features, self.batch_size), dtype=np.float32) >= self._rate
        return kept * self.factor

    @property
    def factor(self) -> np.float32:
        """What kept values are multiplied by: ``1 / (1 - rate)``."""
        return np.float32(1 / (1 - self._rate))

    def kept_units(self, steps: int, into: Sequence[np.ndarray]) -> None:
        """Write where :meth:`masks` of the next steps is not 0, at half its time.

        NumPy's float32 from 32 random bits ``u`` is ``(u >> 8) / 2^24``; so it is at least ``rate`` where ``u`` is at
        least ``ceil(2^24 rate) * 2^8``, and no float is ever made.

        Args:
            steps: How many.
            into: One array for each of the layers whose features follow one another, ``[steps, features, parts, n]``
                of bools, with ``parts * n`` images.
        """
        least = np.uint32(min(int(np.ceil(np.float32(self._rate) * np.float32(1 << 24))) << 8, 0xFFFFFFFF))
        together = max(1, CHUNK // into[0][0].size) if len(into) == 1 else 1  # steps
        features = max(1, CHUNK // (together * self.batch_size))
        for step in range(0, steps, together):
            for layer in into:
                for first in range(0, layer.shape[1], features):
                    out = layer[step : step + together, first : first + features]
                    np.greater_equal(self._bits(out.size).reshape(out.shape), least, out=out)

    def _bits(self, count: int) -> np.ndarray:
        """Return the next 32-bit numbers of the dropout's stream: of each 64 bits the low half, then the high one."""
        raw = self._dropout.bit_generator.random_raw((count - len(self._half) + 1) // 2)
        bits = raw.astype("<u8", copy=False).view("<u4")
        bits = np.concatenate([self._half, bits]) if len(self._half) else bits
        self._half = bits[count:].copy()
        return bits[:count]
