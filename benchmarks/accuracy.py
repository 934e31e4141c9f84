"""How well metanets predict a property of a zoo's nets: every model with several seeds, from configs alone.

python benchmarks/accuracy.py --config configs/fmnist14_accuracy.yaml [--models operator,gauge] [--seeds 0,1,2]

One run of ``train.py`` per model and seed, in a process of its own. The epoch is the best of validation; the test split
is read once, after training. StatNN is fitted in every run on the same nets. Runs that are there are not redone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import report

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "configs" / "metanets"


def train(config: Path, model: str, seed: int, folder: Path, extra: Sequence[str]) -> dict[str, Any] | None:
    """Train one model with one seed unless it is done; return its ``metrics.json``, or None if it failed."""
    if not (folder / "metrics.json").is_file():
        command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(config)]
        command += ["--config", str(MODELS / f"{model}.yaml"), "--seed_everything", str(seed)]
        command += ["--trainer.default_root_dir", str(folder), *extra]
        if (folder / "checkpoints" / "last.ckpt").is_file():
            command += ["--ckpt_path", "last"]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        print(f"{model} seed {seed}: " + ("done" if code == 0 else f"failed, see {folder}/log.txt"), flush=True)
    file = folder / "metrics.json"
    return json.loads(file.read_text()) if file.is_file() else None


def row(model: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of one model's scores."""
    runs = [metrics["run"] for metrics in found]
    seconds = [r["seconds_per_epoch"] for r in runs if r["seconds_per_epoch"] is not None]
    return {
        "model": model,
        "seeds": len(found),
        "validation tau": _spread([r["validation_tau"] for r in runs]),
        "test tau": _spread([metrics["metanet"]["tau"] for metrics in found]),
        "test R2": _spread([metrics["metanet"]["r2"] for metrics in found]),
        "s an epoch": round(statistics.median(seconds), 1) if seconds else "",
        "parameters": runs[0]["parameters"],
    }


def statnn(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """StatNN's row: one fit a seed."""
    by_seed = {metrics["seed"]: metrics["statnn"] for metrics in found}
    tau, r2 = ([scores[name] for scores in by_seed.values()] for name in ("tau", "r2"))
    return {
        "model": "statnn", "seeds": len(by_seed), "validation tau": "", "test tau": _spread(tau),
        "test R2": _spread(r2), "s an epoch": "", "parameters": "",
    }  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="zoo, target, loss and optimiser")
    parser.add_argument("--models", help=f"names of {MODELS.relative_to(ROOT)}/*.yaml, comma-separated; all by default")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--name", help="name of the table; that of the config by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options, extra = parser.parse_known_args(argv)  # the rest goes to train.py
    models = options.models.split(",") if options.models else sorted(p.stem for p in MODELS.glob("*.yaml"))
    name, seeds = options.name or options.config.stem, [int(s) for s in options.seeds.split(",")]
    every, rows, wrong = [], [], []
    for model in models:
        done = [train(options.config, model, s, options.runs / name / model / f"seed-{s}", extra) for s in seeds]
        found = [metrics for metrics in done if metrics is not None]
        if len(found) < len(seeds):
            wrong.append(f"{model}: {len(seeds) - len(found)} of {len(seeds)} runs failed")
        if found:
            rows.append(row(model, found))
            every.extend(found)
    if not rows:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    rows.sort(key=lambda r: r["test tau"], reverse=True)
    title = f"{name}: {every[0]['zoo']}, mean ± deviation over seeds"
    return report(title, [*rows, statnn(every)], wrong, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
