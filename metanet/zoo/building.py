"""The folder of an unfinished build: ``<path>.building``.

Shards and spaces are written into it, each file whole or not at all, and at last the folder is renamed to ``<path>``.
A folder of that name is therefore always complete, and a build that is killed at any instant goes on from its shards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

import metanet
from metanet.errors import ZooError
from metanet.formats import check_format
from metanet.zoo.finish import write_table
from metanet.zoo.json_file import read_json
from metanet.zoo.recipe import Recipe
from metanet.zoo.shard_files import read_space
from metanet.zoo.shards import Made, Shard
from metanet.zoo.store import ModelZoo, shard_path
from metanet.zoo.write import TEMPORARY, checksum, make_folder, sync_folder, write_file

NOTE = "recipe.json"
FORMAT = 1  # of the notes of builds; it is not written until there is another
FINISHED = "finished.json"  # SHA-256 of the shards by number, while a build is unfinished


def building_folder(target: Path) -> Path:
    """Return the folder in which ``target`` is put together."""
    return target.with_name(target.name + ".building")


@contextlib.contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Keep two builds of one folder apart, by a lock that the system releases when its holder dies.

    Raises:
        ZooError: Another process builds it.
    """
    make_folder(target.parent)
    try:
        with filelock.FileLock(target.with_name(f".{target.name}.lock")).acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise ZooError(
            f"Another process is building {target}. Wait until it has finished; if it dies, the build can be resumed."
        ) from None


def note_of(recipe: Recipe, device: str) -> dict[str, Any]:
    """Return what decides about the bytes of a build: the recipe, and what works on it."""
    versions = {"metanet": metanet.__version__, "torch": torch.__version__, "numpy": np.__version__}
    kind = torch.device(device).type
    return {"recipe": recipe.to_dict(), "digest": recipe.digest, "made_with": versions | {"device": kind}}


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say in what two notes differ; empty if they do not."""
    if one.get("digest") != other.get("digest"):
        return f"another recipe (digest {str(one.get('digest'))[:12]}, not {str(other.get('digest'))[:12]})"
    with_, without = (made if isinstance(made := note.get("made_with"), dict) else {} for note in (one, other))
    keys = [key for key in {**with_, **without} if with_.get(key) != without.get(key)]
    return ", ".join(f"{key} {with_.get(key, '?')}, not {without.get(key, '?')}" for key in keys)


class Building:
    """An unfinished build.

    Args:
        target: Folder that will be complete in the end.
        note: From :func:`note_of`; a folder with another one is refused.

    Raises:
        ZooError: The folder cannot be written, or holds an unfinished build of something else, or something that is
            no zoo lies at ``target``.
    """

    def __init__(self, target: Path, note: dict[str, Any]) -> None:
        self.target, self.folder = target, building_folder(target)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ZooError(f"Cannot build {target}: something else is there. Move it away, or choose another path.")
        for leftover in self.folder.rglob(f"*{TEMPORARY}"):
            leftover.unlink()
        text = json.dumps(note, indent=1) + "\n"
        found = read_note(self.folder / NOTE)
        if found != json.loads(text) and any(path.is_file() for path in self.folder.rglob("*")):
            raise ZooError(
                f"{self.folder} holds an unfinished build of {difference(found, note) or 'something else'}. "
                "Delete that folder to start anew, or finish it as it was begun."
            )
        make_folder(self.folder)
        write_file(self.folder / NOTE, text.encode())

    def shards(self) -> dict[int, Path]:
        """Return the finished shards by number; one whose content is not that of its checksum is deleted."""
        known, found = read_note(self.folder / FINISHED), {}
        for path in sorted(self.folder.glob("weights/*/*.safetensors")):
            if path.stem.isdecimal() and known.get(str(int(path.stem))) == checksum(path):
                found[int(path.stem)] = path
            else:
                path.unlink()
        return found

    def add(self, number: int, made: Made) -> None:
        """Write a shard, and its space before it.

        Of several texts of one space (they may differ in what is no part of its identity) the first in the alphabet
        is kept, so that the order in which shards are finished does not matter.
        """
        space, text = self._space(made.space.digest), (made.space.to_json(indent=1) + "\n").encode()
        if not space.is_file() or text < space.read_bytes():
            write_file(space, text)
        known = read_note(self.folder / FINISHED) | {str(number): hashlib.sha256(made.content).hexdigest()}
        write_file(self.folder / FINISHED, json.dumps(known, indent=1).encode())
        write_file(shard_path(self.folder, made.space.digest, number), made.content)  # last: then it is finished

    def finish_zoo(self, recipe: Recipe, shards: list[Shard]) -> None:
        """Write the table, all shards being there, and give the folder its name."""
        paths = self.shards()
        lost = [shard.number for shard in shards if shard.number not in paths]
        if lost:
            raise ZooError(
                f"Shard {lost[0]} of {self.folder} was damaged after it was finished. Start the build again."
            )
        spaces = {d: read_space(self._space(d)) for d in {path.parent.name for path in paths.values()}}
        found = [(shard, spaces[paths[shard.number].parent.name], paths[shard.number]) for shard in shards]
        write_table(recipe, self.folder, found)
        self.rename()

    def rename(self) -> None:
        """Give the folder its name: from then on it is complete.

        Raises:
            ZooError: Something else is there.
        """
        (self.folder / FINISHED).unlink(missing_ok=True)
        sync_folder(self.folder)
        try:
            os.replace(self.folder, self.target)
        except OSError as error:
            raise ZooError(
                f"Cannot rename {self.folder} to {self.target}: {error}. Move what is at {self.target} away."
            ) from error
        sync_folder(self.target.parent)

    def _space(self, digest: str) -> Path:
        return self.folder / "spaces" / f"{digest}.json"


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


def read_note(path: Path) -> dict[str, Any]:
    """Read the note of a build; empty if there is none, or it is damaged.

    Raises:
        ZooError: It is of a newer format.
    """
    try:
        found = read_json(path)
    except ZooError:
        return {}
    check_format(found.get("format", FORMAT), FORMAT, str(path), ZooError)
    return found
