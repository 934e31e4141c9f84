"""Normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Refused, Weight, axes_of, axis_of, operator


@operator("BatchNormalization")
def batch_norm(
    x: Tensor, scale: Weight, bias: Weight, mean: Weight, variance: Weight, *, epsilon: float = 1e-5, spatial: int = 1,
    training_mode: int = 0, opset: int = 15, outputs: int = 1,
) -> Tensor:  # fmt: skip
    """Batch norm with running statistics."""
    if training_mode or (opset < 14 and outputs > 1):
        raise Refused("it is a batch norm in training mode")
    if not spatial and x.ndim > 2:
        raise Refused("its statistics are per position")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


@operator("InstanceNormalization")
def instance_norm(x: Tensor, scale: Weight, bias: Weight, *, epsilon: float = 1e-5) -> Tensor:
    """Instance norm."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@operator("LayerNormalization")
def layer_norm(
    x: Tensor, scale: Weight, bias: Weight | None = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    """Layer norm over the last dimensions; on demand also means and inverse deviations."""
    axis = axis_of(axis, x.ndim)
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, shape, eps=epsilon) * scale
        y = y if bias is None else y + bias
    if outputs == 1:
        return y
    dims = tuple(range(axis, x.ndim))
    mean = x.mean(dims, keepdim=True)
    return y, mean, ((x - mean).square().mean(dims, keepdim=True) + epsilon).rsqrt()


@operator("RMSNormalization")
def rms_norm(x: Tensor, scale: Weight, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """RMS norm over the last dimensions."""
    shape = x.shape[axis_of(axis, x.ndim) :]
    return F.rms_norm(x, shape, scale, epsilon) if scale.shape == shape else F.rms_norm(x, shape, eps=epsilon) * scale


@operator("GroupNormalization")
def group_norm(x: Tensor, scale: Weight, bias: Weight, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Group norm; scale and bias are per channel, or per group in the operator's first version."""
    if scale.shape[0] == x.shape[1]:
        return F.group_norm(x, num_groups, scale, bias, epsilon)
    grouped = F.group_norm(x, num_groups, eps=epsilon).reshape(x.shape[0], num_groups, -1)
    return (grouped * scale[:, None] + bias[:, None]).reshape(x.shape)


@operator("LRN")
def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Local response normalisation across neighbouring channels."""
    if size < 1:
        raise Refused(f"its size is {size}")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    padded = F.pad(x.square(), (*[0] * (2 * (x.ndim - 2)), before, after))
    squares = torch.stack([padded.narrow(1, i, x.shape[1]) for i in range(size)]).sum(0)
    return x / (bias + alpha / size * squares).pow(beta)


@operator("LpNormalization")
def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the p-norm along a dimension, unless that is zero."""
    if p not in (1, 2):
        raise Refused(f"its p is {p}; 1 and 2 are accepted")
    return F.normalize(x, p, axis_of(axis, x.ndim), eps=torch.finfo(x.dtype).tiny)  # a row of zeros stays zero


@operator("MeanVarianceNormalization")
def mean_variance_norm(x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Subtract the mean, divide by the standard deviation."""
    axes = tuple(axes_of(axes, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)
