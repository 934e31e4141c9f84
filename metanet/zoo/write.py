"""Writing files so that none is ever half-written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.zoo.store import CARD, TABLE

TEMPORARY = ".tmp"


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, flushed to the disk, renamed.

    Raises:
        ZooError: The folder cannot be written, or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ZooError(_cannot_write(path, error)) from error


def write_zoo(
    folder: Path, spaces: Mapping[str, WeightSpace], rows: Sequence[Mapping[str, Any]], card: Mapping[str, Any]
) -> None:
    """Write everything of a zoo but its shards, which are there: spaces, card with checksums, and last the table.

    Args:
        folder: Folder of the zoo.
        spaces: Weight spaces by digest.
        rows: One mapping a net, from column to value; a missing value is null.
        card: Content of ``zoo.json`` without the checksums.
    """
    files = {f"spaces/{digest}.json": (s.to_json(indent=1) + "\n").encode() for digest, s in sorted(spaces.items())}
    names = dict.fromkeys(name for row in rows for name in row)
    files[TABLE] = parquet(pa.table({name: _column([row.get(name) for row in rows]) for name in names}))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for shard in folder.glob("weights/*/*"):
        sums[shard.relative_to(folder).as_posix()] = checksum(shard)
    files[CARD] = (json.dumps(dict(card) | {"sha256": dict(sorted(sums.items()))}, indent=1) + "\n").encode()
    for name in sorted(files, key=lambda name: name == TABLE):
        write_file(folder / name, files[name])


def parquet(table: pa.Table) -> bytes:
    """The content of a table's file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _column(values: Sequence[Any]) -> pa.Array:
    """A column of one type: whole numbers become floats, and all else text, where some value asks for it."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.array(values, pa.float64())
    if kinds <= {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int}:
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array(values, pa.float64())
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and check that files can be made in it.

    Raises:
        ZooError: They cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ZooError(_cannot_write(path, error)) from error


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut, where the system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"Cannot write {path}: got '{error.strerror}'. A folder with write permission and free space is needed: make "
        "space or change the permission and start again, or set METANET_DATA to another folder."
    )
