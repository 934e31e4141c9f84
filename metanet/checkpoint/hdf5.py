"""HDF5 files from strangers: no links out of the file, no promised sizes without bytes."""

import io
import math
import mmap
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from metanet.checkpoint.budget import charge
from metanet.checkpoint.registry import require
from metanet.errors import CheckpointError

MAX_DEPTH = 40
HEAP = b"GCOL\x01\x00\x00\x00"


class Hdf5:
    """An HDF5 file, read member by member.

    Args:
        source: Path or open file.

    Raises:
        CheckpointError: It is truncated or damaged, or h5py is not installed.
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        self._h5py = require("h5py", "keras")
        self._opened: set[int] = set()
        check_heaps(source)
        check_end(source)
        try:
            self.root = self._h5py.File(source, "r")
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the HDF5 file is truncated or damaged (got {error}). Download it again.") from None

    @property
    def attributes(self) -> Any:
        """The file itself, for ``text`` and ``texts``."""
        return self.root

    def child(self, group: Any, name: str) -> Any:
        """The member ``a/b/c`` of a group, None if there is none.

        Raises:
            CheckpointError: A link on the way leads elsewhere, possibly out of the file, or is damaged.
        """
        for part in name.split("/"):
            try:
                link = group.get(part, getlink=True) if isinstance(group, self._h5py.Group) else None
                if link is None:
                    return None
                if not isinstance(link, self._h5py.HardLink):
                    raise CheckpointError(f"'{name}' is a link to another place, which is not followed.")
                group = group[part]
            except (KeyError, OSError, RuntimeError, ValueError) as error:
                if isinstance(error, CheckpointError):
                    raise
                raise CheckpointError(f"'{name}' is damaged (got {error}). Download the file again.") from None
        return group

    def dataset(self, group: Any, name: str) -> Any:
        """The dataset ``a/b/c`` of a group.

        Raises:
            CheckpointError: There is none, or its values lie outside the file.
        """
        found = self.child(group, name)
        if not isinstance(found, self._h5py.Dataset):
            raise CheckpointError(f"the weight '{name}' is missing: the file is incomplete. Save it again.")
        if found.external or found.is_virtual:
            raise CheckpointError(
                f"the weight '{name}' lies in another file, which is not opened. Save it in one file."
            )
        return found

    def read(self, dataset: Any) -> np.ndarray[Any, Any]:
        """All values of a dataset.

        Raises:
            CheckpointError: It is damaged, or the file promises far more values than it has bytes.
        """
        where, item = dataset.name, dataset.dtype.itemsize
        if dataset.dtype.hasobject:
            raise CheckpointError(f"the weight '{where}' is damaged (got objects, numbers are accepted).")
        # what is not stored is filled in, and a chunk is unpacked whole
        charge(int(dataset.size or 0) * item + math.prod(dataset.chunks or (0,)) * item, f"the weight '{where}'")
        self._opened.add(self._address(dataset))
        try:
            return np.asarray(dataset[()])
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"the weight '{dataset.name}' is damaged (got {error}). Download it again.") from None

    def _address(self, member: Any) -> int:
        return int(self._h5py.h5o.get_info(member.id).addr)

    def unread(self) -> list[str]:
        """Paths of the groups and datasets that hold values which were not read; a group stands for what is in it."""
        left: list[str] = []
        pending: list[Any] = [self.root]
        seen: set[int] = set()
        while pending:
            group = pending.pop()
            if self._address(group) in seen:
                continue
            seen.add(self._address(group))
            members = [(name, self.child(group, name)) for name in group]
            for name, member in members:
                if isinstance(member, self._h5py.Dataset) and member.size and self._address(member) not in self._opened:
                    left.append(f"{group.name.rstrip('/')}/{name}".lstrip("/"))
                elif isinstance(member, self._h5py.Group):
                    pending.append(member)
        return left

    def groups(self) -> list[tuple[tuple[str, ...], Any]]:
        """All groups with their paths, in the order of the file; each once, however often it is linked."""
        found: list[tuple[tuple[str, ...], Any]] = []
        seen = set()
        pending: list[tuple[tuple[str, ...], Any]] = [((), self.root)]
        while pending:
            path, group = pending.pop()
            address = self._address(group)
            if address in seen or len(path) > MAX_DEPTH:
                continue
            seen.add(address)
            found += [(path, group)] if path else []
            inner = [((*path, name), self.child(group, name)) for name in group]
            pending += [entry for entry in reversed(inner) if isinstance(entry[1], self._h5py.Group)]
        return found

    def label(self, path: tuple[str, ...]) -> str:
        """Name of the layer that Keras 3 notes on the group of its variables, empty if there is none."""
        variables = self.child(self.root, "/".join((*path, "vars")))
        return text(variables, "name") if variables is not None else ""

    def __enter__(self) -> "Hdf5":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.root.close()


def check_end(source: Path | BinaryIO) -> None:
    """Compare the end of the file with the one that its superblock states.

    Layout: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, section II.A.

    Raises:
        CheckpointError: Something follows, such as a second file.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        head = file.read(64)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
    place = {0: 40, 1: 44, 2: 28, 3: 28}.get(head[8] if len(head) == 64 else 255)
    if place is not None and 0 < (end := int.from_bytes(head[place : place + 8], "little")) < size:
        raise CheckpointError(
            f"{size - end:,} bytes follow the HDF5 file: several saves, of which only the first would be read, or a "
            "damaged file. Save each net in a file of its own."
        )


