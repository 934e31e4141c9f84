"""From tensor names and shapes to layers: which tensors belong together, and what kind of layer they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from metanet.space.inference.refusal import refuse, refuse_by_name, stem_and_number, words

Kind = Literal["linear", "convolution", "batch_norm", "norm", "slope", "scalar"]

ROLES = {
    "weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "variance",
    "kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "mean", "moving_variance": "variance",
}  # fmt: skip
CHANNELWISE = words("ln layernorm layer_norm layer_normalization rmsnorm rms_norm instancenorm instance_norm")
STATISTICAL = words("bn batchnorm batch_norm batch_normalization")
GROUPED = words("gn groupnorm group_norm group_normalization")
SLOPES = words("prelu p_re_lu")


@dataclass(frozen=True)
class Layer:
    """The tensors of one module.

    Attributes:
        path: The module's path in the file, "" for a bare layer.
        components: Its parts.
        kind: What it is; ``"slope"`` is PReLU, ``"scalar"`` a lone number that has no axis.
        names: Full tensor name by role.
        shapes: Shape by role.
        inputs_last: Whether the weight is ``[*taps, in, out]`` (a ``kernel`` in Keras' and Flax' naming) rather than
            ``[out, in, *taps]``.
        norm_groups: Groups of a norm layer, 1 for layer and instance norm.
    """

    path: str
    components: tuple[str, ...]
    kind: Kind
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    inputs_last: bool = False
    norm_groups: int = 1

    @property
    def out_dim(self) -> int:
        """Dimension of the weight that is written."""
        return len(self.shapes["weight"]) - 1 if self.inputs_last else 0

    @property
    def in_dim(self) -> int:
        """Dimension of the weight that is read."""
        return len(self.shapes["weight"]) - 2 if self.inputs_last else 1

    @property
    def size(self) -> int:
        """Neurons written, or acted upon by a norm."""
        if self.kind in ("linear", "convolution"):
            return self.shapes["weight"][self.out_dim]
        return next(iter(self.shapes.values()), (1,))[0] if self.kind != "scalar" else 1

    @property
    def main(self) -> tuple[str, tuple[int, ...]]:
        """Name and shape of the tensor that stands for the layer in messages."""
        role = next(iter(self.names))
        return self.names[role], self.shapes[role]


def find_layers(state: Mapping[str, Tensor], norm_groups: int | None, residual: bool) -> list[Layer]:
    """Group the tensors of a state dict by module, in its order.

    Args:
        state: Tensors by name. Counters and other lone whole numbers are left out.
        norm_groups: Groups of norm layers without running statistics, None if unknown.
        residual: Whether names follow torchvision's residual networks, so that shortcuts are understood.

    Raises:
        SpaceError: A tensor is of no kind that names and shapes tell.
    """
    modules: dict[tuple[str, ...], dict[str, str]] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            if tensor.numel() > 1:
                raise refuse(
                    name, tensor.shape, f"has type {tensor.dtype}", ["a table of indices", "a quantised weight"]
                )
            continue
        *components, leaf = re.split(r"[./]", re.sub(r":\d+$", "", name))
        shortcut = {"downsample", "shortcut"} if residual else set()
        refuse_by_name(name, tensor.shape, [c for c in components if c not in shortcut], leaf)
        modules.setdefault(tuple(components), {})[leaf] = name
    return [_layer(path, leaves, state, norm_groups) for path, leaves in modules.items()]


def _layer(path: tuple[str, ...], leaves: dict[str, str], state: Mapping[str, Tensor], groups: int | None) -> Layer:
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for leaf, name in leaves.items():
        role = ROLES.get(leaf)
        shape = tuple(state[name].shape)
        if not shape and role is None:
            return Layer(".".join(path), path, "scalar", {"weight": name}, {"weight": shape})
        if role is None or role in names:
            raise refuse(
                name, shape, "has a name of no known meaning", [f"names that are understood: {', '.join(ROLES)}"]
            )
        names[role], shapes[role] = name, shape
    kind, norm_groups = _kind(path, names, shapes, groups)
    layer = Layer(".".join(path), path, kind, names, shapes, "kernel" in leaves, norm_groups)
    vectors = [role for role in names if role != "weight" or kind in ("batch_norm", "norm")]
    for role in vectors:
        if shapes[role] != (layer.size,):
            transposed = kind == "convolution" and shapes[role] == (shapes["weight"][1],)
            raise refuse(
                names[role], shapes[role], f"does not fit a {kind.replace('_', ' ')} of size {layer.size}",
                ["a transposed convolution"] if transposed else ["a norm over several dimensions", "a custom layer"],
            )  # fmt: skip
    return layer


def _kind(
    path: tuple[str, ...], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], groups: int | None
) -> tuple[Kind, int]:
    """Kind of a layer, and the groups of a norm."""
    rank = len(shapes["weight"]) if "weight" in shapes else 1
    role = next(iter(names))
    if "mean" in names or "variance" in names:
        if rank == 1 and {"mean", "variance"} <= names.keys():
            return "batch_norm", 1
        raise refuse(names[role], shapes[role], "has only part of a norm layer's statistics", ["a custom layer"])
    if rank > 5 or rank == 0:
        raise refuse(names[role], shapes[role], f"has {rank} dimensions", ["a custom layer"])
    if rank > 1:
        return ("linear" if rank == 2 else "convolution"), 1
    return _vector_kind(stem_and_number(path[-1])[0] if path else "", names, shapes, groups)


def _vector_kind(
    stem: str, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], groups: int | None
) -> tuple[Kind, int]:
    """Kind of a layer that holds vectors only, which its name must tell where the shapes do not."""
    role = next(iter(names))
    if stem in SLOPES and set(names) == {"weight"}:
        return "slope", 1
    if stem in CHANNELWISE | STATISTICAL and "weight" in names:
        return "norm", 1
    if set(names) == {"weight"} and shapes["weight"] == (1,):
        return "slope", 1
    if set(names) == {"weight", "bias"} or (stem in GROUPED and "weight" in names):
        if groups is not None:
            return "norm", groups
        raise refuse(
            names[role], shapes[role], "belongs to a norm layer without running statistics",
            ["layer norm, instance norm or batch norm without statistics: pass norm_groups=1",
             "group norm: pass the number of groups as norm_groups"],
        )  # fmt: skip
    raise refuse(
        names[role], shapes[role], "is a lone vector", ["a bias", "the slopes of a PReLU", "the scale of a norm layer"]
    )
