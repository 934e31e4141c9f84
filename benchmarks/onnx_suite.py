"""ONNX's own backend tests, run on the network that metanet makes of each file.

``python benchmarks/onnx_suite.py [--kinds node,simple] [--only PATTERN] [--certify EVERY] [--json FILE]``
needs the package onnx, which holds the cases. Every case is tried three times: with all inputs given to the network, as
the file has it; with the inputs after the first stored in the file, as networks store weights, shapes and axes; and
with all of them stored. A case is *right* if a way of building it is right and no way is wrong; *refused* if every way
ends in a MetanetError; *wrong* if a value, shape or type differs from the expected one in any way; and *raw* if any
other exception is raised. Of the cases that are right and have weights, every so many are traced and certified: a
certificate *held*, was *refuted* (which makes the case wrong), or could *not* be had, because the trace refuses the
network or its outputs on random weights are no finite numbers.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test import loader
from torch import Tensor

import metanet
from metanet.space.onnx import onnx_network

sys.path.insert(0, str(Path(__file__).parent))
from common import report

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")
CERTIFICATES = ("held", "refuted", "not")
STATES = ("right", "refused", "wrong", "raw")
WAYS = ("all inputs given", "inputs after the first stored", "all inputs stored")
BUDGET = 2**31  # bytes that a file may compute: the "real" networks compute their weights from shapes
BFLOAT16 = 2**-6
"""The relative tolerance that ONNX's runner grants to bfloat16: two units in the last place."""
TRANSFORMS = ("fft", "ifft", "rfft", "irfft")

REASONS = {  # the first pattern that a refusal matches
    "depends on values": r"depends? on the values",
    "no operator": r"has no operator|on sequences, optional|quantised numbers|the model is quantised",
    "type of a tensor": r"no tensor of numbers|holds text|quantised type|without arithmetic|its type \d+",
    "setting of an operator": r"cannot build node",
    "other": r"",
}


@dataclass(frozen=True)
class Case:
    """A file of ONNX's suite with inputs and the outputs that are expected."""

    name: str
    kind: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    wanted: Sequence[Any]
    rtol: float
    atol: float


def cases(kind: str, pattern: str = "") -> Iterator[Case]:
    """The cases of one kind whose names match a pattern; several data sets of one file are one case each."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), double_transforms():  # ONNX computes cases on import
        warnings.simplefilter("ignore")
        tests = loader.load_model_tests(kind=kind)
    for test in tests:
        if not re.search(pattern, test.name):
            continue
        if test.kind == "real":
            yield _real(test)
            continue
        model = test.model or onnx.load(str(Path(test.model_dir) / "model.onnx"))
        folders = [] if test.model_dir is None else sorted(Path(test.model_dir).glob("test_data_set_*"))
        sets = test.data_sets or [
            (_stored(f, "input", model.graph.input), _stored(f, "output", model.graph.output)) for f in folders
        ]
        for number, (inputs, wanted) in enumerate(sets):
            name = test.name if number == 0 else f"{test.name} {number}"
            yield Case(
                name, kind, model, [_array(x) for x in inputs], [_array(x) for x in wanted], test.rtol, test.atol
            )


@contextmanager
def double_transforms() -> Iterator[None]:
    """Let numpy compute Fourier transforms in double precision.

    The expected outputs of the DFT cases are computed with ``numpy.fft``, which since version 2 stays in single
    precision where its input does: entries that are zero come out as 1e-6, ten times the tolerance of ONNX's runner.
    """
    own = {name: getattr(np.fft, name) for name in TRANSFORMS}

    def double(transform: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, *args, **kwargs: transform(np.asarray(x) * np.float64(1), *args, **kwargs)

    try:
        for name, transform in own.items():
            setattr(np.fft, name, double(transform))
        yield
    finally:
        for name, transform in own.items():
            setattr(np.fft, name, transform)


def _real(test: Any) -> Case:
    """A published architecture whose weights are computed from shapes; ONNX's own package holds the expected output."""
    path = Path(onnx.__file__).parent.parent / test.url
    model = onnx.load(str(path))
    held = {t.name for t in model.graph.initializer}
    (info,) = [i for i in model.graph.input if i.name not in held]
    shape = tuple(d.dim_value or 1 for d in info.type.tensor_type.shape.dim)
    x = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    wanted = onnx.TensorProto.FromString(Path(str(path).replace(".onnx", "_output_0.pb")).read_bytes())
    return Case(test.name, "real", model, [x], [numpy_helper.to_array(wanted)], test.rtol, test.atol)


def _stored(folder: Path, what: str, infos: Sequence[Any]) -> list[Any]:
    """Arrays of ``input_0.pb, input_1.pb, ...``; what holds no tensor stays None."""
    files = [folder / f"{what}_{i}.pb" for i in range(len(list(folder.glob(f"{what}_*.pb"))))]
    return [
        onnx.TensorProto.FromString(f.read_bytes()) if info.type.HasField("tensor_type") else None
        for f, info in zip(files, infos, strict=False)
    ]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def tensor(array: Any) -> Any:
    """The tensor of an array; what torch has no type for stays as it is."""
    if not isinstance(array, np.ndarray):
        return array
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError:
        return array


def stored_in_file(model: onnx.ModelProto, inputs: Sequence[Any], first: int) -> onnx.ModelProto | None:
    """The model with its inputs from the given number on as initialisers, or None where that changes nothing."""
    held = {t.name for t in model.graph.initializer}
    infos = [i for i in model.graph.input if i.name not in held]
    if len(infos) <= first or not all(isinstance(x, np.ndarray) for x in inputs):
        return None
    other = onnx.ModelProto.FromString(model.SerializeToString())
    for info, x in list(zip(infos, inputs, strict=False))[first:]:
        other.graph.initializer.append(numpy_helper.from_array(x, info.name))
    return other


