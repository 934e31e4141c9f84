"""Branches and loops, resolved while the network is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from metanet.space.onnx.registry import Refused, axis_of, describe
from metanet.space.onnx.values import Given, Value

if TYPE_CHECKING:
    from metanet.space.onnx.builder import Builder, Scope

LIMIT = 1024  # iterations
Control = Callable[["Builder", dict[str, Any], Sequence[Given], "Scope", str], Sequence[Given]]


def branch(builder: Builder, found: dict[str, Any], inputs: Sequence[Given], scope: Scope, inside: str) -> list[Given]:
    """``If``: the branch that a known condition takes."""
    name = "then_branch" if _known(inputs[0], "its condition") else "else_branch"
    return builder.graph(found[name], scope, f"{inside}.{name}")


def loop(builder: Builder, found: dict[str, Any], inputs: Sequence[Given], scope: Scope, inside: str) -> list[Given]:
    """``Loop``: every iteration, if their number is known."""
    body, (limit, going, *carried) = found["body"], inputs
    if len(body.input) != 2 + len(carried) or len(body.output) < 1 + len(carried):
        raise Refused(f"its body has {len(body.input)} inputs and {len(body.output)} outputs for {len(carried)} states")
    most = LIMIT + 1 if limit is None else int(_known(limit, "its number of iterations"))
    going_on = going is None or bool(_known(going, "its condition"))
    rows: list[list[Value]] = [[] for _ in body.output[1 + len(carried) :]]
    names, turn = [i.name for i in body.input], 0
    while going_on and turn < most:
        if turn >= LIMIT:
            raise Refused(f"it runs more than {LIMIT} times")
        given = [Value(torch.tensor(turn)), Value(torch.tensor(True)), *carried]
        proceed, *results = builder.graph(body, {**scope, **dict(zip(names, given, strict=True))}, f"{inside}.body")
        going_on, turn = bool(_known(proceed, "its condition")), turn + 1
        carried, scanned = results[: len(carried)], results[len(carried) :]
        for row, value in zip(rows, scanned, strict=True):
            row.append(_tensor(value))
    return [*carried, *(_stacked(builder, row, 0, inside) for row in rows)]


def scan(builder: Builder, found: dict[str, Any], inputs: Sequence[Given], scope: Scope, inside: str) -> list[Given]:
    """``Scan``: one iteration for each entry of the sequences."""
    if builder.file.opset < 9:
        raise Refused(
            "it is of the operator's first version, which runs over a batch; export it with version 9 or later"
        )
    body, count = found["body"], int(found["num_scan_inputs"])
    if not 1 <= count <= len(inputs):
        raise Refused(f"it has {len(inputs)} inputs, {count} of which are said to be sequences")
    carried, sequences = list(inputs[: len(inputs) - count]), [_tensor(v) for v in inputs[len(inputs) - count :]]
    axes = found.get("scan_input_axes") or [0] * count
    back = found.get("scan_input_directions") or [0] * count
    _same_length("scan_input_axes", axes, count)
    _same_length("scan_input_directions", back, count)
    axes = [axis_of(a, s.example.ndim) for a, s in zip(axes, sequences, strict=True)]
    lengths = {s.example.shape[a] for a, s in zip(axes, sequences, strict=True)}
    if len(lengths) != 1:
        raise Refused(f"its sequences have the lengths {sorted(lengths)}; equal ones are accepted")
    (length,) = lengths
    if length > LIMIT:
        raise Refused(f"it runs {length} times; at most {LIMIT} are accepted")
    outputs = len(body.output) - len(carried)
    if len(body.input) != len(inputs) or outputs < 0:
        raise Refused(f"its body has {len(body.input)} inputs and {len(body.output)} outputs for {len(inputs)} inputs")
    rows: list[list[Value]] = [[] for _ in range(outputs)]
    names = [i.name for i in body.input]
    for turn in range(length):
        entries = [
            _entry(builder, s, a, length - 1 - turn if b else turn, inside)
            for s, a, b in zip(sequences, axes, back, strict=True)
        ]
        given = dict(zip(names, [*carried, *entries], strict=True))
        results = builder.graph(body, {**scope, **given}, f"{inside}.body")
        carried, scanned = results[: len(carried)], results[len(carried) :]
        for row, value in zip(rows, scanned, strict=True):
            row.append(_tensor(value))
    out_axes = found.get("scan_output_axes") or [0] * outputs
    out_back = found.get("scan_output_directions") or [0] * outputs
    _same_length("scan_output_axes", out_axes, outputs)
    _same_length("scan_output_directions", out_back, outputs)
    return [
        *carried,
        *(
            _stacked(builder, row[::-1] if b else row, a, inside)
            for row, a, b in zip(rows, out_axes, out_back, strict=True)
        ),
    ]


CONTROL: dict[str, Control] = {"If": branch, "Loop": loop, "Scan": scan}


def _known(value: Given, what: str) -> Any:
    if value is None or not value.known or value.example.numel() != 1:
        raise Refused(f"{what} depends on the values that the network is given")
    return value.example.item()


def _same_length(name: str, given: Sequence[int], count: int) -> None:
    if len(given) != count:
        raise Refused(f"its attribute '{name}' has {len(given)} entries; {count} are needed")


def _tensor(value: Given) -> Value:
    if value is None:
        raise Refused("a sequence is missing")
    return value


def _stacked(builder: Builder, values: list[Value], axis: int, name: str) -> Given:
    if not values:
        raise Refused("it runs not once, so that the shape of what it collects is unknown")

    def stack(*items: torch.Tensor) -> torch.Tensor:
        return torch.stack(items, axis)

    return builder.call(describe(stack), values, {}, f"{name}_stack", ["stacked"])[0]


def _entry(builder: Builder, value: Value, axis: int, number: int, name: str) -> Given:
    def select(x: torch.Tensor) -> torch.Tensor:
        return x.select(axis, number)

    return builder.call(describe(select), [value], {}, f"{name}_{number}", ["entry"])[0]
