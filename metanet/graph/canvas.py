"""Drawing of a planned neuron graph with matplotlib."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from metanet.graph.captions import above, below, stream_caption
from metanet.graph.columns import Copy, Plan
from metanet.graph.neuron_graph import NeuronGraph
from metanet.graph.strongest import Edges, strongest

WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#2166ac", "#d8d8d8", "#b2182b"])
BIASES = LinearSegmentedColormap.from_list("biases", ["#5e3c99", "#ffffff", "#e08214"])
RELATIVE = Normalize(-1, 1)
PITCH = 0.17  # inches between neurons
LINE = 0.125  # inches per line of text
LETTER = 0.058  # inches per letter of a caption
STREAM = "#e9eef5"
GREY = "#9aa3ad"


class Canvas:
    """One picture in the making. Coordinates are inches, downwards."""

    def __init__(self, one: NeuronGraph, plan: Plan, max_nodes: int, max_edges: int, title: str) -> None:
        self.one, self.layout, self.plan, self.title = one, one.layout, plan, title
        self.shown = {i: _shown(n.size, max_nodes) for i, n in enumerate(self.layout.nodes)}
        self.edges = self._edges(max_edges)
        self.above = {k: above(self.layout, c) for k, c in plan.copies.items()}
        self.below = {k: below(self.layout, c, self.edges, self.shown[c.node]) for k, c in plan.copies.items()}
        self.x, self.width = self._columns()
        self.y, self.height = self._lanes()

    def figure(self) -> Figure:
        """The finished picture."""
        figure = Figure(figsize=(self.width, self.height), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        axes.axis("off")
        if self.title:
            axes.text(0.2, 0.24, self.title, fontsize=10, weight="bold", va="center")
        self._streams(axes)
        for number, edges in self.edges.items():
            self._block(axes, number, edges)
        for copy in self.plan.copies.values():
            self._copy(axes, copy)
        if self.plan.elided:
            middle = (self.x[self.plan.elided[0] - 1] + self.x[self.plan.elided[-1] + 1]) / 2
            text = f"⋯\n{len(self.plan.elided)} columns\nnot shown"
            axes.text(middle, self.y[0], text, ha="center", va="center", fontsize=8, color="#555555")
        self._legend(figure, axes)
        return figure

    # Places ----------------------------------------------------------------------------------------------------------

    def _columns(self) -> tuple[dict[int, float], float]:
        """Horizontal place of each column: as far apart as the captions above and below them need."""
        words = dict.fromkeys(self.plan.columns, 0.0)
        for (_, column), lines in [*self.above.items(), *self.below.items()]:
            words[column] = max([words[column], *(LETTER * len(line) for line in lines)])
        x: dict[int, float] = {}
        at = 0.35 + words[self.plan.columns[0]] / 2
        for before, column in zip((None, *self.plan.columns), self.plan.columns, strict=False):
            if before is not None:
                gap = max(1.3, (words[before] + words[column]) / 2 + 0.12)
                at += gap if column == before + 1 else max(gap, 1.6)
            x[column] = at
        return x, max(at + words[self.plan.columns[-1]] / 2 + 0.35, 6.4)

    def _lanes(self) -> tuple[dict[int, float], float]:
        """Vertical middle of each lane, and the height of the picture."""
        tall: dict[int, tuple[float, float, float]] = {}
        for node, column in self.plan.copies:
            lane = self.plan.lane[node]
            many = self._slots(node) * PITCH
            text = LINE * len(self.above[node, column]), LINE * len(self.below[node, column])
            old = tall.get(lane, (0.0, 0.0, 0.0))
            tall[lane] = (max(old[0], many), max(old[1], text[0]), max(old[2], text[1]))
        y: dict[int, float] = {}
        at = 0.5 if self.title else 0.2
        for lane in sorted(tall):
            many, up, down = tall[lane]
            y[lane] = at + up + 0.3 + many / 2
            at += up + many + down + 0.5
        return y, at + 0.55

    def _slots(self, node: int) -> int:
        """Rows that a node set takes: its shown neurons, and one for those left out."""
        return len(self.shown[node]) + (len(self.shown[node]) < self.layout.nodes[node].size)

    def _rows(self, node: int) -> dict[int, float]:
        """Vertical place of each shown neuron of a set."""
        shown = self.shown[node]
        slots, half = self._slots(node), math.ceil(len(shown) / 2)
        skip = slots > len(shown)
        top = self.y[self.plan.lane[node]] - (slots - 1) * PITCH / 2
        return {n: top + PITCH * (i + (skip and i >= half)) for i, n in enumerate(shown)}

    # Content ---------------------------------------------------------------------------------------------------------

    def _edges(self, most: int) -> dict[int, Edges]:
        """The connections to draw of every block whose two ends are shown."""
        found = {}
        for number, (block, values) in enumerate(zip(self.layout.blocks, self.one.blocks(), strict=True)):
            depth = block.link.depth
            ends = ((block.source, depth - 1), (block.target, depth))
            if all(end in self.plan.copies for end in ends):
                found[number] = strongest(self.layout, block, values[0].detach().float(), self.shown, most)
        return found

    def _block(self, axes: Axes, number: int, edges: Edges) -> None:
        block = self.layout.blocks[number]
        if not len(edges.weight):
            return
        left, right = self._rows(block.source), self._rows(block.target)
        x = self.x[block.link.depth - 1], self.x[block.link.depth]
        lines = [
            ((x[0], left[s]), (x[1], right[t]))
            for s, t in zip(edges.source.tolist(), edges.target.tolist(), strict=True)
        ]
        weight = edges.weight.numpy()
        share = weight / max(float(np.abs(weight).max()), 1e-30)
        colours = WEIGHTS(RELATIVE(share))
        size = np.abs(share)
        colours[:, 3] = 0.12 + 0.78 * size
        axes.add_collection(
            LineCollection(lines, colors=colours, linewidths=0.25 + 1.35 * size, capstyle="round", zorder=2),
            autolim=False,
        )

    def _copy(self, axes: Axes, copy: Copy) -> None:
        node, key = self.layout.nodes[copy.node], (copy.node, copy.column)
        rows, x = self._rows(copy.node), self.x[copy.column]
        places = np.array(list(rows.values()))
        if copy.kind == "carried" and not copy.vectors and node.kind == "neuron":
            axes.scatter(np.full(len(places), x), places, s=6, c=GREY, linewidths=0, zorder=3)
        else:
            bias, scale = self._parameters(copy)
            edge = "#1b7837" if node.kind == "input" else "#222222"
            axes.scatter(
                np.full(len(places), x), places, s=46, marker="o" if node.kind == "neuron" else "s", zorder=4,
                c=BIASES(RELATIVE(bias)), edgecolors=edge, linewidths=scale.tolist(),
            )  # fmt: skip
        if self._slots(copy.node) > len(rows):
            at = (places[math.ceil(len(places) / 2) - 1] + places[math.ceil(len(places) / 2)]) / 2
            axes.text(x, at, "⋮", ha="center", va="center", fontsize=9, color="#444444", zorder=5)
        for i, line in enumerate(reversed(self.above[key])):
            place = places[0] - 0.17 - LINE * i
            axes.text(x, place, line, ha="center", va="center", fontsize=7, color="#222222", zorder=6, bbox=_paper())
        for i, line in enumerate(self.below[key]):
            place, first = places[-1] + 0.17 + LINE * i, i == 0
            axes.text(
                x, place, line, ha="center", va="center", fontsize=7 if first else 6.5, zorder=6, bbox=_paper(),
                color="#222222" if first else "#777777", style="normal" if first else "italic",
            )  # fmt: skip

    def _parameters(self, copy: Copy) -> tuple[np.ndarray, np.ndarray]:
        """Relative bias of each shown neuron, and the width of its ring."""
        shown = self.shown[copy.node]
        found: dict[str, torch.Tensor] = {}
        for number in copy.vectors:
            vector = self.layout.vectors[number]
            values = vector.piece.read(self.one.tensors[vector.link.tensor])[0].detach().float().mean(-1)
            found[vector.link.kind] = values.nan_to_num(0, 0, 0)  # a norm's comes after the bias and has the last word
        blank = torch.zeros(self.layout.nodes[copy.node].size)
        bias = found.get("bias", blank)
        scale = found["scale"].abs() if "scale" in found else None
        ring = 0.8 * torch.ones_like(blank) if scale is None else 0.3 + 1.9 * scale / scale.max().clamp_min(1e-30)
        return (bias / bias.abs().max().clamp_min(1e-30))[shown].numpy(), ring[shown].numpy()

    def _streams(self, axes: Axes) -> None:
        """Shade the lane of every node set that appears more than once, and join its copies."""
        for node in sorted({s for s, _, _ in self.plan.streams}):
            joins = [(a, b) for s, a, b in self.plan.streams if s == node]
            places = list(self._rows(node).values())
            ends = [self.x[c] for join in joins for c in join]
            box = (min(ends) - 0.14, places[0] - 0.11), max(ends) - min(ends) + 0.28, places[-1] - places[0] + 0.22
            round_corners = "round,pad=0,rounding_size=0.1"
            axes.add_patch(FancyBboxPatch(*box, boxstyle=round_corners, fc=STREAM, ec="none", zorder=0))
            caption = stream_caption(self.layout, node, int(1.2 * (max(ends) - min(ends)) / LETTER))
            if caption:
                x = min(ends) + (max(ends) - min(ends)) / 2
                up = max(len(lines) for (n, _), lines in self.above.items() if n == node)
                y = places[0] - 0.2 - LINE * up
                axes.text(x, y, caption, ha="center", va="center", fontsize=7, color="#41648f")
            for a, b in joins:
                self._join(axes, node, a, b)

    def _join(self, axes: Axes, node: int, a: int, b: int) -> None:
        """Lines from each neuron to itself; an arc above if another copy stands between."""
        rows = self._rows(node)
        between = [c for c in self.plan.columns if a < c < b and (node, c) in self.plan.copies]
        if not between:
            lines = [((self.x[a], y), (self.x[b], y)) for y in rows.values()]
            axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.9, zorder=1), autolim=False)
            return
        top = min(rows.values())
        points = [(self.x[a], top), (self.x[a], top - 0.62), (self.x[b], top - 0.62), (self.x[b], top)]
        curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        axes.add_patch(PathPatch(curve, fc="none", ec=GREY, lw=2.2, zorder=1))

    def _legend(self, figure: Figure, axes: Axes) -> None:
        bars = (WEIGHTS, "line: weight / largest drawn of its block"), (BIASES, "fill: bias / largest drawn of its set")
        for i, (colours, text) in enumerate(bars):
            place = ((0.25 + 2.05 * i) / self.width, 0.3 / self.height, 1.1 / self.width, 0.07 / self.height)
            scale = ScalarMappable(RELATIVE, colours)
            bar = figure.colorbar(scale, cax=figure.add_axes(place), orientation="horizontal", ticks=[-1, 0, 1])
            bar.outline.set_linewidth(0.3)
            bar.ax.tick_params(labelsize=5.5, length=1.5, width=0.3, pad=1)
            bar.ax.set_title(text, fontsize=6.5, pad=2.5, loc="left")
        notes = ["○ neuron  □ input (green) or output"]
        if any(v.link.kind == "scale" for v in self.layout.vectors):
            notes.append("ring width: scale of the norm layer")
        if self.plan.streams:
            notes.append("shaded, grey lines: the same neurons")
        axes.text(4.35, self.height - 0.36, "\n".join(notes), fontsize=6.5, va="center", color="#333333")


def _shown(size: int, most: int) -> list[int]:
    if size <= most:
        return list(range(size))
    half = math.ceil((most - 1) / 2)
    return [*range(half), *range(size - (most - 1 - half), size)]


def _paper() -> dict[str, object]:
    """A faint background that keeps captions readable over lines."""
    return {"boxstyle": "square,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.7}
