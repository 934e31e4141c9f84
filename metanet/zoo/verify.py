"""Check a whole zoo: checksums, weight spaces, shards against the table, finite weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metanet.errors import ZooError
from metanet.zoo.progress import Progress
from metanet.zoo.store import CARD, ModelZoo, read_zoo, shard_path
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
        finite, others may not.

    Raises:
        ZooError: There is no zoo, or its card or table cannot be read at all.
    """
    zoo = read_zoo(Path(path))
    problems = _checksums(zoo) + _names(zoo)
    done, start = 0, time.perf_counter()
    marked = zoo.column("diverged").astype(bool) if "diverged" in zoo.table.column_names else np.zeros(len(zoo), bool)
    for (digest, shard), positions in _by_shard(zoo).items():
        problems += _shard(zoo, digest, shard, positions, marked)
        done += len(positions)
        if progress is not None:
            progress(Progress(done, len(zoo), done, time.perf_counter() - start))
    return problems


def _checksums(zoo: ModelZoo) -> list[str]:
    known = zoo.card.get("sha256", {})
    problems = []
    for name, digest in known.items():
        file = zoo.path / name
        if not file.is_file():
            problems.append(f"{name}: missing")
        elif checksum(file) != digest:
            problems.append(f"{name}: the content is not that of the checksum in {CARD}")
    there = {p.relative_to(zoo.path).as_posix() for p in zoo.path.rglob("*") if p.is_file() and p.suffix != TEMPORARY}
    return problems + [f"{name}: not in {CARD}" for name in sorted(there - set(known) - {CARD, *EXTRA})]


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
