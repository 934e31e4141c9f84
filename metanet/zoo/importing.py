"""Import a published zoo, in its own format, into the store.

Nets are read one by one and stacked into shards by weight space. The zoo is put together in ``<path>.importing`` and
renamed when it is whole. A net that cannot be read, or whose architecture is not understood, is listed with the reason
in ``zoo.json`` under ``unreadable``, and the import goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
import safetensors.torch
import torch
from torch import Tensor

from metanet.errors import MetanetError, ZooError
from metanet.graph.coverage import warn_of_unplaced
from metanet.space import WeightSpace, trace
from metanet.space.infer import infer
from metanet.symmetry.move import check_real, check_shared, check_state
from metanet.zoo.catalogue import zoos_folder
from metanet.zoo.functions import ARCHITECTURES
from metanet.zoo.progress import Progress
from metanet.zoo.readers.networks import Declared
from metanet.zoo.readers.registry import Blueprint, Source, SourceNet, ZooFormat, find_format
from metanet.zoo.split import SPLITS, split_runs
from metanet.zoo.store import ModelZoo, read_zoo, shard_path
from metanet.zoo.write import make_folder, sync_folder, write_file, write_zoo

SHARD_BYTES = 32 << 20
BUFFERED_BYTES = 256 << 20  # weights waiting in memory for their shard to fill, all spaces together
COLUMNS: dict[str, tuple[str, str]] = {
    "id": ("", "name of the net"),
    "space": ("", "digest of its weight space"),
    "shard": ("", "number of the file in weights/<space>/"),
    "row": ("", "position in that file"),
    "split": ("", "train, validation or test as published; none for nets outside all splits"),
    "run": ("", "training that the net comes from"),
    "diverged": ("", "a weight is not finite"),
}


def import_zoo(
    format: str,
    path: str | Path,
    name: str | Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> ModelZoo:
    """Import a published zoo.

    Args:
        format: Its format, one of :func:`metanet.zoo.zoo_formats`.
        path: Its folder or file.
        name: Name of the new zoo in ``<data folder>/zoos``, or a path of several parts for its folder.
        progress: Called now and then with nets done.
        options: Options of the format.

    Returns:
        The opened zoo; ``zoo.unreadable`` lists the nets that were left out, with reasons.

    Raises:
        ZooError: There is no such format, the path holds no such zoo, no net of it can be read, the name is taken, or
            the folder cannot be written.
    """
    chosen = find_format(format)
    unknown = sorted(set(options) - set(chosen.options))
    if unknown:
        accepted = ", ".join(chosen.options) or "none"
        raise ZooError(f"Format {format} has no option '{unknown[0]}'. Accepted: {accepted}.")
    target = Path(name) if len(Path(name).parts) > 1 else zoos_folder() / name
    given = Path(path).expanduser()
    if not given.exists():
        raise ZooError(f"Cannot import {given}: there is no such file or folder. {format} is {chosen.holds}.")
    make_folder(target.parent)
    try:
        with filelock.FileLock(target.with_name(f".{target.name}.lock")).acquire(timeout=0):
            if target.exists():
                raise ZooError(f"Cannot import to {target}: it exists. Choose another name, or delete that folder.")
            source = chosen.open(given, **options)
            _import(chosen, given, source, target, options, progress or (lambda _: None))
    except filelock.Timeout:
        raise ZooError(f"Another process is writing {target}. Wait until it has finished.") from None
    return read_zoo(target)


def _import(
    format: ZooFormat,
    path: Path,
    source: Source,
    target: Path,
    options: Mapping[str, Any],
    progress: Callable[[Progress], None],
) -> None:
    folder = target.with_name(target.name + ".importing")
    if folder.exists():
        shutil.rmtree(folder)
    make_folder(folder)
    try:
        collector = Collector(folder)
        start, total = time.perf_counter(), len(source.ids)
        for number, id in enumerate(source.ids):
            try:
                collector.add(id, source.read(number))
            except _Unwritable:
                raise
            except Exception as error:  # a damaged net fails in whatever way its damage leads to
                collector.unreadable.append({"id": id, "reason": reason(error)})
            progress(Progress(number + 1, total, number + 1, time.perf_counter() - start))
        if not collector.rows:
            raise ZooError(_nothing(format, path, collector.unreadable))
        collector.flush()
        card = _card(format, path, source, target, options, collector)
        if not {row["split"] for row in collector.rows} & set(SPLITS):
            assign_splits(collector.rows)
            card["notes"].append("split at random by run (70/15/15), for lack of a published one")
        write_zoo(folder, collector.spaces, collector.rows, card)
        sync_folder(folder)
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(target.parent)


class _Unwritable(ZooError):
    """The disk, not a net, is at fault."""


class Collector:
    """Stacks nets into shards, space by space.

    Args:
        folder: Folder of the zoo that is being made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.unreadable: list[dict[str, str]] = []
        self.spaces: dict[str, WeightSpace] = {}
        self.architectures: dict[str, Any] = {}
        self._known: dict[Any, WeightSpace] = {}
        self._waiting: dict[str, list[Mapping[str, Tensor]]] = {}
        self._bytes: dict[str, int] = {}
        self._shards: dict[str, int] = {}

    def add(self, id: str, net: SourceNet) -> None:
        """Take a net in.

        Raises:
            MetanetError: Its architecture is not understood, or its tensors do not fit it.
        """
        space = self._space(net)
        check_state(space, net.tensors)
        check_real(space, net.tensors)
        check_shared(space, net.tensors)
        tensors = {name: net.tensors[name].detach().contiguous() for name in space.tensor}
        digest = space.digest
        if digest not in self.spaces:
            self.spaces[digest] = space
            warn_of_unplaced(space, f"{id} and all of its architecture")
        if isinstance(net.blueprint, Declared):
            self.architectures.setdefault(digest, net.blueprint.architecture.to_dict())
        waiting = self._waiting.setdefault(digest, [])
        if waiting and any(tensors[name].dtype != waiting[0][name].dtype for name in tensors):
            self.flush(digest)  # a stacked tensor has one type
            waiting = self._waiting[digest]
        where = {"id": id, "space": digest, "shard": self._shards.get(digest, 0), "row": len(waiting)}
        finite = all(bool(t.isfinite().all()) for t in tensors.values())
        self.rows.append(
            where | {"split": net.split, "run": net.run or id} | dict(net.labels) | {"diverged": not finite}
        )
        waiting.append(tensors)
        self._bytes[digest] = self._bytes.get(digest, 0) + sum(t.nbytes for t in tensors.values())
        if self._bytes[digest] >= SHARD_BYTES:
            self.flush(digest)
        elif sum(self._bytes.values()) >= BUFFERED_BYTES:
            self.flush(max(self._bytes, key=self._bytes.__getitem__))

    def flush(self, digest: str | None = None) -> None:
        """Write the nets that wait, of one space or of all."""
        for key in [digest] if digest is not None else list(self._waiting):
            nets = self._waiting[key]
            if not nets:
                continue
            stacked = {name: torch.stack([net[name] for net in nets]) for name in nets[0]}
            shard = self._shards.get(key, 0)
            try:
                write_file(shard_path(self.folder, key, shard), safetensors.torch.save(stacked))
            except ZooError as error:
                raise _Unwritable(str(error)) from None
            self._waiting[key], self._bytes[key], self._shards[key] = [], 0, shard + 1

    def _space(self, net: SourceNet) -> WeightSpace:
        if net.space is not None:
            return net.space
        shapes = tuple((name, tuple(t.shape)) for name, t in net.tensors.items())
        key = net.blueprint if net.blueprint is not None else (shapes, net.activation, *sorted(net.options.items()))
        if key not in self._known:
            self._known[key] = (
                space_of(net.blueprint)
                if net.blueprint is not None
                else infer(net.tensors, net.activation, **net.options)
            )
        return self._known[key]


