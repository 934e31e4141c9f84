"""From Keras' layouts and names to PyTorch's, one layer at a time."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from metanet.errors import CheckpointError

Array = np.ndarray[Any, Any]

RENAMED = {
    **{"kernel": "weight", "depthwise_kernel": "depthwise.weight", "pointwise_kernel": "pointwise.weight"},
    **{"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
    **{"embeddings": "weight", "alpha": "weight", "recurrent_kernel": "weight_hh_l0"},
}

ROLES = {
    **dict.fromkeys(("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D"), ("kernel", "bias")),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), ("kernel", "bias")),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), ("depthwise_kernel", "bias")),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), ("depthwise_kernel", "pointwise_kernel", "bias")),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), ("kernel", "recurrent_kernel", "bias")),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "RMSNormalization"), ("gamma", "beta")),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Embedding": ("embeddings",),
    "PReLU": ("alpha",),
}
"""Weights of Keras' layers in the order in which ``.keras`` files number them."""

ATTENTION = {"MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"}
EINSUM_NAMES = {"query", "key", "value", "attention_output"}


def snake_case(name: str) -> str:
    """Name that Keras gives to the first layer of a class: ``DepthwiseConv2D`` -> ``depthwise_conv2d``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name.replace(" ", ""))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


BY_NAME = {snake_case(kind): kind for kind in (*ROLES, *ATTENTION)} | {"p_re_lu": "PReLU"}


def kind_from_name(name: str) -> str | None:
    """Class of a layer that Keras named itself (``conv2d_3``, ``forward_lstm``, ``gru_cell``), else None."""
    base = re.sub(r"_\d+$", "", name.rpartition("/")[2])
    base = re.sub(r"^(forward|backward)_", "", base).removesuffix("_cell")
    return "EinsumDense" if base in EINSUM_NAMES else BY_NAME.get(re.sub(r"_\d+$", "", base))


def roles(kind: str | None, config: Mapping[str, Any], count: int, where: str) -> list[str]:
    """Names of the numbered weights of a layer in a ``.keras`` file.

    Raises:
        CheckpointError: A normalisation layer lacks some weights and nothing says which.
    """
    names = list(ROLES.get(kind or "", ()))
    off = {"gamma": "scale", "beta": "center"}
    if config:
        names = [name for name in names if config.get(off.get(name, ""), True) is not False]
    elif kind == "BatchNormalization" and count == 2:
        names = names[2:]
    elif names and "gamma" in names and count != len(names):
        raise CheckpointError(
            f"'{where}' has {count} of the weights {', '.join(names)} and the file does not say which. "
            "Save the whole model as .keras."
        )
    return (names + [f"var{index}" for index in range(len(names), count)])[:count]


def convert(kind: str | None, weights: Mapping[str, Array], where: str) -> dict[str, Array]:
    """Weights of one layer in PyTorch's names and layouts.

    - Convolution kernels ``[*taps, in, out]`` -> ``[out, in, *taps]``; transposed ones ``[*taps, out, in]`` ->
      ``[in, out, *taps]``.
    - Depthwise kernels ``[*taps, c, m]`` -> ``[c * m, 1, *taps]``; dense kernels ``[in, out]`` -> ``[out, in]``.
    - LSTM gates keep Keras' order i, f, c, o, which is PyTorch's i, f, g, o; GRU gates z, r, h become r, z, n.
      ``kernel``, ``recurrent_kernel``, ``bias`` -> ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``; a second row of
      the bias (GRU with ``reset_after``, cuDNN layers) -> ``bias_hh_l0``, and where there is none PyTorch's is zero.
      A GRU with ``reset_after=False`` has the same weights but resets before the product, unlike PyTorch's.
    - Columns of a dense layer after ``Flatten`` keep Keras' order height, width, channel.
    - Attention projections (``EinsumDense``) and weights of unknown roles stay as they are.

    Args:
        kind: Class of the layer, None if unknown.
        weights: Keras' name of each weight to its values.
        where: Name of the layer, for errors.

    Raises:
        CheckpointError: The layer is quantised, or a recurrent layer's shapes do not fit together.
    """
    for name, value in weights.items():
        if name.endswith("kernel") and value.dtype.kind in "iu":
            raise CheckpointError(f"'{where}' is quantised (got {value.dtype} for its {name}). Load the float model.")
    if "recurrent_kernel" in weights and weights["recurrent_kernel"].ndim == 2:
        return convert_recurrent(weights, where)
    renamed = RENAMED if "pointwise_kernel" in weights else RENAMED | {"depthwise_kernel": "weight"}
    return {renamed.get(name, name): layout(kind, name, value) for name, value in weights.items()}


def layout(kind: str | None, name: str, value: Array) -> Array:
    """One weight of a layer without recurrence in PyTorch's layout."""
    if name == "alpha" and value.shape and value.size == value.shape[-1]:
        return value.reshape(-1)  # PReLU with one slope a channel
    if not name.endswith("kernel") or value.ndim < 2 or kind == "EinsumDense":
        return value
    front = np.moveaxis(value, (-2, -1), (0, 1))
    if name == "depthwise_kernel" or (kind or "").startswith("Depthwise"):
        return front.reshape(-1, 1, *value.shape[:-2])
    return front.swapaxes(0, 1)


def convert_recurrent(weights: Mapping[str, Array], where: str) -> dict[str, Array]:
    """Weights of an LSTM (4 gates), GRU (3 gates) or plain recurrent layer (1)."""
    units, columns = weights["recurrent_kernel"].shape
    gates = columns // max(units, 1)
    if gates not in (1, 3, 4) or gates * units != columns:
        raise CheckpointError(
            f"'{where}' has a recurrent kernel of shape {[units, columns]}, whose gates are not known."
        )
    order = [1, 0, 2] if gates == 3 else list(range(gates))

    def arrange(value: Array) -> Array:
        blocks = np.split(value, gates, axis=-1)
        return np.concatenate([blocks[gate] for gate in order], axis=-1)

    found: dict[str, Array] = {}
    for name, value in weights.items():
        if name == "bias" and value.size in (columns, 2 * columns):
            rows = arrange(value.reshape(-1, columns))
            found |= dict(zip(("bias_ih_l0", "bias_hh_l0"), rows, strict=False))
        elif name in ("kernel", "recurrent_kernel") and value.ndim == 2 and value.shape[-1] == columns:
            found["weight_ih_l0" if name == "kernel" else "weight_hh_l0"] = arrange(value).T
        else:
            raise CheckpointError(f"'{where}' has a {name} of shape {list(value.shape)} beside {columns} gate columns.")
    return found
