"""Folders of trained agents as Stable-Baselines3's zoo keeps them: ``<algorithm>/<environment>_<n>/``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metanet.checkpoint import load
from metanet.errors import ZooError
from metanet.zoo.readers.policies import PolicyBlueprint, networks
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import parse, read_csv

INDEX = "agents.tsv"
TANH = ("a2c", "ppo", "trpo", "ppo_lstm", "maskableppo")  # on-policy algorithms; the others use ReLU
COLUMNS = {
    "algorithm": ("", "reinforcement learning algorithm"),
    "environment": ("", "task; rewards of different tasks are not comparable"),
    "best_model": ("", "the index lists this file once more as the best model of its training"),
    "final_mean_reward": ("reward", "mean over the episodes of the last evaluation"),
    "final_reward_std": ("reward", "standard deviation over the episodes of the last evaluation"),
    "best_mean_reward": ("reward", "largest mean of an evaluation during training"),
    "evaluation_episodes": ("episodes", "episodes of each evaluation"),
    "timesteps": ("steps", "environment steps before the last evaluation"),
    "activation": ("", "nonlinearity of the hidden layers"),
    "schedule": ("", "of the learning rate: constant or linear"),
}


class InertLoader(yaml.SafeLoader):
    """YAML without objects: a tag that names a Python object gives the plain data below it."""


def _plain(loader: InertLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        pairs = items[0] if len(items) == 1 and isinstance(items[0], list) else items
        if suffix.endswith("OrderedDict") and all(isinstance(p, list) and len(p) == 2 for p in pairs):
            return {str(key): value for key, value in pairs}
        return items
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return node.value


InertLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


@zoo_reader(
    "stable-baselines3",
    title="Reinforcement learning agents of Stable-Baselines3",
    licence="MIT (rl-trained-agents)",
    source="https://github.com/DLR-RM/rl-trained-agents",
    holds="a folder of <algorithm>/<environment>_<n>/ with policy.pth or the agent's .zip, and evaluations.npz",
)
def open_stable_baselines3(path: Path) -> Source:
    """Open a folder of agents. ``agents.tsv`` names them if it is there, otherwise every policy below it is one.

    Args:
        path: The folder.
    """
    rows = read_csv(path / INDEX, "\t") if (path / INDEX).is_file() else []
    folders = [row.get("folder", "") for row in rows] or sorted(_found(path))
    repeated = len(folders) - len(set(folders))
    seen: dict[str, int] = {}
    ids = []
    for folder in folders:
        seen[folder] = seen.get(folder, 0) + 1
        ids.append(folder if seen[folder] == 1 else f"{folder}#{seen[folder]}")

    def read(number: int) -> SourceNet:
        folder = path / folders[number]
        best = bool(rows) and rows[number].get("environment") == "best_model"
        labels = _labels(folder) | {"best_model": best}
        for name, text in rows[number].items() if rows else ():
            if name not in ("folder", "environment", "algorithm", "parameters"):
                labels[name] = parse(text)
        tensors = networks(load(_policy(folder)).tensors)
        shapes = tuple((name, tuple(t.shape)) for name, t in tensors.items())
        return SourceNet(
            tensors, labels, run=folders[number], blueprint=PolicyBlueprint(shapes, str(labels["activation"]))
        )

    notes = [f"{repeated} nets are a file that another one is, too: they share its run"] if repeated else []
    return Source(ids, read, COLUMNS, (*notes, "target networks are left out"))


def _found(path: Path) -> set[str]:
    files = [*path.rglob("policy.pth"), *path.rglob("*.zip")]
    return {file.parent.relative_to(path).as_posix() for file in files}


def _policy(folder: Path) -> Path:
    """The file with the weights: ``policy.pth``, or the zip of the folder's environment, or the only one."""
    if (folder / "policy.pth").is_file():
        return folder / "policy.pth"
    zips = sorted(folder.glob("*.zip"))
    named = [file for file in zips if file.stem == _environment(folder)] or zips
    if not named:
        raise ZooError(f"{folder} holds no policy.pth and no .zip")
    return named[0]


def _environment(folder: Path) -> str:
    return re.sub(r"_\d+$", "", folder.name)


def _labels(folder: Path) -> dict[str, Any]:
    algorithm = folder.parent.name
    settings = _yaml(folder / "config.yml")
    arguments = _yaml(folder / "args.yml")
    own: dict[str, Any] = {key: value for key, value in settings.items() if isinstance(value, int | float | bool | str)}
    policy = str(own.pop("policy_kwargs", ""))
    given = re.search(r"activation_fn\s*=\s*(?:nn\.|th\.nn\.)?(\w+)", policy)
    activation = given[1].lower() if given else "tanh" if algorithm in TANH else "relu"
    rate = str(own.pop("learning_rate", ""))
    own |= {"learning_rate": parse(rate.removeprefix("lin_")), "schedule": "linear" if "lin_" in rate else "constant"}
    own |= {key: arguments[key] for key in ("seed",) if isinstance(arguments.get(key), int)}
    start = {"algorithm": algorithm, "environment": _environment(folder), "activation": activation}
    return start | own | _rewards(folder / "evaluations.npz")


def _rewards(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as found:
        steps, results = found["timesteps"], np.asarray(found["results"], dtype=float)
    results = results.reshape(len(results), -1)  # some versions wrote [T, episodes, 1]
    means = results.mean(1)
    return {
        "final_mean_reward": float(means[-1]),
        "final_reward_std": float(results[-1].std()),
        "best_mean_reward": float(means.max()),
        "evaluation_episodes": int(results.shape[1]),
        "timesteps": int(steps[-1]),
    }


def _yaml(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=InertLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ZooError(f"Cannot read {file}: {error}") from None
    return found if isinstance(found, dict) else {}
