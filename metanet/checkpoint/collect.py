"""Find the named tensors in what a pickle holds: state dicts at any depth, lists of them, modules, training states."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metanet.checkpoint.arrays import ArrayRef, to_tensor
from metanet.checkpoint.registry import Contents
from metanet.checkpoint.storage import Refused, TensorRef
from metanet.checkpoint.unpickle import Stub
from metanet.errors import CheckpointError

MAX_DEPTH = 100
MAX_VISITS = 200_000
MAX_TENSORS = 1_000_000
MODEL_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params", "weights")
TRAINING = re.compile(
    r"optim|(lr_?)?sched|(grad_?)?scaler|amp(_|$)|callbacks$|loops$|hyper_parameters|hparams|args$|opts?$|config|cfg|rng|"
    r"random_state|datamodule|metadata$",
    re.IGNORECASE,
)
COPY = re.compile(r"(^|_)(ema|swa|averaged|shadow|best)(_|$)", re.IGNORECASE)


def collect(tree: Any, wrapped: bool = True) -> Contents:
    """Named tensors and metadata of an unpickled tree; reads the storages of those tensors only.

    A wrapper around the weights is opened: ``{"epoch": 3, "model": state_dict, "optimizer": ...}`` gives the names of
    ``state_dict``. If a file holds several nets, all are kept and their keys become prefixes. Optimiser states,
    schedulers and copies of a net that is there itself (moving averages, the best so far) are left out.

    Args:
        tree: What was unpickled.
        wrapped: Whether the net may lie inside a wrapper; if not, all names are full paths from ``tree``.

    Raises:
        CheckpointError: There is no tensor in it, or one cannot be read.
    """
    finder = Finder()
    metadata: dict[str, str] = {}
    left_out: list[str] = []
    child = tree if wrapped else None
    while child is not None:
        tree = child
        metadata |= scalars(tree)
        child, dropped = unwrap(tree, finder)
        left_out += dropped
    tensors = read_all(tree, finder)
    if not tensors:
        raise CheckpointError(f"no tensors in it (got {describe(tree)}). Save the model's state_dict().")
    if left_out:
        metadata["left_out"] = ", ".join(left_out)
    return tensors, metadata


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


class Finder:
    """Tells which parts of a tree hold weights; each object is visited once, cycles included."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}
        self._visits = 0

    def count(self, depth: int) -> None:
        """Count a visit; a few kilobytes of lists that hold each other can make endless paths.

        Raises:
            CheckpointError: There were too many, or this one is too deep.
        """
        self._visits += 1
        if self._visits > MAX_VISITS or depth > MAX_DEPTH:
            raise CheckpointError(
                f"its containers nest too deep (over {MAX_DEPTH}) or too often (over {MAX_VISITS:,}); "
                "the file is damaged or hostile."
            )

    def __call__(self, node: Any, depth: int = 0) -> bool:
        """Whether there is a tensor at or below ``node``."""
        if is_tensor(node):
            return True
        if not isinstance(node, (dict, list, tuple, Stub)) or depth > MAX_DEPTH or is_optimiser(node):
            return False
        if id(node) not in self._known:
            self._known[id(node)] = False  # a cycle back to here adds nothing
            self._known[id(node)] = any(self(child, depth + 1) for _, child in children(node))
        return self._known[id(node)]


def is_optimiser(node: Any) -> bool:
    """Whether a node is the state dict of an optimiser, or the optimiser itself."""
    keys = node if isinstance(node, dict) else attributes(node) if isinstance(node, Stub) else {}
    return "param_groups" in keys and "state" in keys


