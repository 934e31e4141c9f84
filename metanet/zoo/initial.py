"""Initial weights of zoo nets."""

from __future__ import annotations

import math

import numpy as np

from metanet.zoo.architecture import BatchNorm, Conv, Linear
from metanet.zoo.draws import NetPlan, stream

SIREN = 30.0  # the frequency factor that the scheme 'siren' makes up for


def initial_weights(plan: NetPlan) -> dict[str, np.ndarray]:
    """Draw the initial ``state_dict`` of a net, float64, by ``init``, ``init_gain`` and ``init_std``.

    ``default`` is PyTorch's, uniform in +-1/sqrt(fan_in) for weights and biases; ``siren`` is uniform in +-1/fan_in for
    the first layer and +-sqrt(6/fan_in)/30 for the others, with PyTorch's biases (Sitzmann et al. 2020,
    arXiv:2006.09661, section 3.2). The other schemes have zero biases: ``normal`` and ``truncated_normal`` (cut at two
    deviations) have the deviation ``init_std``, and the rest are the functions of ``torch.nn.init`` of that name.
    Weights are then multiplied by the gain.
    """
    rng = stream(plan.seed, plan.net, "weights")
    out: dict[str, np.ndarray] = {}
    arch = plan.architecture
    for name, layer, shape in zip(arch.names(), arch.layers, arch.shapes(), strict=False):
        if isinstance(layer, BatchNorm):
            ones, zeros = np.ones(shape[0]), np.zeros(shape[0])
            out |= {f"{name}.weight": ones, f"{name}.bias": zeros}
            out |= {f"{name}.running_mean": zeros.copy(), f"{name}.running_var": ones.copy()}
        if not isinstance(layer, Conv | Linear):
            continue
        full = (
            (layer.out, shape[0], layer.kernel, layer.kernel)
            if isinstance(layer, Conv)
            else (layer.out, math.prod(shape))
        )
        weight, bias = _draw(rng, plan, full, first=not out)
        out[f"{name}.weight"], out[f"{name}.bias"] = plan.settings["init_gain"] * weight, bias
    return out


def _draw(rng: np.random.Generator, plan: NetPlan, full: tuple[int, ...], first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw weight and bias of one layer."""
    scheme, std, out = plan.settings["init"], plan.settings["init_std"], full[0]
    fan_in, fan_out = math.prod(full[1:]), out * math.prod(full[2:])
    if scheme in ("default", "siren"):
        bound = 1 / math.sqrt(fan_in)
        wide = bound if scheme == "default" else 1 / fan_in if first else math.sqrt(6 / fan_in) / SIREN
        return rng.uniform(-wide, wide, full), rng.uniform(-bound, bound, out)
    if scheme == "kaiming_normal":
        weight = rng.normal(0, math.sqrt(2 / fan_in), full)
    elif scheme == "xavier_uniform":
        bound = math.sqrt(6 / (fan_in + fan_out))
        weight = rng.uniform(-bound, bound, full)
    elif scheme == "xavier_normal":
        weight = rng.normal(0, math.sqrt(2 / (fan_in + fan_out)), full)
    elif scheme == "normal":
        weight = rng.normal(0, std, full)
    elif scheme == "truncated_normal":
        weight = std * _truncated(rng, full)
    else:
        weight = _orthogonal(rng, out, fan_in).reshape(full)
    return weight, np.zeros(out)


def _truncated(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard normal numbers, again and again where they are beyond two deviations."""
    out = rng.normal(size=shape)
    while (far := np.abs(out) > 2).any():
        out[far] = rng.normal(size=int(far.sum()))
    return out


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw a ``[rows, columns]`` matrix with orthonormal rows, or columns where there are fewer of them."""
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
