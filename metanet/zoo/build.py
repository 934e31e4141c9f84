"""Build a zoo from a recipe: resumable, exclusive, the same bytes every time.

Shards are written to ``<path>.building``, each whole or not at all; when all are there, spaces, card and table follow
and the folder is renamed to ``<path>``. A folder of that name is therefore always a complete zoo, and a build that is
killed at any instant goes on from its finished shards. Only this process writes; a lock file beside the zoo, held by
the operating system and so released when its holder dies, keeps two builds of one zoo apart.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import filelock
import numpy as np
import torch

from metanet.errors import ZooError
from metanet.space import WeightSpace, trace
from metanet.symmetry import certify
from metanet.zoo.architecture import Architecture, SmallCNN
from metanet.zoo.catalogue import zoos_folder
from metanet.zoo.crew import make_shards
from metanet.zoo.finish import write_table
from metanet.zoo.progress import Progress
from metanet.zoo.recipe import Recipe, load_recipe
from metanet.zoo.shards import plan_shards
from metanet.zoo.store import CARD, ModelZoo, read_zoo, shard_path
from metanet.zoo.write import TEMPORARY, make_folder, sync_folder, write_file

RECIPE = "recipe.json"


def build_zoo(
    recipe: Recipe | str | Path,
    path: Path | str | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ModelZoo:
    """Build a zoo, or go on with an interrupted build, or open it if it is there.

    Args:
        recipe: A recipe, the name of one in ``datasets/``, or a YAML file.
        path: Folder of the zoo; default ``<data folder>/zoos/<recipe name>``.
        workers: Processes, each of one thread; default one a core. 0 builds in this process. The zoo is the same.
        progress: Called whenever some nets are finished.

    Returns:
        The opened zoo.

    Raises:
        ZooError: The folder cannot be written or holds another zoo, another process builds it, or a worker failed.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    target = Path(path) if path is not None else zoos_folder() / recipe.name
    make_folder(target.parent)
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            if not (target / CARD).is_file():
                _build(recipe, target, _cores() if workers is None else workers, progress or (lambda _: None))
    except filelock.Timeout:
        raise ZooError(
            f"Another process is building {target}. Wait until it has finished; if it dies, the build can be resumed."
        ) from None
    zoo = read_zoo(target)
    check_recipe(zoo, recipe)
    return zoo


def check_recipe(zoo: ModelZoo, recipe: Recipe) -> None:
    """Refuse a zoo that another recipe made.

    Raises:
        ZooError: It was.
    """
    if zoo.card.get("recipe") != recipe.digest:
        raise ZooError(
            f"{zoo.path} holds a zoo of another recipe (got digest {str(zoo.card.get('recipe'))[:12]}, this one is "
            f"{recipe.digest[:12]}). Delete that folder to build it anew, or choose another path or METANET_DATA."
        )


def _build(recipe: Recipe, target: Path, workers: int, progress: Callable[[Progress], None]) -> None:
    building = target.with_name(target.name + ".building")
    _prepare(building, recipe)
    shards = plan_shards(recipe)
    spaces = [space_of(shard.architecture) for shard in shards]
    files = [shard_path(building, spaces[i].digest, shard.number) for i, shard in enumerate(shards)]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    start, before = time.perf_counter(), sum(len(s.plans) for i, s in enumerate(shards) if i not in set(missing))
    trained = 0

    def count(nets: int) -> None:
        nonlocal trained
        trained += nets
        progress(Progress(before + trained, recipe.nets, trained, time.perf_counter() - start))

    for position, content in make_shards(recipe, missing, workers, count):
        write_file(files[position], content)
    write_table(recipe, building, list(zip(shards, spaces, files, strict=True)))
    sync_folder(building)
    try:
        os.replace(building, target)
    except OSError as error:
        raise ZooError(f"Cannot rename {building} to {target}: {error}. Move what is at {target} away.") from error
    sync_folder(target.parent)


def _prepare(building: Path, recipe: Recipe) -> None:
    """Make the folder of a build, without the leftovers of a killed one or the shards of another recipe or version."""
    made_with = {"torch": torch.__version__, "numpy": np.__version__}
    text = json.dumps({"recipe": recipe.to_dict(), "digest": recipe.digest, "made_with": made_with}, indent=1) + "\n"
    note = building / RECIPE
    if building.exists() and (not note.is_file() or note.read_text(encoding="utf-8") != text):
        shutil.rmtree(building)
    make_folder(building)
    for leftover in building.rglob(f"*{TEMPORARY}"):
        leftover.unlink()
    write_file(note, text.encode())


@cache
def space_of(architecture: Architecture) -> WeightSpace:
    """Derive and certify the weight space of a resolved architecture."""
    module, example = SmallCNN(architecture).eval(), torch.zeros(1, *architecture.input)
    return certify(module, trace(module, example), example).space


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
