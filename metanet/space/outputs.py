"""Tensors in what a module returns, whatever it returns: dataclasses, distributions, objects that hold tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metanet.errors import SpaceError

PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
"""What a module may return beside tensors."""
DEPTH = 8  # of objects within objects


def readable(module: nn.Module, inputs: Any, result: Any) -> Any:
    """Return the outputs of a module with its tensors in plain containers; a forward hook.

    Raises:
        SpaceError: An output is of a type whose tensors cannot be found.
    """
    leaves = pytree.tree_leaves(result)
    if all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
        return None  # as it is
    return tuple(found for leaf in leaves for found in _tensors(leaf, type(module).__name__, DEPTH))


def _tensors(item: Any, name: str, depth: int) -> list[Any]:
    if isinstance(item, (Tensor, *PLAIN)):
        return [item] if isinstance(item, Tensor) else []
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        parts = [getattr(item, field.name, None) for field in dataclasses.fields(item)]
    else:
        parts = [value for key, value in getattr(item, "__dict__", {}).items() if not callable(value)]
    leaves = [leaf for part in parts for leaf in pytree.tree_leaves(part)]
    found = [t for leaf in leaves if depth > 0 and _holds(leaf) for t in _tensors(leaf, name, depth - 1)]
    if not found:
        raise SpaceError(
            f"{name} could not be traced: it returns a {type(item).__name__}, in which no tensors are found. Accepted: "
            f"a tensor, a tuple, list or dict of tensors, a dataclass, a distribution; return one of these"
        )
    return found


def _holds(item: Any) -> bool:
    """Return whether an item may hold tensors that change with the inputs."""
    return isinstance(item, Tensor) or (hasattr(item, "__dict__") and not isinstance(item, (type, nn.Module, *PLAIN)))
