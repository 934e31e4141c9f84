"""Normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Refused, Weight, operator


@operator("BatchNormalization")
def batch_norm(
    x: Tensor, scale: Weight, bias: Weight, mean: Weight, variance: Weight, *, epsilon: float = 1e-5, spatial: int = 1,
    training_mode: int = 0,
) -> Tensor:  # fmt: skip
    """Batch norm with running statistics."""
    if training_mode or not spatial:
        raise Refused("it is a batch norm in training mode" if training_mode else "its statistics are per position")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


@operator("InstanceNormalization")
def instance_norm(x: Tensor, scale: Weight, bias: Weight, *, epsilon: float = 1e-5) -> Tensor:
    """Instance norm."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@operator("LayerNormalization")
def layer_norm(
    x: Tensor, scale: Weight, bias: Weight | None = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> Tensor:
    """Layer norm over the last dimensions."""
    if outputs > 1:
        raise Refused("its statistics are asked for")
    shape = x.shape[axis % x.ndim :]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    y = F.layer_norm(x, shape, eps=epsilon) * scale
    return y if bias is None else y + bias


@operator("RMSNormalization")
def rms_norm(x: Tensor, scale: Weight, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """RMS norm over the last dimensions."""
    shape = x.shape[axis % x.ndim :]
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
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    padded = F.pad(x.square(), (*[0] * (2 * (x.ndim - 2)), before, after))
    squares = torch.stack([padded.narrow(1, i, x.shape[1]) for i in range(size)]).sum(0)
    return x / (bias + alpha / size * squares).pow(beta)


@operator("LpNormalization")
def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the p-norm along a dimension."""
    return x / torch.linalg.vector_norm(x, p, axis, keepdim=True)


@operator("MeanVarianceNormalization")
def mean_variance_norm(x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Subtract the mean, divide by the standard deviation."""
    centred = x - x.mean(tuple(axes), keepdim=True)
    return centred / (centred.square().mean(tuple(axes), keepdim=True).sqrt() + 1e-9)
