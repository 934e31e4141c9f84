"""Break one place of the code at a time: do the tests notice?

``python benchmarks/mutation.py [--sample 200] [--seed 0] [--part I/N] [--known FILE] [--json FILE] [--md FILE]`` needs
cosmic-ray (``pip install -e ".[mutation]"``), whose operators change comparisons, arithmetic, numbers, conditions and
loops; to these come the loss of one operand and of one statement (:mod:`mutants`). A place of the files in ``TESTS`` is
drawn, then one of the changes that are possible there.

Each mutant runs, in a copy of the repository, the first files of tests of its module, and in a second round, if it is
left, all others; a test that fails notices it. Tests run in processes forked from one that has imported the
dependencies and not metanet, so that a mutant costs its tests and not the imports. An endless loop counts as noticed.
For every module, the unchanged code must pass its first files and code that cannot be imported must fail them.

Survivors must be named in ``HARMLESS`` with the reason: the table lists them, any other is an error.
"""

from __future__ import annotations

import argparse
import compileall
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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isolated import isolated
from mutants import ROOT, Mutant, sampled

TESTS = {
    "metanet/space/axes.py": "space/test_axes space/test_rules",
    "metanet/graph/layout.py": "graph/test_layout nn/test_features graph/test_pyg graph/test_neuron_graph "
    "models/test_stored graph/test_coverage graph/test_placing",
    "metanet/nn": "nn/test_features nn/test_formulas models/test_stored models/test_baselines nn/test_equivariant "
    "models/test_transfer models/test_edge_state models/test_headed nn/test_operator models/test_gauge "
    "contract/test_contract",
    "metanet/symmetry": "symmetry/test_draws symmetry/test_move symmetry/test_linear symmetry/test_fixing "
    "symmetry/test_widening symmetry/test_canonical symmetry/test_dimension symmetry/test_generic "
    "symmetry/test_evaluation symmetry/test_kinds symmetry/test_certify symmetry/test_table",
    "metanet/tasks": "tasks/test_report tasks/test_quantiles tasks/test_hostile_runs tasks/test_classification "
    "tasks/test_regression test_train",
    "metanet/zoo/store.py": "zoo/test_store zoo/test_data",
}
"""Modules, and the files of tests that must notice what breaks in them, fast ones first."""
FIRST = 3  # files of tests that are run together at first; then all others
LIMIT = 150  # CPU seconds for either
DEPENDENCIES = ("torch", "numpy", "pytest", "safetensors.torch", "onnx", "pyarrow.parquet", "scipy.stats",
                "sklearn.ensemble", "lightning.pytorch", "lightning.pytorch.cli", "matplotlib.figure", "rich.table",
                "yaml", "torch._decomp", "torch._subclasses.fake_tensor")  # fmt: skip
HARMLESS: dict[tuple[str, str], str] = {}  # (file, the line after the change) -> why no test can notice it


class Recorder:
    """A pytest plugin that notes which tests fail."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note it."""
        if report.failed:
            self.failed.append(report.nodeid)


def run(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """Run files of tests on the code of a folder, in this process, which must be a forked one."""
    import pytest

    if "metanet" in sys.modules:
        raise RuntimeError("metanet was imported before the fork, so what is changed would not be run")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    recorder = Recorder()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files], plugins=[recorder])
    loaded = sys.modules.get("metanet")
    if loaded is not None and not str(loaded.__file__).startswith(str(folder)):
        raise RuntimeError(f"the tests ran on {loaded.__file__}, not on the changed code")
    return {"state": "ran", "code": int(code), "failed": recorder.failed}


