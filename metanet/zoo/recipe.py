"""Recipes: a whole model zoo, declared in one YAML file.

A recipe names the images, the architecture, the distribution of every hyperparameter, how many nets, and one seed.
Everything random about net ``i`` follows from ``(seed, i)`` alone (:mod:`metanet.zoo.draws`), so that any part of a
zoo can be built anywhere and in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from metanet.errors import ZooError
from metanet.zoo.architecture import ACTIVATIONS, Architecture, parse_architecture
from metanet.zoo.distributions import By, Choice, Constant, Distribution, parse_distribution

OPTIMIZERS = ("sgd", "adam", "rmsprop")
INITS = ("default", "kaiming_normal", "xavier_uniform", "orthogonal")
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {  # name -> accepted values; empty: a number
    "activation": tuple(ACTIVATIONS),
    "optimizer": OPTIMIZERS,
    "learning_rate": (),
    "momentum": (),
    "weight_decay": (),
    "dropout": (),
    "init": INITS,
    "init_gain": (),
    "train_fraction": (),
    "steps": (),
}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Recipe:
    """A validated recipe. Frozen and hashable; ``digest`` names it.

    Attributes:
        name: Name of the zoo and of its folder.
        version: Raised when the recipe changes.
        description: One sentence.
        licence: Licence of the nets.
        source: Images to train on (:mod:`metanet.zoo.images`).
        seed: Root of every random number.
        nets: How many nets.
        shard_size: Nets a shard file; a build resumes at this grain.
        batch_size: Images a training step.
        architecture: Layers; parts of it may be left to hyperparameters.
        hyperparameters: Name and distribution of each, in the order drawn.
        split: Fractions of train, validation and test nets.
        max_steps: Upper bound on every net's training steps, or ``None``.
    """

    name: str
    version: int
    description: str
    licence: str
    source: str
    seed: int
    nets: int
    shard_size: int
    batch_size: int
    architecture: Architecture
    hyperparameters: tuple[tuple[str, Distribution], ...]
    split: tuple[float, float, float]
    max_steps: int | None = None

    def __post_init__(self) -> None:
        for key in ("nets", "shard_size", "batch_size", "version", "max_steps"):
            value = getattr(self, key)
            if (value is None and key != "max_steps") or (value is not None and (type(value) is not int or value < 1)):
                raise ZooError(f"Recipe '{self.name}', key '{key}': got {value!r}. Accepted: a whole number >= 1.")
        if type(self.seed) is not int or self.seed < 0:
            raise ZooError(f"Recipe '{self.name}', key 'seed': got {self.seed!r}. Accepted: a whole number >= 0.")

    def with_(self, **changes: Any) -> Recipe:
        """Return a copy with some fields changed, e.g. a tiny zoo for a test: ``recipe.with_(nets=24, max_steps=20)``.

        Raises:
            ZooError: A field does not exist or its value is not acceptable.
        """
        accepted = [field.name for field in fields(self)]
        for key in changes:
            if key not in accepted:
                raise ZooError(f"Recipe '{self.name}' has no field '{key}'. Accepted: {', '.join(accepted)}.")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return what the recipe file says; :func:`parse_recipe` reads it back to an equal recipe."""
        out: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        out["architecture"] = self.architecture.to_dict()
        out["hyperparameters"] = {name: d.to_dict() for name, d in self.hyperparameters}
        out["split"] = dict(zip(SPLITS, self.split, strict=True))
        return {key: value for key, value in out.items() if value is not None}

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's canonical JSON, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by the name of a folder in ``datasets/`` or by the path of a YAML file.

    Raises:
        ZooError: No such recipe, not YAML, or a key that is unknown, missing or has an unacceptable value.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = recipes_folder() / str(name_or_path) / "recipe.yaml"
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(p.parent.name for p in recipes_folder().glob("*/recipe.yaml"))
        raise ZooError(f"No recipe '{name_or_path}': {path} is missing. Known recipes: {', '.join(known)}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ZooError(f"Cannot read the recipe {path}: {error}") from error
    try:
        return parse_recipe(given)
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from None


def recipes_folder() -> Path:
    """Return the folder of recipes: ``datasets/`` of a checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_datasets"
    return installed if installed.is_dir() else package.parent / "datasets"


def parse_recipe(given: Any) -> Recipe:
    """Validate a recipe given as plain dictionaries and lists.

    Raises:
        ZooError: A key is unknown or missing, or a value is not acceptable; the message lists what is accepted.
    """
    accepted = [field.name for field in fields(Recipe)]
    if not isinstance(given, Mapping):
        raise ZooError(f"A recipe is a mapping, got {type(given).__name__}. Accepted keys: {', '.join(accepted)}.")
    _check_keys("recipe", given, accepted, required=[key for key in accepted if key != "max_steps"])
    parts = dict(given)
    parts["architecture"] = parse_architecture(given["architecture"])
    parts["hyperparameters"] = _parse_hyperparameters(given["hyperparameters"])
    parts["split"] = _parse_split(given["split"])
    for key in ("name", "description", "licence", "source"):
        if not isinstance(parts[key], str) or not parts[key]:
            raise ZooError(f"Recipe key '{key}': got {parts[key]!r}. Accepted: a text.")
    return Recipe(**parts)


def _check_keys(where: str, given: Mapping[str, Any], accepted: list[str], required: list[str]) -> None:
    for key in given:
        if key not in accepted:
            raise ZooError(f"Unknown key '{key}' in {where}. Accepted: {', '.join(accepted)}.")
    for key in required:
        if key not in given:
            raise ZooError(f"Key '{key}' is missing in {where}. Needed: {', '.join(required)}.")


def _parse_hyperparameters(given: Any) -> tuple[tuple[str, Distribution], ...]:
    names = list(HYPERPARAMETERS)
    if not isinstance(given, Mapping):
        raise ZooError(f"Recipe key 'hyperparameters': got {given!r}. Accepted keys, all needed: {', '.join(names)}.")
    _check_keys("hyperparameters", given, names, required=names)
    out = tuple((name, parse_distribution(f"hyperparameters.{name}", body)) for name, body in given.items())
    for name, distribution in out:
        for value in _values(distribution):
            allowed = HYPERPARAMETERS[name]
            if (allowed and value not in allowed) or (not allowed and type(value) not in (int, float)):
                raise ZooError(
                    f"Recipe key 'hyperparameters.{name}': got {value!r}. Accepted: {', '.join(allowed) or 'numbers'}"
                    + (" (YAML reads 1e-3 as text: write 1.0e-3)." if not allowed else ".")
                )
    return out


def _values(distribution: Distribution) -> list[Any]:
    """Return the values that a distribution lists, to be checked one by one."""
    if isinstance(distribution, Constant):
        return [distribution.value]
    if isinstance(distribution, Choice):
        return list(distribution.values)
    if isinstance(distribution, By):
        return [value for _, case in distribution.cases for value in _values(case)]
    return [distribution.low, distribution.high]


def _parse_split(given: Any) -> tuple[float, float, float]:
    parts = [given[key] for key in SPLITS] if isinstance(given, Mapping) and set(given) == set(SPLITS) else []
    if not parts or not all(type(x) in (int, float) and x >= 0 for x in parts) or abs(sum(parts) - 1) > 1e-9:
        raise ZooError(
            f"Recipe key 'split': got {given!r}. Accepted: train, validation and test, fractions that sum to 1."
        )
    return (float(parts[0]), float(parts[1]), float(parts[2]))
