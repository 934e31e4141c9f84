"""Zoos by name: where they lie, and opening one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from metanet.errors import ZooError
from metanet.zoo.card import CARD, read_card
from metanet.zoo.store import TABLE, ModelZoo, read_zoo


def data_folder() -> Path:
    """Return the folder of all data: the environment variable ``METANET_DATA``, or the user's cache folder."""
    given = os.environ.get("METANET_DATA")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("metanet"))


def zoos_folder() -> Path:
    """Return the folder of zoos by name."""
    return data_folder() / "zoos"


def known_zoos() -> dict[str, dict[str, Any]]:
    """Cards of the zoos that are in the folder of zoos, by name; a damaged card is empty."""
    found: dict[str, dict[str, Any]] = {}
    for card in sorted(zoos_folder().glob(f"*/{CARD}")):
        try:
            found[card.parent.name] = read_card(card.parent)
        except ZooError:
            found[card.parent.name] = {}
    return found


def zoo_folder(path_or_name: str | Path) -> Path:
    """Return the folder that a path or a name of a zoo stands for, whether it is there or not."""
    path = Path(path_or_name)
    named = path.name == str(path_or_name)
    if not named or (not (zoos_folder() / path / CARD).is_file() and (path / CARD).is_file()):
        return path
    return zoos_folder() / path


def open_zoo(
    path_or_name: str | Path,
    build: bool = False,
    workers: int | None = None,
    progress: Callable[[Any], None] | None = None,
    verify_shards: bool = True,
) -> ModelZoo:
    """Open a zoo.

    Args:
        path_or_name: Folder of a zoo, or the name of one in ``<data folder>/zoos``.
        build: Build it first if it is not there, from the recipe of that name (or go on with a build).
        workers: For the build, see :func:`metanet.zoo.build_zoo`.
        progress: For the build, called with a :class:`metanet.zoo.Progress`.
        verify_shards: Compare every shard and weight space with its SHA-256 in ``zoo.json`` when it is first read. A
            process hashes a file once, at about 1 GB a second of one core (Xeon): 0.5 s for 500 MB of shards, where
            reading them once for an epoch takes 2 s and training a small metanet on them for an epoch 23 s (2 % of the
            first epoch, nothing later). A zoo without checksums, as older ones are, opens as it is.

    Raises:
        ZooError: There is none, it is half-built or damaged, or it cannot be built.
    """
    folder, name = zoo_folder(path_or_name), Path(path_or_name).name
    if not build or folder == Path(path_or_name):  # a recipe has a name; what is given by its path is there
        return read_zoo(folder, verify_shards)
    if (folder / TABLE).is_file() and "recipe" not in (imported := read_zoo(folder, verify_shards)).card:
        return imported  # it came from elsewhere, so there is nothing to build
    from metanet.zoo.build import build_zoo  # the builder's imports are not needed to open a zoo

    build_zoo(name, workers=workers, progress=progress)
    return read_zoo(folder, verify_shards)
