"""Zip archives from strangers: bounded in size, checked for damage."""

import io
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from metanet.errors import CheckpointError

MAX_RATIO = 200
FREE_BYTES = 64 * 2**20


class Archive:
    """A zip archive whose members are read whole.

    Args:
        source: Path or open file of the archive.

    Raises:
        CheckpointError: It is damaged, or declares far more bytes than it has (a zip bomb).
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise CheckpointError(
                f"the zip archive is truncated or damaged (got {error}). Download it again."
            ) from None
        self._sizes = {info.filename: info.file_size for info in self._zip.infolist()}
        # the size of the file, not the sum over its members, which may overlap
        stored = source.stat().st_size if isinstance(source, Path) else source.seek(0, io.SEEK_END)
        check_size(sum(self._sizes.values()), stored, "the zip archive")

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
            CheckpointError: It is absent, damaged, encrypted or packed by an unknown method.
        """
        try:
            return self._zip.read(name)
        except KeyError:
            raise CheckpointError(f"the zip archive lacks '{name}': the file is incomplete. Save it again.") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
            raise CheckpointError(f"'{name}' in the zip archive is damaged (got {error}). Download it again.") from None

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()


def check_size(declared: int, stored: int, what: str) -> None:
    """Refuse content that declares far more bytes than its file has.

    Raises:
        CheckpointError: More than 200 times the stored bytes, and more than 64 MiB beyond that.
    """
    if declared > MAX_RATIO * stored + FREE_BYTES:
        raise CheckpointError(
            f"{what} declares {declared:,} bytes but stores {stored:,} (got a ratio above {MAX_RATIO}): "
            "this is a zip bomb or a damaged file, and it is not unpacked."
        )
