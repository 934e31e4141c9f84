"""From blocks and vectors back to tensors: the inverse of ``NeuronGraph.blocks`` and ``NeuronGraph.vectors``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from metanet.graph.layout import Layout, Piece


def assemble(layout: Layout, blocks: Sequence[Tensor], vectors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors ``[B, *shape]`` whose blocks and vectors these are.

    Entries that several blocks show (a layer used twice) are the mean of theirs. Tensors that none shows
    (``layout.unplaced``) are left out.

    Args:
        layout: The layout.
        blocks: ``[B, D, T, S, K]`` per block of the layout.
        vectors: ``[B, N, K]`` per vector of the layout.
    """
    parts: dict[str, list[tuple[Piece, Tensor]]] = defaultdict(list)
    places = [(p.link.tensor, p.piece) for p in layout.blocks] + [(p.link.tensor, p.piece) for p in layout.vectors]
    for (name, piece), values in zip(places, (*blocks, *vectors), strict=True):
        parts[name].append((piece, values))
    tensors = {}
    for name in layout.space.tensor:
        if name not in parts:
            continue
        shape = layout.space.tensor[name].shape
        written = [_write(piece, values, shape) for piece, values in parts[name]]
        if len(written) == 1:
            tensors[name] = written[0]
        else:
            ones = [_write(piece, values.new_ones(1, *values.shape[1:]), shape) for piece, values in parts[name]]
            tensors[name] = torch.stack(written).sum(0) / torch.stack(ones).sum(0).clamp_min(1)
    return tensors


def _write(piece: Piece, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Put ``[B, *piece.shape]`` where it was read from: ``[B, *shape]``, zeros elsewhere."""
    batch, inverse = len(values), sorted(range(len(piece.order)), key=piece.order.__getitem__)
    atoms = values.reshape(batch, *(piece.atoms[i] for i in piece.order)).permute(0, *(i + 1 for i in inverse))
    part = atoms.reshape(batch, *map(len, piece.entries))
    if part.shape[1:] == shape:
        return part
    grid = torch.meshgrid(*(torch.tensor(list(e), device=values.device) for e in piece.entries), indexing="ij")
    return values.new_zeros(*shape, batch).index_put(grid, part.movedim(0, -1)).movedim(-1, 0)
