"""``metanet graph``: what the neuron graph of a network consists of, and its picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metanet.commands.network import find_network
from metanet.commands.options import (
    ArchitectureOption,
    ChainOption,
    ChannelsLastOption,
    GroupedOption,
    NormGroupsOption,
    TransposedOption,
    infer_options,
)

if TYPE_CHECKING:
    from metanet.graph.layout import Block, Layout
    from metanet.graph.neuron_graph import NeuronGraph

HOW = {
    "trace": "traced from code",
    "onnx": "traced from the file's graph",
    "infer": "inferred from names and shapes",
}
SHOWN = 60  # rows of a table for people


def graph(
    network: Annotated[str, typer.Argument(metavar="FILE_OR_MODULE", help="Checkpoint, or package.module:function.")],
    input: Annotated[list[str] | None, typer.Option(help="Input shape of a module or ONNX file: 1x3x224x224.")] = None,
    activation: Annotated[str | None, typer.Option(help="Nonlinearity, which a bare checkpoint does not tell.")] = None,
    chain: ChainOption = False,
    norm_groups: NormGroupsOption = None,
    channels_last: ChannelsLastOption = None,
    grouped: GroupedOption = None,
    transposed: TransposedOption = None,
    architecture: ArchitectureOption = None,
    plot: Annotated[str | None, typer.Option(help="Draw the graph to this .svg, .png or .pdf file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the neuron graph of a network: node sets, blocks of weights, depth."""
    found = find_network(
        network, input, activation, infer_options(chain, norm_groups, channels_last, grouped, transposed, architecture)
    )
    summary = summarise(found.graph)
    if plot is not None:
        from metanet.graph.draw import draw

        draw(found.graph, plot)
    if as_json:
        print(json.dumps({"network": network, **summary, "plot": plot}, indent=2))
        return
    show(network, found.graph, summary)
    if plot is not None:
        print(f"drawn to {plot}")


def summarise(graph: NeuronGraph) -> dict[str, Any]:
    """Plain data of a neuron graph: totals, node sets and blocks."""
    layout, space = graph.layout, graph.space
    return {
        "certified": space.certified,
        "source": space.source,
        "digest": space.digest,
        "nodes": layout.size,
        "neurons": space.neurons,
        "connections": sum(_connections(b) for b in layout.blocks),
        "parameters": space.parameters,
        "depth": max((b.link.depth for b in layout.blocks), default=0),
        "opaque": [{"op": o.op, "module": o.module, "reason": o.reason} for o in space.opaque],
        "node_sets": [_node_row(layout, number) for number in range(len(layout.nodes))],
        "blocks": [_block_row(layout, block) for block in layout.blocks],
        "coverage": layout.coverage,
        "unplaced": list(layout.unplaced),
    }


def _node_row(layout: Layout, number: int) -> dict[str, Any]:
    node = layout.nodes[number]
    return {
        "name": node.name,
        "size": node.size,
        "kind": node.kind,
        "depth": node.depth,
        "activation": node.activation,
        "parameters": [v.link.tensor for v in layout.vectors if v.target == number],
    }


def _block_row(layout: Layout, block: Block) -> dict[str, Any]:
    from metanet.graph.captions import extents

    return {
        "tensor": block.link.tensor,
        "kind": block.link.kind,
        "source": layout.nodes[block.source].name,
        "target": layout.nodes[block.target].name,
        "groups": block.shape[0],
        "extents": list(extents(block)),
        "connections": _connections(block),
        "depth": block.link.depth,
        "stride": list(block.link.stride),
    }


def show(name: str, graph: NeuronGraph, summary: dict[str, Any]) -> None:
    """Print a summary as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    state = "certified" if summary["certified"] else "not certified"
    how = HOW.get(summary["source"], f"recognised as {summary['source']}, and traced from its code")
    counts = (
        f"{summary['neurons']:,} neurons, {summary['connections']:,} connections, {summary['parameters']:,} parameters"
    )
    console.print(f"[bold]{name}[/bold]: {counts}, depth {summary['depth']}; {how}, {state}", highlight=False)
    nodes = Table(title="Node sets", title_justify="left")
    for heading in ("node set", "kind", "depth", "activation"):
        nodes.add_column(heading, overflow="fold")
    nodes.add_column("size", justify="right")
    nodes.add_column("written by", overflow="fold")
    for number, row in enumerate(summary["node_sets"][:SHOWN]):
        writers = _writers(graph.layout, number)
        nodes.add_row(row["name"], row["kind"], str(row["depth"]), row["activation"] or "", f"{row['size']:,}", writers)
    blocks = Table(title="Blocks", title_justify="left")
    for heading in ("block", "kind", "from", "to", "taps", "depth"):
        blocks.add_column(heading, overflow="fold")
    blocks.add_column("edges", justify="right", no_wrap=True)
    for row in summary["blocks"][:SHOWN]:
        kind = row["kind"] + (f", {row['groups']} groups" if row["groups"] > 1 else "")
        taps = "x".join(map(str, row["extents"]))
        blocks.add_row(
            row["tensor"], kind, row["source"], row["target"], taps, str(row["depth"]), f"{row['connections']:,}"
        )
    for table, rows in ((nodes, summary["node_sets"]), (blocks, summary["blocks"])):
        console.print(table)
        if len(rows) > SHOWN:
            console.print(f"... {len(rows) - SHOWN} more; --json lists all", highlight=False)
    for opaque in summary["opaque"]:
        console.print(f"not understood: {opaque['op']} at '{opaque['module']}' ({opaque['reason']})", markup=False)
    if summary["unplaced"]:
        console.print(f"tensors outside the graph: {', '.join(summary['unplaced'])}", markup=False)


def _writers(layout: Layout, number: int) -> str:
    """Tensors that write a node set; more than one is a stream that several blocks share."""
    names = list(dict.fromkeys(b.link.tensor for b in layout.blocks if b.target == number))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _connections(block: Block) -> int:
    groups, targets, sources, _ = block.shape
    return groups * targets * sources
