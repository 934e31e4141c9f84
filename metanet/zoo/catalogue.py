"""Zoos by name: where they lie, and opening one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from metanet.zoo.store import CARD, TABLE, ModelZoo, read_zoo


def data_folder() -> Path:
    """Return the folder of all data: the environment variable ``METANET_DATA``, or the user's cache folder."""
    given = os.environ.get("METANET_DATA")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("metanet"))


def zoos_folder() -> Path:
    """Return the folder of zoos by name."""
    return data_folder() / "zoos"


def known_zoos() -> dict[str, dict[str, Any]]:
    """Cards of the zoos that are in the folder of zoos, by name; a damaged card is empty."""
    found = {}
    for card in sorted(zoos_folder().glob(f"*/{CARD}")):
        try:
            content = json.loads(card.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        found[card.parent.name] = content if isinstance(content, dict) else {}
    return found


def open_zoo(
    path_or_name: str | Path,
    build: bool = False,
    workers: int | None = None,
    progress: Callable[[Any], None] | None = None,
) -> ModelZoo:
    """Open a zoo.

    Args:
        path_or_name: Folder of a zoo, or the name of one in ``<data folder>/zoos``.
        build: Build it first if it is not there, from the recipe of that name (or go on with a build).
        workers: For the build, see :func:`metanet.zoo.build_zoo`.
        progress: For the build, called with a :class:`metanet.zoo.Progress`.

    Raises:
        ZooError: There is none, it is half-built or damaged, or it cannot be built.
    """
    path = Path(path_or_name)
    named = path.name == str(path_or_name)
    if not named or (not (zoos_folder() / path / CARD).is_file() and (path / CARD).is_file()):
        return read_zoo(path)
    folder = zoos_folder() / path
    if not build:
        return read_zoo(folder)
    if (folder / TABLE).is_file() and "recipe" not in (imported := read_zoo(folder)).card:
        return imported  # it came from elsewhere, so there is nothing to build
    from metanet.zoo.build import build_zoo  # the builder's imports are not needed to open a zoo

    return build_zoo(path.name, workers=workers, progress=progress)
