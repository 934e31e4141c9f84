"""Damaged files of every format through ``load``, ``graph`` and ``predict``: each must be read or refused in one line.

python benchmarks/fuzz.py [--seed 0] [--mutants 12000] [--workers 2] [--formats onnx,h5] [--keep FOLDER]
                          [--json FILE] [--markdown FILE] [--plant traceback,crash,breach,hang]

Every mutant is opened in a worker process, in all three ways. A traceback is any error that is no ``MetanetError``; a
crash is a worker that died, attributed to the mutant that it was at; a breach is a mutant whose peak memory, beyond
what the worker had before, is over 4 times its size + 256 MiB; a hang takes over 60 seconds. A mutant is determined by
seed and number, so ``--only NUMBER`` makes it again. ``--plant`` shows that each kind of fault is found: readers with
that fault stand in for ``load`` in one mutant each. A run with a finding ends with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from common import machine, parser, report
from fuzz_faults import PLANTED
from fuzz_seeds import ACTIVATION, make_run, write_seeds
from markdown import table
from mutations import mutate

import metanet
from metanet.cli import main as command
from metanet.errors import MetanetError
from metanet.prediction import load_run, predict

FREE = 256 << 20
LIMIT = 6 << 30  # address space of a worker beyond its start
PATIENCE = 60.0
EVERY = 100  # mutants between two lines of progress
FAULTS = {"traceback": "tracebacks", "crash": "crashes", "breach": "breaches", "hang": "hangs"}
TABLE = Path(__file__).parent / "results" / "fuzz.md"


@dataclass(frozen=True)
class Case:
    """One mutant: its number, its format, the undamaged file, and the fault that is planted in its reader."""

    number: int
    format: str
    path: Path
    planted: str | None = None


class Opener:
    """What a worker does with a mutant."""

    def __init__(self, run: Path, seeds: dict[str, Path], seed: int, folder: Path) -> None:
        self.task = load_run(run)
        self.contents = {name: path.read_bytes() for name, path in seeds.items()}
        self.seed, self.folder = seed, folder

    def write(self, case: Case) -> Path:
        """Make a mutant as a file; that of an index stands beside the shards, under a name of its own."""
        rng = random.Random(f"{self.seed}/{case.number}")
        data = mutate(rng, self.contents[case.format], list(self.contents.values()))
        beside = case.path.parent if case.format == "index" else self.folder
        path = beside / f"mutant{os.getpid()}{''.join(case.path.suffixes[-2:])}"
        path.write_bytes(data)
        return path

    def open(self, case: Case) -> dict[str, Any]:
        """Open a mutant in all three ways.

        Returns:
            How each went (``"read"``, ``"refused"`` or a traceback), and bytes of memory at the peak.
        """
        path = self.write(case)
        before = reset_peak()
        found: dict[str, Any] = {
            "load": attempt(lambda: PLANTED[case.planted]() if case.planted else metanet.load(path)),
            "graph": attempt(lambda: quietly(["graph", str(path)])),
            "predict": attempt(
                lambda: predict(self.task, [path], activation=None if "space" in case.format else ACTIVATION)
            ),
        }
        found["memory"], found["size"] = peak() - before, path.stat().st_size
        path.unlink()
        return found


def attempt(action: Callable[[], Any]) -> str:
    """``"read"``, ``"refused"``, or the last lines of a traceback."""
    try:
        action()
    except MetanetError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {str(error)[:200]!r}"
    except BaseException:  # whatever it is, it is a fault
        return "".join(traceback.format_exc().splitlines(keepends=True)[-7:])
    return "read"


def quietly(arguments: list[str]) -> None:
    """Run the command without its output.

    Raises:
        MetanetError: It ended with one line of error.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = command(arguments)
    if code:
        raise MetanetError(said.getvalue().strip())


