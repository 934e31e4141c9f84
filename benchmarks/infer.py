"""Files without code: does metanet know what they compute, refuse, or claim what is false? Needs all three libraries.

Every network is written as .pt and .safetensors, read again, and understood with its library and without. The space is
compared with one traced on the library's module; small networks are run, too (``metanet.certify``).

python benchmarks/infer.py --to benchmarks/results/infer.md
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import ambiguous
import infer_networks
import torch
from torch import Tensor, nn

import metanet
from metanet.checkpoint import save
from metanet.errors import MetanetError
from metanet.space import WeightSpace
from metanet.space.recognise import recognition
from metanet.space.recognise.alternatives import agrees
from metanet.space.recognise.libraries import declare_torchvision_operations
from metanet.space.recognise.naming import renamed

ENDINGS = (".pt", ".safetensors")
STATES = ("right", "refused", "wrong")
TOLERANCE = 1e-9
LIMIT = "ambiguous: named as a chain"  # names that say chain by convention, of networks that are none
LIMITED = (
    "Rows of *named as a chain* are networks whose names say chain by the convention that `metanet.infer` documents "
    "(`layers.0`, `conv1`, `fc1`), with a skip, a sum over neurons or depthwise convolution that no name "
    "or shape tells. They are wrong by that convention, a known limit."
)
Judged = tuple[str, str]  # one of STATES, and why


def judge(folder: Path, module: nn.Module, inputs: Any, run: bool) -> Iterator[tuple[str, Judged]]:
    """Yield what becomes of a network as each kind of file, with libraries and without.

    Args:
        folder: Where to write files; a ``config.json`` in it belongs to the network.
        module: The network, with weights.
        inputs: Example inputs.
        run: Whether to run the network.
    """
    truth = metanet.trace(module, inputs)
    seen: dict[WeightSpace, Judged] = {}
    for ending in ENDINGS:
        file = folder / f"net{ending}"
        state = infer_networks.stored(module) if ending == ".safetensors" else module.state_dict()
        save(file, state)
        checkpoint = metanet.load(file)
        file.unlink()
        for libraries in (True, False):
            hidden = contextlib.nullcontext() if libraries else mock.patch.object(recognition, "is_installed", never)
            column = f"{ending[1:]} {'with' if libraries else 'without'} libraries"
            try:
                with hidden:
                    space = metanet.infer(checkpoint)
            except MetanetError as error:
                yield column, ("refused", str(error))
                continue
            if space not in seen:
                seen[space] = compared(space, truth, checkpoint.tensors, module, inputs if run else None)
            yield column, seen[space]


def never(_: str) -> bool:
    """Return that a library is not installed."""
    return False


def compared(
    space: WeightSpace, truth: WeightSpace, names: Mapping[str, Tensor], module: nn.Module, inputs: Any
) -> Judged:
    """Judge a space by the traced one and, where inputs are given, by running the network."""
    truth = renamed(truth, names)
    if not agrees(space, truth):
        return "wrong", "a permutation that it claims is none of the traced space"
    if not set(space.gauges) <= set(truth.gauges):
        return "wrong", "a gauge that it claims is none of the traced space"
    runs = inputs is not None and not module.state_dict().keys() - names.keys()  # moves of tied tensors need all names
    if runs:
        certificate = metanet.certify(module, space, inputs, per_axis=False)
        if certificate.worst_error > TOLERANCE:
            return "wrong", f"its claims change what the network computes by {certificate.worst_error:.1e}"
    return "right", "compared with the traced space" + (" and run" if runs else "")


def measure(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row a network: its name, its suite, and what became of it under each heading."""
    for suite, name, make in infer_networks.all_networks(asked.suites.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            row: dict[str, Any] = {"suite": suite, "name": name}
            module, inputs = make(Path(folder))
            row["parameters"] = sum(p.numel() for p in module.parameters())
            if row["parameters"] > asked.largest:
                yield {**row, "skipped": True}
                continue
            infer_networks.fill(module)
            try:
                yield {**row, **dict(judge(Path(folder), module, inputs, row["parameters"] <= asked.run))}
            except MetanetError as error:
                yield {**row, "skipped": True, "why": f"not compared: {error}"}


def kinds(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row an ambiguous network."""
    if "ambiguous" not in asked.suites.split(","):
        return
    for kind, name, module, inputs in ambiguous.networks():
        row: dict[str, Any] = {"suite": f"ambiguous: {kind}", "name": name}
        if (row["suite"], name) in infer_networks.SKIP:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row["parameters"] = sum(p.numel() for p in module.parameters())
            yield {**row, **dict(judge(Path(folder), module.eval(), inputs, True))}


def markdown(rows: list[dict[str, Any]], asked: argparse.Namespace) -> str:
    """Return the tables of all rows."""
    declare_torchvision_operations()  # what common imports may import torchvision
    from common import machine

    done = [r for r in rows if "skipped" not in r]
    columns = list(dict.fromkeys(k for r in done for k in r if k.endswith("libraries")))
    lines = ["# Files without code", "", "Networks right / refused / wrong, by what their files are read as.", ""]
    lines += [f"| suite | networks | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 2)}"]
    for suite in dict.fromkeys(r["suite"] for r in done):
        mine = [r for r in done if r["suite"] == suite]
        counts = [collections.Counter(r[c][0] for r in mine) for c in columns]
        lines.append(f"| {suite} | {len(mine)} | {' | '.join(' / '.join(str(n[s]) for s in STATES) for n in counts)} |")
    lines += ["", LIMITED]
    where = ", ".join(f"{k} {v}" for k, v in machine().items())
    lines += ["", f"Networks of up to {asked.run:,.0f} parameters were run as well. Machine: {where}.", ""]
    for state, title in (("wrong", "Wrong"), ("refused", "Refused with libraries")):
        found = {
            (r["suite"], r["name"]): r[c][1]
            for r in done
            for c in columns
            if r[c][0] == state and (state == "wrong" or (" with " in c and not r["suite"].startswith("ambiguous")))
        }
        lines += [f"## {title}", "", *(f"- {s} {n}: {why[:240]}" for (s, n), why in found.items()), ""]
    skipped = [f"{r['name']} ({r['parameters'] / 1e6:.0f} M{why(r)})" for r in rows if "skipped" in r]
    lines += [f"## Left out: above {asked.largest:,.0f} parameters", "", ", ".join(skipped) or "None.", ""]
    return "\n".join(lines)


def why(row: Mapping[str, Any]) -> str:
    """Return why a row was left out, if not for its size."""
    return f"; {row['why'][:120]}" if "why" in row else ""


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--suites", default="ambiguous,torchvision,timm,transformers", metavar="NAMES")
    parser.add_argument("--largest", type=float, default=60e6, metavar="N", help="parameters of the largest network")
    parser.add_argument("--run", type=float, default=4e6, metavar="N", help="parameters of the largest that is run")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a line a network; those in it are not measured again")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the tables to this Markdown file")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    lines = asked.log.read_text().splitlines() if asked.log and asked.log.is_file() else []
    rows = [json.loads(line) for line in lines]
    infer_networks.SKIP.update((r["suite"], r["name"]) for r in rows)
    for measured in (kinds, measure):
        rows += [noted(row, asked.log) for row in measured(asked)]
    text = markdown(rows, asked)
    print(text)
    if asked.to is not None:
        asked.to.write_text(text)
    judged = [r for r in rows if r["suite"] != LIMIT]
    return int(any(v[0] == "wrong" for r in judged for k, v in r.items() if k.endswith("libraries")))


def noted(row: dict[str, Any], log: Path | None) -> dict[str, Any]:
    """Write a row to the log and return it."""
    print(row["suite"], row["name"], {k: v[0] for k, v in row.items() if k.endswith("libraries")}, flush=True)
    if log is not None:
        with log.open("a") as out:
            out.write(json.dumps(row) + "\n")
    return row


if __name__ == "__main__":
    raise SystemExit(main())
