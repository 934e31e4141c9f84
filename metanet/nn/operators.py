"""Block embeddings: the operators that a metanet makes of the weights of a block.

A block is embedded into R operators ``E[r]`` that carry messages along it. It is embedded once where that fits in
memory. Of larger networks one piece of one block is embedded at a time, anew for every pass and again for its
gradient, so that memory grows with neurons and not with weights times R.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from metanet.graph.layout import Block, Layout
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.features import LINK_FEATURES, layout_features, signed_log, tap_places
from metanet.nn.messages import carry

PIECE = 2**19  # hidden values of the embedding computed at once: they fit in a core's cache


Embed = Callable[[Tensor], Tensor]


class Operators:
    """R operators per connection of a block: ``E`` of shape ``[B, R, D, T, S]``, kept in memory.

    Args:
        embedded: ``E``.
    """

    def __init__(self, embedded: Tensor) -> None:
        self.embedded = embedded

    def forth(self, sources: Tensor) -> Tensor:
        """``E v``: ``[B, D, S, F] -> [B, D, T, F]``."""
        return carry(self.embedded, sources)

    def back(self, targets: Tensor, scale: float = 1.0) -> Tensor:
        """``scale E^T v``: ``[B, D, T, F] -> [B, D, S, F]``."""
        return carry(self.embedded, targets, True, scale)

    def both(self, sources: Tensor, targets: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """:meth:`forth` of the sources' values and :meth:`back` of the targets'."""
        return self.forth(sources), self.back(targets, scale)


class LazyOperators(Operators):
    """The same operators, embedded a piece at a time whenever they are used; gradients embed them again.

    Args:
        embed: Turns ``[B, D, T, S, K]``, any part of the block, into ``[B, R, D, T, S]``.
        read: Gives the weights of the block, ``[B, D, T, S, K]``; they are not held.
        batch: B.
        shape: ``(D, T, S, K)``.
        hidden: Numbers that ``embed`` computes per connection.
        limit: How many of them at once, if that is enough for one target.
    """

    def __init__(
        self, embed: Embed, read: Callable[[], Tensor], batch: int, shape: Sequence[int], hidden: int, limit: int
    ) -> None:
        self.embed, self.read = embed, read
        groups, targets, sources, _ = shape
        row = batch * sources * hidden
        rows = min(targets, max(1, limit // row))
        step = min(groups, max(1, limit // (row * rows)))
        self.groups = [slice(i, i + step) for i in range(0, groups, step)]
        self.rows = [slice(i, i + rows) for i in range(0, targets, rows)]

    def forth(self, sources: Tensor) -> Tensor:  # noqa: D102 (that of the base class)
        return self._run(sources, None, 1.0)[0]

    def back(self, targets: Tensor, scale: float = 1.0) -> Tensor:  # noqa: D102
        return self._run(None, targets, scale)[1]

    def both(self, sources: Tensor, targets: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self._run(sources, targets, scale)

    def _run(self, sources: Tensor | None, targets: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        weights = self.read()
        forth, back = [], []
        for group in self.groups:
            inner = None if sources is None else sources[:, group]
            received, total = [], weights.new_zeros(())
            for rows in self.rows:
                outer = None if targets is None else targets[:, group, rows]
                there, here = self._use(weights[:, group, rows], inner, outer, scale)
                received.append(there)
                total = total + here  # no list of them: each is as large as the sources
            forth.append(received[0] if sources is None else torch.cat(received, 2))
            back.append(total)
        nothing = back[0] if targets is None else None
        return forth[0] if sources is None else torch.cat(forth, 1), torch.cat(back, 1) if nothing is None else nothing

    def _use(
        self, weights: Tensor, sources: Tensor | None, targets: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return _use(self.embed, weights, sources, targets, scale)
        found: tuple[Tensor, Tensor] = checkpoint(
            _use, self.embed, weights, sources, targets, scale, use_reentrant=False, preserve_rng_state=False
        )
        return found


def _use(
    embed: Embed, weights: Tensor, sources: Tensor | None, targets: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Messages both ways through a piece of a block; zero where nothing is sent."""
    embedded = embed(weights)
    forth = embedded.new_zeros(()) if sources is None else carry(embedded, sources)
    back = embedded.new_zeros(()) if targets is None else carry(embedded, targets, True, scale)
    return forth, back


