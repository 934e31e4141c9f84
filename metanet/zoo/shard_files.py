"""The files of a zoo below its table: weight spaces and shards, each read and checked when it is first needed.

A process hashes a file once, whoever asks for it, and again only if the file was changed in the meantime. What a
process hashed before it was forked, as the workers of a data loader are, its children do not hash again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metanet.errors import MetanetError, ZooError
from metanet.space import WeightSpace
from metanet.zoo.card import CARD, REBUILD

Stamp = tuple[int, ...]
"""What changes with the content of a file: device, number, size, and the times of its last changes."""
MAPPED_FILES = 64  # at once; more would approach the limit of open files
MAPPED_BYTES = 1 << 29  # address space that a process gives to shards, unless one shard alone is larger
_HASHED: dict[tuple[str, Stamp], str] = {}  # SHA-256 of files by path and stamp, found by this process or its parents


def shard_path(zoo: Path, digest: str, shard: int) -> Path:
    """Return the file of a shard."""
    return zoo / "weights" / digest / f"{shard:05d}.safetensors"


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file; empty if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_sum(zoo: Path, name: str, sums: Mapping[str, str]) -> None:
    """Compare the content of a file with its checksum; a zoo that has none, as older ones do, is not checked.

    Args:
        zoo: Folder of the zoo.
        name: The file in it, as the card names it.
        sums: SHA-256 by name.

    Raises:
        ZooError: The content is another, or the card has checksums but none of this file.
    """
    if not sums:
        return
    path = zoo / name
    if name not in sums:
        raise ZooError(f"{path} is damaged, or no part of the zoo: {CARD} has no checksum of it. {REBUILD}")
    key = str(path.absolute()), stamp_of(path)
    if key not in _HASHED:
        try:
            with open(path, "rb") as file:
                _HASHED[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ZooError(f"Cannot read {path}: {error}. {REBUILD}") from error
    if _HASHED[key] != sums[name]:
        raise ZooError(
            f"{path} is damaged: its SHA-256 is {_HASHED[key][:12]}..., {CARD} says {sums[name][:12]}... {REBUILD}"
        )


class Spaces(Mapping[str, WeightSpace]):
    """Weight spaces by digest, read when asked for.

    Args:
        path: Folder of the zoo.
        digests: Which there are.
        sums: Checksums of the zoo's files; empty if they are not to be compared.
    """

    def __init__(self, path: Path, digests: list[str], sums: Mapping[str, str] = MappingProxyType({})) -> None:
        self.path, self.digests, self.sums = path, digests, dict(sums)
        self._read: dict[str, WeightSpace] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.digests)

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, digest: str) -> WeightSpace:
        """The space of that digest.

        Raises:
            KeyError: The zoo has no net of it.
            ZooError: Its file is missing, damaged or not that of its checksum.
        """
        if digest not in self._read:
            if digest not in self.digests:
                raise KeyError(digest)
            space = read_space(self.path / "spaces" / f"{digest}.json")
            check_sum(self.path, f"spaces/{digest}.json", self.sums)
            self._read[digest] = space
        return self._read[digest]

    def only(self, digests: list[str]) -> Spaces:
        """Some of them; those that were read already are not read again."""
        part = Spaces(self.path, digests, self.sums)
        part._read = self._read
        return part


def read_space(path: Path) -> WeightSpace:
    """Read the file of a weight space, whose name is its digest.

    Raises:
        ZooError: It is missing, damaged or of another digest.
    """
    try:
        space = WeightSpace.from_json(path.read_text(encoding="utf-8"))
    except (OSError, MetanetError, UnicodeDecodeError, RecursionError) as error:
        raise ZooError(f"Cannot read the weight space {path}: {error}. {REBUILD}") from error
    if space.digest != path.stem:
        raise ZooError(f"The weight space {path} does not match its name: its digest is {space.digest}. {REBUILD}")
    return space


class ShardFiles:
    """Shards, mapped into memory. The ones not used for longest are let go, so that a zoo may exceed the memory.

    Args:
        path: Folder of the zoo.
        spaces: Its weight spaces.
        nets: Nets of each shard by digest and number, as the table says.
        sums: Checksums of the zoo's files; empty if they are not to be compared.
    """

    def __init__(
        self,
        path: Path,
        spaces: Mapping[str, WeightSpace],
        nets: Mapping[tuple[str, int], int],
        sums: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.path, self.spaces, self.nets, self.sums = path, spaces, nets, dict(sums)
        self._mapped: OrderedDict[tuple[str, int], dict[str, Tensor]] = OrderedDict()
        self._bytes = 0
        self._checked: dict[tuple[str, int], Stamp] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": OrderedDict(), "_bytes": 0}  # worker processes map the files themselves

    def tensors(self, digest: str, shard: int) -> dict[str, Tensor]:
        """The stacked tensors of a shard, which are views of the file: they must not be changed in place.

        Raises:
            ZooError: It is missing or unreadable, or disagrees with the table, its weight space or its checksum.
        """
        key = digest, shard
        if key in self._mapped:
            self._mapped.move_to_end(key)
            return self._mapped[key]
        path = shard_path(self.path, digest, shard)
        size = path.stat().st_size if path.is_file() else 0
        while self._mapped and (len(self._mapped) >= MAPPED_FILES or self._bytes + size > MAPPED_BYTES):
            self._bytes -= _bytes(self._mapped.popitem(last=False)[1])
        try:
            tensors = self._map(digest, shard)
        except (MemoryError, RuntimeError):  # less address space than thought: give back all that is mapped
            self._mapped.clear()
            self._bytes = 0
            try:
                tensors = self._map(digest, shard)
            except (MemoryError, RuntimeError) as error:
                raise ZooError(
                    f"Cannot map shard {path} into memory: got '{error}'. It takes {size:,} bytes; free memory, or "
                    "raise the limit of address space (ulimit -v)."
                ) from error
        self._mapped[key] = tensors
        self._bytes += _bytes(tensors)
        return tensors

    def _map(self, digest: str, shard: int) -> dict[str, Tensor]:
        path = shard_path(self.path, digest, shard)
        stamp = stamp_of(path)
        if self._checked.get((digest, shard)) != stamp:
            self.check(digest, shard)
            check_sum(self.path, path.relative_to(self.path).as_posix(), self.sums)
            self._checked[digest, shard] = stamp
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in self.spaces[digest].shapes}
        except (OSError, SafetensorError) as error:
            raise ZooError(f"Cannot read shard {path}: {error}. {REBUILD}") from error

    def stack(self, digest: str, shards: np.ndarray, rows: np.ndarray) -> dict[str, Tensor]:
        """Nets of one weight space as stacked tensors ``[n, *shape]``, in the order given.

        Neighbours in one shard are a view of the file, without a copy.
        """
        if len(shards) and (shards == shards[0]).all() and (np.diff(rows) == 1).all():
            start, stop = int(rows[0]), int(rows[-1]) + 1
            return {name: stored[start:stop] for name, stored in self.tensors(digest, int(shards[0])).items()}
        out: dict[str, Tensor] = {}
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            places, wanted = torch.from_numpy(here), torch.from_numpy(rows[here].astype(np.int64))
            for name, stored in self.tensors(digest, int(shard)).items():
                if name not in out:
                    out[name] = stored.new_empty(len(shards), *stored.shape[1:])
                out[name][places] = stored[wanted]
        return out

    def check(self, digest: str, shard: int) -> None:
        """Compare a shard's header with the table and the weight space.

        Raises:
            ZooError: They disagree.
        """
        path, count = shard_path(self.path, digest, shard), self.nets[digest, shard]
        if count < 0:
            raise ZooError(
                f"Table and shards of {self.path} disagree: the rows of {path} are not 0..n-1, each once. {REBUILD}"
            )
        if not path.is_file():
            raise ZooError(
                f"Table and shards of {self.path} disagree: shard {path} is missing, the table has {count} nets in it. "
                f"{REBUILD}"
            )
        stored = _header(path)
        want = {name: (count, *shape) for name, shape in self.spaces[digest].shapes.items()}
        if stored != want:
            raise ZooError(f"Table and shards of {self.path} disagree: {path} {_difference(stored, want)}. {REBUILD}")


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.nbytes for t in tensors.values())


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ZooError(f"Cannot read shard {file}: {error}. {REBUILD}") from error


def _difference(stored: dict[str, tuple[int, ...]], want: dict[str, tuple[int, ...]]) -> str:
    for name, shape in want.items():
        if name not in stored:
            return f"lacks the tensor '{name}' of its weight space"
        if stored[name][1:] != shape[1:]:
            return f"holds '{name}' as {list(stored[name][1:])}, its weight space says {list(shape[1:])}"
        if stored[name][:1] != shape[:1]:
            return f"holds {stored[name][0] if stored[name] else 0} nets, the table {shape[0]}"
    return f"holds tensors that its weight space does not know: {', '.join(sorted(set(stored) - set(want)))}"
