"""Break one place of the code at a time: do the tests notice?

``python benchmarks/mutation.py [--sample 200] [--seed 0] [--modules a,b] [--quick] [--json FILE] [--md FILE]`` needs
cosmic-ray (``pip install -e ".[mutation]"``), whose operators change comparisons, arithmetic, numbers, conditions and
loops; to these come the loss of one operand and of one statement. A place of ``MODULES`` is drawn, then one of the
changes that are possible there. What no test can be asked to notice is left out: docstrings, annotations, the texts of
errors, sizes of caches, and ``is`` in place of ``==`` (Python keeps one object of a small number or a short text).

All tests run once, unchanged and traced, to learn which of them call which functions and how long they take. Each
mutant then runs, in a copy of the repository, the tests that call its function, fast ones first, then all others of
their files, up to a limit; the first that fails kills it. Tests run in processes forked from one that has imported the
dependencies and not metanet, so that a mutant costs its tests and not the imports. An endless loop counts as noticed.

Survivors must be named in ``HARMLESS`` with the reason: the table lists them, any other is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import parser, report
from isolated import isolated
from mutants import ROOT, Mutant, sampled

MODULES = ("metanet/space/axes.py", "metanet/graph/layout.py", "metanet/nn", "metanet/symmetry", "metanet/tasks",
           "metanet/zoo/store.py")  # fmt: skip
TESTS = ("tests/space/test_axes.py", "tests/space/test_weight_space.py", "tests/graph", "tests/nn", "tests/models",
         "tests/symmetry", "tests/tasks", "tests/zoo/test_store.py", "tests/zoo/test_data.py")  # fmt: skip
DEPENDENCIES = ("torch", "numpy", "pytest", "safetensors.torch", "onnx", "h5py",
                "pyarrow.parquet", "scipy.stats", "sklearn.ensemble", "lightning.pytorch", "lightning.pytorch.cli",
                "matplotlib.figure", "rich.table", "yaml", "torch_geometric.data", "torch._decomp",
                "torch.fx.experimental.proxy_tensor", "torch._subclasses.fake_tensor")  # fmt: skip
FIRST, REST = 40.0, 100.0  # seconds of tests that call the function, and of all others of their files, unchanged
SLOWER = 4  # times longer than unchanged, and 20 seconds, may tests take
HARMLESS: dict[tuple[str, str], str] = {}  # (file, the line after the change) -> why no test can notice it


class Tracer:
    """A pytest plugin that notes which functions of some files each test calls, and how long it takes."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = {str(Path.cwd() / file): file for file in files}
        self.calls: dict[str, list[Any]] = {}
        self.failed: list[str] = []
        self._called: set[tuple[str, int]] = set()

    def _trace(self, frame: Any, event: str, argument: Any) -> None:
        file = self.files.get(frame.f_code.co_filename)
        if file is not None:
            self._called.add((file, frame.f_code.co_firstlineno))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what fails."""
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Start the clock, and tracing if it is wanted."""
        self._called, self._begin = set(), time.process_time()
        if self.files:
            sys.settrace(self._trace)  # type: ignore[arg-type]

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note the test; fixtures that it was the first to ask for belong to it."""
        sys.settrace(None)
        self.calls[nodeid] = [round(time.process_time() - self._begin, 3), sorted(self._called)]


def run(tests: Sequence[str], files: Sequence[str] = ()) -> dict[str, Any]:
    """Run tests in this process, which must be a forked one, in the working directory."""
    import pytest

    tracer = Tracer(files)
    sys.path.insert(0, os.getcwd())
    os.environ["PYTHONPATH"] = os.getcwd()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *([] if files else ["-x"])]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = pytest.main([*options, *tests], plugins=[tracer])
    return {"state": "ran", "code": int(code), "failed": tracer.failed, "calls": tracer.calls}


class Judge:
    """Runs mutants in a copy of the repository.

    Args:
        folder: The copy.
        calls: What :class:`Tracer` noted, by test.
    """

    def __init__(self, folder: Path, calls: dict[str, list[Any]]) -> None:
        self.folder = folder
        self.seconds = {test: found[0] for test, found in calls.items()}
        self.callers: dict[tuple[str, int], set[str]] = defaultdict(set)
        for test, (_, called) in calls.items():
            for file, line in called:
                self.callers[file, line].add(test)
                self.callers[file, 0].add(test)

    def tests(self, mutant: Mutant) -> tuple[list[str], list[str]]:
        """Tests that call the function, fast ones first; then all others of the same files."""
        chosen = self.callers.get((mutant.path, mutant.function)) or self.callers[mutant.path, 0]
        first = self._within(chosen, FIRST)
        files = {test.partition("::")[0] for test in chosen}
        rest = {test for test in self.seconds if test.partition("::")[0] in files} - set(first)
        return first, self._within(rest, REST)

    def _within(self, tests: set[str], budget: float) -> list[str]:
        found, total = [], 0.0
        for test in sorted(tests, key=lambda t: (self.seconds[t], t)):
            total += self.seconds[test]
            if total > budget and found:
                break
            found.append(test)
        return found

    def __call__(self, mutant: Mutant) -> str:
        """The test that notices a mutant, ``"time"``, or nothing."""
        file = self.folder / mutant.path
        kept = file.read_text()
        for cached in file.parent.glob(f"__pycache__/{file.stem}.*"):
            cached.unlink()
        file.write_text(mutant.source)
        try:
            for tests in self.tests(mutant):
                if not tests:
                    continue
                limit = 20 + SLOWER * sum(self.seconds[t] for t in tests)
                found = isolated(lambda tests=tests: self._child(tests), limit)
                if found["state"] != "ran":
                    return f"{found['state']}: {found.get('reason', '')}"
                if found["code"]:
                    return (found["failed"] or ["the tests cannot be collected"])[0]
            return ""
        finally:
            file.write_text(kept)

    def _child(self, tests: list[str]) -> dict[str, Any]:
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.chdir(self.folder)
        return {**run(tests), "calls": {}}


class Known:
    """Which mutants were noticed, by what, kept in a file of JSON lines: one of the same source stays noticed."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file is not None and file.is_file() else []
        self.found: dict[str, str] = dict(json.loads(line) for line in lines)

    def __getitem__(self, mutant: Mutant) -> str:
        return self.found.get(_digest(mutant), "")

    def __setitem__(self, mutant: Mutant, noticed: str) -> None:
        if self.file is not None and noticed and not self[mutant]:
            with self.file.open("a") as out:
                out.write(json.dumps([_digest(mutant), noticed]) + "\n")