class BlockEmbedding(nn.Module):
    """Embed every weight of a block into R heads.

    With the taps of a connection ``x_k = slog(w_k sqrt(fan_in))``, their root mean square ``x_0``, and coefficients
    that depend on a tap's coordinates ``p_k`` alone, so that kernels of any size share parameters:
    ``E = A silu(sum_k a(p_k) x_k + a_0 x_0 + b) + sum_k c(p_k) x_k``, where ``a`` and ``b`` are modulated by what is
    known of the link. Messages are ``E h`` times ``S^(-1/2)``, which is part of ``E`` here.

    Args:
        heads: R.
        transfer: Scale weights by ``fan_in`` and messages by ``1 / S`` instead, and leave sizes unsaid: a network in
            which every neuron was doubled and outgoing weights halved is then the same network (Ma et al. 2026).
    """

    def __init__(self, heads: int, transfer: bool = False) -> None:
        super().__init__()
        self.heads, self.hidden, self.transfer = heads, 2 * heads, transfer
        self.taps = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, self.hidden + heads))
        self.size = nn.Parameter(torch.randn(self.hidden) * 0.5)
        self.modulation = nn.Linear(LINK_FEATURES, 2 * self.hidden)
        self.out = nn.Parameter(torch.randn(heads, self.hidden) / self.hidden**0.5)

    def operators(self, graph: NeuronGraph, limit: int) -> list[Operators]:
        """Operators of every block of a layout.

        Args:
            graph: B nets.
            limit: Embedded weights to keep in memory; if all blocks need more, every block is embedded in pieces.
        """
        layout = graph.layout
        total = sum(graph.batch_size * self.heads * math.prod(b.shape[:3]) for b in layout.blocks)
        found: list[Operators] = []
        for block, embed in zip(layout.blocks, self.embeddings(layout), strict=True):
            tensor = graph.tensors[block.link.tensor]
            if total <= limit:
                found.append(Operators(embed(block.piece.read(tensor))))
            else:
                read = functools.partial(block.piece.read, tensor)
                size = min(limit, PIECE)
                found.append(LazyOperators(embed, read, graph.batch_size, block.shape, self.hidden, size))
        return found

    def embeddings(self, layout: Layout) -> list[Embed]:
        """Functions that embed weights ``[B, D, T, S, K]`` of a block as ``[B, R, D, T, S]``, one per block."""
        return [self._embedding(b, *p) for b, p in zip(layout.blocks, self.parameters_of(layout), strict=True)]

    def parameters_of(self, layout: Layout) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What depends on a block's place and not on its weights, of all blocks at once.

        Returns:
            For every block: coefficients of the taps for the hidden layer ``[H, K + 1]``, the last for their size;
            its bias ``[H, 1]``; coefficients of the direct part ``[R, K]``.
        """
        links, _ = layout_features(layout.space, sizes=not self.transfer)
        scales, shifts = self.modulation(links.to(self.out)).unsqueeze(-1).chunk(2, 1)
        taps = [b.shape[3] for b in layout.blocks]
        found = self.taps(tap_places(layout.space).to(self.out)).t().split(taps, 1)
        result = []
        for count, coefficients, scale, shift in zip(taps, found, scales, shifts, strict=True):
            inner, skip = (coefficients / count**0.5).split([self.hidden, self.heads])
            result.append((torch.cat([inner, self.size[:, None]], 1) * (1 + scale), shift, skip))
        return result

    def _embedding(self, block: Block, inner: Tensor, shift: Tensor, skip: Tensor) -> Embed:
        factor, share = self.factors(block)
        outer, skip, inner = self.out * share, skip * share, torch.cat([inner, shift], 1)

        def embedding(weights: Tensor) -> Tensor:
            batch = weights.shape[0]
            values, size = self.read(weights, factor)
            seen = torch.cat([values, size, torch.ones_like(size)], 1)
            hidden = functional.silu(torch.bmm(inner.expand(batch, -1, -1), seen))
            mixed = torch.bmm(skip.expand(batch, -1, -1), seen[:, : values.shape[1]])
            embedded = torch.baddbmm(mixed, outer.expand(batch, -1, -1), hidden)
            return embedded.unflatten(2, weights.shape[1:4])

        return embedding

    def factors(self, block: Block) -> tuple[float, float]:
        """Factors on the weights of a block, and on its operators."""
        sources = block.shape[2]
        return (block.fan_in, 1 / sources) if self.transfer else (block.fan_in**0.5, sources**-0.5)

    @staticmethod
    def read(weights: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Compressed taps ``[B, K, D T S]``, and their root mean square ``[B, 1, D T S]``."""
        values = signed_log(weights.flatten(1, 3).transpose(1, 2) * factor)
        alone = values.shape[1] == 1
        return values, values.abs() if alone else values.square().mean(1, keepdim=True).add(1e-6).sqrt()
