"""Readers by format, and what is known of a file before one is chosen."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from torch import Tensor

from metanet.checkpoint.archive import open_zip
from metanet.errors import CheckpointError

Contents: TypeAlias = tuple[dict[str, Tensor], dict[str, str]]
"""What a reader returns: tensors in file order, and metadata."""

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Probe:
    """What readers look at to recognise a file: its path, its size and its first bytes."""

    path: Path
    size: int
    head: bytes

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Names inside the file if it is a readable zip archive, else empty."""
        if not self.head.startswith(b"PK"):
            return ()
        try:
            with open_zip(self.path) as archive:
                return tuple(archive.namelist())
        except (CheckpointError, OSError):
            return ()


@dataclass(frozen=True)
class Reader:
    """A registered format: how its files are recognised and read."""

    format: str
    extensions: tuple[str, ...]
    recognises: Callable[[Probe], bool]
    read: Callable[[Path], Contents]


_READERS: dict[str, Reader] = {}


def reader(
    format: str, *, extensions: tuple[str, ...], recognises: Callable[[Probe], bool]
) -> Callable[[Callable[[Path], Contents]], Callable[[Path], Contents]]:
    """Register the decorated function ``read(path) -> (tensors, metadata)`` as the reader of a format.

    Content decides first: the reader whose ``recognises(probe)`` is true. Extensions only choose a reader for binary
    files that none recognises. The function raises ``CheckpointError`` with the bare fact; ``load`` adds the path.

    Args:
        format: Name of the format, shown to users.
        extensions: Usual endings of such files, with the dot.
        recognises: Whether the content looks like this format; it must not raise.
    """

    def register(function: Callable[[Path], Contents]) -> Callable[[Path], Contents]:
        _READERS[format] = Reader(format, extensions, recognises, function)
        return function

    return register


def by_content(probe: Probe) -> Reader | None:
    """The reader that recognises a file's content."""
    return next((one for one in _READERS.values() if one.recognises(probe)), None)


def by_name(probe: Probe) -> Reader | None:
    """The reader whose endings a file's name has."""
    return next((one for one in _READERS.values() if probe.path.name.lower().endswith(one.extensions)), None)


def formats() -> dict[str, tuple[str, ...]]:
    """Formats that ``load`` reads, each with its usual file endings."""
    return {one.format: one.extensions for one in _READERS.values()}


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency of a reader.

    Raises:
        CheckpointError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CheckpointError(
            f"reading this format needs the package '{module}', which is not installed. "
            f"Install it with: pip install torch-metanet[{extra}]"
        ) from None