def assign_splits(rows: list[dict[str, Any]]) -> None:
    """Give nets without a published split one at random, by run; nets that diverged stay outside."""
    usable = [row for row in rows if not row["diverged"]]
    for row, split in zip(usable, split_runs([row["run"] for row in usable]), strict=True):
        row["split"] = split


def space_of(blueprint: Blueprint) -> WeightSpace:
    """Derive the weight space of a blueprint; what a certificate refutes is frozen."""
    module, example = blueprint.module()
    return trace(module.eval(), example, certify=True)


def reason(error: Exception) -> str:
    """One line that says why a net cannot be read."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MetanetError) and text else f"{type(error).__name__}: {text}"


def _nothing(format: ZooFormat, path: Path, unreadable: list[dict[str, str]]) -> str:
    if not unreadable:
        return f"Cannot import {path}: got no nets in it. {format.name} is {format.holds}."
    first = unreadable[0]
    return (
        f"Cannot import {path}: none of its {len(unreadable)} nets can be read. The first, {first['id']}: "
        f"{first['reason']}"
    )


def _card(
    format: ZooFormat, path: Path, source: Source, target: Path, options: Mapping[str, Any], collector: Collector
) -> dict[str, Any]:
    meanings = COLUMNS | dict(source.columns)
    names = dict.fromkeys(name for row in collector.rows for name in row)
    return {
        "format": 1,
        "name": target.name,
        "version": 1,
        "description": format.title,
        "licence": format.licence,
        "source": format.source,
        "nets": len(collector.rows),
        "imported": {
            "format": format.name,
            "folder": path.name,
            "options": {key: str(value) for key, value in options.items() if value is not None},
        },
        "notes": list(source.notes),
        "columns": {n: dict(zip(("unit", "meaning"), meanings.get(n, ("", "")), strict=True)) for n in names},
        "unreadable": collector.unreadable,
        ARCHITECTURES: collector.architectures,
    }