def reset_peak() -> int:
    """Let the kernel measure the peak of this process anew; returns bytes held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """Bytes at the peak since ``reset_peak``."""
    return status("VmHWM")


def status(field: str) -> int:
    """A number of bytes that the kernel knows of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def work(opener: Opener, cases: Sequence[Case], out: Connection) -> None:
    """Open cases one after the other; a number is sent before each, its result after it."""
    size = status("VmSize") + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    for case in cases:
        out.send((case.number, None))
        out.send((case.number, opener.open(case)))
    out.send((None, None))


class Worker:
    """A forked process and what it is at."""

    def __init__(self, opener: Opener, cases: list[Case]) -> None:
        self.cases = cases
        self.reader, writer = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(opener, cases, writer))
        self.process.start()
        writer.close()
        self.at: int | None = None
        self.since = time.monotonic()

    def rest(self) -> list[Case]:
        """The cases after the one that it is at."""
        numbers = [case.number for case in self.cases]
        return self.cases[numbers.index(self.at) + 1 :] if self.at in numbers else self.cases


def run_all(opener: Opener, cases: list[Case], workers: int, patience: float = PATIENCE) -> dict[int, dict[str, Any]]:
    """Results by number; a worker that dies or hangs is replaced by one that goes on behind the case it was at."""
    results: dict[int, dict[str, Any]] = {}
    running = [Worker(opener, cases[part::workers]) for part in range(workers)]
    start = spoken = time.monotonic()
    said = 0
    while running:
        ready = wait([worker.reader for worker in running], timeout=1.0)
        for worker in list(running):
            if worker.reader in ready:
                try:
                    number, result = worker.reader.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    number, result = worker.at, {"crash": f"ended with {worker.process.exitcode}"}
                worker.since = time.monotonic()
                if number is None:
                    running.remove(worker)
                    worker.process.join()
                elif result is None:
                    worker.at = number
                else:
                    results[number] = result
            elif time.monotonic() - worker.since > patience:
                worker.process.kill()
                worker.process.join()
                results[worker.cases[0].number if worker.at is None else worker.at] = {"hang": f"over {patience:.0f} s"}
            else:
                continue
            dead = worker.at is not None and {"crash", "hang"} & results.get(worker.at, {}).keys()
            if dead and worker in running:
                running.remove(worker)
                if worker.rest():
                    running.append(Worker(opener, worker.rest()))
        if len(results) // EVERY > said or not running or time.monotonic() - spoken > 60:
            said, spoken = len(results) // EVERY, time.monotonic()
            wrong = sum(bool(faults(result)) for result in results.values())
            rate = len(results) / (spoken - start)
            print(f"{len(results):,} of {len(cases):,} mutants, {wrong} wrong, {rate:.1f} a second", file=sys.stderr,
                  flush=True)  # fmt: skip
    return results


