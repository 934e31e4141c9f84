"""PyTorch files: ``torch.save`` as zip (since 1.6) and as the legacy stream of pickles, and plain pickles of arrays."""

import io
import re
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import torch

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.budget import charge
from metanet.checkpoint.collect import collect
from metanet.checkpoint.registry import Contents, Probe, reader
from metanet.checkpoint.storage import Storage
from metanet.checkpoint.unpickle import unpickle
from metanet.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def is_zip(probe: Probe) -> bool:
    """A zip archive with a pickle ``<root>/data.pkl``, and no ``constants.pkl`` as TorchScript has."""
    tops = {name.split("/", 1)[1] for name in probe.members if name.count("/") == 1}
    return "data.pkl" in tops and "constants.pkl" not in tops


def is_stream(probe: Probe) -> bool:
    """A pickle of protocol 2 or later."""
    return len(probe.head) > 1 and probe.head[0] == 0x80 and 2 <= probe.head[1] <= 5


@reader("pytorch", extensions=ENDINGS, recognises=lambda probe: is_zip(probe) or is_stream(probe))
def read(path: Path) -> Contents:
    """Read a file of ``torch.save``: a state dict, a training checkpoint that holds one, or a whole module."""
    with path.open("rb") as file:
        return read_file(file)


def read_file(file: BinaryIO) -> Contents:
    """Read an open file of ``torch.save`` of either kind."""
    start = file.read(2)
    file.seek(0)
    if start != b"PK":
        return collect(read_stream(file))
    with Archive(file) as archive:
        return collect(read_archive(archive, root_of(archive), "data"))


def root_of(archive: Archive) -> str:
    """The folder that holds everything in a ``torch.save`` archive."""
    roots = [name.removesuffix("/data.pkl") for name in archive.names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise CheckpointError(f"{len(roots)} folders with a data.pkl (got {roots[:3]}), a torch.save archive has one.")
    return roots[0]


def read_archive(archive: Archive, root: str, name: str) -> Any:
    """Unpickle ``<root>/<name>.pkl``, whose storages are the members of the folder ``<root>/<name>``.

    Raises:
        CheckpointError: It is damaged, or was written on a big-endian machine.
    """
    if archive.size(f"{root}/byteorder") and archive.read(f"{root}/byteorder") != b"little":
        raise CheckpointError("it was written on a big-endian machine. Load it there and save it as safetensors.")
    storages: dict[str, Storage] = {}

    def storage(dtype: torch.dtype, key: str, device: str, numel: int, *_: object) -> Storage:
        member = f"{root}/{name}/{key}"
        if member not in storages:
            check_bytes(archive.size(member), numel * dtype.itemsize, f"storage '{member}'")
            storages[member] = Storage(dtype, numel, partial(archive.read, member))
        return storages[member]

    return unpickle(io.BytesIO(archive.read(f"{root}/{name}.pkl")), storage)


def read_stream(file: BinaryIO, depth: int = 0) -> Any:
    """Read the legacy format: magic number, version, system, the object, storage keys, then the storages' bytes.

    A pickle that does not begin with the magic number is read as a plain pickle, for instance of arrays.

    Raises:
        CheckpointError: It is damaged, or was written on a big-endian machine.
    """
    head = unpickle(file, depth=depth)
    if not isinstance(head, int) or head != LEGACY_MAGIC:
        check_end(file)
        return head
    unpickle(file, depth=depth)
    system = unpickle(file, depth=depth)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError("it was written on a big-endian machine. Load it there and save it as safetensors.")
    storages: dict[str, Storage] = {}

    def storage(dtype: torch.dtype, key: str, device: str, numel: int, view: Any = None, *_: object) -> Storage:
        whole = storages.setdefault(key, Storage(dtype, numel, lambda: b""))
        if view is None:
            return whole
        if not isinstance(view, tuple) or len(view) != 3:
            raise CheckpointError(f"the view of storage '{key}' is damaged. Save or download the file again.")
        return Storage(dtype, view[2], lambda: bytes(whole.values().numpy()), start=view[1])

    tree = unpickle(file, storage, depth)
    locate(file, unpickle(file, depth=depth), storages)
    check_end(file)
    return tree


def locate(file: BinaryIO, keys: Any, storages: dict[str, Storage]) -> None:
    """Find each storage in the rest of a legacy file, which stores an element count and the bytes for every key.

    Raises:
        CheckpointError: The file ends before its last storage.
    """
    if not isinstance(keys, list):
        raise CheckpointError("the list of storages is damaged. Save or download the file again.")
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise CheckpointError(f"storage {short(key)} belongs to no tensor: the file is damaged.")
        file.seek(here)
        count = int.from_bytes(file.read(8), "little")
        size = count * storages[key].dtype.itemsize
        check_bytes(end - here - 8, size, f"storage '{key}'")
        storages[key].fetch = partial(read_at, file, here + 8, size)
        here += 8 + size
    file.seek(here)


def check_end(file: BinaryIO) -> None:
    """Check that nothing follows in an open file.

    Raises:
        CheckpointError: Something does, as after several saves to one file.
    """
    here = file.tell()
    left = file.seek(0, io.SEEK_END) - here
    if left:
        raise CheckpointError(
            f"{left:,} bytes follow the first save in the file: several saves, of which only the first would be read, "
            "or a damaged file. Save each net in a file of its own."
        )


def read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Bytes of an open file at a position."""
    charge(size, "a storage")
    file.seek(start)
    return file.read(size)


def check_bytes(got: int, needed: int, what: str) -> None:
    """Compare the bytes that are there with those that were promised.

    Raises:
        CheckpointError: There are fewer.
    """
    if not 0 <= needed <= got:
        raise CheckpointError(
            f"{what} is truncated (got {got:,} bytes, {needed:,} promised). Save or download the file again."
        )
