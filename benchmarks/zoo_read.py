"""Reading zoos: opening a table of a million rows, and an epoch over a zoo that is larger than the memory allowed.

python benchmarks/zoo_read.py [--quick] [--json FILE]

The table is synthetic, with the columns of a zoo. The second zoo holds nets of the Small CNN Zoo's shape with random
weights; it is read in a process of its own under ``ulimit -v``, by the data module: filtered, shuffled, every weight
summed. As a control, the same process cannot hold the zoo in memory. Before the first epoch the system is asked to drop
the files from its cache. Exits with 1 if opening takes a second or more, if the epoch misses a net, or if the control
fits into memory after all (full run only).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from common import options, report

from metanet.space import WeightSpace
from metanet.zoo.data import ZooDataModule
from metanet.zoo.importing import space_of
from metanet.zoo.readers.small_cnn_zoo import small_cnn
from metanet.zoo.split import split_runs
from metanet.zoo.store import TABLE, read_zoo, shard_path
from metanet.zoo.write import parquet, write_file, write_zoo

ROWS, QUICK_ROWS = 1_000_000, 50_000
NETS, QUICK_NETS = 160_000, 2_000
PER_SHARD = 1_600  # 32 MB
LIMIT = 2_000_000  # KB of address space; Python with torch, Lightning and pyarrow takes 1,150,000 of it
LEAST = 0.25  # the filter: test accuracy above, which three quarters of the nets have
FRACTIONS = (0.96, 0.02, 0.02)


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] in ("--epochs", "--hold"):
        return epochs(Path(sys.argv[2])) if sys.argv[1] == "--epochs" else hold(Path(sys.argv[2]))
    given = options(__doc__.splitlines()[0], None)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd() if os.access(Path.cwd(), os.W_OK) else None) as folder:
        rows, wrong = measure(Path(folder), given.quick)
    return report("reading zoos", rows, wrong, given.json)


def measure(folder: Path, quick: bool) -> tuple[list[dict[str, Any]], list[str]]:
    space = space_of(small_cnn((1, 16, 16, 16), 10, "relu"))
    opened, filtered = open_table(folder / "table", QUICK_ROWS if quick else ROWS, space)
    size = write_nets(folder / "nets", QUICK_NETS if quick else NETS, space)
    done = limited("--epochs", folder / "nets")
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    count = QUICK_ROWS if quick else ROWS
    limit = LIMIT * 1024 / 1e9
    rows = [
        {"what": f"open a zoo of {count:,} rows", "seconds": opened, "nets/s": "", "note": "best of 3"},
        {"what": "filter it by two columns", "seconds": filtered, "nets/s": "", "note": "first time"},
    ]
    for name, cached in (("first", "files asked to leave the cache"), ("second", "files in the cache")):
        one = found.get(name, {"seconds": float("nan"), "nets": 0})
        note = f"{one['nets']:,} of {size / 1e9:.2f} GB under ulimit -v {limit:.2f} GB, {cached}"
        rate = round(one["nets"] / one["seconds"]) if one["nets"] else 0
        rows.append({"what": f"{name} epoch, shuffled", "seconds": one["seconds"], "nets/s": rate, "note": note})
    wrong = [] if done.returncode == 0 else [f"the epoch failed: {done.stderr.strip().splitlines()[-1:]}"]
    if found and found["first"]["nets"] != found["wanted"]:
        wrong.append(f"the epoch gave {found['first']['nets']} nets of {found['wanted']}")
    if not quick:
        if opened >= 1:
            wrong.append(f"opening took {opened:.2f} s")
        if limited("--hold", folder / "nets").returncode == 0:
            wrong.append("the zoo fitted into memory, so the limit shows nothing")
    return rows, wrong


def open_table(folder: Path, count: int, space: WeightSpace) -> tuple[float, float]:
    """Seconds to open a table of so many rows, and to filter it."""
    random = np.random.default_rng(0)
    numbers = np.arange(count)
    columns: dict[str, Any] = {
        "id": [f"{i:07d}" for i in numbers],
        "space": pa.array([space.digest] * count),
        "shard": pa.array(numbers // PER_SHARD, pa.int32()),
        "row": pa.array(numbers % PER_SHARD, pa.int32()),
        "split": np.array(["train", "validation", "test"])[random.integers(0, 3, count)],
        "run": [f"run{i // 9}" for i in numbers],
        "activation": np.array(["relu", "tanh"])[numbers % 2],
        "optimizer": np.array(["sgd", "adam", "rmsprop"])[numbers % 3],
    }
    columns |= {name: random.random(count) for name in ("learning_rate", "l2reg", "dropout", "init_std")}
    columns |= {name: random.random(count) for name in ("test_accuracy", "train_accuracy", "test_loss", "train_loss")}
    card = {"format": 1, "name": "table", "nets": count}
    write_file(folder / "zoo.json", json.dumps(card).encode())
    write_file(folder / TABLE, parquet(pa.table(columns)))
    read_zoo(folder)  # what is loaded on first use is not the table's
    times = []
    for _ in range(3):
        start = time.perf_counter()
        zoo = read_zoo(folder)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    zoo.rows("train", activation="relu", test_accuracy={"min": 0.5})
    return min(times), time.perf_counter() - start


def write_nets(folder: Path, count: int, space: WeightSpace) -> int:
    """Write a zoo of random nets; return its bytes."""
    random = np.random.default_rng(1)
    splits = split_runs([f"{i:06d}" for i in range(count)], FRACTIONS)
    rows: list[dict[str, Any]] = []
    size = 0
    for shard, start in enumerate(range(0, count, PER_SHARD)):
        n = min(PER_SHARD, count - start)
        stacked = {k: torch.from_numpy(random.random((n, *s), dtype=np.float32)) for k, s in space.shapes.items()}
        content = safetensors.torch.save(stacked)
        write_file(shard_path(folder, space.digest, shard), content)
        size += len(content)
        for row in range(n):
            where = {"id": f"{start + row:06d}", "space": space.digest, "shard": shard, "row": row}
            label = {"test_accuracy": float(random.random()), "diverged": False}
            rows.append(where | {"split": splits[start + row], "run": f"{start + row:06d}"} | label)
    write_zoo(folder, {space.digest: space}, rows, {"format": 1, "name": "nets", "nets": count})
    return size


def limited(mode: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run this script under a limit of address space."""
    command = f"ulimit -v {LIMIT}; exec '{sys.executable}' '{Path(__file__).resolve()}' {mode} '{folder}'"
    pool = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # pyarrow's own reserves a gigabyte of addresses, used or not
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ | pool)