def faults(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Kind and text of what is wrong with one mutant."""
    found = [(kind, result[kind]) for kind in ("crash", "hang") if kind in result]
    for way in ("load", "graph", "predict"):
        said = result.get(way, "refused")
        if said not in ("read", "refused"):
            found.append(("traceback", f"{way}: {said}"))
    if result.get("memory", 0) > 4 * result.get("size", 0) + FREE:
        found.append(("breach", f"{result['memory'] >> 20} MiB for {result['size']:,} bytes"))
    return found


def row(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One format's line of the table."""
    wrong = Counter(kind for result in results for kind, _ in faults(result))
    read = {way: sum(result.get(way) == "read" for result in results) for way in ("load", "graph", "predict")}
    most = max((result.get("memory", 0) for result in results), default=0)
    counts = {f"{way}: read": count for way, count in read.items()}
    found = {plural: wrong[kind] for kind, plural in FAULTS.items()}
    return {"format": name, "mutants": len(results), **counts, **found, "most memory, MiB": most >> 20}


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line of the table."""
    memory = "most memory, MiB"
    sums = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("format", memory)}
    return {"format": "all", **sums, memory: max(row[memory] for row in rows)}


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz and print the table."""
    options = parser(__doc__ or "")
    options.add_argument("--seed", type=int, default=0, help="all mutants follow from it")
    options.add_argument("--mutants", type=int, default=12_000)
    options.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options.add_argument("--formats", help="only these, with commas between them")
    options.add_argument("--only", type=int, help="only the mutant of this number; its file is kept")
    options.add_argument("--keep", type=Path, help="write the mutants that go wrong into this folder")
    options.add_argument("--plant", help=f"faults to plant, with commas between them: {', '.join(PLANTED)}")
    options.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which a mutant hangs")
    options.add_argument(
        "--markdown", type=Path, nargs="?", const=TABLE, metavar="FILE", help=f"also write a table, by default {TABLE}"
    )
    options.add_argument("--work", type=Path, help="folder of the run and of the undamaged files; kept if given")
    chosen = options.parse_args(argv)
    if chosen.quick:
        chosen.mutants = min(chosen.mutants, 300)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        return fuzz(chosen, chosen.work or Path(temporary), Path(temporary))


def fuzz(chosen: argparse.Namespace, place: Path, scratch: Path) -> int:
    """Make run and seeds, open all mutants, report."""
    files = place / "files.json"
    if not files.exists():
        place.mkdir(parents=True, exist_ok=True)
        # training runs threads, after which a process must not fork
        maker = multiprocessing.get_context("spawn").Process(target=prepare, args=(place,))
        maker.start()
        maker.join()
    seeds = {name: Path(path) for name, path in json.loads(files.read_text()).items()}
    wanted = chosen.formats.split(",") if chosen.formats else list(seeds)
    names = [name for name in seeds if name in wanted]
    cases = [
        Case(number, names[number % len(names)], seeds[names[number % len(names)]]) for number in range(chosen.mutants)
    ]
    cases = planted(cases, chosen.plant.split(",") if chosen.plant else [])
    opener = Opener(place / "run", seeds, chosen.seed, scratch)
    if chosen.only is not None:
        cases = [case for case in cases if case.number == chosen.only]
    results = run_all(opener, cases, min(chosen.workers, len(cases)), chosen.patience)
    by_format = {name: [results[case.number] for case in cases if case.format == name] for name in names}
    wrong = []
    for case in cases:
        for kind, text in faults(results[case.number]):
            wrong.append(f"{kind}, mutant {case.number} ({case.format}): {text}")
            if chosen.keep is not None:
                chosen.keep.mkdir(parents=True, exist_ok=True)
                path = opener.write(case)
                path.rename(chosen.keep / f"{case.number}{''.join(case.path.suffixes[-2:])}")
    rows = [row(name, results) for name, results in by_format.items() if results]
    rows.append(total(rows))
    title = f"{len(cases):,} damaged files, seed {chosen.seed}"
    if chosen.markdown is not None:
        figures = {"title": title, "machine": machine(), "rows": rows, "wrong": [line(text) for text in wrong]}
        chosen.markdown.write_text(f"# Damaged files through load, graph and predict\n\n{table(figures)}\n")
    return report(title, rows, wrong, chosen.json)


def planted(cases: list[Case], kinds: Sequence[str]) -> list[Case]:
    """Plant faults of these kinds into the readers of as many mutants, spread over all of them.

    Raises:
        SystemExit: There is no such fault, or there are fewer mutants than faults.
    """
    unknown = sorted(set(kinds) - set(PLANTED))
    if unknown or len(kinds) > len(cases):
        raise SystemExit(f"--plant takes {', '.join(PLANTED)}, at most one a mutant; got {', '.join(kinds)}")
    places = {number * len(cases) // len(kinds): kind for number, kind in enumerate(kinds)}
    return [replace(case, planted=places.get(position)) for position, case in enumerate(cases)]


def line(text: str) -> str:
    """A finding on one line of a table's notes, without the stop that follows it."""
    return " ".join(text.split()).replace("|", "/")[-300:]


def prepare(place: Path) -> None:
    """Make the run and the undamaged files in a process of its own."""
    torch.set_num_threads(1)
    run, zoo = make_run(place)
    seeds = write_seeds(zoo, place / "seeds")
    (place / "files.json").write_text(json.dumps({name: str(path) for name, path in seeds.items()}))
    print(f"run in {run}, {len(seeds)} undamaged files", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
