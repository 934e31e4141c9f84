"""``metanet symmetries``: the symmetry group of a network, what of it is certified, and what was not understood."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metanet.commands.network import Network, find_network
from metanet.commands.options import (
    ArchitectureOption,
    ChainOption,
    ChannelsLastOption,
    GroupedOption,
    NormGroupsOption,
    TransposedOption,
    infer_options,
)
from metanet.errors import ConfigError, SpaceError

if TYPE_CHECKING:
    from metanet.space.labels import Axis
    from metanet.space.weight_space import WeightSpace
    from metanet.symmetry.certify import AxisCertificate, Certificate

SHOWN = 60
GAUGES = 12
USUAL = ("scale", "sign")  # kinds of gauges that are reported even where there are none


def symmetries(
    network: Annotated[str, typer.Argument(metavar="FILE_OR_MODULE", help="Checkpoint, or package.module:function.")],
    input: Annotated[list[str] | None, typer.Option(help="Input shape of a module or ONNX file: 1x3x224x224.")] = None,
    certify: Annotated[bool | None, typer.Option(help="Check every axis on the module itself (default).")] = None,
    chain: ChainOption = False,
    norm_groups: NormGroupsOption = None,
    channels_last: ChannelsLastOption = None,
    grouped: GroupedOption = None,
    transposed: TransposedOption = None,
    architecture: ArchitectureOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the symmetries of a network: permutations, scalings and sign flips of its neurons."""
    options = infer_options(chain, norm_groups, channels_last, grouped, transposed, architecture)
    found = find_network(network, input, options=options)
    if certify:
        found = found.with_code()
    if certify and found.module is None:
        raise ConfigError(
            f"'{network}' is a file: without code there is no function to certify. Name the module as "
            f"package.module:function with --input, or leave --certify out"
        )
    certificate, refused = None, None
    try:
        certificate = None if certify is False or found.module is None else _certify(found)
    except SpaceError as error:  # a file may hold a network whose outputs are not finite on random weights
        if certify or found.graph.space.source != "onnx":
            raise
        refused = str(error)
    report = summarise(found.graph.space if certificate is None else certificate.space, certificate)
    report["refused"] = refused
    if as_json:
        print(json.dumps({"network": network, **report}, indent=2))
    else:
        show(network, report, found)


def summarise(space: WeightSpace, certificate: Certificate | None) -> dict[str, Any]:
    """Plain data of a symmetry group: its axes, order and dimension, what was certified, what is ordered and why."""
    from metanet.symmetry.dimension import dimensions

    checked = {a.axis: a for a in certificate.axes} if certificate else {}
    sizes = [a.size for a in space.free_axes]
    return {
        "certified": space.certified,
        "source": space.source,
        "neurons": space.neurons,
        "group": group_name(sizes),
        "log10_order": sum(math.lgamma(n + 1) for n in sizes) / math.log(10),
        "dimensions": dimensions(space),
        "worst_error": certificate.worst_error if certificate else None,
        "axes": [_axis_row(space, axis, checked.get(axis.name)) for axis in space.free_axes],
        "ordered": [
            {"name": a.name, "size": a.size, "kind": a.kind, "reason": a.reason} for a in space.axes if not a.free
        ],
        "gauges": [{"kind": g.kind, "axes": list(g.axes), "moves": str(g)} for g in space.gauges],
        "opaque": [{"op": o.op, "module": o.module, "reason": o.reason} for o in space.opaque],
    }


def _axis_row(space: WeightSpace, axis: Axis, checked: AxisCertificate | None) -> dict[str, Any]:
    return {
        "name": axis.name,
        "size": axis.size,
        "tensors": [t.name for t in space.tensors if axis.name in t.axes],
        "status": checked.status if checked else "trivial" if axis.size < 2 else "not checked",
        "error": checked.error if checked else None,
    }


def group_name(sizes: list[int]) -> str:
    """The product of symmetric groups: ``"S_64^5 x S_128^4"``."""
    counts = Counter(size for size in sizes if size > 1)
    factors = [f"S_{size}" + (f"^{counts[size]}" if counts[size] > 1 else "") for size in sorted(counts)]
    return " x ".join(factors) or "trivial"


def show(name: str, report: dict[str, Any], network: Network) -> None:
    """Print a report as a table and a few lines."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    state = "certified" if report["certified"] else "NOT certified"
    console.print(f"[bold]{name}[/bold]: {report['neurons']:,} neurons on {len(report['axes'])} free axes; {state}",
                  highlight=False)  # fmt: skip
    console.print(f"permutation group: {report['group']}, of order 10^{report['log10_order']:.1f}", highlight=False)
    if numbers := report["dimensions"]:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in numbers.items())
        console.print(f"continuous group: of dimension {sum(numbers.values()):,} ({kinds})", highlight=False)
    if report["worst_error"] is not None:
        console.print(f"largest change of the outputs under the group: {report['worst_error']:.1e}", highlight=False)
    elif report["refused"]:
        console.print(report["refused"], markup=False, highlight=False)
    elif network.recognition is not None and network.module is None:
        known = f"recognised as {network.recognition.id} and traced from its code: --certify checks it on that module"
        console.print(known, markup=False, highlight=False)
    elif network.module is None:
        console.print("inferred or read from the file: only a module can be certified", highlight=False)
    table = Table(title="Free axes", title_justify="left")
    table.add_column("axis", overflow="fold")
    table.add_column("size", justify="right")
    for heading in ("status", "error", "tensors"):
        table.add_column(heading, overflow="fold")
    for axis in report["axes"][:SHOWN]:
        tensors = axis["tensors"]
        some = ", ".join(tensors[:4]) + (f" and {len(tensors) - 4} more" if len(tensors) > 4 else "")
        error = "" if axis["error"] is None else f"{axis['error']:.0e}"
        table.add_row(axis["name"], f"{axis['size']:,}", axis["status"], error, some)
    console.print(table)
    if len(report["axes"]) > SHOWN:
        console.print(f"... {len(report['axes']) - SHOWN} more; --json lists all", highlight=False)
    for kind in (*USUAL, *dict.fromkeys(g["kind"] for g in report["gauges"] if g["kind"] not in USUAL)):
        chosen = [g["moves"].partition(" per ")[2] for g in report["gauges"] if g["kind"] == kind]
        console.print(f"{kind} gauges: {len(chosen) or 'none'}", highlight=False)
        for text in chosen[:GAUGES]:
            console.print(f"  per {text}", markup=False, highlight=False)
        if len(chosen) > GAUGES:
            console.print(f"  ... {len(chosen) - GAUGES} more; --json lists all", highlight=False)
    reasons = Counter(a["reason"].split(" at ")[0] or a["kind"] for a in report["ordered"])
    console.print("ordered axes: " + (", ".join(f"{n} by {r}" for r, n in reasons.items()) or "none"), markup=False)
    for opaque in report["opaque"]:
        console.print(f"not understood: {opaque['op']} at '{opaque['module']}' ({opaque['reason']})", markup=False)
    if not report["opaque"]:
        traced = network.module is not None or network.recognition is not None
        console.print("every operation was understood" if traced else "no operations are known without code")


def _certify(found: Network) -> Certificate:
    from metanet.space.onnx import OnnxModule
    from metanet.symmetry.certify import certify

    if found.module is None:
        raise ConfigError(f"'{found.name}' has no code to certify")
    if isinstance(found.module, OnnxModule):
        found.module.check_run()
    return certify(found.module, found.graph.space, found.inputs)
