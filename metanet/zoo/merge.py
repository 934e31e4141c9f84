"""Parts of a zoo that were built apart, and putting them together.

A part is a folder like that of an unfinished build, and ``part.json``, written last: which part it is of which recipe,
made with which versions, and the checksums of its shards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metanet.errors import ZooError
from metanet.zoo.building import NOTE, Building, building_folder, check_recipe, difference, only_one, read_note
from metanet.zoo.catalogue import zoos_folder
from metanet.zoo.progress import Progress
from metanet.zoo.recipe import parse_recipe
from metanet.zoo.shard_files import read_space
from metanet.zoo.shards import Made, plan_shards
from metanet.zoo.store import CARD, ModelZoo, read_zoo
from metanet.zoo.write import checksum, write_file

PART = "part.json"


def part_name(recipe: str, part: tuple[int, int]) -> str:
    """Return the usual name of a part's folder."""
    return f"{recipe}.part-{part[0]}-of-{part[1]}"


def check_part(part: tuple[int, int]) -> None:
    """Refuse a part that there is not.

    Raises:
        ZooError: It is not 1..n of n.
    """
    number, count = part
    if not 1 <= number <= count:
        raise ZooError(f"There is no part {number} of {count}. Accepted: 1/{count} to {count}/{count}.")


def is_part(folder: Path, note: dict[str, Any], part: tuple[int, int]) -> bool:
    """Say whether a folder is this part, finished.

    Raises:
        ZooError: It is another one.
    """
    if not (folder / PART).is_file():
        return False
    found = read_note(folder / PART)
    problem = difference(found, note) or ("" if found.get("part") == list(part) else f"part {_name(found)}")
    if problem:
        raise ZooError(f"{folder} holds {problem}. Delete that folder to build it anew, or choose another path.")
    return True


def write_part(folder: Path, shards: dict[int, Path]) -> None:
    """Declare a part complete."""
    sums = {str(number): checksum(path) for number, path in sorted(shards.items())}
    note = read_note(folder / NOTE) | {"sha256": sums}
    write_file(folder / PART, (json.dumps(note, indent=1) + "\n").encode())


def merge_zoos(
    path: str | Path, parts: Sequence[str | Path], progress: Callable[[Progress], None] | None = None
) -> ModelZoo:
    """Put the parts of a zoo together: the zoo that one uninterrupted build makes, byte for byte.

    An interrupted merge can be repeated. The parts are left as they are.

    Args:
        path: Folder of the zoo, or its name in ``<data folder>/zoos``.
        parts: Folders of all parts, in any order, or their names there.
        progress: Called when the nets of a shard have been copied.

    Raises:
        ZooError: A part is missing, unfinished, damaged, given twice or of another build, or the zoo cannot be written.
    """
    target = Path(path) if len(Path(path).parts) > 1 else zoos_folder() / path
    found = [(folder, _read_part(folder)) for folder in map(_find, parts)]
    note, notes = _check_together(found), dict(found)
    recipe = parse_recipe(note["recipe"])
    with only_one(target):
        if not (target / CARD).is_file():
            shards = plan_shards(recipe)
            nets = {shard.number: len(shard.plans) for shard in shards}
            _check_numbers(notes, list(nets))
            building = Building(target, note)
            _copy(building, notes, nets, progress or (lambda _: None))
            building.finish_zoo(recipe, shards)
    zoo = read_zoo(target)
    check_recipe(zoo, recipe)
    return zoo


def _find(part: str | Path) -> Path:
    path = Path(part)
    named = zoos_folder() / path
    return named if len(path.parts) == 1 and (named.exists() or building_folder(named).exists()) else path


def _read_part(folder: Path) -> dict[str, Any]:
    """Read what a part says of itself."""
    note = read_note(folder / PART)
    if {"part", "recipe", "digest", "made_with", "sha256"} <= set(note):
        _check_note(folder / PART, note)
        return note
    unfinished = next((f for f in (folder, building_folder(folder)) if "part" in read_note(f / NOTE)), None)
    if unfinished is not None:
        raise ZooError(
            f"Part {_name(read_note(unfinished / NOTE))} in {unfinished} is not finished. Go on with its build (the "
            "same command again), then merge."
        )
    if (folder / CARD).is_file():
        raise ZooError(f"{folder} is a whole zoo, not a part of one: there is nothing to merge.")
    problem = f"got a folder without a readable {PART}" if folder.is_dir() else "there is no such folder"
    raise ZooError(f"No part of a zoo at {folder}: {problem}. Accepted: what a build with --shard i/n made.")


