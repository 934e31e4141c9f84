"""Say which parameters a neuron graph leaves out."""

from __future__ import annotations

import warnings

from metanet.errors import CoverageWarning
from metanet.graph.layout import Layout, layout_of
from metanet.space.weight_space import WeightSpace

SHOWN = 5  # names of tensors in one message


def warn_of_unplaced(space: WeightSpace, where: str, stacklevel: int = 3) -> None:
    """Warn if the graph of a space leaves parameters out; silent if it shows them all.

    Args:
        space: The space.
        where: What the space was found for, such as a file.
        stacklevel: Whose call the warning points at, as for ``warnings.warn``.
    """
    layout = layout_of(space)
    if layout.unplaced:
        warnings.warn(f"{where}: {left_out(layout)}", CoverageWarning, stacklevel=stacklevel)


def left_out(layout: Layout) -> str:
    """One sentence on what a graph leaves out."""
    names, more = layout.unplaced[:SHOWN], len(layout.unplaced) - SHOWN
    tail = f" and {more} more" if more > 0 else ""
    return (
        f"a metanet sees {layout.coverage:.1%} of the parameters. Outside of the graph: {', '.join(names)}{tail} "
        f"(their node sets would be too large)"
    )
