"""The files of a zoo below its table: weight spaces and shards, each read and checked when it is first needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metanet.errors import MetanetError, ZooError
from metanet.space import WeightSpace

REBUILD = "Restore the file, or delete the zoo's folder and build or import it again."
MAPPED_FILES = 64  # at once; more would approach the limit of open files
MAPPED_BYTES = 1 << 29  # address space that a process gives to shards, unless one shard alone is larger


def shard_path(zoo: Path, digest: str, shard: int) -> Path:
    """Return the file of a shard."""
    return zoo / "weights" / digest / f"{shard:05d}.safetensors"


class Spaces(Mapping[str, WeightSpace]):
    """Weight spaces by digest, read when asked for.

    Args:
        path: Folder of the zoo.
        digests: Which there are.
    """

    def __init__(self, path: Path, digests: list[str]) -> None:
        self.path, self.digests = path, digests
        self._read: dict[str, WeightSpace] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.digests)

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, digest: str) -> WeightSpace:
        """The space of that digest.

        Raises:
            KeyError: The zoo has no net of it.
            ZooError: Its file is missing or damaged.
        """
        if digest not in self._read:
            if digest not in self.digests:
                raise KeyError(digest)
            self._read[digest] = read_space(self.path / "spaces" / f"{digest}.json")
        return self._read[digest]

    def only(self, digests: list[str]) -> Spaces:
        """Some of them; those that were read already are not read again."""
        part = Spaces(self.path, digests)
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
    """

    def __init__(self, path: Path, spaces: Mapping[str, WeightSpace], nets: Mapping[tuple[str, int], int]) -> None:
        self.path, self.spaces, self.nets = path, spaces, nets
        self._mapped: OrderedDict[tuple[str, int], dict[str, Tensor]] = OrderedDict()
        self._bytes = 0
        self._checked: set[tuple[str, int]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": OrderedDict(), "_bytes": 0}  # worker processes map the files themselves

    def tensors(self, digest: str, shard: int) -> dict[str, Tensor]:
        """The stacked tensors of a shard, which are views of the file: they must not be changed in place.

        Raises:
            ZooError: It is missing or unreadable, or disagrees with the table or its weight space.
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
        if (digest, shard) not in self._checked:
            self.check(digest, shard)
            self._checked.add((digest, shard))
        path = shard_path(self.path, digest, shard)
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
