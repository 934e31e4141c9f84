"""From tensor names and shapes to layers: which tensors belong together, and what kind of layer they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from metanet.space.inference.options import NORM_GROUPS, Reading
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
COUNTERS = words("num_batches_tracked n_averaged")


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
    def taps(self) -> tuple[int, ...]:
        """Sizes of a convolution's kernel."""
        shape = self.shapes["weight"]
        return shape[:-2] if self.inputs_last else shape[2:]

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


def find_layers(state: Mapping[str, Tensor], reading: Reading, residual: bool) -> list[Layer]:
    """Group the tensors of a state dict by module, in its order.

    Args:
        state: Tensors by name. Counters, whatever their type, and other lone whole numbers are left out.
        reading: What the user said.
        residual: Whether names follow torchvision's residual networks, so that shortcuts are understood.

    Raises:
        SpaceError: A tensor is of no kind that names and shapes tell.
    """
    modules: dict[tuple[str, ...], dict[str, str]] = {}
    for name, tensor in state.items():
        *components, leaf = re.split(r"[./]", re.sub(r":\d+$", "", name))
        if leaf in COUNTERS and tensor.numel() == 1:
            continue
        if not tensor.is_floating_point():
            if tensor.dim() > 0:
                raise refuse(
                    name, tensor.shape, f"has type {tensor.dtype}", ["a table of indices", "a quantised weight"]
                )
            continue
        shortcut = {"downsample", "shortcut"} if residual else set()
        refuse_by_name(name, tensor.shape, [c for c in components if c not in shortcut], leaf, reading.chain)
        if tensor.dim() == 0 and leaf not in ROLES:  # a lone number has no axis, and is a layer of its own
            modules[(*components, leaf, "")] = {leaf: name}
        else:
            modules.setdefault(tuple(components), {})[leaf] = name
    return [_layer(path, leaves, state, reading) for path, leaves in modules.items()]


def _layer(path: tuple[str, ...], leaves: dict[str, str], state: Mapping[str, Tensor], reading: Reading) -> Layer:
    if path[-1:] == ("",):
        (name,) = leaves.values()
        return Layer(".".join(path[:-1]), path[:-2], "scalar", {"weight": name}, {"weight": ()})
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for leaf, name in leaves.items():
        role = ROLES.get(leaf)
        shape = tuple(state[name].shape)
        if role is None or role in names:
            raise refuse(
                name, shape, "has a name of no known meaning", [f"names that are understood: {', '.join(ROLES)}"]
            )
        names[role], shapes[role] = name, shape
    kind, norm_groups = _kind(path, names, shapes, reading.norm_groups)
    inputs_last = "kernel" in leaves or (kind == "linear" and reading.transposed is True)
    layer = Layer(".".join(path), path, kind, names, shapes, inputs_last, norm_groups)
    vectors = [role for role in names if role != "weight" or kind in ("batch_norm", "norm")]
    for role in vectors:
        if shapes[role] != (layer.size,):
            transposed = shapes[role] == (shapes.get("weight", (0, 0))[1:2] or (0,))
            ways = {
                "convolution": "a transposed convolution",
                "linear": "matrices stored [in, out]: pass transposed=True (--transposed)",
            }  # fmt: skip
            raise refuse(
                names[role], shapes[role], f"does not fit a {kind.replace('_', ' ')} of size {layer.size}",
                [ways[kind]] if transposed and kind in ways else ["a norm over several dimensions", "a custom layer"],
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
    if stem in CHANNELWISE and set(names) == {"weight"}:
        return "norm", 1
    if set(names) == {"weight"} and shapes["weight"] == (1,):
        return "slope", 1
    if set(names) == {"weight", "bias"} or (stem in GROUPED | STATISTICAL and "weight" in names):
        if groups is not None:
            return "norm", groups
        raise refuse(names[role], shapes[role], "belongs to a norm layer without running statistics", NORM_GROUPS)
    raise refuse(
        names[role], shapes[role], "is a lone vector", ["a bias", "the slopes of a PReLU", "the scale of a norm layer"]
    )
