"""Find the named tensors in what a pickle holds: state dicts at any depth, lists of them, modules, training states."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metanet.checkpoint.arrays import ArrayRef, to_tensor
from metanet.checkpoint.nodes import Finder, attributes, children, is_module, is_something, is_tensor
from metanet.checkpoint.parts import refuse_rank
from metanet.checkpoint.registry import Contents
from metanet.checkpoint.storage import Refused
from metanet.checkpoint.unpickle import Stub
from metanet.errors import CheckpointError

MAX_DEPTH = 100
MAX_VISITS = 200_000
MAX_TENSORS = 1_000_000
MAX_NAMED = 100
PLAIN = (str, int, float)
STATE = ("_parameters", "_buffers", "_modules")
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
    schedulers and copies of a net that is there itself (moving averages, the best so far) are left out. Whatever is
    not read is named in ``metadata["left_out"]``, by its path from ``tree``.

    Args:
        tree: What was unpickled.
        wrapped: Whether the net may lie inside a wrapper; if not, all names are full paths from ``tree``.

    Raises:
        CheckpointError: There is no tensor in it, or one cannot be read, or it is a part of a net.
    """
    finder = Finder(tree)
    metadata: dict[str, str] = {}
    left_out: list[str] = []
    path = ""
    while True:
        refuse_rank(tree)
        metadata |= scalars(tree)
        found = unwrap(tree, finder) if wrapped else None
        if found is None:
            break
        left_out += [path + key for key, child in children(tree) if key != found[0] and is_left(tree, key, child)]
        path, tree = f"{path}{found[0]}.", found[1]
    named = list(walk(tree, finder, path, left_out))  # the whole walk first, since it may refuse the tree
    tensors = read_all(named)
    if not tensors:
        raise CheckpointError(f"no tensors in it (got {describe(tree)}). Save the model's state_dict().")
    return tensors, metadata | note(left_out)


def note(left_out: list[str]) -> dict[str, str]:
    """Metadata that names what was left out, nothing if it is nothing."""
    if not left_out:
        return {}
    more = f" and {len(left_out) - MAX_NAMED:,} more" if len(left_out) > MAX_NAMED else ""
    return {"left_out": ", ".join(left_out[:MAX_NAMED]) + more}


def is_left(tree: Any, key: str, child: Any) -> bool:
    """Whether a part of the top of a file that is not read is worth a name: not empty, and not among the metadata."""
    if key == "metadata" and isinstance(tree, dict) and isinstance(child, dict):
        return not all(isinstance(value, PLAIN) for value in child.values())
    return not isinstance(child, (*PLAIN, type(None))) and is_something(child)


def unwrap(tree: Any, holds: Finder) -> tuple[str, Any] | None:
    """The one part of a wrapper that is the net, with its key; None if ``tree`` is no wrapper."""
    if not isinstance(tree, (dict, Stub)) or is_module(tree):
        return None
    parts = [(key, value) for key, value in children(tree) if not is_tensor(value) and holds(value)]
    nets = [(key, value) for key, value in parts if not TRAINING.match(key)]
    originals = [(key, value) for key, value in nets if not COPY.search(key)] or nets
    loose = any(is_tensor(value) for _, value in children(tree))
    if len(originals) != 1 or (loose and originals[0][0] not in MODEL_KEYS):
        return None
    return originals[0]


def is_training(key: str, value: Any) -> bool:
    """Whether a part of a checkpoint is training state by its name, and there is something in it."""
    return bool(TRAINING.match(key) and isinstance(value, (dict, list, Stub)) and is_something(value))


def scalars(tree: Any) -> dict[str, str]:
    """Plain values at the top of a tree as text, and a ``metadata`` dict of strings if there is one."""
    if not isinstance(tree, dict):
        return {}
    found = {str(key): value for key, value in tree.items() if isinstance(value, PLAIN)}
    nested = tree.get("metadata")
    if isinstance(nested, dict):
        found |= {str(key): value for key, value in nested.items() if isinstance(value, PLAIN)}
    return {key: str(value) for key, value in found.items()}


def read_all(named: list[tuple[str, Any]]) -> dict[str, Tensor]:
    """Read every tensor of a walk.

    Raises:
        CheckpointError: A tensor cannot be read, or two have the same name.
    """
    tensors: dict[str, Tensor] = {}
    for name, node in named:
        if name in tensors:
            raise CheckpointError(f"two tensors are named '{name}'. Save the model's state_dict().")
        tensors[name] = read_tensor(name, node)
    return tensors


def walk(tree: Any, holds: Finder, path: str, left_out: list[str]) -> Iterator[tuple[str, Any]]:
    """Tensors below a node with their dotted paths, in order; training states and cycles are passed over.

    Args:
        tree: The node.
        holds: Which nodes hold tensors.
        path: Path of the node itself, in front of the names of what is left out.
        left_out: Takes the names of all parts that are not walked.

    Raises:
        CheckpointError: Containers nest too deep, or there are too many, as when lists that hold each other make
            endless paths.
    """
    visits = found = 0
    pending: list[tuple[str, Any, tuple[int, ...]]] = [("", tree, ())]
    while pending:
        name, node, above = pending.pop()
        if is_tensor(node):
            found += 1
            if found > MAX_TENSORS:
                raise CheckpointError(f"it names over {MAX_TENSORS:,} tensors. Save the nets in several files.")
            yield name or "tensor", node
            continue
        if id(node) in above:
            continue
        visits += 1
        if visits > MAX_VISITS or len(above) > MAX_DEPTH:
            raise CheckpointError(
                f"its containers nest too deep (over {MAX_DEPTH}) or too often (over {MAX_VISITS:,}); "
                "the file is damaged or hostile."
            )
        stem = f"{name}." if name else ""
        inside = []
        for key, child in children(node):
            if holds(child) and not (isinstance(node, dict) and not above and is_training(key, child)):
                inside.append((stem + key, child, (*above, id(node))))
            elif is_left(node, key, child) if not above else is_dropped(node, child):
                left_out.append(path + stem + key)
        left_out += [path + stem + key for key in hidden(node, holds)]
        pending += reversed(inside)


def is_dropped(node: Any, child: Any) -> bool:
    """Whether a part below the top that holds no tensors is worth a name; attributes of objects are not."""
    return is_something(child) and (isinstance(node, dict) or not isinstance(child, PLAIN))


def hidden(node: Any, holds: Finder) -> list[str]:
    """What holds tensors in an object but is no part of its state: a module's plain attributes, arguments of others."""
    if not isinstance(node, Stub):
        return []
    if not is_module(node):
        return ["arguments"] if any(map(holds.deep, node.args)) else []
    found = attributes(node)
    shown = [key for key, value in found.items() if key not in STATE and holds.deep(value)]
    persistent = {key for key, _ in children(node)}
    buffers = [key for key, value in children(found.get("_buffers")) if key not in persistent and is_tensor(value)]
    return [*map(str, shown), *buffers]


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
