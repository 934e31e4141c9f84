"""Which architectures metanet builds a weight space for, and which of these spaces certify.

Every model runs in a process of its own with a time limit, so that nothing hangs and nothing adds up in memory.
``python benchmarks/coverage.py [--models a,b] [--quick] [--json FILE]`` needs timm (and torchvision), which the
package does not depend on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import metanet

sys.path.insert(0, str(Path(__file__).parent))
from common import report

QUICK = ("resnet18", "densenet121", "regnetx_002", "vit_tiny_patch16_224", "mobilenetv3_small_050")
SIZES = (128, 224, 256, 384, 448, 512)
LIMIT = 300  # seconds a model
LARGE = 100e6  # parameters: above this a model is traced without weights, and not certified
MARK = "coverage-result "


def declare_torchvision_operations() -> None:
    """Let timm import where torchvision's compiled operations do not fit this torch; no model here calls them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # the compiled operations are there
            continue
    globals()["_torchvision"] = library  # definitions last as long as the library


def image_size(config: dict[str, Any]) -> tuple[int, ...]:
    """Input shape of a model: the smallest common one if it takes any."""
    channels, height, width = config.get("input_size", (3, 224, 224))
    fixed = config.get("fixed_input_size", True)
    return (channels, height, width) if fixed or height <= SIZES[0] else (channels, SIZES[0], SIZES[0])


def create(name: str) -> torch.nn.Module:
    """A model of timm: with weights if it is small enough to run, otherwise on the meta device where that works."""
    import timm

    try:
        with torch.device("meta"):
            module = timm.create_model(name, pretrained=False).eval()
        if sum(p.numel() for p in module.parameters()) > LARGE:
            return module
    except (RuntimeError, NotImplementedError, TypeError):  # its constructor reads values of its tensors
        pass
    return timm.create_model(name, pretrained=False).eval()


def examine(name: str) -> dict[str, Any]:
    """Trace and certify one model of timm."""
    module = create(name)
    parameters = sum(p.numel() for p in module.parameters())
    whole = not next(module.parameters()).is_meta
    begin = time.perf_counter()
    config = module.pretrained_cfg or {}
    try:
        x = torch.randn(1, *image_size(config))
        space = metanet.trace(module, x)
    except metanet.MetanetError:  # windows that do not fit the smaller image
        x = torch.randn(1, *config.get("input_size", (3, 224, 224)))
        space = metanet.trace(module, x)
    found = {
        "parameters": parameters,
        "neurons": space.neurons,
        "axes": len(space.free_axes),
        "seconds": time.perf_counter() - begin,
        "opaque": sorted({f"{o.op}: {o.reason}" for o in space.opaque}),
        "built": True,
    }
    if whole:
        certificate = metanet.certify(module, space, x, per_axis=False)
        found |= {"error": certificate.worst_error, "failed": [a.axis for a in certificate.failed]}
        found["state"] = "certified" if certificate.ok else "wrong"
        if not certificate.ok:
            sound = metanet.trace(module, x, certify=True)
            found |= {"state": "sound after freezing", "neurons": sound.neurons} if sound.certified else {}
    return {"state": "traced", **found}


def run(name: str, limit: float = LIMIT) -> dict[str, Any]:
    """Examine a model in a process of its own."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--one", name]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=os.environ)
    except subprocess.TimeoutExpired:
        return {"model": name, "state": "out of time", "wall": limit}
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    found = json.loads(lines[-1].removeprefix(MARK)) if lines else {"state": "refused", "reason": last[:300]}
    return {"model": name, "wall": time.perf_counter() - begin, **found}


def family(name: str) -> str:
    """The module of timm that defines a model."""
    import timm

    known = timm.models.is_model(name)
    return str(timm.models.model_entrypoint(name).__module__.rpartition(".")[2]) if known else "unknown"


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a family, and one for everything."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["family"], []).append(row)
    return [_line(name, group) for name, group in sorted(groups.items())] + [_line("all", rows)]


def _line(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = sorted(r["seconds"] for r in rows if "seconds" in r)
    count = {state: sum(r["state"] == state for r in rows) for state in ("certified", "sound after freezing", "traced")}
    built = sum(r.get("built", False) for r in rows)
    return {
        "family": name,
        "models": len(rows),
        "built": built,
        **count,
        "wrong": sum(r["state"] == "wrong" for r in rows),
        "not built": len(rows) - built,
        "opaque": sum(bool(r.get("opaque")) for r in rows),
        "median s": round(seconds[len(seconds) // 2], 2) if seconds else 0.0,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the models asked for, or all of timm's, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", help="comma-separated names of timm models; all by default")
    parser.add_argument("--quick", action="store_true", help="five small models, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="one line a model as it is done; done ones are not redone"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    declare_torchvision_operations()
    if asked.one:
        print(MARK + json.dumps(examine(asked.one)))
        return 0
    import timm

    names = asked.models.split(",") if asked.models else list(QUICK) if asked.quick else timm.list_models()
    known = (
        [json.loads(line) for line in asked.log.read_text().splitlines()] if asked.log and asked.log.exists() else []
    )
    rows = [row for row in known if row["model"] in names]
    for name in names:
        if name not in {row["model"] for row in rows}:
            rows.append({"family": family(name), **run(name)})
            if asked.log:
                with asked.log.open("a") as log:
                    log.write(json.dumps(rows[-1]) + "\n")
    wrong = [
        f"{r['model']}: {r['state']} {r.get('reason', '')}" for r in rows if not r.get("built") or r["state"] == "wrong"
    ]
    status = report("Weight spaces of timm's architectures", summary(rows), wrong, asked.json)
    if asked.json:
        data = json.loads(asked.json.read_text())
        asked.json.write_text(json.dumps({**data, "models": rows}, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