def tried(case: Case, folder: Path, certify: bool) -> list[tuple[str, str, str]]:
    """State, reason and certificate of a case, one way of building it after the other."""
    found = [_tried(case, case.model, case.inputs, folder, certify and case.kind.startswith("pytorch"))]
    for first in (1, 0):
        model = stored_in_file(case.model, case.inputs, first)
        if model is not None and case.kind == "node":
            found.append(_tried(case, model, case.inputs[:first], folder, certify and first == 1))
    return found


def _tried(
    case: Case, model: onnx.ModelProto, inputs: Sequence[Any], folder: Path, certify: bool
) -> tuple[str, str, str]:
    path = folder / "case.onnx"
    path.write_bytes(model.SerializeToString())
    given = [tensor(x) for x in inputs]
    if not all(isinstance(x, Tensor) for x in given):
        given = None  # type: ignore[assignment]  (text, sequences and narrow types: metanet must say so itself)
    try:
        module, made = onnx_network(path, given, BUDGET)
        if given is None:
            return "wrong", "a network was built for inputs that are no tensors", ""
        with torch.no_grad():
            results = module(*made)
        results = results if isinstance(results, tuple) else (results,)
        differs = compared(case, results)
        if differs is not None:
            return "wrong", differs, ""
        if certify and any(p.numel() > 1 for p in module.parameters()):
            return certified(module, made)
    except metanet.MetanetError as error:
        return "refused", str(error), ""
    except Exception as error:  # what the suite looks for
        return "raw", f"{type(error).__name__}: {error}", ""
    return "right", "", ""


def certified(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[str, str, str]:
    """State, reason and certificate of a network whose outputs are right."""
    try:
        space = metanet.trace(module, inputs)
        certificate = metanet.certify(module, space, inputs, per_axis=False)
    except metanet.MetanetError as error:
        return "right", str(error), "not"
    if certificate.ok:
        return "right", "", "held"
    return "wrong", f"the certificate refutes it: error {certificate.worst_error:.3g}", "refuted"


def compared(case: Case, results: Sequence[Any]) -> str | None:
    """How results differ from what is expected; None if they do not.

    The tolerances are those of ONNX's own runner.
    """
    if len(results) != len(case.wanted):
        return f"{len(results)} outputs, {len(case.wanted)} expected"
    for number, (got, wanted) in enumerate(zip(results, case.wanted, strict=True)):
        expected = tensor(wanted)
        if not isinstance(expected, Tensor):
            return f"output {number} should be no tensor"
        if tuple(got.shape) != tuple(expected.shape):
            return f"output {number} has the shape {list(got.shape)}, {list(expected.shape)} expected"
        if got.dtype != expected.dtype:
            return f"output {number} has the type {got.dtype}, {expected.dtype} expected"
        rtol = max(case.rtol, BFLOAT16) if got.dtype == torch.bfloat16 else case.rtol
        ours, theirs = (t.detach().to(torch.float64).numpy() for t in (got, expected))
        if not np.allclose(ours, theirs, rtol, case.atol, equal_nan=True):
            with np.errstate(invalid="ignore"):
                return f"output {number} differs by {np.nanmax(np.abs(ours - theirs)):.3g}"
    return None


def judged(case: Case, found: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """One row: the worst state of all ways, or right if a way is right and none is wrong."""
    states = [state for state, _, _ in found]
    state = next((s for s in ("raw", "wrong", "right") if s in states), "refused")
    way = max(i for i, s in enumerate(states) if s == state)
    told = found[way][1]
    reason = (
        next((name for name, pattern in REASONS.items() if re.search(pattern, told)), "") if state == "refused" else ""
    )
    row = {"case": case.name, "kind": case.kind, "state": state, "way": WAYS[way], "reason": reason, "told": told}
    return row | {"certificate": next((c for _, _, c in found if c), "")}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kind: counts and the share that is right, then why the rest is refused."""
    lines = []
    for kind in (*KINDS, "all"):
        group = [r for r in rows if kind in (r["kind"], "all")]
        if not group:
            continue
        states, reasons = Counter(r["state"] for r in group), Counter(r["reason"] for r in group)
        lines.append(
            {"kind": kind, "cases": len(group), **{s: states[s] for s in STATES}}
            | {"right %": round(100 * states["right"] / len(group), 1)}
            | {f"refused: {reason}": reasons[reason] for reason in REASONS}
            | {f"certificate {c}": sum(r["certificate"] == c for r in group) for c in CERTIFICATES}
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated kinds of cases")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose names match")
    parser.add_argument("--quick", action="store_true", help="every twentieth case of the nodes, for a smoke test")
    parser.add_argument("--certify", type=int, default=0, metavar="EVERY", help="certify every so many of the cases")
    parser.add_argument("--show", default="wrong,raw", metavar="STATES", help="states whose cases are listed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    kinds = ["node"] if asked.quick else asked.kinds.split(",")
    chosen = [case for kind in kinds for case in cases(kind, asked.only)][:: 20 if asked.quick else 1]
    with tempfile.TemporaryDirectory() as folder:
        every = asked.certify or len(chosen) + 1
        rows = [judged(c, tried(c, Path(folder), n % every == every - 1)) for n, c in enumerate(chosen)]
    for row in rows:
        if row["state"] in asked.show.split(","):
            print(f"{row['state']}: {row['case']} ({row['way']}): {row['told'][:300]}")
    wrong = [f"{r['case']}: {r['state']}: {r['told'][:200]}" for r in rows if r["state"] in ("wrong", "raw")]
    return report(f"ONNX's backend tests, onnx {onnx.__version__}", summary(rows), wrong, asked.json)


if __name__ == "__main__":
    sys.exit(main())
