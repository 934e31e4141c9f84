"""What operations yield, told from the layouts of their arguments."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from metanet.space.record.standins import Layout, Memory, StandIn, layout, layout_of, row_major, stand_ins
from metanet.space.record.tape import replaced

aten = torch.ops.aten

Outcome = tuple[Layout, Memory | None]
"""The layout of one tensor that an operation yields, and the memory of the argument that it is a view of."""


def outcome(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation yields: an :data:`Outcome`, a list with them, or plain data.

    Raises:
        Exception: Whatever torch raises for such arguments.
    """
    rule = RULES.get(func)
    found = rule(*args, **kwargs) if rule is not None else None
    return found if found is not None else _run(func, args, kwargs)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The outcome by running the operation on other tensors without data."""
    items = list(stand_ins((args, kwargs)))
    devices = {t.known.device for t in items}
    direct = len(devices) == 1 and _is_view(func)  # the kernels of views only read sizes and strides
    mode = _mode()
    twins: dict[int, Tensor] = {}
    for t in items:
        twins[id(t)] = t.known.twin() if direct else FakeTensor(mode, t.known.twin(), t.known.device)
    args, kwargs = replaced((args, kwargs), StandIn, lambda t: twins[id(t)])
    with contextlib.nullcontext() if direct else mode:
        result = func(*args, **kwargs)
    sources = {twins[id(t)].untyped_storage()._cdata: t for t in items}
    device = devices.pop() if direct else None

    def told(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        source = sources.get(tensor.untyped_storage()._cdata)
        trained = source is not None and source.known.trained and func is not aten.detach.default
        return layout_of(tensor, device, trained), source.memory if source is not None else None

    return [told(t) for t in result] if isinstance(result, list | tuple) else told(result)


@functools.cache
def _mode() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


@functools.cache
def _is_view(func: Any) -> bool:
    """Whether an operation yields views of its arguments."""
    infos = [r.alias_info for r in func._schema.returns]
    return bool(infos) and all(i is not None and not i.is_write for i in infos)


# The layouts of what the most common operations yield, in the usual case that all is dense, of one type and device.
# None stands for any other case.

REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _dense(shape: tuple[int, ...], like: Layout) -> Outcome:
    return layout(shape, row_major(shape), 0, like.dtype, like.device), None


def _real(*tensors: Tensor | None) -> bool:
    """Whether all are stand-ins of one floating-point type and device."""
    known = [t.known for t in tensors if type(t) is StandIn]
    if not known or len(known) != sum(t is not None for t in tensors) or known[0].dtype not in REAL:
        return False
    return all(k.dtype is known[0].dtype and k.device == known[0].device for k in known[1:])


def _usual(*tensors: Tensor | None) -> bool:
    """Whether all are dense, row-major stand-ins of one floating-point type and device."""
    return _real(*tensors) and all(t.known.contiguous for t in tensors if type(t) is StandIn)


def _elementwise(x: Any, *numbers: Any, **named: Any) -> Outcome | None:
    """A function of one tensor and numbers: it keeps the order of dimensions in memory."""
    plain = all(n is None or type(n) in (int, float, str) for n in (*numbers, *named.values()))
    if not plain or not _real(x) or not x.known.dense:
        return None
    return layout(x.known.shape, x.known.stride, 0, x.known.dtype, x.known.device), None


def _broadcast(x: Any, y: Any, **named: Any) -> Outcome | None:
    """A function of two tensors, one of which has the shape of the result."""
    if not isinstance(y, Tensor) or not isinstance(x, Tensor):
        return _elementwise(x, y, **named) if isinstance(x, Tensor) else None
    if named or not _real(x, y):
        return None
    a, b = (x.known, y.known) if x.ndim >= y.ndim else (y.known, x.known)  # type: ignore[attr-defined]
    if a.shape == b.shape and a.stride == b.stride and a.dense:
        return _elementwise(x)
    padded = (1,) * (len(a.shape) - len(b.shape)) + b.shape
    shape = tuple(map(max, a.shape, padded))
    fits = all(p in (1, s) and o in (1, s) for s, o, p in zip(shape, a.shape, padded, strict=True))
    if not (fits and a.contiguous and b.contiguous) or shape not in (a.shape, b.shape) or 0 in shape:
        return None
    return _dense(shape, a)


def _copied(x: Any, memory_format: torch.memory_format | None = None) -> Outcome | None:
    if memory_format is torch.contiguous_format and type(x) is StandIn:
        return _dense(x.known.shape, x.known)
    return _elementwise(x) if memory_format in (None, torch.preserve_format) and type(x) is StandIn else None


def _made(size: Any, dtype: Any = None, device: Any = None, **named: Any) -> Outcome | None:
    """A tensor whose values do not matter."""
    if dtype is None or device is None or set(named.values()) - {None, False, torch.strided}:
        return None
    shape = tuple(size)
    return layout(shape, row_major(shape), 0, dtype, torch.device(device)), None


def _overwritten(x: Any, y: Any, *rest: Any) -> Outcome | None:
    return _dense(x.known.shape, x.known) if not rest and _usual(x, y) and x.known.shape == y.known.shape else None


def _normalised(x: Any, dim: int, cast: bool) -> Outcome | None:
    """A softmax."""
    return _dense(x.known.shape, x.known) if not cast and _usual(x) and x.ndim else None


def _reduced(x: Any, dims: Any = None, keep: bool = False, **named: Any) -> Outcome | None:
    """A mean or a sum over some dimensions."""
    if named or not dims or not _usual(x) or type(dims) not in (list, tuple) or 0 in x.shape:
        return None
    gone = {d % x.ndim for d in dims}
    shape = [1 if d in gone else s for d, s in enumerate(x.known.shape) if keep or d not in gone]
    return _dense(tuple(shape), x.known)


def _product(x: Any, y: Any) -> Outcome | None:
    """A product of two matrices, or of two batches of them."""
    if not _real(x, y) or x.ndim != y.ndim or x.ndim not in (2, 3) or 0 in (*x.shape, *y.shape):
        return None
    a, b = x.known.shape, y.known.shape
    return _dense((*a[:-1], b[-1]), x.known) if a[-1] == b[-2] and a[:-2] == b[:-2] else None


def _biased(bias: Any, x: Any, y: Any, **named: Any) -> Outcome | None:
    """A product of two matrices to which a vector is added."""
    found = _product(x, y) if not named and _real(bias, x, y) else None
    return found if found is not None and bias.known.shape == found[0].shape[1:] and x.ndim == 2 else None


def _linear(x: Any, weight: Any, bias: Any = None) -> Outcome | None:
    if not _real(x, weight, bias) or x.ndim < 2 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return None
    return _dense((*x.known.shape[:-1], weight.known.shape[0]), x.known)


def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any, groups: int
) -> Outcome | None:
    """A convolution of images; torch tells in which memory format its backend answers."""
    if transposed or not _real(x, weight, bias) or x.ndim != 4 or weight.ndim != 4:
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups or 0 in x.shape:
        return None
    steps = zip(x.known.shape[2:], weight.known.shape[2:], *map(_pair, (stride, padding, dilation)), strict=True)
    sizes = tuple((size + 2 * pad - spread * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, spread in steps)
    if min(sizes) < 1:
        return None
    shape = (x.known.shape[0], weight.known.shape[0], *sizes)
    backend = torch._C._select_conv_backend(x, weight, bias, stride, padding, dilation, transposed, extra, groups)
    format = torch._C._conv_determine_backend_memory_format(x, weight, backend)
    if format is torch.contiguous_format:
        return _dense(shape, x.known)
    return layout_of(torch.empty(shape, dtype=x.dtype, device="meta", memory_format=format), x.known.device), None


def _pair(numbers: Any) -> Any:
    return numbers if len(numbers) == 2 else (numbers[0],) * 2


def _batch_norm(x: Any, *vectors: Any) -> list[Outcome] | None:
    """A batch norm in eval mode: it yields no statistics."""
    result = _elementwise(x) if _usual(*vectors[:4]) and _real(x, *vectors[:4]) else None
    return [result, _dense((0,), x.known), _dense((0,), x.known)] if result is not None else None


def _batch_statistics(x: Any, weight: Any, bias: Any, *rest: Any) -> list[Outcome] | None:
    """A batch norm by the batch at hand, with its statistics."""
    if not _usual(x, weight, bias) or x.dtype not in (torch.float32, torch.float64) or x.ndim < 2:
        return None
    return [_dense(x.known.shape, x.known), *[_dense((x.known.shape[1],), x.known)] * 2]


def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> list[Outcome] | None:
    """A layer norm, with its statistics."""
    if not _usual(x, weight, bias) or x.dtype not in (torch.float32, torch.float64):
        return None
    kept = x.ndim - len(shape)
    statistics = _dense((*x.known.shape[:kept], *(1 for _ in shape)), x.known)
    return [_dense(x.known.shape, x.known), statistics, statistics]


def _cat(items: Any, dim: int = 0) -> Outcome | None:
    """Joined tensors that all have something in them."""
    if not _usual(*items) or any(t.ndim != items[0].ndim or 0 in t.shape for t in items):
        return None
    shape = list(items[0].known.shape)
    at = dim % len(shape)
    if any(t.known.shape[:at] + t.known.shape[at + 1 :] != (*shape[:at], *shape[at + 1 :]) for t in items):
        return None
    shape[at] = sum(t.known.shape[at] for t in items)
    return _dense(tuple(shape), items[0].known)


RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (
            aten.relu.default, aten.gelu.default, aten.silu.default, aten.sigmoid.default, aten.tanh.default,
            aten.hardswish.default, aten.hardsigmoid.default, aten.hardtanh.default, aten.elu.default, aten.neg.default,
            aten.leaky_relu.default, aten.clamp.default, aten.exp.default, aten.erf.default, aten.rsqrt.default,
            aten.pow.Tensor_Scalar, aten.softplus.default, aten.mish.default, aten.sqrt.default,
            aten.clamp_min.default, aten.clamp_max.default,
        ),
        _elementwise,
    ),
    **dict.fromkeys(
        (
            aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.add.Scalar, aten.mul.Scalar,
            aten.sub.Scalar, aten.div.Scalar, aten.maximum.default, aten.minimum.default,
        ),
        _broadcast,
    ),
    aten.linear.default: _linear,
    aten.convolution.default: _convolution,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten._native_batch_norm_legit.no_stats: _batch_statistics,
    aten.cat.default: _cat,
    aten.clone.default: _copied,
    aten.empty.memory_format: _made,
    aten.copy.default: _overwritten,
    aten._softmax.default: _normalised,
    aten.mean.dim: _reduced,
    aten.sum.dim_IntList: _reduced,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.addmm.default: _biased,
}  # fmt: skip
