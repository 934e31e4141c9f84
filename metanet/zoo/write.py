"""Writing files so that none is ever half-written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from metanet.errors import ZooError

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
        f"Cannot write {path}: got '{error.strerror}'. A folder with write permission and free space is needed: "
        "change the permission, or set METANET_DATA to another folder."
    )