def _digest(mutant: Mutant) -> str:
    return hashlib.sha256(f"{mutant.path}\n{mutant.source}".encode()).hexdigest()


def copy_of(root: Path, folder: Path) -> None:
    """The files of a repository that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


def traced(folder: Path, files: Sequence[str], tests: Sequence[str], keep: Path | None) -> dict[str, list[Any]]:
    """Which functions each test calls, and its seconds; read from a file if that is there."""
    if keep is not None and keep.is_file():
        return json.loads(keep.read_text())

    def child() -> dict[str, Any]:
        os.chdir(folder)
        return run(tests, files)

    found = isolated(child, 3600)
    if found["state"] != "ran":
        raise SystemExit(f"the tests could not be traced: got {found}")
    for test in found["failed"]:  # one that fails anyway notices nothing
        print(f"left out, it fails: {test}", file=sys.stderr)
    calls = {test: noted for test, noted in found["calls"].items() if test not in found["failed"]}
    if keep is not None:
        keep.write_text(json.dumps(calls))
    return calls


def files_of(modules: Sequence[str]) -> list[str]:
    """The Python files that modules and folders stand for."""
    places = [ROOT / module for module in modules]
    found = [file for place in places for file in ([place] if place.is_file() else sorted(place.glob("*.py")))]
    return [str(file.relative_to(ROOT)) for file in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    asked = parser(__doc__.splitlines()[0])
    asked.add_argument("--sample", type=int, default=200, help="mutants (default: 200)")
    asked.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    asked.add_argument("--modules", default=",".join(MODULES), help="files and folders, joined by commas")
    asked.add_argument("--calls", type=Path, metavar="FILE", help="keep what tests call, or read it from FILE")
    asked.add_argument("--known", type=Path, metavar="FILE", help="note what was noticed here, and do not run it again")
    asked.add_argument("--part", default="1/1", metavar="I/N", help="run every N-th mutant, from the I-th")
    asked.add_argument("--md", type=Path, metavar="FILE", help="also write the table to FILE")
    options = asked.parse_args(argv)
    for name in DEPENDENCIES:
        importlib.import_module(name)
    mutants = sampled(files_of(options.modules.split(",")), 3 if options.quick else options.sample, options.seed)
    part, parts = map(int, options.part.split("/"))
    mutants, known = mutants[part - 1 :: parts], Known(options.known)
    rows, wrong, begin = [], [], time.time()
    with tempfile.TemporaryDirectory() as place:
        copy_of(ROOT, Path(place))
        judge = Judge(Path(place), traced(Path(place), files_of(MODULES), TESTS, options.calls))
        for number, mutant in enumerate(mutants, 1):
            noticed, where = known[mutant] or judge(mutant), f"{mutant.path}:{mutant.line}"
            known[mutant] = noticed
            print(f"{number} {where} {mutant.operator}: {mutant.before} -> {mutant.after} [{noticed}]", flush=True)
            if not noticed:
                reason = HARMLESS.get((mutant.path, mutant.after), "")
                wrong += [] if reason else [f"{where} survives as '{mutant.after}'"]
                row = {"place": where, "line": mutant.before, "changed to": mutant.after, "why it is harmless": reason}
                rows.append(row)
    wrong += [f"{len(rows)} of {len(mutants)} mutants survive, over 5 %"] if len(rows) > 0.05 * len(mutants) else []
    title = f"Mutants that no test notices: {len(rows)} of {len(mutants)}, seed {options.seed}"
    if options.md is not None:
        options.md.write_text(markdown(title, rows))
    shown = rows or [dict.fromkeys(("place", "line", "changed to"), "none")]
    return report(title, shown, wrong, options.json, mutants=len(mutants), seconds=round(time.time() - begin))


def markdown(title: str, rows: Sequence[dict[str, str]]) -> str:
    """The survivors as a Markdown file."""
    lines = [
        f"# {title}",
        "",
        "`python benchmarks/mutation.py` says what is changed, where, and which tests are run.",
        "",
    ]
    lines += ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])] if rows else []
    for row in rows:
        cells = [f"`{v}`" if name in ("line", "changed to") else v for name, v in row.items()]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