def check_heaps(source: Path | BinaryIO) -> None:
    """Walk the heaps that hold long attributes: some damaged ones make the HDF5 library crash, hang or take gigabytes.

    Layout: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, section III.E, "Global Heap".

    Raises:
        CheckpointError: Objects of a heap do not fill it exactly, or a reference to one is longer than the file.
    """
    if isinstance(source, Path):
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            whole = all(heap_is_whole(mapped, at) for at in heaps(mapped)) and lengths_fit(mapped)
    else:
        data = source.read()
        source.seek(0)
        whole = all(heap_is_whole(data, at) for at in heaps(data)) and lengths_fit(data)
    if not whole:
        raise CheckpointError("the HDF5 file is damaged (got a global heap of the wrong size). Download it again.")


def heaps(data: bytes | mmap.mmap) -> Iterator[int]:
    """Where the global heaps of a file begin."""
    at = data.find(HEAP)
    while at >= 0:
        yield at
        at = data.find(HEAP, at + len(HEAP))


def lengths_fit(data: bytes | mmap.mmap) -> bool:
    """Whether no entry of a heap is said to be longer than the file: the HDF5 library allocates that length unchecked.

    What refers to an entry is its length (4 bytes), the address of the heap (8) and the entry's number in it (4).
    """
    places = [re.escape(at.to_bytes(8, "little")) for at in heaps(data)]
    for found in re.finditer(b"|".join(places), data) if places else ():
        at = found.start()
        length, index = (int.from_bytes(data[i : i + 4], "little") for i in (max(at - 4, 0), at + 8))
        if length > len(data) and 0 < index < 2**16:
            return False
    return True


def heap_is_whole(data: bytes | mmap.mmap, start: int) -> bool:
    """Whether objects fill a heap: index (2 bytes), count (2), reserved (4), size (8), content padded to 8."""
    end = start + int.from_bytes(data[start + 8 : start + 16], "little")
    at = start + 16
    while at + 16 <= end <= len(data):
        index, size = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 8 : at + 16], "little")
        if index == 0:
            return at + size == end  # the free space, whose size counts its own header
        at += 16 + (size + 7) // 8 * 8
    return end <= len(data) and end - 16 < at <= end


def attribute(group: Any, name: str) -> Any:
    """An attribute of text, None if there is none.

    Raises:
        CheckpointError: It is of another type; the HDF5 library may crash on types that damage made up.
    """
    if name not in group.attrs:
        return None
    kind = group.attrs.get_id(name).dtype
    if kind.kind not in "SO" or (kind.kind == "O" and not is_text(kind)):
        if kind.kind == "f" and group.attrs.get_id(name).shape == (0,):
            return []  # h5py writes an empty list without its type
        raise CheckpointError(f"the attribute '{name}' is damaged (got type {kind}, text is accepted).")
    charge(math.prod(group.attrs.get_id(name).shape or ()) * max(kind.itemsize, 64), f"the attribute '{name}'")
    return group.attrs[name]


def is_text(kind: Any) -> bool:
    """Whether a type of objects is h5py's text of free length."""
    return bool(kind.metadata) and kind.metadata.get("vlen") in (str, bytes)


def text(group: Any, name: str) -> str:
    """A text attribute, empty if there is none."""
    value = attribute(group, name)
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def texts(group: Any, name: str) -> list[str] | None:
    """A list of texts in an attribute; Keras splits long ones into ``name0``, ``name1``, ... None if there is none."""
    if group is None:
        return None
    whole = attribute(group, name)
    parts = [] if whole is None else [whole]
    while whole is None and (part := attribute(group, f"{name}{len(parts)}")) is not None:
        parts.append(part)
    if not parts:
        return None
    values = [value for part in parts for value in np.ravel(part)]
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
