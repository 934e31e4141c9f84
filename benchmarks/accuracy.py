"""How well metanets predict a property of a zoo's nets: every model with several seeds, from configs alone.

python benchmarks/accuracy.py --config configs/fmnist14_accuracy.yaml [--models operator,gauge] [--seeds 0,1,2]

What ``train.py`` does, per model and seed, in a process of its own, ``--jobs`` at once. The epoch is the best of
validation; the test split is read once, after training. StatNN is fitted in every run on the same nets. Runs that are
there are not redone, and one that was interrupted goes on. Options not listed here go to ``train.py``. ``--no-train``
tells of what is there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from common import report

import metanet.training

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "configs" / "metanets"
FUNCTION = ("probegen",)  # they query the nets' functions, the others see weights alone


def metrics_of(folder: Path) -> dict[str, Any] | None:
    """What a run that is done wrote, else None."""
    file = folder / "metrics.json"
    return json.loads(file.read_text()) if file.is_file() else None


def start(config: Path, model: str, seed: int, folder: Path, extra: Sequence[str]) -> BaseProcess:
    """Begin to train one model with one seed."""
    arguments = ["fit", "--config", str(config), "--config", str(MODELS / f"{model}.yaml"), "--seed_everything"]
    arguments += [str(seed), "--trainer.default_root_dir", str(folder), *extra]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        arguments += ["--ckpt_path", "last"]
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(arguments, folder / "log.txt"))
    process.start()  # forked: importing everything takes longer than some of the runs
    return process


def train(config: Path, runs: Sequence[tuple[str, int, Path]], jobs: int, extra: Sequence[str]) -> None:
    """Train every model and seed that is not done, some of them at once."""
    todo = [run for run in runs if metrics_of(run[2]) is None][::-1]
    running: dict[Any, tuple[BaseProcess, tuple[str, int, Path]]] = {}
    while todo or running:
        while todo and len(running) < jobs:
            run = todo.pop()
            process = start(config, *run, extra)
            running[process.sentinel] = process, run
        for done in wait(list(running)):
            process, (model, seed, folder) = running.pop(done)
            process.join()
            print(
                f"{model} seed {seed}: " + (f"failed, see {folder}/log.txt" if process.exitcode else "done"), flush=True
            )


def _run(arguments: list[str], log: Path) -> None:
    sys.argv = [str(ROOT / "train.py"), *arguments]  # named where an interrupted run says how to go on
    with open(log, "a") as out, redirect_stdout(out), redirect_stderr(out):
        for descriptor in (1, 2):  # what is not written by Python goes there too
            os.dup2(out.fileno(), descriptor)
        metanet.training.main(arguments)


def row(model: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of one model's scores."""
    runs = [metrics["run"] for metrics in found]
    first, second = scores_of(found)
    seconds = [r["seconds_per_epoch"] for r in runs if r["seconds_per_epoch"] is not None]
    return {
        "model": model + (" (sees outputs)" if model in FUNCTION else ""),
        "seeds": len(found),
        f"validation {first}": spread([r["validation"] for r in runs]),
        f"test {first}": spread([metrics["metanet"][first] for metrics in found]),
        f"test {second}": spread([metrics["metanet"][second] for metrics in found]),
        "epochs": runs[0]["epochs"],
        "s an epoch": round(statistics.median(seconds), 1) if seconds else "",
        "parameters": runs[0]["parameters"],
        "trained on": ", ".join(sorted({r["machine"] for r in runs})),
        "each seed": " ".join(f"{metrics['metanet'][first]:.4f}" for metrics in found),
    }


def scores_of(found: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The two scores that the table shows: tau and R2, or those of classes."""
    return ("tau", "r2") if "tau" in found[0]["metanet"] else ("accuracy", "nll")


def statnn(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """StatNN's row: one fit a seed."""
    by_seed = {metrics["seed"]: metrics["statnn"] for metrics in found}
    first, second = scores_of(found)
    values = {name: [scores[name] for scores in by_seed.values()] for name in (first, second)}
    return {
        "model": "statnn", "seeds": len(by_seed), f"validation {first}": "", f"test {first}": spread(values[first]),
        f"test {second}": spread(values[second]), "epochs": "", "s an epoch": "", "parameters": "", "trained on": "",
        "each seed": " ".join(f"{t:.4f}" for t in values[first]),
    }  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation``, the latter of two values or more."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    found.add_argument("--config", type=Path, required=True, help="zoo, target, loss and optimiser")
    found.add_argument("--models", help="names of configs/metanets/*.yaml, comma-separated; all by default")
    found.add_argument("--seeds", default="0,1,2", help="comma-separated")
    found.add_argument("--jobs", type=int, default=1, help="runs at once")
    found.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    found.add_argument("--name", help="name of the table; that of the config by default")
    found.add_argument("--no-train", action="store_true", help="only tell of the runs that are done")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, seed by seed, and print the table."""
    known = parser()
    options, extra = known.parse_known_args(argv)
    every_model = sorted(p.stem for p in MODELS.glob("*.yaml"))
    models = options.models.split(",") if options.models else every_model
    if strange := [model for model in models if model not in every_model]:
        known.error(f"--models: got {', '.join(strange)}; accepted: {', '.join(every_model)}")
    if options.jobs < 1:
        known.error(f"--jobs: got {options.jobs}; accepted: a whole number >= 1")
    name, seeds = options.name or options.config.stem, [int(s) for s in options.seeds.split(",")]
    folders = {model: [options.runs / name / model / f"seed-{seed}" for seed in seeds] for model in models}
    if not options.no_train:  # all models with a first seed before any with a second
        runs = [(model, seed, folders[model][place]) for place, seed in enumerate(seeds) for model in models]
        train(options.config, runs, options.jobs, extra)
    every, rows, wrong = [], [], []
    for model in models:
        found = [metrics for folder in folders[model] if (metrics := metrics_of(folder)) is not None]
        if len(found) < len(seeds):
            wrong.append(f"{model}: {len(seeds) - len(found)} of {len(seeds)} runs are not done")
        if found:
            rows.append(row(model, found))
            every.extend(found)
    if not rows:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    rows.sort(key=lambda r: r[f"test {scores_of(every)[0]}"], reverse=True)
    title = f"{name}: {every[0]['zoo']}, mean ± deviation over seeds"
    return report(title, [*rows, statnn(every)], wrong, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
