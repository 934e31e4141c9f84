"""JSON files of zoos and builds, which may come from anywhere: read strictly, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metanet.errors import ZooError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        ZooError: It is missing, no UTF-8, no JSON, nests too deep, repeats a key, has half a character, or holds
            something else than a mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        found = json.loads(text, object_pairs_hook=_unique)
        if "\\ud" in text.lower():  # half of a surrogate pair cannot be printed or written
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(f"Cannot read {path}: got '{' '.join(str(error).split())}'.") from error
    if not isinstance(found, dict):
        raise ZooError(f"Cannot read {path}: got a {type(found).__name__} where a mapping is needed.")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} occurs more than once")
    return found
