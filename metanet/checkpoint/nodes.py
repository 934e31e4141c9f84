"""What a pickle held, as a tree: the parts of containers, modules and other objects, and which of them hold weights."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from metanet.checkpoint.arrays import ArrayRef
from metanet.checkpoint.storage import Call, Refused, StorageType, TensorRef
from metanet.checkpoint.unpickle import Stub

CONTAINERS = (dict, list, tuple, set, frozenset, Stub)


def children(node: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of a container, of a module's stub (as its ``state_dict``) or of any other stub."""
    if isinstance(node, dict):
        yield from ((key_text(key, index), value) for index, (key, value) in enumerate(node.items()))
    elif isinstance(node, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(node))
    elif isinstance(node, Stub):
        state = attributes(node)
        if isinstance(state.get("_parameters"), dict) and isinstance(state.get("_modules"), dict):
            transient = state.get("_non_persistent_buffers_set")
            transient = transient if isinstance(transient, (set, frozenset)) else set()
            yield from children(state["_parameters"])
            yield from ((key, value) for key, value in children(state.get("_buffers")) if key not in transient)
            yield from children(state["_modules"])
        else:
            yield from children(node.entries)
            yield from children(node.elements)
            yield from children(state)


def key_text(key: object, index: int) -> str:
    """A key of a dict as part of a name; one that is no plain value is called by its position."""
    if isinstance(key, bytes):
        return key.decode("latin1")
    plain = all(isinstance(part, (str, int, float, type(None))) for part in (key if isinstance(key, tuple) else (key,)))
    return str(key) if plain else f"#{index}"


def attributes(stub: Stub) -> dict[Any, Any]:
    """What would have been the ``__dict__`` and the slots of an object."""
    parts = stub.state if isinstance(stub.state, tuple) else (stub.state,)
    return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


def is_tensor(node: Any) -> bool:
    """Whether a node stands for one tensor, readable or not."""
    return isinstance(node, (TensorRef, Refused)) or (isinstance(node, ArrayRef) and node.array is not None)


def everything(node: Any) -> Iterator[Any]:
    """What a container or stub was given, whether or not it belongs to a net."""
    if isinstance(node, dict):
        yield from node.values()
    elif isinstance(node, (list, tuple, set, frozenset)):
        yield from node
    elif isinstance(node, Stub):
        yield from (node.args, node.state, node.entries, node.elements)


def of_nets(node: Any) -> Iterator[Any]:
    """The parts of a container or stub in which weights are looked for; an optimiser has none."""
    if isinstance(node, (list, tuple)):
        yield from node
    elif not is_optimiser(node):
        yield from (child for _, child in children(node))


class Finder:
    """Tells which parts of a tree hold weights: those from which a tensor can be reached.

    Each object is looked at once, so that a few kilobytes of lists that hold each other end.
    """

    def __init__(self, tree: Any, parts: Callable[[Any], Iterator[Any]] = of_nets) -> None:
        owners: dict[int, list[int]] = {}
        visited: set[int] = set()
        pending, found = [tree], []
        while pending:
            node = pending.pop()
            if id(node) in visited:
                continue
            visited.add(id(node))
            for child in parts(node):
                if is_tensor(child):
                    found.append(id(node))
                elif isinstance(child, CONTAINERS):
                    owners.setdefault(id(child), []).append(id(node))
                    pending.append(child)
        self._tree = tree  # keeps the objects alive whose identities are kept
        self._holding: set[int] = set()
        while found:
            one = found.pop()
            if one not in self._holding:
                self._holding.add(one)
                found += owners.get(one, ())

    def __call__(self, node: Any) -> bool:
        """Whether there is a tensor at or below ``node``, which is the tree or a part of it."""
        return is_tensor(node) or id(node) in self._holding

    @cached_property
    def deep(self) -> "Finder":
        """The same for everything that objects hold, such as attributes of modules that are no parameters."""
        return Finder(self._tree, everything)


def is_optimiser(node: Any) -> bool:
    """Whether a node is the state dict of an optimiser, or the optimiser itself."""
    keys = node if isinstance(node, dict) else attributes(node) if isinstance(node, Stub) else {}
    return "param_groups" in keys and "state" in keys


def is_module(node: Any) -> bool:
    """Whether a node is the stub of a ``torch.nn.Module``."""
    return isinstance(node, Stub) and {"_parameters", "_modules"} <= attributes(node).keys()


def is_something(node: Any) -> bool:
    """Whether a node holds anything."""
    if isinstance(node, Stub):
        return bool(node.args or node.state or node.entries or node.elements)
    if isinstance(node, (dict, list, tuple, set, frozenset, str, bytes, bytearray)):
        return bool(node)
    return node is not None and not isinstance(node, (bool, Call, StorageType, type, torch.dtype))
