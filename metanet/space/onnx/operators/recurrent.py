"""Recurrent layers. Their weights are kept in PyTorch's pieces and gate order, one set a direction.

ONNX stacks both directions, and the biases of input and state, in one tensor each; permutations of one direction could
not be told from those of the other there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Indices, Refused, Weight, operator

ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""PyTorch's gates (i f g o; r z n) by their places in ONNX's order (i o f c; z r h)."""

DEFAULT = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
LONGEST = 2**17
STEPS = 512  # a layer that has to be unrolled may have this many


def unpack(kind: str, inputs: Sequence[Tensor | None]) -> Iterator[tuple[int, str, Tensor]]:
    """The pieces of a layer's weights.

    Args:
        kind: ``LSTM``, ``GRU`` or ``RNN``.
        inputs: The node's inputs; W ``[directions, gates hidden, in]``, R, and B ``[directions, 2 gates hidden]``
            are the second to fourth.

    Yields:
        For each direction: the number of the input, a name for the piece, and the piece: weights of the input and of
        the state, then their biases.

    Raises:
        Refused: A weight depends on the network's input, or the layer has peepholes.
    """
    tensors = [*inputs, *[None] * 8][:8]
    w, r, b, peepholes = tensors[1], tensors[2], tensors[3], tensors[7]
    if w is None or r is None or any(t is not None and t.is_meta for t in (w, r, b)):
        raise Refused("its weights depend on the network's input")
    if peepholes is not None and (peepholes.is_meta or peepholes.any()):
        raise Refused("it has peephole connections")
    order = ORDER[kind]
    count, hidden = w.shape[0], r.shape[-1]
    rows = len(order) * hidden
    fits = w.shape[:2] == (count, rows) and r.shape == (count, rows, hidden) and w.ndim == 3
    if not fits or (b is not None and b.shape != (count, 2 * rows)):
        shapes = [list(t.shape) for t in (w, r, b) if t is not None]
        raise Refused(f"its weights have the shapes {shapes}, which do not fit each other")
    for d in range(w.shape[0]):
        yield 1, f"{d}.input", _gates(w[d], order)
        yield 2, f"{d}.state", _gates(r[d], order)
        if b is not None:
            half = b.shape[1] // 2
            yield 3, f"{d}.input", _gates(b[d, :half], order)
            yield 3, f"{d}.state", _gates(b[d, half:], order)


def _gates(tensor: Tensor, order: Sequence[int]) -> Tensor:
    pieces = tensor.chunk(len(order))
    return torch.cat([pieces[at] for at in order])


def _check(
    kind: str, activations: Sequence[str] | None, clip: float | None, lengths: Any, steps: int, directions: int
) -> None:
    named = [a.lower() for a in activations or DEFAULT[kind] * directions]
    if named != DEFAULT[kind] * directions:
        raise Refused(f"its activations are {named}; {DEFAULT[kind]} are accepted")
    if clip is not None:
        raise Refused("it clips its gates")
    if steps > LONGEST:
        raise Refused(f"it runs {steps:,} steps; at most {LONGEST:,} are accepted")
    if lengths is not None and not (lengths.numbers == [steps] * len(lengths.numbers) if lengths else False):
        raise Refused("its sequences have lengths of their own")


def _directions(direction: str) -> int:
    if direction not in ("forward", "reverse", "bidirectional"):
        raise Refused(f"its direction is '{direction}'; forward, reverse and bidirectional are accepted")
    return 2 if direction == "bidirectional" else 1


