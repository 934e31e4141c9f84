"""Running a module without leaving a trace: its mode, its attributes and all random numbers are as they were."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metanet.space.exporting import evaluating

MANY = 10_000  # objects that are looked at, at most
OWN = frozenset(nn.Module().__dict__)  # what torch keeps of every module: hooks, and tensors that runs are given
PLAIN = frozenset((int, float, bool, str, type(None), tuple, torch.Size))
CONTAINERS = (dict, list, set, collections.deque, collections.OrderedDict, collections.defaultdict)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and put back afterwards whatever a run has written to its attributes.

    That is the attributes of all its modules, and what they hold: containers in containers, plain objects, generators
    of random numbers, and tensors that are no parameters (caches, counters, hidden states).
    """
    undo: list[Callable[[], None]] = []
    seen: set[int] = set()
    stack = [v for m in module.modules() for k, v in m.__dict__.items() if k not in OWN and type(v) not in PLAIN]
    while stack and len(seen) < MANY:
        item = stack.pop()
        if id(item) in seen or isinstance(item, nn.Module | nn.Parameter | type | ModuleType):
            continue
        restore, inside = _snapshot(item)
        if restore is not None:
            seen.add(id(item))
            undo.append(restore)
            stack.extend(inside)
    with evaluating(module):
        try:
            yield
        finally:
            for restore in undo:
                restore()


def _snapshot(item: Any) -> tuple[Callable[[], None] | None, list[Any]]:
    """What puts an object back into its present state, and the objects within it; None if nothing can change it."""
    if isinstance(item, Tensor):
        return _tensor(item), []
    if isinstance(item, torch.Generator):
        state = item.get_state()

        def rewind() -> None:
            item.set_state(state)

        return rewind, []
    if type(item) in CONTAINERS:
        content = item.copy()

        def refill() -> None:
            item.clear()
            item.update(content) if hasattr(item, "update") else item.extend(content)

        return refill, list(content.values() if isinstance(content, dict) else content)
    own = getattr(item, "__dict__", None)
    if isinstance(own, dict) and not callable(item):
        before = dict(own)

        def reset() -> None:
            own.clear()
            own.update(before)

        return reset, list(before.values())
    return None, []


def _tensor(tensor: Tensor) -> Callable[[], None] | None:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    version, before = tensor._version, tensor.detach().clone()

    def restore() -> None:
        if tensor._version != version:
            with torch.no_grad():
                tensor.detach().copy_(before)

    return restore


@contextmanager
def same_numbers(seed: int) -> Iterator[None]:
    """Seed the random numbers of torch, NumPy and Python, and put their generators back afterwards."""
    plain, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (the one that modules use)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)  # noqa: NPY002
