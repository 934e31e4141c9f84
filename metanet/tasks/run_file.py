"""Read the ``.ckpt`` file of a run as plain data: numbers, texts, lists, dicts and tensors, and nothing else.

The file is unpickled by :mod:`metanet.checkpoint`, which imports and calls nothing that a pickle names. What is left of
an object of some class is an inert stub, and a stub is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.budget import budget
from metanet.checkpoint.pytorch import read_archive, root_of
from metanet.checkpoint.storage import Refused, TensorRef
from metanet.checkpoint.unpickle import Stub
from metanet.errors import CheckpointError

SPACES = "metanet_spaces"
TASK = "metanet_task"
CLASSES = "metanet_classes"
SETTINGS = "hyper_parameters"
VERSION = "pytorch-lightning_version"
TRAINING = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "MixedPrecision")
KEYS = ("state_dict", SETTINGS, "hparams_name", VERSION, SPACES, TASK, CLASSES, *TRAINING)
"""What ``python train.py fit`` writes. Lightning gives other keys a meaning too, among them some of its old versions
that name classes and functions; a file that has one is refused."""
WHOLE = "Accepted: a whole .ckpt file that `python train.py fit` wrote; if it was copied, copy it again."
MAX_DEPTH = 50
MAX_PARTS = 1_000_000


def read_run_file(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint.

    Args:
        path: A file on this machine.

    Returns:
        Its content by key, one of ``KEYS`` each.

    Raises:
        CheckpointError: It is missing, no file, damaged, no checkpoint of a run, or holds anything but plain data.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Give the .ckpt file in it, such as checkpoints/best.ckpt.")
    if not path.is_file():
        raise CheckpointError(f"No run at {path}. Give a folder that `python train.py fit` wrote, or a .ckpt file.")
    try:
        with budget(path.stat().st_size), path.open("rb") as file, Archive(file) as archive:
            content = _Plain()(read_archive(archive, root_of(archive), "data"))
    except Exception as error:  # a damaged file raises whatever its damage leads to
        raise CheckpointError(
            f"Cannot read {path} as a checkpoint of a run: got '{first_line(error)}'. {WHOLE}"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get(SETTINGS), dict):
        raise CheckpointError(
            f"Cannot read {path} as a checkpoint of a run: got {_described(content)} without '{SETTINGS}'. {WHOLE}"
        )
    check_keys(path, content, KEYS, "the key")
    _check_head(path, content)
    return content


def check_keys(path: Path, found: Iterable[Any], accepted: Iterable[str], what: str) -> None:
    """Refuse keys other than the accepted ones.

    Raises:
        CheckpointError: There is one.
    """
    known = tuple(accepted)
    unknown = [key for key in found if key not in known]
    if unknown:
        raise CheckpointError(
            f"{path} has {what} {str(unknown[0])[:80]!r}, which no run of metanet writes. Accepted: {', '.join(known)}."
        )


def _check_head(path: Path, content: dict[str, Any]) -> None:
    """Check the types of everything but the settings and the state of the training."""
    state, spaces, classes = content.get("state_dict"), content.get(SPACES), content.get(CLASSES, [])
    problem = ""
    if not _is_table(state, Tensor):
        problem = "'state_dict' is not a table of tensors by name"
    elif not isinstance(spaces, list) or not all(isinstance(text, str) for text in spaces):
        problem = f"'{SPACES}' is missing or not a list of texts"
    elif not isinstance(classes, list) or not all(isinstance(c, str | int | float) for c in classes):
        problem = f"'{CLASSES}' is not a list of values"
    elif not isinstance(content.get(TASK, ""), str) or content.get("hparams_name", "kwargs") != "kwargs":
        problem = f"'{TASK}' or 'hparams_name' is not what fit writes"
    elif not _is_recent(content.get(VERSION)):
        problem = f"'{VERSION}' is {str(content.get(VERSION))[:40]!r}, not a version of Lightning from 2.0 on"
    if problem:
        raise CheckpointError(f"{path} is no checkpoint of a run: {problem}. {WHOLE}")


def _is_table(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())


def _is_recent(version: Any) -> bool:
    try:
        return isinstance(version, str) and Version(version).major >= 2
    except InvalidVersion:
        return False


class _Plain:
    """Turn an unpickled tree into plain data; each object is visited once."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}
        self._parts = 0

    def __call__(self, node: Any, name: str = "", depth: int = 0) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if id(node) in self._done:
            return self._done[id(node)][0]
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            raise CheckpointError(f"its containers nest deeper than {MAX_DEPTH}, or there are over {MAX_PARTS:,}")
        out = self._converted(node, name, depth)
        self._done[id(node)] = out, node  # the node is kept, so that its id is not given to another
        return out

    def _converted(self, node: Any, name: str, depth: int) -> Any:
        if isinstance(node, TensorRef):
            return node.tensor()
        if isinstance(node, dict):
            bad = next((key for key in node if not isinstance(key, str | int)), None)
            if bad is not None:
                raise CheckpointError(f"'{name}' has a key that is no text (got {type(bad).__name__})")
            return {key: self(value, f"{name}.{key}".lstrip("."), depth + 1) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(self(value, f"{name}[{i}]", depth + 1) for i, value in enumerate(node))
        if isinstance(node, np.ndarray | np.generic):
            return torch.as_tensor(node)
        raise CheckpointError(f"'{name}' is {_described(node)}, where plain data is accepted")


def _described(node: Any) -> str:
    if isinstance(node, Stub):
        return f"an object of {node.origin}, whose class is not imported"
    if isinstance(node, Refused):
        return node.reason
    return f"a {type(node).__name__}"


def first_line(error: BaseException) -> str:
    """The kind of an error that is not metanet's, and the first line of its message."""
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
    return f"{kind}{text[0].rstrip('.')}" if text else type(error).__name__
