"""Memory that is used again and again, as fresh pages cost more than the arithmetic on them.

Temporaries of a megabyte are given back to the system when they are freed, and every page of the next one is a fault:
half of the time that embedding a large network took.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_LOCAL = threading.local()


def scratch(name: str, like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor whose memory the next call with this name, in this thread, will use again.

    Args:
        name: What it is for; names that are in use at the same time must differ.
        like: Tensor of the device and the dtype wanted.
        shape: Its shape.
    """
    if like.device.type != "cpu" or type(like) is not Tensor:  # accelerators have allocators that do this
        return like.new_empty(shape)
    buffers: dict[tuple[str, torch.dtype], Tensor] = _LOCAL.__dict__.setdefault("buffers", {})
    size, key = math.prod(shape), (name, like.dtype)
    if key not in buffers or buffers[key].numel() < size:
        with torch.inference_mode(False):  # what is made in that mode cannot be written to outside of it
            buffers[key] = torch.empty(size, dtype=like.dtype)
    return buffers[key][:size].view(shape)
