"""``config.json`` beside a file: which class made it, and with which fields. The text is untrusted.

Only plain values of fields that the class has by default are taken; nothing is imported, downloaded or executed by a
name in the text. Sizes are bounded, since a construction may only make parameters whose shapes the state dict has
(:func:`metanet.space.recognise.construct.only_shapes`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metanet.errors import SpaceError
from metanet.space.recognise.index import Index

NAME = "config.json"
MAX_BYTES = 1 << 20
MAX_INTEGER = 1 << 21  # above every size of a vocabulary or a text; sizes of weights are bounded by the file itself
MAX_ITEMS, MAX_DEPTH = 256, 3
LARGEST = 1536  # side of an image, or number of layers, that a configuration of timm may ask for
SKIPPED = ("auto_map", "quantization", "dtype", "implementation", "backbone", "remote", "path", "_name", "kernel")
TIMM_ARGUMENTS = ("img_size", "global_pool", "num_classes", "in_chans", "class_token", "patch_size", "depths")


@dataclass(frozen=True)
class Named:
    """What a configuration says: a class or architecture of a library, with arguments."""

    library: str
    name: str
    arguments: Mapping[str, Any]


def read_configuration(path: Path) -> dict[str, Any] | None:
    """Return the object of a ``config.json``; None if there is none, or it is too large or no JSON object."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def named(data: Mapping[str, Any], index: Index) -> Named | None:
    """Return the architecture that a configuration names, if it is one of the index; None otherwise.

    Raises:
        SpaceError: It names a known one with arguments that are not understood.
    """
    architecture = data.get("architecture")
    if isinstance(architecture, str):
        name = architecture.partition(".")[0]
        return Named("timm", name, _timm_arguments(data)) if f"timm:{name}" in index.all_names() else None
    kinds = data.get("architectures")
    if isinstance(kinds, list) and len(kinds) == 1 and isinstance(kinds[0], str) and kinds[0] in index.classes:
        return Named("transformers", kinds[0], plain_fields(data))
    return None


def _timm_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    given = data.get("model_args")
    arguments = dict(given) if isinstance(given, dict) else {}
    for key in ("num_classes", "global_pool"):
        if key in data:
            arguments.setdefault(key, data[key])
    for name, value in arguments.items():
        free = name in ("num_classes", "in_chans")  # the shapes of a file bound them
        if name not in TIMM_ARGUMENTS or not is_plain(value) or not (free or _is_small(value)):
            raise SpaceError(
                f"its {NAME} says that timm made it with {name}={str(value)[:40]!r}, which is not understood; "
                f"accepted: {', '.join(TIMM_ARGUMENTS)}, with sizes to {LARGEST:,}. "
                "Build the module in Python and pass it with example inputs"
            )
    return arguments


def _is_small(value: Any) -> bool:
    """Return whether no number in a plain value is above ``LARGEST``: images and their masks take memory squared."""
    if isinstance(value, (list, dict)):
        return all(map(_is_small, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (int, float)) or abs(value) <= LARGEST


def plain_fields(data: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return the plain values of a configuration of transformers, without what could name code, files or formats.

    Args:
        data: The configuration.
        depth: How many configurations it lies in, such as ``text_config`` and ``vision_config``.

    Raises:
        SpaceError: A value is not plain or too large.
    """
    found: dict[str, Any] = {}
    for name, value in data.items():
        if name.startswith("_") or any(part in name for part in SKIPPED) or name in ("architectures", "label2id"):
            continue
        if name == "id2label":
            found["num_labels"] = len(value) if isinstance(value, dict) else 2
            continue
        if name.endswith("_config") and isinstance(value, dict) and depth < MAX_DEPTH:
            value = plain_fields(value, depth + 1)
        if not is_plain(value):
            raise SpaceError(
                f"its {NAME} has {name}={str(value)[:40]!r}. Accepted are texts, finite numbers to {MAX_INTEGER:,} "
                f"and lists of up to {MAX_ITEMS} of them"
            )
        found[name] = value
    return found


def is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value is a text, a bounded number, or a short list or mapping of such."""
    if value is None or isinstance(value, (bool, str)):
        return not isinstance(value, str) or len(value) < 200
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    if isinstance(value, float):
        return math.isfinite(value)
    if depth >= MAX_DEPTH or not isinstance(value, (list, dict)) or len(value) > MAX_ITEMS:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(v, depth + 1) for k, v in value.items())
    return all(is_plain(v, depth + 1) for v in value)
