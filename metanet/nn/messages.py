"""Messages along a block, head by head: ``E v`` from sources to targets and ``E^T v`` back, piece by piece.

A piece is some targets of some groups of a block, small enough for a core's cache. Its operators ``E`` are embedded
when they are first used, kept while there is room, and embedded again at every use if there is none.

The gradient for the weights' embedding waits until all messages are differentiated: each leaves the two factors of its
part, ``dE = g v^T``, in a *slot* of the size of the neurons, and then every piece is embedded and differentiated once,
for all messages together. So neither E nor anything of its size needs to be stored, however many messages there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metanet.nn.connections import Coefficients, ConnectionNetwork, Trace
from metanet.nn.scratch import scratch

PIECE = 2**19  # hidden values of the embedding computed at once: they fit in a core's cache
TRACED = 2**19  # hidden values up to which what an embedding computed is kept for its gradients


class Pieces:
    """A block in pieces, and the operators of those that are kept.

    Args:
        network: Embeds any part of the block.
        coefficients: Its coefficients.
        read: Gives the weights of the block, ``[B, D, T, S, K]``; they are not held.
        shape: ``(B, D, T, S)``.
        room: Operator values (connections times heads) to keep.
        limit: Hidden values at once, if that is enough for one target.
    """

    def __init__(
        self,
        network: ConnectionNetwork,
        coefficients: Coefficients,
        read: Callable[[], Tensor],
        shape: Sequence[int],
        room: int,
        limit: int = PIECE,
    ) -> None:
        self.network, self.read, self.shape = network, read, shape
        self.coefficients = Coefficients(*(c.detach() for c in coefficients))
        batch, groups, targets, sources = shape
        heads, hidden = coefficients.outer.shape
        row = batch * sources * hidden
        rows = min(targets, max(1, limit // row))
        step = min(groups, max(1, limit // (row * rows)))
        self.places = [
            (slice(i, min(i + step, groups)), slice(j, min(j + rows, targets)))
            for i in range(0, groups, step)
            for j in range(0, targets, rows)
        ]
        size = heads * batch * sources * rows * step
        self.keep = min(len(self.places), room // size)
        self.size = self.keep * size
        self.kept: dict[int, Tensor] = {}
        self.tracing = False  # whether gradients will be asked for
        self.trace: Trace | None = None
        self.traced = len(self.places) == self.keep == 1 and batch * groups * targets * sources * hidden <= TRACED

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Groups and targets of every piece, and its operators ``[R B D, T, S]``."""
        weights = None
        for number, (groups, rows) in enumerate(self.places):
            embedded = self.kept.get(number)
            if embedded is None:
                weights = self.read() if weights is None else weights
                piece = weights[:, groups, rows]
                shape = (len(self.coefficients.outer), piece.shape[:4].numel())
                keep = number < self.keep
                out = piece.new_empty(shape) if keep else scratch("operators", piece, *shape)
                tracing = self.traced and self.tracing
                trace = self.network.embed(piece, self.coefficients, out, tracing)
                self.trace = trace if tracing else None
                embedded = out.view(-1, *piece.shape[2:4])
                if keep:
                    self.kept[number] = embedded
            yield groups, rows, embedded

    def carry(self, sources: Tensor | None, targets: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """``E v`` of the sources' values and ``E^T v`` of the targets', either of which may be missing.

        Args:
            sources: ``[R, B, D, F / R, S]``.
            targets: ``[R, B, D, F / R, T]``.

        Returns:
            ``[R, B, D, F / R, T]`` and ``[R, B, D, F / R, S]``.
        """
        if self.keep == len(self.places) == 1:
            return self._carry_at_once(sources, targets)
        forth: dict[int, list[Tensor]] = {}
        back: dict[int, Tensor] = {}
        for groups, rows, embedded in self:
            if sources is not None:
                # v E^T with few rows is twice as fast as E v with few columns
                found = _product(sources[:, :, groups].flatten(0, 2), embedded.mT)
                forth.setdefault(groups.start, []).append(found)
            if targets is not None:
                given = targets[:, :, groups, :, rows].flatten(0, 2)
                total = back.get(groups.start)
                back[groups.start] = _product(given, embedded) if total is None else total.baddbmm_(given, embedded)
        lead = (sources if targets is None else targets).shape[:2]  # type: ignore[union-attr]
        there = [parts[0] if len(parts) == 1 else torch.cat(parts, 2) for parts in forth.values()]
        return _joined(there, lead), _joined(list(back.values()), lead)

    def _carry_at_once(self, sources: Tensor | None, targets: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The same for a block of one piece: on small networks, what Python does costs as much as the products."""
        embedded = self.kept.get(0)
        if embedded is None:
            ((_, _, embedded),) = self
        there = here = None
        if sources is not None:
            shape = sources.shape
            found = _product(sources.view(-1, *shape[3:]), embedded.mT)
            there = found.view(*shape[:4], embedded.shape[1])
        if targets is not None:
            shape = targets.shape
            here = _product(targets.view(-1, *shape[3:]), embedded).view(*shape[:4], embedded.shape[2])
        return there, here

    def gradients(
        self, weights: Tensor | None, targets: Tensor, sources: Tensor
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Gradients of the weights, if given, and of the coefficients, where that of E is ``targets^T sources``."""
        total: list[Tensor | None] = [None] * 4
        for_weights = None if weights is None else torch.empty_like(weights)
        values = self.read() if weights is None else weights
        for groups, rows in self.places:
            outer, inner = targets[:, :, groups, :, rows], sources[:, :, groups]
            outer, inner = outer.flatten(0, 2).mT, inner.flatten(0, 2)
            grad = scratch("operators", outer, len(outer), outer.shape[1], inner.shape[2])
            grad = torch.bmm(outer, inner, out=grad).view(targets.shape[0], -1)
            piece = values[:, groups, rows].detach().requires_grad_(weights is not None)
            found, *rest = self.network.gradients(piece, self.coefficients, grad, self.trace)
            self.trace = None  # overwritten
            if for_weights is not None and found is not None:
                for_weights[:, groups, rows] = found
            total = [r if t is None else t.add_(r) for t, r in zip(total, rest, strict=True)]  # type: ignore[arg-type]
        return for_weights, total


class Operators:
    """R operators per connection of a block, and the messages that they carry.

    Args:
        pieces: The block.
        coefficients: Its coefficients, with their gradients.
        weights: Its weights ``[B, D, T, S, K]`` if they ask for a gradient.
        messages: How often messages are to be sent, for which slots are made at once; more may be.
    """

    def __init__(self, pieces: Pieces, coefficients: Coefficients, weights: Tensor | None, messages: int) -> None:
        self.pieces, self.coefficients, self.weights, self.messages = pieces, coefficients, weights, messages
        self._free: list[Tensor] = []

    @property
    def heads(self) -> int:
        """R."""
        return len(self.coefficients.outer)

    def propagate(self, sources: Tensor | None, targets: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Send messages along the block: ``E v`` of the sources' values, ``E^T v`` of the targets'.

        Args:
            sources: ``[R, B, D, F / R, S]``, or None.
            targets: ``[R, B, D, F / R, T]``, or None.

        Returns:
            ``[R, B, D, F / R, T]`` and ``[R, B, D, F / R, S]``, None where nothing was given.
        """
        given = [v for v in (sources, targets) if v is not None]
        slots = self._slots(len(given), given[0].shape[3]) if torch.is_grad_enabled() else []
        return _Message.apply(self.pieces, sources, targets, *slots)

    def _slots(self, messages: int, features: int) -> list[Tensor]:
        """Return tensors whose gradients are to be the factors of that of E: two for every message.

        Args:
            messages: How many messages.
            features: Features per neuron and head.

        Returns:
            ``[R, B, D, F / R, T]`` and ``[R, B, D, F / R, S]`` in turn; none if nothing needs the gradient of E.
        """
        if self.weights is None and not any(c.requires_grad for c in self.coefficients):
            return []
        self.pieces.tracing = True
        if len(self._free) < 2 * messages:
            wanted = max(self.messages, messages)
            self._free += _Slots.apply(self.pieces, wanted, features, self.weights, *self.coefficients)
        found, self._free = self._free[: 2 * messages], self._free[2 * messages :]
        return found

    def embedded(self) -> Tensor:
        """All operators at once, ``[R, B, D, T, S]``."""
        batch, groups, targets, sources = self.pieces.shape
        out = self.coefficients.outer.new_empty(len(self.coefficients.outer), batch, groups, targets, sources)
        for where, rows, embedded in self.pieces:
            part = out[:, :, where, rows]
            part.copy_(embedded.view(part.shape))
        return out


class _Message(torch.autograd.Function):
    """Messages along a block, :meth:`Pieces.carry`; slots get the factors of the gradient of E."""

    @staticmethod
    def forward(
        ctx: Any, pieces: Pieces, sources: Tensor | None, targets: Tensor | None, *slots: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.pieces, ctx.slots = pieces, bool(slots)
        ctx.save_for_backward(sources, targets)
        return pieces.carry(sources, targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_targets: Tensor | None, to_sources: Tensor | None) -> tuple[Any, ...]:
        sources, targets = ctx.saved_tensors
        to_targets = None if sources is None else to_targets.contiguous()  # type: ignore[union-attr]
        to_sources = None if targets is None else to_sources.contiguous()  # type: ignore[union-attr]
        for_targets, for_sources = ctx.pieces.carry(to_sources, to_targets)
        factors = [] if sources is None else [to_targets, sources]
        factors += [] if targets is None else [targets, to_sources]
        return (None, for_sources, for_targets, *(factors if ctx.slots else []))


class _Slots(torch.autograd.Function):
    """Empty tensors whose gradients are the factors of that of E: targets and sources of each message in turn."""

    @staticmethod
    def forward(
        ctx: Any, pieces: Pieces, messages: int, features: int, weights: Tensor | None, *coefficients: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.pieces = pieces
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights)
        heads = len(coefficients[2])
        batch, groups, targets, sources = pieces.shape
        empty = coefficients[2].new_empty(())
        shapes = [(heads, batch, groups, features, n) for n in (targets, sources)] * messages
        return tuple(empty.expand(shape) for shape in shapes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        (weights,) = ctx.saved_tensors
        targets, sources = ([g for g in grads[side::2] if g is not None] for side in (0, 1))
        if not targets:
            return (None,) * 8
        found = ctx.pieces.gradients(weights, torch.cat(targets, 3), torch.cat(sources, 3))
        ctx.pieces.kept.clear()  # all messages are differentiated; a second time they would be embedded again
        return (None, None, None, found[0], *found[1])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` for batches of matrices; with a lone column and row it is no matrix product."""
    return a * b if a.shape[2] == 1 else torch.bmm(a, b)


def _joined(parts: list[Tensor], lead: Sequence[int]) -> Tensor | None:
    """Groups ``[R B D, F, N]`` one after another, ``[R, B, D, F, N]``."""
    whole = [p.unflatten(0, (*lead, -1)) for p in parts]
    return None if not whole else whole[0] if len(whole) == 1 else torch.cat(whole, 2)
