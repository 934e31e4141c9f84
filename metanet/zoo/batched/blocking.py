"""Which nets train together, and on how many images at a time, so that what they touch stays in the cache."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from math import prod

import torch

from metanet.zoo.architecture import Activation, Architecture, BatchNorm, Conv, Linear
from metanet.zoo.draws import NetPlan

CACHE = 3 << 20  # bytes that a block touches in one pass
FEWEST = 64  # items a call works on at least, if a net's batch has as many: calls cost time, too
DEVICE_MEMORY = 1 << 30  # the same on an accelerator, which wants much work at once


def item_bytes(architecture: Architecture) -> int:
    """Return how many bytes of one image, or point, a pass of one net touches: patches, values and gradients."""
    shapes, numbers = architecture.shapes(), 0
    for layer, shape, after in zip(architecture.layers, shapes[:-1], shapes[1:], strict=True):
        if isinstance(layer, Conv):
            positions = prod(after[1:])
            numbers += (shape[0] * layer.kernel**2 + layer.out) * positions + 2 * prod(shape)
        elif isinstance(layer, Linear):
            numbers += 2 * prod(shape) + layer.out
        elif isinstance(layer, Activation | BatchNorm):
            numbers += prod(after)
    return 4 * numbers


def blocks(plans: Sequence[NetPlan], batch_size: int, device: str | torch.device = "cpu") -> list[list[NetPlan]]:
    """Group nets for training: one architecture and kind of optimiser a block, similar lengths, the longest first."""
    groups: dict[Hashable, list[NetPlan]] = {}
    for plan in plans:
        kind = tuple(plan.settings[name] for name in ("optimizer", "smoothing", "epsilon"))
        groups.setdefault((plan.architecture, kind), []).append(plan)
    out = []
    for members in groups.values():
        members.sort(key=lambda plan: (-plan.steps, plan.net))
        together = max(1, _budget(device) // (item_bytes(members[0].architecture) * batch_size))
        out += [list(part) for part in _cut(members, -(-len(members) // together))]
    return out


def part_size(architecture: Architecture, nets: int, batch_size: int, device: str | torch.device = "cpu") -> int:
    """Return how many images of each net are worked on at a time: a divisor of the batch.

    Gradients of the parts of a batch are added up. Batch normalisation needs whole batches.
    """
    if any(isinstance(layer, BatchNorm) for layer in architecture.layers):
        return batch_size
    room = max(-(-FEWEST // nets), _budget(device) // (item_bytes(architecture) * nets))
    return max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= room)


def _budget(device: str | torch.device) -> int:
    return CACHE if torch.device(device).type == "cpu" else DEVICE_MEMORY


def _cut(members: list[NetPlan], count: int) -> Iterator[list[NetPlan]]:
    """Cut a list into ``count`` parts of nearly equal size."""
    for i in range(count):
        yield members[i * len(members) // count : (i + 1) * len(members) // count]
