"""Check a whole zoo: card, table, recipe, checksums, weight spaces, shards against the table, finite weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import ZooError
from metanet.zoo.building import NOTE
from metanet.zoo.card import CARD, checksums, read_card
from metanet.zoo.functions import ARCHITECTURES, function_of
from metanet.zoo.json_file import read_json
from metanet.zoo.progress import Progress
from metanet.zoo.recipe import parse_recipe
from metanet.zoo.store import ModelZoo, read_zoo, shard_path
from metanet.zoo.table import TABLE
from metanet.zoo.write import TEMPORARY, checksum

NAMED = 5  # nets named in one problem
EXTRA = ("recipe.json",)  # files that need no checksum


def verify_zoo(path: str | Path, progress: Callable[[Progress], None] | None = None) -> list[str]:
    """Read every file of a zoo and compare.

    Args:
        path: Folder of the zoo.
        progress: Called after every shard with the nets checked so far.

    Returns:
        One line for each problem; empty if all is well. Nets that are marked as diverged may have weights that are not
        finite, others may not. Where card or table cannot be read, that is the problem, with what can be checked
        without them.

    Raises:
        ZooError: There is no zoo.
    """
    folder = Path(path)
    try:
        zoo = read_zoo(folder, verify_shards=False)  # what their checksums say is listed once
    except ZooError as error:
        if not (folder / CARD).is_file() or not (folder / TABLE).is_file():
            raise
        return [str(error), *_files(folder)]
    problems = _checksums(folder, zoo.card) + _card(zoo) + _names(zoo)
    broken = _spaces(zoo)
    problems += broken.values()
    done, start = 0, time.perf_counter()
    marked = zoo.column("diverged").astype(bool) if "diverged" in zoo.table.column_names else np.zeros(len(zoo), bool)
    for (digest, shard), positions in _by_shard(zoo).items():
        problems += [] if digest in broken else _shard(zoo, digest, shard, positions, marked)
        done += len(positions)
        if progress is not None:
            progress(Progress(done, len(zoo), done, time.perf_counter() - start))
    return problems


def _files(folder: Path) -> list[str]:
    """What the checksums say where card or table are damaged."""
    try:
        return _checksums(folder, read_card(folder))
    except ZooError:
        return []


def _checksums(folder: Path, card: dict[str, Any]) -> list[str]:
    known = checksums(card)
    problems = []
    for name, digest in known.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{name}: missing")
        elif checksum(file) != digest:
            problems.append(f"{name}: the content is not that of the checksum in {CARD}")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != TEMPORARY}
    return problems + [f"{name}: not in {CARD}" for name in sorted(there - set(known) - {CARD, *EXTRA})]


def _card(zoo: ModelZoo) -> list[str]:
    """Compare the card with the table, with the recipe, and its architectures with the weight spaces."""
    problems = []
    if zoo.card.get("nets", len(zoo)) != len(zoo):
        problems.append(f"{CARD}: it counts {zoo.card['nets']} nets, the table has {len(zoo)}")
    digest = zoo.card.get("recipe")
    try:
        if digest is not None and parse_recipe(read_json(zoo.path / NOTE).get("recipe")).digest != digest:
            problems.append(f"{NOTE}: the recipe is not that of the digest in {CARD}")
    except ZooError as error:
        problems.append(f"{NOTE}: {error}")
    for name in sorted(set(zoo.card.get(ARCHITECTURES, {})) & set(zoo.spaces)):
        try:
            function_of(zoo, zoo.spaces[name])
        except ZooError as error:
            problems += [f"{CARD}: {error}"] if (zoo.path / "spaces" / f"{name}.json").is_file() else []
    return problems


def _spaces(zoo: ModelZoo) -> dict[str, str]:
    """Problems of the weight spaces by digest."""
    problems = {}
    for digest in zoo.spaces:
        try:
            zoo.spaces[digest]
        except ZooError as error:
            problems[digest] = f"spaces/{digest}.json: {error}"
    return problems


def _names(zoo: ModelZoo) -> list[str]:
    names, counts = np.unique(zoo.column("id"), return_counts=True)
    twice = names[counts > 1]
    return [f"table: {len(twice)} names of nets occur more than once, such as {twice[0]}"] if len(twice) else []


def _by_shard(zoo: ModelZoo) -> dict[tuple[str, int], np.ndarray]:
    shards, out = zoo.column("shard"), {}
    for digest, positions in zoo.by_space().items():
        for shard in np.unique(shards[positions]):
            out[digest, int(shard)] = positions[shards[positions] == shard]
    return out


def _shard(zoo: ModelZoo, digest: str, shard: int, positions: np.ndarray, marked: np.ndarray) -> list[str]:
    rows = zoo.column("row")[positions]
    name = shard_path(zoo.path, digest, shard).relative_to(zoo.path).as_posix()
    if sorted(rows) != list(range(len(rows))):
        return [f"{name}: rows in the table are not 0..{len(rows) - 1}, each once"]
    try:
        tensors = zoo.files.tensors(digest, shard)
    except ZooError as error:
        return [f"{name}: {error}"]
    finite = np.ones(len(rows), bool)
    for tensor in tensors.values():
        finite &= tensor.flatten(1).isfinite().all(1).numpy()
    bad = positions[~finite[rows] & ~marked[positions]]
    if len(bad) == 0:
        return []
    ids = ", ".join(map(str, zoo.column("id")[bad[:NAMED]]))
    return [f"{name}: {len(bad)} nets have weights that are not finite and are not marked as diverged: {ids}"]