def _run(
    function: Any, x: Tensor, states: Sequence[Tensor | None], weights: Sequence[Tensor], direction: str, layout: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """All states and the last ones in ONNX's layout, then all states as PyTorch has them, ``[T, B, directions H]``."""
    directions = _directions(direction)
    if len(weights) not in (2 * directions, 4 * directions):
        raise Refused(f"its direction is '{direction}', and it has weights for {len(weights) // 2} matrices")
    hidden = weights[1].shape[1]
    x = x.transpose(0, 1) if layout else x
    x = x.flip(0) if direction == "reverse" else x
    zeros = x.new_zeros(directions, x.shape[1], hidden)
    given = [zeros if s is None else s.transpose(0, 1) if layout else s for s in states]
    biases = len(weights) == 4 * directions
    carried = tuple(given) if len(given) > 1 else given[0]
    y, *last = function(x, carried, list(weights), biases, 1, 0.0, False, directions == 2, False)
    y = y.flip(0) if direction == "reverse" else y
    apart = y.reshape(*y.shape[:2], directions, hidden)
    if layout:
        return (apart.transpose(0, 1), *(s.transpose(0, 1) for s in last), y)
    return (apart.permute(0, 2, 1, 3), *last, y)


@operator("LSTM", unpack=unpack)
def lstm(
    x: Tensor, lengths: Indices | None, h: Tensor | None, c: Tensor | None, *weights: Weight, hidden_size: int = 0,
    direction: str = "forward", activations: list[str] | None = None, clip: float | None = None, input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """LSTM."""
    directions = _directions(direction)
    _check("LSTM", activations, clip, lengths, x.shape[layout], directions)
    if input_forget:
        raise Refused("its input and forget gates are coupled")
    return _run(torch.lstm, x, (h, c), weights, direction, layout)


@operator("RNN", unpack=unpack)
def rnn(
    x: Tensor, lengths: Indices | None, h: Tensor | None, *weights: Weight, hidden_size: int = 0,
    direction: str = "forward", activations: list[str] | None = None, clip: float | None = None, layout: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Elman network."""
    directions = _directions(direction)
    relu = [a.lower() for a in activations or ()] == ["relu"] * directions
    _check("RNN", None if relu else activations, clip, lengths, x.shape[layout], directions)
    return _run(torch.rnn_relu if relu else torch.rnn_tanh, x, (h,), weights, direction, layout)


@operator("GRU", unpack=unpack)
def gru(
    x: Tensor, lengths: Indices | None, h: Tensor | None, *weights: Weight, hidden_size: int = 0,
    direction: str = "forward", activations: list[str] | None = None, clip: float | None = None, layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """GRU; unrolled if the reset gate acts on the state rather than on what is computed from it."""
    directions = _directions(direction)
    _check("GRU", activations, clip, lengths, x.shape[layout], directions)
    return _run(torch.gru if linear_before_reset else _reset_first, x, (h,), weights, direction, layout)


def _reset_first(x: Tensor, h: Tensor, weights: list[Tensor], biases: bool, *rest: Any) -> tuple[Tensor, Tensor]:
    """``n = tanh(W x + R (r * h))``, then ``h = (1 - z) n + z h``."""
    if x.shape[0] > STEPS:
        raise Refused(f"it has to be unrolled over {x.shape[0]} steps; at most {STEPS} are accepted")
    each = 4 if biases else 2
    rows, last = [], []
    for d in range(len(weights) // each):
        w, r, *offsets = weights[d * each : (d + 1) * each]
        hidden, state = r.shape[1], h[d]
        out = []
        steps = range(x.shape[0])
        for t in reversed(steps) if d else steps:
            given = F.linear(x[t], w, offsets[0] if offsets else None)
            r_x, z_x, n_x = given.split(hidden, -1)
            gates = F.linear(state, r[: 2 * hidden], offsets[1][: 2 * hidden] if offsets else None)
            r_h, z_h = gates.split(hidden, -1)
            reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            new = F.linear(reset * state, r[2 * hidden :], offsets[1][2 * hidden :] if offsets else None)
            new = torch.tanh(n_x + new)
            state = (1 - update) * new + update * state
            out.append(state)
        rows.append(torch.stack(out[::-1] if d else out))
        last.append(state)
    return torch.cat(rows, -1), torch.stack(last)
