"""Where the numbers of a net lie in one row of a flat matrix: first what is trained, then running statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np
import torch
from torch import Tensor

from metanet.zoo import architecture as spec

Parts = tuple[str, str]
TRAINED: Parts = ("weight", "bias")
RUNNING: Parts = ("running_mean", "running_var")


@dataclass(frozen=True)
class Slot:
    """Where two tensors of a layer lie: ``out`` rows of ``fan_in`` numbers of the first and one of the second."""

    name: str
    offset: int
    out: int
    fan_in: int
    shape: tuple[int, ...]
    parts: Parts = TRAINED

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.out * (self.fan_in + 1)

    def view(self, flat: Tensor) -> Tensor:
        """Return the layer's numbers, ``[k, out, fan_in + 1]``, as a view."""
        return flat[:, self.offset : self.offset + self.size].unflatten(1, (self.out, self.fan_in + 1))


@cache
def slots(architecture: spec.Architecture) -> dict[int, Slot]:
    """Return the slots of what is trained by position of the layer, in order."""
    out: dict[int, Slot] = {}
    offset = 0
    names, shapes = architecture.names(), architecture.shapes()
    for i, layer in enumerate(architecture.layers):
        if isinstance(layer, spec.Conv):
            fan: tuple[int, ...] = (shapes[i][0], layer.kernel, layer.kernel)
            out[i] = Slot(names[i], offset, layer.out, prod(fan), (layer.out, *fan))
        elif isinstance(layer, spec.Linear):
            out[i] = Slot(names[i], offset, layer.out, prod(shapes[i]), (layer.out, prod(shapes[i])))
        elif isinstance(layer, spec.BatchNorm):
            out[i] = Slot(names[i], offset, shapes[i][0], 1, shapes[i][:1])
        else:
            continue
        offset += out[i].size
    return out


@cache
def running_slots(architecture: spec.Architecture) -> dict[int, Slot]:
    """Return the slots of the running statistics by position of the layer."""
    out: dict[int, Slot] = {}
    offset = architecture.parameters
    for i, slot in slots(architecture).items():
        if isinstance(architecture.layers[i], spec.BatchNorm):
            out[i] = Slot(slot.name, offset, slot.out, 1, slot.shape, RUNNING)
            offset += out[i].size
    return out


def _every(architecture: spec.Architecture) -> list[Slot]:
    return [*slots(architecture).values(), *running_slots(architecture).values()]


def pack(
    architecture: spec.Architecture, state_dicts: Sequence[Mapping[str, np.ndarray]], dtype: torch.dtype
) -> Tensor:
    """Return ``state_dict`` arrays of k nets as the flat matrix ``[k, P]``."""
    rows = []
    for tensors in state_dicts:
        parts = []
        for slot in _every(architecture):
            first, second = (tensors[f"{slot.name}.{part}"] for part in slot.parts)
            parts.append(np.concatenate([first.reshape(slot.out, slot.fan_in), second[:, None]], axis=1).ravel())
        rows.append(np.concatenate(parts))
    return torch.from_numpy(np.stack(rows)).to(dtype)


def unpack(architecture: spec.Architecture, flat: Tensor) -> dict[str, Tensor]:
    """Return the flat matrix as stacked ``state_dict`` tensors ``[k, *shape]``, contiguous."""
    out = {}
    for slot in _every(architecture):
        both = slot.view(flat)
        out[f"{slot.name}.{slot.parts[0]}"] = both[:, :, :-1].reshape(len(flat), *slot.shape)
        out[f"{slot.name}.{slot.parts[1]}"] = both[:, :, -1].contiguous()
    return out


def second_parts(architecture: spec.Architecture) -> Tensor:
    """Return a mask ``[P]`` of the trained numbers that are biases (and shifts)."""
    mask = torch.zeros(1, architecture.parameters, dtype=torch.bool)
    for slot in slots(architecture).values():
        slot.view(mask)[:, :, -1] = True
    return mask[0]
