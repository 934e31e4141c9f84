"""Format numbers of metanet's own files: the numbers this metanet reads, and what it says of others."""

from __future__ import annotations

from typing import Any

from metanet.errors import MetanetError


def check_format(found: Any, newest: int, what: str, error: type[MetanetError]) -> None:
    """Refuse a file of a newer format, or one whose format is no format.

    Args:
        found: The format number that the file gives.
        newest: The newest format that this metanet reads; it reads all formats from 1 on.
        what: What the file is, the subject of the message.
        error: Class of the error that is raised.

    Raises:
        MetanetError: ``found`` is no whole number from 1 to ``newest``.
    """
    if type(found) is int and found > newest:
        number = str(found) if found < 10**9 else "a number of ten digits or more"
        raise error(f"{what} has format version {number}; this metanet reads {newest}: update metanet to read it.")
    if type(found) is not int or found < 1:
        raise error(f"{what} has the format version {repr(found)[:40]}. Accepted: whole numbers from 1 to {newest}.")