class Judge:
    """Runs mutants in a copy of the repository.

    Args:
        folder: The copy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._checked: set[str] = set()

    def __call__(self, mutant: Mutant, rest: bool) -> str:
        """The test that notices a mutant among the first files of tests, or among the rest; nothing if none does."""
        module = next(m for m in TESTS if mutant.path.startswith(m))
        files = [f"tests/{name}.py" for name in TESTS[module].split()]
        files = [name for name in files if (self.folder / name).is_file()]
        if module not in self._checked:
            self._checked.add(module)
            whole = (self.folder / mutant.path).read_text()
            found = [self._noticed(replace(mutant, source=s), files[:FIRST]) for s in (whole, "raise RuntimeError")]
            if found[0] or not found[1]:
                raise SystemExit(f"the tests of {module} tell nothing: unchanged {found[0]!r}, broken {found[1]!r}")
        chosen = files[FIRST:] if rest else files[:FIRST]
        return self._noticed(mutant, chosen) if chosen else ""

    def _noticed(self, mutant: Mutant, tests: Sequence[str]) -> str:
        file = self.folder / mutant.path
        kept = file.read_text()
        for cached in file.parent.glob(f"__pycache__/{file.stem}.*"):
            cached.unlink()
        file.write_text(mutant.source)
        try:
            found = isolated(lambda: run(self.folder, tests), LIMIT)
        finally:
            file.write_text(kept)
        if found["state"] == "refused":
            raise SystemExit(f"the tests could not be run: {found['reason']}")
        if found["state"] != "ran":
            return str(found["state"])
        return (found["failed"] or ["the tests cannot be collected"])[0] if found["code"] else ""


class Known:
    """Which mutants were noticed, by what, kept in a file of JSON lines: one of the same source stays noticed."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file is not None and file.is_file() else []
        self.found: dict[str, str] = dict(json.loads(line) for line in lines)

    def __getitem__(self, mutant: Mutant) -> str:
        return self.found.get(_digest(mutant), "")

    def __setitem__(self, mutant: Mutant, noticed: str) -> None:
        self.found[_digest(mutant)] = noticed
        if self.file is not None and noticed:
            with self.file.open("a") as out:
                out.write(json.dumps([_digest(mutant), noticed]) + "\n")


def _digest(mutant: Mutant) -> str:
    return hashlib.sha256(f"{mutant.path}\n{mutant.source}".encode()).hexdigest()


def copy_of(root: Path, folder: Path) -> None:
    """The files of a repository that git knows or would add, compiled."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)
    compileall.compile_dir(folder / "metanet", quiet=1)


def files_of(modules: Sequence[str]) -> list[str]:
    """The Python files that modules and folders stand for."""
    places = [ROOT / module for module in modules]
    found = [file for place in places for file in ([place] if place.is_file() else sorted(place.glob("*.py")))]
    return [str(file.relative_to(ROOT)) for file in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    asked.add_argument("--quick", action="store_true", help="three mutants, for a smoke test")
    asked.add_argument("--sample", type=int, default=200, help="mutants (default: 200)")
    asked.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    asked.add_argument("--part", default="1/1", metavar="I/N", help="run every N-th mutant, from the I-th")
    asked.add_argument("--known", type=Path, metavar="FILE", help="note what was noticed here, and do not run it again")
    asked.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    asked.add_argument("--md", type=Path, metavar="FILE", help="also write the table to FILE")
    options = asked.parse_args(argv)
    for name in DEPENDENCIES:
        importlib.import_module(name)
    part, parts = map(int, options.part.split("/"))
    mutants = sampled(files_of(tuple(TESTS)), 3 if options.quick else options.sample, options.seed)[part - 1 :: parts]
    known, rows, wrong, begin = Known(options.known), [], [], time.time()
    with tempfile.TemporaryDirectory() as place:
        copy_of(ROOT, Path(place))
        judge = Judge(Path(place))
        left = list(mutants)
        for rest in (False, True):
            for mutant in [m for m in left if not known[m]]:
                known[mutant] = noticed = judge(mutant, rest)
                print(f"{_place(mutant)} {mutant.operator}: {mutant.before} -> {mutant.after} [{noticed}]", flush=True)
            left = [m for m in left if not known[m]]
            print(f"{len(left)} of {len(mutants)} left", flush=True)
    for mutant in left:
        reason = HARMLESS.get((mutant.path, mutant.after), "")
        wrong += [] if reason else [f"{_place(mutant)} survives as '{mutant.after}'"]
        row = {"place": _place(mutant), "line": mutant.before, "changed to": mutant.after, "why it is harmless": reason}
        rows.append(row)
    wrong += [f"{len(rows)} of {len(mutants)} mutants survive, over 5 %"] if len(rows) > 0.05 * len(mutants) else []
    title = f"Mutants that no test notices: {len(rows)} of {len(mutants)}, seed {options.seed}"
    if options.md is not None:
        options.md.write_text(markdown(title, rows))
    from common import report  # now, as it imports metanet

    shown = rows or [dict.fromkeys(("place", "line", "changed to"), "none")]
    return report(title, shown, wrong, options.json, mutants=len(mutants), seconds=round(time.time() - begin))


def _place(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line}"


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