def _check_note(file: Path, note: dict[str, Any]) -> None:
    """Check the types of what a part says of itself, and that its recipe is that of its digest.

    Raises:
        ZooError: A field has another type, or the digest is another.
    """
    part, sums = note["part"], note["sha256"]
    problem = ""
    if not isinstance(part, list) or len(part) != 2 or not all(type(n) is int for n in part):
        problem = f"'part' is {str(part)[:40]}"
    elif not 1 <= part[0] <= part[1]:
        problem = f"'part' is {_name(note)}"
    elif not isinstance(note["made_with"], dict):
        problem = "'made_with' is no mapping"
    elif not isinstance(sums, dict) or not all(k.isdecimal() and isinstance(v, str) for k, v in sums.items()):
        problem = "'sha256' is no mapping from shards to checksums"
    elif parse_recipe(note["recipe"]).digest != note["digest"]:
        problem = "its recipe is not that of its digest"
    if problem:
        raise ZooError(f"{file} is damaged: {problem}. {_ANEW}")


def _check_together(found: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """Check that parts are all parts of one build, each once; return the note of the whole."""
    if not found:
        raise ZooError("No parts given. Give the folders of all parts of a zoo.")
    start, first = found[0]
    count = first["part"][1]
    seen: dict[int, Path] = {}
    for folder, note in found:
        problem = difference(note, first) or ("" if note["part"][1] == count else f"part {_name(note)}, not of {count}")
        if problem:
            raise ZooError(f"{folder} and {start} are not parts of one build: the former is of {problem}.")
        if note["part"][0] in seen:
            raise ZooError(f"Part {_name(note)} is given twice: {seen[note['part'][0]]} and {folder}.")
        seen[note["part"][0]] = folder
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in seen]
    if missing:
        got = ", ".join(_name(note) for _, note in found)
        raise ZooError(f"Parts are missing: {', '.join(missing)} (got {got}). Build them with --shard, then merge.")
    return {key: value for key, value in first.items() if key not in ("part", "sha256")}


def _check_numbers(notes: dict[Path, dict[str, Any]], numbers: list[int]) -> None:
    """Check that every part declares exactly its shards."""
    for folder, note in notes.items():
        part, count = note["part"]
        if sorted(map(int, note["sha256"])) != numbers[part - 1 :: count]:
            raise ZooError(f"{folder / PART} is damaged: it does not list the shards of part {_name(note)}. {_ANEW}")


def _copy(
    building: Building, notes: dict[Path, dict[str, Any]], nets: dict[int, int], progress: Callable[[Progress], None]
) -> None:
    there, start, done = building.shards(), time.perf_counter(), 0
    for folder, note in notes.items():
        for number, digest in note["sha256"].items():
            if int(number) not in there:
                building.add(int(number), _read_shard(folder, int(number), digest))
            done += nets[int(number)]
            progress(Progress(done, sum(nets.values()), done, time.perf_counter() - start))


def _read_shard(folder: Path, number: int, sha256: str) -> Made:
    found = list(folder.glob(f"weights/*/{number:05d}.safetensors"))
    problem = "is missing" if len(found) != 1 else "is damaged" if checksum(found[0]) != sha256 else ""
    if problem:
        raise ZooError(f"Shard {number} of {folder} {problem}: its checksum is in {PART}. {_ANEW}")
    space = folder / "spaces" / f"{found[0].parent.name}.json"
    try:
        return Made(read_space(space), found[0].read_bytes())
    except (OSError, ZooError) as error:
        raise ZooError(f"Cannot read {space}: {error}. {_ANEW}") from error


_ANEW = "Delete that folder and build the part again."


def _name(note: dict[str, Any]) -> str:
    part = note.get("part")
    return "/".join(map(str, part)) if isinstance(part, list) else "?"
