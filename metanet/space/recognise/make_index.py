"""Make the index of known architectures anew: ``python -m metanet.space.recognise.make_index [--to FILE]``.

It needs torchvision, timm and transformers, of the versions that the index shall name, and takes about a quarter of an
hour of one core: every architecture is constructed without weights, twice or three times, to see which dimensions
follow the number of classes and of input channels; those that share a fingerprint across libraries are compared.

Each process writes what it finds line by line to files beside each other (``--lines FOLDER``), so that an interrupted
run goes on where it ended. A process that dies is started again, and the architecture that it died of is left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from metanet.space.recognise.examine import finding, group, names, presets
from metanet.space.recognise.fingerprint import names_key
from metanet.space.recognise.index import FILE, Known, write_index
from metanet.space.recognise.libraries import LIBRARIES, version

STEPS = ("found", "group")  # fingerprints of all, then comparisons of those that share one
SHOWN = 100
MEMORY = 3 << 30  # bytes that one process may fill


def read(files: Iterable[Path]) -> dict[str, Any]:
    """Return the last line of each item, by item; a line that was cut off counts as none."""
    found = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            try:
                item, value = json.loads(line)
            except ValueError:
                continue
            found[item] = value
    return found


def work(items: Iterable[str], step: Callable[[str], Any], file: Path) -> None:
    """Write what a step finds about each item, with a line before that says that it has begun.

    What any file of this step in the folder holds is not done again. An item that has begun in an earlier process of
    this file and not ended is the one that this process died of.
    """
    step_name = file.name.partition("-")[0]
    done = {item: one for item, one in read(sorted(file.parent.glob(f"{step_name}-*"))).items() if one != "begun"}
    known = {**read([file]), **done}
    with file.open("a", encoding="utf-8") as out:
        for number, item in enumerate(items):
            if known.get(item, "begun") != "begun":
                continue
            if item in known:
                _write(out, item, {"problem": "its process died"})
            else:
                _write(out, item, "begun")
                _write(out, item, step(item))
            if number % SHOWN == 0:
                print(f"{file.name}: {number} {item[:60]}", flush=True)


def watch(limit: int) -> None:
    """Kill this process once it takes more memory than a limit in bytes; reserved memory that is not filled is free."""
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        if int(Path("/proc/self/statm").read_text().split()[1]) * page > limit:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)


def _write(out: IO[str], item: str, value: Any) -> None:
    out.write(f"\n{json.dumps([item, value])}")  # the line before may have been cut off
    out.flush()


def architectures(only: str) -> list[str]:
    """Return the names of all architectures, or of those of one library: presets of transformers last.

    Families are mixed, so that what an interrupted run has found is a sample of all, and parts take equally long.
    """
    found = [f"{library}:{name}" for library, name in names() if only in ("", library)]
    order = ["timm", "torchvision", "transformers", "presets"]
    return sorted(found, key=lambda id: (order.index("presets" if "/" in id else id.split(":")[0]), names_key([id])))


def shared(found: dict[str, Any]) -> list[str]:
    """Return the keys that share a fingerprint across libraries, joined by blanks, one text a fingerprint.

    Those of one library are compared when one is recognised, on the version that is installed.
    """
    together: dict[tuple[str, str], set[str]] = {}
    for one in found.values():
        for row, key, head in one.get("rows", ()):
            together.setdefault((key, head), set()).add(Known(row[0], row[1], row[2], (), row[4]).key)
    return [" ".join(sorted(ids)) for ids in together.values() if len({id.split(":")[0] for id in ids}) > 1]


def run_part(step: str, part: int, parts: int, folder: Path, only: str) -> None:
    """Do one part of a step in this process."""
    file = folder / f"{step}-{part}of{parts}.jsonl"
    if step == "found":
        work(architectures(only)[part::parts], lambda id: finding(*id.split(":", 1)), file)
    else:
        found = {id: one for id, one in read(sorted(folder.glob("found-*.jsonl"))).items() if one != "begun"}
        work(sorted(shared(found))[part::parts], lambda ids: group(ids.split()), file)


def run(step: str, parts: int, folder: Path, only: str) -> dict[str, Any]:
    """Do a step in processes, start those that die again, and return what they found."""
    command = [sys.executable, "-m", "metanet.space.recognise.make_index", "--lines", str(folder)]
    command += ["--only", only] if only else []
    jobs = [[*command, "--part", step, str(part), str(parts)] for part in range(parts)]
    processes = [subprocess.Popen(job) for job in jobs]
    for job, process in zip(jobs, processes, strict=True):
        while process.wait() != 0:
            if process.returncode > 0:
                raise SystemExit(f"{' '.join(job)} ended with {process.returncode}")
            print(f"process died of signal {-process.returncode}; it is started again", flush=True)
            process = subprocess.Popen(job)
    return read(sorted(folder.glob(f"{step}-*.jsonl")))


def assemble(found: dict[str, Any], groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the data of the index, from the lines of both steps."""
    entries: dict[str, list[Any]] = {}
    skeletons: dict[str, list[str]] = {}
    for id in sorted(found):
        one = found[id]
        for row, key, _ in one.get("rows", ()):
            entries.setdefault(key, []).append(row)
        kind = id.partition(":")[2].partition("/")[0]
        if "skeleton" in one and kind not in skeletons.setdefault(one["skeleton"], []):
            skeletons[one["skeleton"]].append(kind)
    return {
        "versions": {library: version(library) for library in LIBRARIES},
        "entries": entries,
        "groups": [g for g in groups if "classes" in g],
        "inferable": sorted(id for id, one in found.items() if one.get("inferable")),
        "skeletons": skeletons,
        "classes": sorted(name for library, name in names() if library == "transformers" and "/" not in name),
        "presets": presets(),
    }


def problems(found: dict[str, Any]) -> Iterator[str]:
    """Yield a line on everything that is left out."""
    for item, one in found.items():
        if "problem" in one:
            yield f"{item} is left out: {one['problem']}"


def main() -> int:
    """Make the index and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--to", type=Path, default=FILE, metavar="FILE", help="where to write; by default the package")
    parser.add_argument("--lines", type=Path, required=True, metavar="FOLDER", help="of what was found so far")
    parser.add_argument("--only", default="", choices=LIBRARIES, help="the architectures of one library, for a trial")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--part", nargs=3, metavar=("STEP", "PART", "PARTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.lines.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.part:
        threading.Thread(target=watch, args=(MEMORY,), daemon=True).start()
        step, part, parts = options.part
        run_part(step, int(part), int(parts), options.lines, options.only)
        return 0
    found, groups = (run(step, options.jobs, options.lines, options.only) for step in STEPS)
    for line in (*problems(found), *problems(groups)):
        print(line)
    write_index(assemble(found, groups.values()), options.to)
    print(f"{options.to}: {options.to.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
