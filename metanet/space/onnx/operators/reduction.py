"""Reductions, softmax, searches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metanet.space.onnx.registry import Ints, Number, Refused, axes_of, axis_of, operator


def _whole(x: Tensor) -> torch.dtype | None:
    """The type in which torch adds whole numbers, which would otherwise grow to 64 bits."""
    return None if x.is_floating_point() else x.dtype


REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": lambda x, dim, keepdim: x.sum(dim, keepdim, dtype=_whole(x)),
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": lambda x, dim, keepdim: x.abs().sum(dim, keepdim, dtype=_whole(x)),
    "ReduceL2": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim),
    "ReduceSumSquare": lambda x, dim, keepdim: x.square().sum(dim, keepdim, dtype=_whole(x)),
    "ReduceLogSum": lambda x, dim, keepdim: x.sum(dim, keepdim).log(),
    "ReduceProd": lambda x, dim, keepdim: _product(x, dim, keepdim),
}


def _product(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted(dim, reverse=True):
        x = x.prod(axis, keepdim, dtype=_whole(x))
    return x


def _register(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def reduce(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        if not axes and noop_with_empty_axes:
            if name in ELEMENTWISE:
                raise Refused("it reduces over no dimensions, of which versions of the standard say different things")
            return x
        if x.ndim == 0:
            return function(x.reshape(1), (0,), False)
        return function(x, tuple(axes_of(axes, x.ndim) if axes else range(x.ndim)), bool(keepdims))


ELEMENTWISE = ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
"""Reductions that also compute something on each entry."""

for _name, _function in REDUCTIONS.items():
    _register(_name, _function)


def _softmax(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
        if opset >= 13:
            return function(x, -1 if axis is None else axis_of(axis, x.ndim))
        first = axis_of(1 if axis is None else axis, x.ndim)  # of old, over all dimensions from the axis on
        if math.prod(x.shape[first + 1 :]) == 1:
            return function(x, first)
        if math.prod(x.shape[first:-1]) == 1:
            return function(x, -1)
        return function(x.flatten(first), first).reshape(x.shape)


def _shares(x: Tensor, dim: int) -> Tensor:
    """Softmax; on half types in the steps of ONNX's standard, each of them rounded, which torch's own does not do."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return torch.softmax(x, dim)
    powers = (x - x.amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True)


_softmax("Softmax", _shares)
_softmax("LogSoftmax", torch.log_softmax)
_softmax("Hardmax", lambda x, dim: torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1.0))


def _search(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def search(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        axis = axis_of(axis, x.ndim)
        if select_last_index:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, bool(keepdims))
        return function(x, axis, bool(keepdims))


_search("ArgMax", torch.argmax)
_search("ArgMin", torch.argmin)


@operator("TopK")
def top(x: Tensor, k: Number, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The largest entries along a dimension, and where they are; of equal ones the first."""
    axis = axis_of(axis, x.ndim)
    if not 0 <= k <= x.shape[axis]:
        raise Refused(f"it takes {k} of the {x.shape[axis]} entries of its axis {axis}")
    values, places = x.sort(dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, int(k)), places.narrow(axis, 0, int(k))


def _cumulate(name: str, function: Callable[..., Tensor], start: int) -> None:
    @operator(name)
    def cumulate(x: Tensor, axis: Number, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
        at = axis_of(int(axis), x.ndim)
        x = x.flip(at) if reverse else x
        if exclusive and x.shape[at]:
            first = torch.full_like(x.narrow(at, 0, 1), start)
            x = torch.cat([first, x.narrow(at, 0, x.shape[at] - 1)], at)
        found = function(x, at, dtype=_whole(x))
        return found.flip(at) if reverse else found


_cumulate("CumSum", torch.cumsum, 0)
_cumulate("CumProd", torch.cumprod, 1)
