"""Which architectures metanet builds a weight space for, and which of these spaces certify.

``python benchmarks/coverage.py [--suite timm] [--models a,b] [--quick] [--json FILE] [--log FILE]`` needs the library
that the suite is named after (timm with torchvision), which the package does not depend on. Every model runs in a
process of its own with a time limit, so that nothing hangs and nothing adds up in memory. Seconds are CPU seconds of
one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import metanet

sys.path.insert(0, str(Path(__file__).parent))
from architectures import Architecture, parameters_of, suite
from common import report
from isolated import isolated

QUICK = ("resnet18", "densenet121", "regnetx_002", "vit_tiny_patch16_224", "mobilenetv3_small_050")
SUITES = ("timm", "torchvision", "transformers")
LIMIT = 300  # CPU seconds a model
FORWARD = 6.0  # CPU seconds that one run in float32 may take: a certificate runs the model some ten times in float64
STATES = ("certified", "sound after freezing", "traced", "wrong", "refused", "out of time", "crashed")


def examine(architecture: Architecture, forward: float = FORWARD) -> dict[str, Any]:
    """Trace one architecture, and certify it if it runs in ``forward`` CPU seconds."""
    refusal: Exception | None = None
    for module, inputs in architecture.build():
        begin = time.process_time()
        try:
            space = metanet.trace(module, inputs)
        except metanet.MetanetError as error:  # windows that do not fit a small image
            refusal = refusal or error
            continue
        seconds = time.process_time() - begin
        found = {
            "parameters": parameters_of(module),
            "input": list(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) else [],
            "neurons": space.neurons,
            "axes": len(space.free_axes),
            "gauges": len(space.gauges),
            "seconds": round(seconds, 3),
            "opaque": sorted({f"{o.op}: {o.reason}" for o in space.opaque}),
            "built": True,
        }
        return found | certified(module, space, inputs, forward)
    raise refusal or RuntimeError("no module was built")


def certified(module: nn.Module, space: metanet.WeightSpace, inputs: Any, forward: float) -> dict[str, Any]:
    """The certificate of a traced space, where the module is small enough to run."""
    if any(p.is_meta for p in module.parameters()):
        return {"state": "traced", "why": "large"}
    begin = time.process_time()
    with torch.no_grad():
        module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
    if (seconds := time.process_time() - begin) > forward:
        return {"state": "traced", "why": "slow", "forward": round(seconds, 3)}
    certificate = metanet.certify(module, space, inputs, per_axis=False)
    found: dict[str, Any] = {"error": certificate.worst_error, "certify": round(time.process_time() - begin, 3)}
    if certificate.ok:
        return found | {"state": "certified"}
    found["failed"] = [a.axis for a in certificate.failed] + [f"{g.kind} {g.failed}" for g in certificate.gauges]
    sound = metanet.trace(module, inputs, certify=True)
    found["culprits"] = sorted({f"{o.op} {o.module}: {o.reason}" for o in sound.opaque})
    return found | (
        {"state": "sound after freezing", "neurons": sound.neurons} if sound.certified else {"state": "wrong"}
    )


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a family, and one for everything."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["family"], []).append(row)
    return [_line(name, group) for name, group in sorted(groups.items())] + [_line("all", rows)]


def _line(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = sorted(r["seconds"] for r in rows if "seconds" in r)
    return {
        "family": name,
        "models": len(rows),
        "built": sum(r.get("built", False) for r in rows),
        **{state: sum(r["state"] == state for r in rows) for state in STATES},
        "opaque": sum(bool(r.get("opaque")) for r in rows),
        "median s": round(seconds[len(seconds) // 2], 2) if seconds else 0.0,
    }


def run(
    architectures: Mapping[str, Architecture],
    names: Sequence[str],
    known: Sequence[dict[str, Any]],
    log: Path | None,
    seconds: float,
    forward: float = FORWARD,
) -> list[dict[str, Any]]:
    """Examine the models named that are not among the known rows, until time is up; each is logged as it is done."""
    end = time.monotonic() + seconds
    metanet.trace(nn.Linear(2, 2), torch.ones(1, 2))  # what is loaded on first use is loaded once
    rows = [row for row in known if row["model"] in names]
    done = {row["model"] for row in rows}
    for name in names:
        if name in done:
            continue
        if time.monotonic() > end:
            break
        architecture = architectures.get(name)
        if architecture is None:
            found = {"state": "refused", "reason": "no model of that name"}
        else:
            found = isolated(lambda a=architecture: examine(a, forward), LIMIT)  # type: ignore[misc]
        rows.append({"model": name, "family": architecture.family if architecture else "unknown", **found})
        if log is not None:
            with log.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the models asked for, or all of the suite, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--suite", choices=SUITES, default="timm", help="where the models come from")
    parser.add_argument("--models", help="comma-separated names; all of the suite by default")
    parser.add_argument("--quick", action="store_true", help="five small models of timm, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--log", type=Path, metavar="FILE", help="one line a model as it is done; these are not redone")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no model after that many seconds")
    parser.add_argument("--forward", type=float, default=FORWARD, help="certify what runs in that many CPU seconds")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)  # forked processes must not inherit threads
    architectures = suite(asked.suite)
    names = asked.models.split(",") if asked.models else list(QUICK if asked.quick else architectures)
    lines = asked.log.read_text().splitlines() if asked.log and asked.log.exists() else []
    rows = run(architectures, names, [json.loads(line) for line in lines], asked.log, asked.seconds, asked.forward)
    good = STATES[:3]
    wrong = [f"{r['model']}: {r['state']} {r.get('reason', '')}" for r in rows if r["state"] not in good]
    title = f"Weight spaces of {asked.suite}'s architectures: {len(rows)} of {len(architectures)} listed"
    return report(title, summary(rows), wrong, asked.json, models=rows)


if __name__ == "__main__":
    sys.exit(main())
