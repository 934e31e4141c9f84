"""Recipes: a whole model zoo, declared in one YAML file.

A recipe names the images, the architecture, the distribution of every hyperparameter, how many nets, and one seed.
Everything random about net ``i`` follows from ``(seed, i)`` alone (:mod:`metanet.zoo.draws`), so that any part of a
zoo can be built anywhere and in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from metanet.errors import ZooError
from metanet.zoo.distributions import Distribution
from metanet.zoo.hyperparameters import check_keys, parse_hyperparameters
from metanet.zoo.structure import Structure, parse_structure

SPLITS = ("train", "validation", "test")
TASKS = ("classify", "fit")
COORDINATES = ("xy", "ij")
IMAGE_OPTIONS = {"grayscale": bool, "pool": int, "scale": str}


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
        architecture: Distribution of layers; parts of it may be left to hyperparameters.
        hyperparameters: Name and distribution of each, in the order drawn.
        split: Fractions of train, validation and test nets.
        max_steps: Upper bound on every net's training steps, or ``None``.
        task: ``classify`` images, or ``fit`` one image a net as a function of position.
        images: Options of :func:`metanet.zoo.images.load_images`.
        checkpoints: When weights are kept besides the end of the training, in ``epochs`` if the recipe has that
            hyperparameter, else in ``steps``. All of one training share a run, and so a split.
        measure: How many training and test images accuracies and losses are measured on; all if ``None``. Training
            images are the first of each net's own, in its random order, test images a random choice for all nets.
        coordinates: Of a task ``fit``: ``xy`` for (column, row), ``ij`` for (row, column).
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
    architecture: Structure
    hyperparameters: tuple[tuple[str, Distribution], ...]
    split: tuple[float, float, float]
    max_steps: int | None = None
    task: str = "classify"
    images: tuple[tuple[str, Any], ...] = ()
    checkpoints: tuple[int, ...] = ()
    measure: tuple[int, int] | None = None
    coordinates: str = "xy"

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
        out["images"], out["checkpoints"] = dict(self.images), list(self.checkpoints)
        out["measure"] = None if self.measure is None else {"train": self.measure[0], "test": self.measure[1]}
        unsaid = {"task": "classify", "images": {}, "checkpoints": [], "coordinates": "xy"}
        return {key: value for key, value in out.items() if value is not None and value != unsaid.get(key)}

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
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        known = sorted(p.parent.name for p in recipes_folder().glob("*/recipe.yaml"))
        raise ZooError(f"No recipe '{name_or_path}': {path} is missing. Known recipes: {', '.join(known)}.") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ZooError(f"Cannot read the recipe {path}: {' '.join(str(error).split())}") from error
    try:
        return parse_recipe(given)
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from None


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that occurs twice in place of taking the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        found = super().construct_mapping(node, deep)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"the key '{twice[0]}' occurs more than once", problem_mark=node.start_mark
            )
        return found


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
    check_keys("recipe", given, accepted, required=[f.name for f in fields(Recipe) if f.default is MISSING])
    try:
        return _parse(given)
    except ZooError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ZooError(f"A recipe has a value of a type that is not accepted: got '{reason}'.") from error


def _parse(given: Mapping[str, Any]) -> Recipe:
    parts = dict(given)
    parts["architecture"] = parse_structure(given["architecture"])
    parts["hyperparameters"] = parse_hyperparameters(given["hyperparameters"])
    parts["split"] = _parse_split(given["split"])
    parts["images"] = _parse_images(given.get("images", {}))
    parts["checkpoints"] = _parse_checkpoints(given.get("checkpoints", []))
    parts["measure"] = _parse_measure(given.get("measure"))
    for key, allowed in (("task", TASKS), ("coordinates", COORDINATES)):
        if key in given and given[key] not in allowed:
            raise ZooError(f"Recipe key '{key}': got {given[key]!r}. Accepted: {', '.join(allowed)}.")
    for key in ("name", "description", "licence", "source"):
        if not isinstance(parts[key], str) or not parts[key]:
            raise ZooError(f"Recipe key '{key}': got {parts[key]!r}. Accepted: a text.")
    return Recipe(**parts)


def _parse_images(given: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(given, Mapping) or any(type(v) is not IMAGE_OPTIONS.get(k) for k, v in given.items()):
        raise ZooError(f"Recipe key 'images': got {given!r}. Accepted: grayscale (true, false), pool, scale (a text).")
    return tuple((str(key), value) for key, value in given.items())


def _parse_checkpoints(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or any(type(n) is not int or n < 0 for n in given) or given != sorted(set(given)):
        raise ZooError(f"Recipe key 'checkpoints': got {given!r}. Accepted: whole numbers >= 0, rising.")
    return tuple(given)


def _parse_measure(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) != {"train", "test"}:
        raise ZooError(f"Recipe key 'measure': got {given!r}. Accepted: train and test, numbers of images.")
    counts = (given["train"], given["test"])
    if any(type(n) is not int or n < 1 for n in counts):
        raise ZooError(f"Recipe key 'measure': got {dict(given)!r}. Accepted: whole numbers >= 1.")
    return counts


def _parse_split(given: Any) -> tuple[float, float, float]:
    parts = [given[key] for key in SPLITS] if isinstance(given, Mapping) and set(given) == set(SPLITS) else []
    if not parts or not all(type(x) in (int, float) and x >= 0 for x in parts) or abs(sum(parts) - 1) > 1e-9:
        raise ZooError(
            f"Recipe key 'split': got {given!r}. Accepted: train, validation and test, fractions that sum to 1."
        )
    return (float(parts[0]), float(parts[1]), float(parts[2]))