def unwrap(tree: Any, holds: Finder) -> tuple[Any, list[str]]:
    """The one part of a wrapper that is the net, and the names of what is left out; None if ``tree`` is no wrapper."""
    if not isinstance(tree, (dict, Stub)) or is_module(tree):
        return None, []
    parts = [(key, value) for key, value in children(tree) if not is_tensor(value) and holds(value)]
    nets = [(key, value) for key, value in parts if not TRAINING.match(key)]
    dropped = [key for key, value in children(tree) if is_training(key, value) and key != "metadata"]
    originals = [(key, value) for key, value in nets if not COPY.search(key)] or nets
    loose = [key for key, value in children(tree) if is_tensor(value)]
    if len(originals) != 1 or (loose and originals[0][0] not in MODEL_KEYS):
        return None, dropped
    copies = [key for key, _ in nets if key != originals[0][0]]
    return originals[0][1], [*dropped, *copies, *loose]


def is_training(key: str, value: Any) -> bool:
    """Whether a part of a checkpoint is training state by its name, and there is something in it."""
    return bool(TRAINING.match(key) and isinstance(value, (dict, list, Stub)) and value)


def is_module(node: Any) -> bool:
    """Whether a node is the stub of a ``torch.nn.Module``."""
    return isinstance(node, Stub) and {"_parameters", "_modules"} <= attributes(node).keys()


def scalars(tree: Any) -> dict[str, str]:
    """Plain values at the top of a tree as text, and a ``metadata`` dict of strings if there is one."""
    if not isinstance(tree, dict):
        return {}
    found = {str(key): value for key, value in tree.items() if isinstance(value, (str, int, float))}
    nested = tree.get("metadata")
    if isinstance(nested, dict):
        found |= {str(key): value for key, value in nested.items() if isinstance(value, (str, int, float))}
    return {key: str(value) for key, value in found.items()}


def read_all(tree: Any, holds: Finder) -> dict[str, Tensor]:
    """Read every tensor below a node, named by its path.

    Raises:
        CheckpointError: A tensor cannot be read, or two have the same name.
    """
    tensors: dict[str, Tensor] = {}
    for name, node in list(walk(tree, holds)):  # the whole walk first, since it may refuse the tree
        if name in tensors:
            raise CheckpointError(f"two tensors are named '{name}'. Save the model's state_dict().")
        tensors[name] = read_tensor(name, node)
    return tensors


def walk(tree: Any, holds: Finder) -> Iterator[tuple[str, Any]]:
    """Tensors below a node with their dotted paths, in order; training states and cycles are passed over.

    Raises:
        CheckpointError: There are too many, as when lists that hold each other make endless paths.
    """
    found = 0
    pending: list[tuple[str, Any, tuple[int, ...]]] = [("", tree, ())]
    while pending:
        name, node, above = pending.pop()
        if is_tensor(node):
            found += 1
            if found > MAX_TENSORS:
                raise CheckpointError(f"it names over {MAX_TENSORS:,} tensors. Save the nets in several files.")
            yield name or "tensor", node
        elif holds(node) and id(node) not in above:
            holds.count(len(above))
            top = isinstance(node, dict) and not above
            parts = [(key, child) for key, child in children(node) if not (top and is_training(key, child))]
            inner = (*above, id(node))
            pending += [(f"{name}.{key}" if name else key, child, inner) for key, child in reversed(parts)]


def read_tensor(name: str, node: Any) -> Tensor:
    """Read one tensor.

    Raises:
        CheckpointError: It is refused or damaged; the message names it.
    """
    if isinstance(node, Refused):
        raise CheckpointError(f"'{name}' is {node.reason}.")
    if isinstance(node, ArrayRef):
        return to_tensor(node.array, name) if node.array is not None else torch.empty(0)
    try:
        tensor: Tensor = node.tensor()
    except CheckpointError as error:
        raise CheckpointError(f"'{name}': {error}") from None
    return tensor


def describe(tree: Any) -> str:
    """What a tree is, in a few words for an error message."""
    if isinstance(tree, Stub):
        return f"an object of {tree.origin}"
    keys = [key for key, _ in children(tree)]
    return f"{type(tree).__name__} with keys {', '.join(keys[:5])}" if keys else f"{type(tree).__name__}"
