"""Words for pictures and tables of neuron graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metanet.graph.columns import Copy, is_coupled
from metanet.graph.layout import Block, Layout
from metanet.graph.strongest import Edges

LONGEST = 24
KINDS = {"convolution": "conv", "linear": "linear", "embedding": "embedding"}


def extents(block: Block) -> tuple[int, ...]:
    """Sizes of a block's extents: kernel taps, or the positions of a flattened map."""
    left, sizes = block.shape[3], []
    for atom in reversed(block.piece.order):
        if left == 1:
            break
        sizes.append(block.piece.atoms[atom])
        left //= sizes[-1]
    return tuple(reversed(sizes))


def stem(tensor: str) -> str:
    """Name of the layer that a tensor belongs to."""
    for leaf in (".weight", ".kernel"):
        tensor = tensor.removesuffix(leaf)
    return tensor


def short(name: str, longest: int = LONGEST) -> str:
    """A name that fits a caption; its last components say most."""
    return name if len(name) <= longest else "…" + name[-(longest - 1) :]


def block_caption(layout: Layout, block: Block) -> str:
    """``"conv1 3×3 /2"``: the layer, its extents and its stride."""
    name = stem(block.link.tensor)
    words = [f"{KINDS[block.link.kind]} {name}" if name.isdigit() else short(name)]
    sizes = extents(block)
    if sizes:
        many = "×".join(map(str, sizes))
        words.append(many if block.link.kind == "convolution" else f"@{many}")
    if block.link.stride and set(block.link.stride) != {1}:
        words.append("/" + "×".join(map(str, dict.fromkeys(block.link.stride))))
    groups = block.shape[0]
    if is_coupled(block):
        words.append("depthwise")
    elif groups > 1:
        words.append(f"{groups} groups")
    return " ".join(words)


def above(layout: Layout, copy: Copy) -> list[str]:
    """What is written above a copy of a node set: the blocks that write it."""
    if layout.nodes[copy.node].kind == "input" and not copy.blocks:
        return ["input"]
    return list(dict.fromkeys(block_caption(layout, layout.blocks[i]) for i in copy.blocks))


def below(layout: Layout, copy: Copy, edges: Mapping[int, Edges], shown: Sequence[int]) -> list[str]:
    """What is written below: size and activation, then what is not shown."""
    node = layout.nodes[copy.node]
    if copy.kind == "carried" and node.kind == "neuron":
        return []
    after = next((layout.blocks[i].link.activation for i in copy.blocks if layout.blocks[i].link.activation), None)
    size = f"… {node.size:,}" if len(shown) < node.size else f"{node.size:,}"
    what = {"input": "inputs", "output": "outputs"}.get(node.kind, _unit(layout, copy.node))
    lines = [f"{size} {what if node.size != 1 else what.removesuffix('s')}" + (f" · {after}" if after else "")]
    for edge in (edges[i] for i in copy.blocks if i in edges):
        drawn = len(edge.weight)
        if drawn < edge.total:
            lines.append(f"{'strongest ' if edge.thinned else ''}{drawn:,} of {edge.total:,} drawn")
        if edge.broken:
            lines.append(f"{edge.broken:,} weights are not finite")
    return lines


def stream_caption(layout: Layout, node: int, longest: int) -> str:
    """``"the same 64 channels, written by conv1, layer1.0.conv2"``, or nothing if only one block writes the set.

    Args:
        layout: The layout.
        node: Number of the node set.
        longest: Letters that there is room for; writers that do not fit are counted.
    """
    writers = list(dict.fromkeys(stem(b.link.tensor) for b in layout.blocks if b.target == node and not is_coupled(b)))
    if len(writers) < 2:
        return ""
    head = f"the same {layout.nodes[node].size:,} {_unit(layout, node)}"
    for many in range(len(writers), 0, -1):
        rest = f" and {len(writers) - many} more" if many < len(writers) else ""
        text = f"{head}, written by {', '.join(short(w) for w in writers[:many])}{rest}"
        if len(text) <= longest:
            return text
    return head


def _unit(layout: Layout, node: int) -> str:
    """Channels where convolutions write the set, neurons elsewhere."""
    kinds = {b.link.kind for b in layout.blocks if b.target == node}
    return "channels" if "convolution" in kinds else "neurons"
