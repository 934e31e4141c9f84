"""Hyperparameters of a training: names, accepted values, and what holds where a recipe says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metanet.errors import ZooError
from metanet.zoo.architecture import ACTIVATIONS
from metanet.zoo.distributions import Distribution, parse_distribution

OPTIMIZERS = ("sgd", "adam", "rmsprop")
SCHEDULES = ("constant", "cosine", "linear")
INITS = (
    "default",
    "kaiming_normal",
    "xavier_uniform",
    "xavier_normal",
    "orthogonal",
    "normal",
    "truncated_normal",
    "siren",
)
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {  # name -> accepted values; empty: a number
    "activation": ACTIVATIONS,
    "optimizer": OPTIMIZERS,
    "learning_rate": (),
    "schedule": SCHEDULES,
    "momentum": (),
    "smoothing": (),
    "epsilon": (),
    "weight_decay": (),
    "decay_biases": ("yes", "no"),
    "dropout": (),
    "init": INITS,
    "init_gain": (),
    "init_std": (),
    "train_fraction": (),
    "label_noise": (),
    "flip": (),
    "shift": (),
    "steps": (),
    "epochs": (),
}
DEFAULTS: dict[str, Any] = {
    "schedule": "constant",
    "momentum": 0.0,
    "smoothing": 0.99,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "decay_biases": "yes",
    "dropout": 0.0,
    "init": "default",
    "init_gain": 1.0,
    "init_std": 0.05,
    "train_fraction": 1.0,
    "label_noise": 0.0,
    "flip": 0.0,
    "shift": 0,
}
NEEDED = ("optimizer", "learning_rate")
LENGTHS = ("steps", "epochs")


def parse_hyperparameters(given: Any) -> tuple[tuple[str, Distribution], ...]:
    """Read the ``hyperparameters`` of a recipe: name and distribution of each, in the order drawn.

    Raises:
        ZooError: A name is unknown or missing, or a value is not acceptable.
    """
    names = list(HYPERPARAMETERS)
    if not isinstance(given, Mapping):
        raise ZooError(f"Recipe key 'hyperparameters': got {given!r}. Accepted keys: {', '.join(names)}.")
    check_keys("hyperparameters", given, names, required=list(NEEDED))
    if sum(name in given for name in LENGTHS) != 1:
        raise ZooError("Recipe key 'hyperparameters': the length of the training is needed: 'steps' or 'epochs'.")
    out = tuple((name, parse_distribution(f"hyperparameters.{name}", body)) for name, body in given.items())
    for name, distribution in out:
        for value in distribution.support():
            allowed = HYPERPARAMETERS[name]
            if (allowed and value not in allowed) or (not allowed and type(value) not in (int, float)):
                raise ZooError(
                    f"Recipe key 'hyperparameters.{name}': got {value!r}. Accepted: {', '.join(allowed) or 'numbers'}"
                    + (" (YAML reads 1e-3 as text: write 1.0e-3)." if not allowed else ".")
                )
    return out


def check_keys(where: str, given: Mapping[str, Any], accepted: list[str], required: list[str]) -> None:
    """Refuse a mapping with unknown or missing keys.

    Raises:
        ZooError: It has them.
    """
    for key in given:
        if key not in accepted:
            raise ZooError(f"Unknown key '{key}' in {where}. Accepted: {', '.join(accepted)}.")
    for key in required:
        if key not in given:
            raise ZooError(f"Key '{key}' is missing in {where}. Needed: {', '.join(required)}.")
