"""How much memory a file may take while it is read: one budget a file, to which readers charge what they make."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metanet.errors import CheckpointError

FACTOR = 4
FREE_BYTES = 128 * 2**20


@dataclass
class Budget:
    """Bytes that reading one file may make, and those that it has made."""

    stored: int
    spent: int = 0
    files: set[Path] = field(default_factory=set)

    @property
    def limit(self) -> int:
        """Four times the size of the file and 128 MiB, so that a small file may be packed well."""
        return FACTOR * self.stored + FREE_BYTES


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def budget(stored: int) -> Iterator[None]:
    """Allow the block to make ``4 * stored + 128 MiB`` bytes.

    Inside another budget, as for the shards of an index, the size is added to that one: a thousand small shards do not
    have 128 MiB each.

    Args:
        stored: Size of the file in bytes.
    """
    outer = _current.get()
    if outer is not None:
        outer.stored += stored
        yield
        return
    token = _current.set(Budget(stored))
    try:
        yield
    finally:
        _current.reset(token)


def allow(file: Path) -> None:
    """Add the size of a file beside the first one, which is read with it; each file counts once."""
    now = _current.get()
    if now is not None and file.resolve() not in now.files:
        now.files.add(file.resolve())
        now.stored += file.stat().st_size


def charge(made: int, what: str) -> None:
    """Note that reading makes so many bytes more; called before they are made. Outside of a budget nothing happens.

    Args:
        made: Bytes of memory.
        what: What they are, for the error.

    Raises:
        CheckpointError: The file would take more than its budget.
    """
    now = _current.get()
    if now is None:
        return
    now.spent += made
    if now.spent > now.limit:
        raise CheckpointError(
            f"{what} would take {now.spent:,} bytes of memory, accepted are {now.limit:,} for a file that stores "
            f"{now.stored:,} (got more than {FACTOR} times its size + {FREE_BYTES >> 20} MiB). It is a zip bomb, "
            "damaged, or compressed very well: if you trust it, save its weights without compression."
        )


class JsonError(ValueError):
    """A text is no JSON."""


def parse_json(text: bytes | str) -> Any:
    """Read JSON, whose objects may take many times the memory of the text.

    Raises:
        JsonError: It is damaged, or nests too deep.
        CheckpointError: It would take more than the file's budget.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    charge(8 * len(text) + 64 * sum(text.count(sign) for sign in ",[{"), "the JSON text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JsonError(f"{type(error).__name__}: {error}") from None
