"""Construct modules of libraries without filling their weights, so that size costs neither time nor memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

LARGE = 4096  # entries above which memory is left unfilled
BUFFERS = 1 << 26  # entries of all buffers that an untrusted configuration may ask for, or as many as the file has
RANDOM = {"aten::uniform_", "aten::normal_", "aten::random_", "aten::bernoulli_", "aten::exponential_"}
FACTORIES = {"aten::randn", "aten::rand"}


class Unfilled(TorchDispatchMode):
    """Leave large random tensors unfilled: the memory is reserved and never touched.

    Constants of a module (index tables, filters, position codes) are computed as always, since traces read them; the
    meta device would lose them. Whatever writes into unfilled memory later, such as the clamp of a truncated normal
    distribution, changes nothing either.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, Any] = {}  # kept alive, so that no constant is given the same address meanwhile

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Skip writing into unfilled memory."""
        name = func._schema.name
        first = args[0] if args else None
        if name in FACTORIES and isinstance(first, (list, tuple)) and math.prod(first) > LARGE:
            options = {k: v for k, v in (kwargs or {}).items() if k != "generator"}
            return self._mark(torch.ops.aten.empty.memory_format(first, **options))
        if isinstance(first, Tensor) and name.endswith("_") and not first.is_meta:
            if name in RANDOM and first.numel() > LARGE:
                return self._mark(first)
            if first.untyped_storage()._cdata in self._storages:
                return first
        return func(*args, **(kwargs or {}))

    def _mark(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor


class Misfit(Exception):
    """A module that is being constructed has a parameter that the state dict lacks."""


@contextmanager
def only_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Stop a construction at its first parameter whose shape the state dict does not have, or after too many.

    This bounds what a construction from an untrusted configuration costs by the size of the file itself.

    Raises:
        Misfit: The module does not fit the state dict.
    """
    allowed, left = set(shapes.values()), 4 * len(shapes) + 16  # modules may be moved about, and tied
    room = max(BUFFERS, sum(map(math.prod, shapes.values())))

    def parameter(module: nn.Module, name: str, made: nn.Parameter | None) -> None:
        nonlocal left
        left -= made is not None
        if made is not None and (tuple(made.shape) not in allowed or left < 0):
            raise Misfit(f"'{name}' of a {type(module).__name__} has the shape {list(made.shape)}")

    def buffer(module: nn.Module, name: str, made: Tensor | None) -> None:
        nonlocal room
        room -= 0 if made is None else made.numel()
        if room < 0:
            raise Misfit(f"'{name}' of a {type(module).__name__} is larger than the file")

    handles = register_module_parameter_registration_hook(parameter), register_module_buffer_registration_hook(buffer)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def construct(make: Callable[[], nn.Module]) -> nn.Module:
    """Call a constructor with the weights left unfilled; the module is in eval mode and needs no gradients."""
    with Unfilled(), torch.random.fork_rng(devices=[]):
        module = make()
    return module.eval().requires_grad_(False)


class Prefixed(nn.Module):
    """A module whose state dict has a prefix before every name: ``"module."``, ``"model.backbone."``.

    Args:
        inner: The module.
        prefix: Components with a dot after each.
    """

    def __init__(self, inner: nn.Module, prefix: str) -> None:
        super().__init__()
        head, _, rest = prefix.partition(".")
        self._head = head
        self.add_module(head, Prefixed(inner, rest) if rest else inner)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the inner module."""
        return self._modules[self._head](*inputs, **named)  # type: ignore[misc]


def prefixed(module: nn.Module, prefix: str) -> nn.Module:
    """Return the module itself, or with a prefix before the names of its tensors."""
    return Prefixed(module, prefix) if prefix else module