def epochs(folder: Path) -> int:
    """Print seconds and nets of two shuffled epochs over the filtered zoo."""
    torch.set_num_threads(1)
    data = ZooDataModule(str(folder), batch_size=64, seed=0, filter={"test_accuracy": {"min": LEAST}})
    data.setup()
    loader = data.train_dataloader()
    found: dict[str, Any] = {"wanted": len(data.split("train"))}
    for number, name in enumerate(("first", "second")):
        if number == 0:
            forget(folder)
        loader.sampler.set_epoch(number)
        start, nets, total = time.perf_counter(), 0, 0.0
        for batch in loader:
            nets += batch.graph.batch_size
            total += sum(float(t.sum()) for t in batch.graph.tensors.values())
        found[name] = {"seconds": time.perf_counter() - start, "nets": nets, "sum": total}
    print(json.dumps(found))
    return 0


def hold(folder: Path) -> int:
    """Try to hold the whole zoo in memory."""
    zoo = read_zoo(folder)
    parts = [[t.clone() for t in graph.tensors.values()] for _, graph in zoo.batches(PER_SHARD)]
    return 0 if parts else 1


def forget(folder: Path) -> None:
    """Ask the system to drop files from its cache, where it has a call for that."""
    for file in folder.rglob("*.safetensors"):
        if hasattr(os, "posix_fadvise"):
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
