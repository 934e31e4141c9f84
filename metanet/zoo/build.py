"""Build a zoo from a recipe: resumable, exclusive, the same bytes every time; whole or in parts.

Only this process writes (:mod:`metanet.zoo.building`); shards come from worker processes (:mod:`metanet.zoo.crew`) or
from a Ray cluster (:mod:`metanet.zoo.ray`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from metanet.errors import ZooError
from metanet.zoo.building import Building, check_recipe, note_of, only_one
from metanet.zoo.catalogue import zoos_folder
from metanet.zoo.crew import make_shards
from metanet.zoo.images import prepare_images
from metanet.zoo.merge import check_part, is_part, part_name, write_part
from metanet.zoo.progress import Progress
from metanet.zoo.recipe import Recipe, load_recipe
from metanet.zoo.shards import Job, Shard, plan_shards
from metanet.zoo.store import CARD, ModelZoo, read_zoo

Report = Callable[[Progress], None]


def build_zoo(
    recipe: Recipe | str | Path,
    path: Path | str | None = None,
    workers: int | None = None,
    progress: Report | None = None,
    *,
    device: str = "cpu",
    images: str | Path | None = None,
    ray: str | None = None,
    download: Callable[[str, int, int], None] | None = None,
) -> ModelZoo:
    """Build a zoo, or go on with an interrupted build, or open it if it is there.

    Args:
        recipe: A recipe, the name of one in ``datasets/``, or a YAML file.
        path: Folder of the zoo; default ``<data folder>/zoos/<recipe name>``.
        workers: Processes, each of one thread; default one a core. 0 builds in this process. The zoo is the same.
        progress: Called at the start of the work and whenever some nets are finished.
        device: Where to train, as PyTorch names it. Other devices than ``cpu`` round differently.
        images: Folder of images (:func:`metanet.zoo.sources.fetch_images`).
        ray: Address of a Ray cluster that makes the shards instead of worker processes; ``local`` starts one here.
        download: Called with file, bytes so far and bytes in all while images are downloaded.

    Returns:
        The opened zoo.

    Raises:
        ZooError: The folder cannot be written or holds another zoo, another process builds it, or a worker failed.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    target = Path(path) if path is not None else zoos_folder() / recipe.name
    if (target / CARD).is_file():  # complete, and opened without a lock, as its folder may be read-only
        return _opened(target, recipe)
    with only_one(target):
        if not (target / CARD).is_file():
            shards = plan_shards(recipe)
            building = Building(target, note_of(recipe, _checked(device)))
            job = Job(recipe, device, str(images) if images is not None else None)
            prepare_images(recipe.source, images, download)  # here, so that workers do not all download them
            _make(building, job, shards, workers, progress or (lambda _: None), ray)
            building.finish_zoo(recipe, shards)
    return _opened(target, recipe)


def _opened(target: Path, recipe: Recipe) -> ModelZoo:
    zoo = read_zoo(target)
    check_recipe(zoo, recipe)
    return zoo


def build_part(
    recipe: Recipe | str | Path,
    part: tuple[int, int],
    path: Path | str | None = None,
    workers: int | None = None,
    progress: Report | None = None,
    *,
    device: str = "cpu",
    images: str | Path | None = None,
    ray: str | None = None,
    download: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Build a part of a zoo, to be merged with the others by :func:`metanet.zoo.merge_zoos`.

    Parts are independent: they may be built at once, by processes that share a folder or by machines that share none.

    Args:
        recipe: As for :func:`build_zoo`.
        part: Number of the part, from 1, and how many parts there are; part i has shards i, i + n, i + 2n, ...
        path: Folder of the part; default ``<data folder>/zoos/<recipe name>.part-<i>-of-<n>``.
        workers: As for :func:`build_zoo`, like the rest.
        progress: With the nets of this part.
        device: As for :func:`build_zoo`.
        images: As for :func:`build_zoo`.
        ray: As for :func:`build_zoo`.
        download: As for :func:`build_zoo`.

    Returns:
        The folder.

    Raises:
        ZooError: As for :func:`build_zoo`, or there is no such part.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_part(part)
    target = Path(path) if path is not None else zoos_folder() / part_name(recipe.name, part)
    note = note_of(recipe, _checked(device))
    with only_one(target):
        if not is_part(target, note, part):
            shards = plan_shards(recipe)[part[0] - 1 :: part[1]]
            building = Building(target, note | {"part": list(part)})
            job = Job(recipe, device, str(images) if images is not None else None)
            prepare_images(recipe.source, images, download)  # here, so that workers do not all download them
            _make(building, job, shards, workers, progress or (lambda _: None), ray)
            write_part(building.folder, building.shards())
            building.rename()
    return target


def _make(
    building: Building, job: Job, shards: Sequence[Shard], workers: int | None, progress: Report, ray: str | None
) -> None:
    """Make the shards that are not there yet."""
    there = building.shards()
    missing = [shard.number for shard in shards if shard.number not in there]
    total = sum(len(shard.plans) for shard in shards)
    before = sum(len(shard.plans) for shard in shards if shard.number in there)
    start, trained = time.perf_counter(), 0

    def count(nets: int) -> None:
        nonlocal trained
        trained += nets
        progress(Progress(before + trained, total, trained, time.perf_counter() - start))

    if missing:
        count(0)
    if ray is None:
        count_workers = _workers(job.device) if workers is None else workers
        made = make_shards(job, missing, count_workers, count)
    else:
        from metanet.zoo.ray import make_shards_on_ray  # Ray is an extra

        made = make_shards_on_ray(job, missing, ray, workers, count)
    for number, shard in made:
        building.add(number, shard)


def _checked(device: str) -> str:
    """Return a device that is there.

    Raises:
        ZooError: It is not.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built with CUDA
        reason = str(error).splitlines()[0]
        raise ZooError(f"Cannot train on device {device!r}: {reason}. Accepted: cpu, or a GPU that is here.") from error
    return device


def _workers(device: str) -> int:
    """One process a core; a GPU is kept busy by one."""
    if torch.device(device).type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
