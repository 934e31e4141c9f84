"""Reductions, softmax, searches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metanet.space.onnx.registry import Ints, Number, operator

REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": lambda x, dim, keepdim: x.abs().sum(dim, keepdim),
    "ReduceL2": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim),
    "ReduceSumSquare": lambda x, dim, keepdim: x.square().sum(dim, keepdim),
    "ReduceLogSum": lambda x, dim, keepdim: x.sum(dim, keepdim).log(),
}


def _register(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def reduce(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        if not axes and noop_with_empty_axes:
            return x
        if x.ndim == 0:
            return function(x.reshape(1), (0,), False)
        return function(x, tuple(a % x.ndim for a in axes or range(x.ndim)), bool(keepdims))


for _name, _function in REDUCTIONS.items():
    _register(_name, _function)


@operator("ReduceProd")
def reduce_prod(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The product over dimensions."""
    if not axes and noop_with_empty_axes:
        return x
    for axis in sorted((a % max(x.ndim, 1) for a in axes or range(x.ndim)), reverse=True):
        x = x.prod(axis, bool(keepdims))
    return x


def _softmax(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
        if opset >= 13:
            return function(x, -1 if axis is None else axis)
        first = 1 if axis is None else axis % x.ndim  # of old, over all dimensions from the axis on
        if math.prod(x.shape[first + 1 :]) == 1:
            return function(x, first)
        if math.prod(x.shape[first:-1]) == 1:
            return function(x, -1)
        return function(x.flatten(first), first).reshape(x.shape)


_softmax("Softmax", torch.softmax)
_softmax("LogSoftmax", torch.log_softmax)
_softmax("Hardmax", lambda x, dim: torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1.0))


def _search(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def search(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, bool(keepdims))
        return function(x, axis, bool(keepdims))


_search("ArgMax", torch.argmax)
_search("ArgMin", torch.argmin)


@operator("TopK")
def top(x: Tensor, k: Number, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The largest entries along a dimension, and where they are."""
    found = x.topk(int(k), axis, bool(largest), bool(sorted))
    return found.values, found.indices


@operator("CumSum")
def cumulative_sum(x: Tensor, axis: Number, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Sums of everything before, along a dimension."""
    at = int(axis) % x.ndim
    x = x.flip(at) if reverse else x
    sums = x.cumsum(at) - x if exclusive else x.cumsum(at)
    return sums.flip(at) if reverse else sums
