"""Make the index of known architectures anew: ``python -m metanet.space.recognise.make_index [--to FILE]``.

It needs torchvision, timm and transformers, of the versions that the index shall name, and takes some minutes: every
architecture is constructed without weights (three times, to see which dimensions follow the number of classes and of
input channels). Those that share a fingerprint are traced, and compared.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metanet.errors import MetanetError
from metanet.space import WeightSpace, trace
from metanet.space.infer import infer
from metanet.space.recognise.alternatives import agrees, compare
from metanet.space.recognise.families import FAMILIES, PRESETS
from metanet.space.recognise.fingerprint import Shapes, names_key, shapes_key, shapes_of, skeleton_key
from metanet.space.recognise.index import FILE, write_index
from metanet.space.recognise.libraries import LIBRARIES, create, import_library, version
from metanet.space.recognise.naming import without_ties
from metanet.space.recognise.recognition import UNKNOWN

CLASSES, CHANNELS = 1009, 2  # how many classes and channels more; a difference of shapes tells which it was

Row = tuple[str, str, str, list[list[Any]], dict[str, Any]]


def names() -> Iterator[tuple[str, str]]:
    """Yield library and name of every architecture."""
    torchvision, timm = import_library("torchvision"), import_library("timm")
    yield from (("torchvision", n) for n in torchvision.models.list_models() if not n.startswith("quantized_"))
    yield from (("timm", n) for n in timm.list_models())
    package = import_library("transformers")
    for family, endings in FAMILIES.items():
        for ending in endings:
            if hasattr(package, family + ending):
                yield "transformers", family + ending
                yield from (("transformers", f"{family}{ending}/{preset}") for preset in PRESETS.get(family, {}))


def build(library: str, name: str, **arguments: Any) -> tuple[Shapes, nn.Module, Any]:
    """Construct an architecture; shapes are those that a file has, with each tied tensor once."""
    module, inputs = create(library, name, arguments, presets())
    state = without_ties(module) if library == "transformers" else module.state_dict()
    return shapes_of(state), module, inputs


def presets() -> dict[str, dict[str, Any]]:
    """Return all published configurations by name."""
    return {name: fields for named in PRESETS.values() for name, fields in named.items()}


def variants(library: str, name: str, module: nn.Module) -> Iterator[dict[str, int]]:
    """Yield arguments that change the head or the input of an architecture, all that its constructor takes first."""
    if library == "transformers":
        config: Any = module.config
        labels = {"num_labels": config.num_labels + CLASSES} if "For" in name else {}
        words = getattr(config, "vocab_size", None)
        vocabulary = {"vocab_size": words + CHANNELS} if isinstance(words, int) else {}
        yield from (v for v in ({**labels, **vocabulary}, vocabulary) if v)
        return
    classes = {"num_classes": getattr(module, "num_classes", 0) or default_classes(name)}
    more = {"num_classes": classes["num_classes"] + CLASSES}
    if library == "timm":
        channels = getattr(module, "pretrained_cfg", {}).get("input_size", (3,))[0]
        yield {**more, "in_chans": channels + CHANNELS}
    yield more


def default_classes(name: str) -> int:
    """Return how many classes a model of torchvision has by default."""
    detection = ("rcnn", "retinanet", "fcos", "ssd")
    segmentation = ("deeplab", "fcn_", "lraspp")
    if any(part in name for part in detection):
        return 2 if "keypoint" in name else 91
    return 21 if any(part in name for part in segmentation) else 400 if is_video(name) else 1000


def is_video(name: str) -> bool:
    """Return whether a model of torchvision reads clips."""
    return name.startswith(("mvit", "swin3d", "s3d", "r3d", "mc3", "r2plus1d"))


def open_dims(before: Shapes, after: Shapes, changed: Mapping[str, tuple[int, int]]) -> list[list[Any]] | None:
    """Return which dimensions follow which argument; None if the change is of another kind.

    Args:
        before: Shapes of the architecture.
        after: Shapes with other arguments.
        changed: The value of each argument before and after.
    """
    if before.keys() != after.keys():
        return None
    found = []
    for name, shape in before.items():
        if len(shape) != len(after[name]):
            return None
        for dim, (a, b) in enumerate(zip(shape, after[name], strict=True)):
            if a == b:
                continue
            argument = next((x for x, (p, q) in changed.items() if (b - a) % (q - p) == 0), None)
            if argument is None:
                return None
            start, end = changed[argument]
            factor = (b - a) // (end - start)
            found.append([name, dim, argument, factor, a - factor * start])
    return found


def examine(library: str, name: str) -> Iterator[tuple[Row, str, str]]:
    """Yield rows of the index for one architecture, each with the hash of its names and its hash without the head."""
    shapes, module, _ = build(library, name)
    found: list[list[Any]] = []
    kind, _, preset = name.partition("/")
    if preset:  # what follows the sizes of vocabulary and labels does so in every configuration of a class
        found = [d for d in _dims_of(kind) if d[0] in shapes]
    for arguments in () if preset else variants(library, name, module):
        start = {k: v - (CLASSES if k in ("num_classes", "num_labels") else CHANNELS) for k, v in arguments.items()}
        try:
            other = build(library, name, **arguments)[0]
        except MetanetError:
            continue
        dims = open_dims(shapes, other, {k: (start[k], v) for k, v in arguments.items()})
        if dims is not None:
            found = dims
            break
    key = shapes_key(shapes, {(d[0], d[1]) for d in found})
    head = shapes_key(shapes, {(d[0], d[1]) for d in found if d[2] in ("num_classes", "num_labels")})
    yield (library, name, key, found, {}), names_key(shapes), head
    if library == "timm":
        yield from headless(name, shapes, found)


@cache
def _dims_of(kind: str) -> list[list[Any]]:
    """Return the open dimensions of a class of transformers in its default configuration."""
    return next(examine("transformers", kind))[0][3]


def headless(name: str, shapes: Shapes, dims: list[list[Any]]) -> Iterator[tuple[Row, str, str]]:
    """Yield the row of a timm model that gives features: ``num_classes=0``.

    Args:
        name: Name of the model.
        shapes: Its shapes with a head.
        dims: Its open dimensions.
    """
    try:
        bare = build("timm", name, num_classes=0)[0]
    except MetanetError:
        return
    if bare.keys() == shapes.keys() or not bare:
        return
    left = [d for d in dims if d[2] == "in_chans" and bare.get(d[0]) == shapes[d[0]]]
    key = shapes_key(bare, {(d[0], d[1]) for d in left})
    yield ("timm", name, key, left, {"num_classes": 0}), names_key(bare), shapes_key(bare)


def group(ids: list[str]) -> dict[str, Any] | None:
    """Compare the spaces of architectures that share a fingerprint: None if all are equal."""
    classes: list[tuple[WeightSpace, list[str]]] = []
    for id in ids:
        library, _, name = id.partition(":")
        try:
            _, module, inputs = build(library, name)
            space = trace(module, inputs)
        except MetanetError as error:
            print(f"{id} is left out of its group: {error}", flush=True)
            continue
        same = next((names for other, names in classes if not compare([other, space])), None)
        if same is not None:
            same.append(id)
        else:
            classes.append((space, [id]))
    if len(classes) < 2:
        return None
    return {"classes": [names for _, names in classes], "differs": sorted(compare([space for space, _ in classes]))}


def is_inferable(library: str, name: str) -> bool:
    """Return whether names and shapes alone give a space that the traced one confirms."""
    _, module, inputs = build(library, name)
    try:
        guess = infer(module.state_dict(), architecture=UNKNOWN)
    except MetanetError:
        return False
    return agrees(guess, trace(module, inputs))


@dataclass(frozen=True)
class Finding:
    """What was found about one architecture.

    Attributes:
        id: Library and name.
        rows: Rows of the index, each with the hash of its names and its hash without the head.
        skeleton: Hash of its names without numbers; empty outside of transformers.
        inferable: Whether inference without the library gives the traced space.
        problem: Why it is left out, or empty.
    """

    id: str
    rows: list[tuple[Row, str, str]] = field(default_factory=list)
    skeleton: str = ""
    inferable: bool = False
    problem: str = ""


def finding(item: tuple[str, str]) -> Finding:
    """Construct one architecture and take its fingerprints."""
    library, name = item
    id = f"{library}:{name}"
    try:
        rows = list(examine(library, name))
        if library == "transformers":
            return Finding(id, rows, skeleton_key(build(library, name)[0]))
        return Finding(id, rows, inferable=is_inferable(library, name))
    except MetanetError as error:
        return Finding(id, problem=str(error))


def make(jobs: int, only: int | None = None) -> dict[str, Any]:
    """Return the data of the index."""
    entries: dict[str, list[Row]] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    skeletons: dict[str, list[str]] = {}
    inferable = []
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for number, found in enumerate(pool.imap(finding, list(names())[:only], chunksize=8)):
            if number % 100 == 0 or found.problem:
                print(f"{number} {found.id} {found.problem}", flush=True)
            for row, key, head in found.rows:
                entries.setdefault(key, []).append(row)
                if not row[4]:
                    shared.setdefault((key, head), []).append(found.id)
            kind = found.id.partition(":")[2].partition("/")[0]
            if found.skeleton and kind not in skeletons.setdefault(found.skeleton, []):
                skeletons[found.skeleton].append(kind)
            inferable += [found.id] if found.inferable else []
        several = [ids for ids in shared.values() if len(ids) > 1]
        print(f"{sum(map(len, entries.values()))} fingerprints, {len(several)} shared; tracing those", flush=True)
        groups = [found for found in pool.imap(group, several) if found is not None]
    return {
        "versions": {library: version(library) for library in LIBRARIES},
        "entries": entries,
        "groups": groups,
        "inferable": sorted(inferable),
        "skeletons": skeletons,
        "classes": sorted({kind for kinds in skeletons.values() for kind in kinds}),
        "presets": presets(),
    }


def main() -> int:
    """Make the index and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--to", type=Path, default=FILE, metavar="FILE", help="where to write; by default the package")
    parser.add_argument("--only", type=int, metavar="N", help="the first N architectures, for a trial")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    options = parser.parse_args()
    torch.set_num_threads(1)  # forked processes must not inherit threads
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    write_index(make(options.jobs, options.only), options.to)
    print(f"{options.to}: {options.to.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
