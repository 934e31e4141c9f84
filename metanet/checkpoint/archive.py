"""Zip archives from strangers: bounded in size, checked for damage, and one archive a file."""

import io
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from metanet.checkpoint.budget import charge
from metanet.errors import CheckpointError

END = b"PK\x05\x06"
END_BYTES = 22
MAX_COMMENT = 2**16
ENTRY_COST = 16
"""Bytes of memory that ``zipfile`` takes for a byte of an archive's directory, at most."""


def open_zip(source: Path | BinaryIO) -> zipfile.ZipFile:
    """Read the directory of a zip archive.

    Raises:
        CheckpointError: It is damaged, or its directory is too large for the file.
    """
    try:
        check_directory(source)
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the zip archive is truncated or damaged (got {error}). Download it again.") from None


def check_directory(source: Path | BinaryIO) -> None:
    """Charge the memory of an archive's directory, and refuse bytes behind the archive.

    Raises:
        CheckpointError: There are such bytes, or the directory is too large.
    """
    file = source.open("rb") if isinstance(source, Path) else source
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - END_BYTES - MAX_COMMENT))
        tail = file.read()
    finally:
        if isinstance(source, Path):
            file.close()
        else:
            file.seek(0)
    at = tail.rfind(END)
    if at < 0 or at + END_BYTES > len(tail):
        return  # zipfile says that it is truncated
    behind = len(tail) - at - END_BYTES - int.from_bytes(tail[at + 20 : at + 22], "little")
    if behind > 0:
        raise CheckpointError(
            f"{behind:,} bytes follow the zip archive: several saves in one file, of which only one would be read, or "
            "a damaged file. Save each net in a file of its own."
        )
    # an archive of over 4 GiB has its size elsewhere; then its directory is small beside it
    directory = min(int.from_bytes(tail[at + 12 : at + 16], "little"), size)
    charge(ENTRY_COST * directory if directory < 2**32 - 1 else 0, "the directory of the zip archive")


class Archive:
    """A zip archive whose members are read whole.

    Args:
        source: Path or open file of the archive.

    Raises:
        CheckpointError: It is damaged, is one of several in the file, or declares far more bytes than it has (a bomb).
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        self._zip = open_zip(source)
        members = self._zip.infolist()
        self._sizes = {info.filename: info.file_size for info in members}
        check_alone(members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(self._sizes)

    def size(self, name: str) -> int:
        """Bytes of a member when unpacked; 0 if it is absent."""
        return self._sizes.get(name, 0)

    def read(self, name: str) -> bytes:
        """Unpack one member.

        Raises:
            CheckpointError: It is absent, damaged, encrypted, packed by another method than deflate, or unpacks to far
                more bytes than the file has.
        """
        charge(self.size(name), f"'{name}' in the zip archive")
        try:
            if self._zip.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError("another method than deflate")
            return self._zip.read(name)
        except KeyError:
            raise CheckpointError(f"the zip archive lacks '{name}': the file is incomplete. Save it again.") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
            raise CheckpointError(f"'{name}' in the zip archive is damaged (got {error}). Download it again.") from None

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()


def check_alone(members: list[zipfile.ZipInfo]) -> None:
    """Check that the archive whose directory was found is the only one in the file.

    Raises:
        CheckpointError: Something stands before it, or a name occurs twice, as after one save was appended to another.
    """
    before = min((info.header_offset for info in members), default=0)
    if before != 0:
        raise CheckpointError(
            f"the zip archive is the last of several in the file (got {before:,} bytes before it): only one would be "
            "read. Save each net in a file of its own; convert a distributed checkpoint first, with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save."
        )
    name, count = Counter(info.filename for info in members).most_common(1)[0] if members else ("", 0)
    if count > 1:
        raise CheckpointError(
            f"the zip archive holds '{name}' {count} times: one save was appended to another, of which only one would "
            "be read. Save each net in a file of its own."
        )
