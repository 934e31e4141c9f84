"""A picture of a neuron graph that a person can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metanet.errors import GraphError
from metanet.graph.columns import MAX_COLUMNS, plan
from metanet.graph.neuron_graph import NeuronGraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png", ".pdf")


def draw(
    graph: NeuronGraph,
    path: str | os.PathLike[str] | None = None,
    number: int = 0,
    max_nodes: int = 16,
    max_edges: int = 160,
    max_columns: int = MAX_COLUMNS,
    title: str = "",
) -> Figure:
    """Draw one net: neurons in columns by depth, weights as coloured lines.

    Colour and width of a line show a weight relative to the largest one drawn of its block (red is positive); where a
    connection has several kernel taps or positions, the one of largest magnitude. The fill of a neuron shows its bias,
    the width of its ring the scale of its norm layer. A node set that several blocks write appears once per write, in
    one shaded lane: grey lines join the copies of the same neurons. Running statistics are not drawn.

    Args:
        graph: The neuron graph.
        path: File to write (``.svg``, ``.png`` or ``.pdf``); None writes nothing.
        number: Which net of the batch.
        max_nodes: Neurons shown of each node set: its first and last ones.
        max_edges: Connections shown of each block: its strongest ones.
        max_columns: Columns shown: the first and last ones.
        title: Heading; by default none.

    Returns:
        A matplotlib figure that belongs to no window and no global state.

    Raises:
        GraphError: There is nothing to draw, no net of this number, or the file cannot be written.
    """
    if not -graph.batch_size <= number < graph.batch_size:
        raise GraphError(f"cannot draw net {number}: the batch has {graph.batch_size} nets, counted from 0")
    if min(max_nodes, max_edges, max_columns) < 2:
        raise GraphError(
            f"max_nodes, max_edges and max_columns must be 2 or more; got {max_nodes}, {max_edges}, {max_columns}"
        )
    if not graph.layout.blocks:
        raise GraphError("cannot draw: the space has no weight that connects two node sets")
    target = None if path is None else _checked(Path(path))
    from metanet.graph.canvas import Canvas  # importing matplotlib takes half a second

    number %= graph.batch_size
    one = graph.select(slice(number, number + 1)).to("cpu")
    figure = Canvas(one, plan(graph.layout, max_columns), max_nodes, max_edges, title).figure()
    if target is not None:
        _save(figure, target)
    return figure


def _checked(path: Path) -> Path:
    if path.suffix.lower() not in ENDINGS:
        raise GraphError(f"cannot draw to {path}: got the ending '{path.suffix}', accepted are {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise GraphError(f"cannot draw to {path}: the folder {path.parent} does not exist. Create it first")
    return path


def _save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; equal figures give equal files."""
    import matplotlib

    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    try:
        with matplotlib.rc_context({"svg.hashsalt": "metanet", "path.simplify": False}):
            figure.savefig(temporary, metadata=undated, dpi=150)
        os.replace(temporary, path)
    except OSError as error:
        raise GraphError(f"cannot draw to {path}: {error}. Choose a folder that may be written") from None
    finally:
        temporary.unlink(missing_ok=True)
