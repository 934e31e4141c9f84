"""Small helpers of readers: CSV files with plain values, JSON lines, and published splits."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from metanet.errors import ZooError

Value = str | int | float | bool | None


def read_text(path: Path) -> str:
    """The text of a file, unpacked if its name ends in ``.gz`` or ``.xz``.

    Raises:
        ZooError: It is missing or unreadable.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        elif path.suffix == ".xz":
            content = lzma.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ZooError(f"Cannot read {path}: got {type(error).__name__}: {error}.") from None


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a CSV file by column name; texts as they are.

    Raises:
        ZooError: It is missing, unreadable or ragged.
    """
    rows = list(csv.reader(io.StringIO(read_text(path)), delimiter=delimiter))
    rows = [row for row in rows if row]
    if not rows:
        raise ZooError(f"Cannot read {path}: got an empty table, a line of column names is needed.")
    names = rows[0]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ZooError(f"Cannot read {path}: line {number} has {len(row)} fields, the first line has {len(names)}.")
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines.

    Raises:
        ZooError: It is missing or a line is no JSON object.
    """
    out = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            out.append(as_object(path, line, f", line {number}"))
    return out


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ZooError: It is missing or holds something else.
    """
    return as_object(path, read_text(path))


def as_object(path: Path, text: str, where: str = "") -> dict[str, Any]:
    """A JSON object from text; ``NaN`` and ``Infinity`` are read as Python writes them."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ZooError(f"Cannot read {path}{where}: {error}. A JSON object is needed.") from None
    if not isinstance(found, dict):
        raise ZooError(f"Cannot read {path}{where}: got {type(found).__name__}. A JSON object is needed.")
    return found


def parse(text: str) -> Value:
    """The value that a field of a CSV file stands for: nothing, a truth value, a number or text."""
    stripped = text.strip()
    if stripped.lower() in ("", "none", "null", "na"):
        return None
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    try:
        return int(stripped)
    except ValueError:
        pass
    try:
        return float(stripped)
    except ValueError:
        return text


def parse_columns(rows: Sequence[dict[str, str]]) -> list[dict[str, Value]]:
    """Rows with the values that their fields stand for; a column that holds any text is all text, so ``"1"`` stays."""
    names = list(rows[0]) if rows else []
    parsed = [{name: parse(row[name]) for name in names} for row in rows]
    for name in names:
        if any(isinstance(row[name], str) for row in parsed):
            for row, given in zip(parsed, rows, strict=True):
                row[name] = given[name] if given[name] != "" else None
    return parsed


def weights_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the order of their modules, weight before bias: formats that sort names put them the other way."""
    modules: dict[str, list[str]] = {}
    for name in tensors:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    return {n: tensors[n] for names in modules.values() for n in sorted(names, key=lambda n: n.endswith("bias"))}
