"""The index of known architectures, a data file of this package: fingerprint to library, constructor and version."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from metanet.errors import SpaceError
from metanet.formats import check_format
from metanet.space.recognise.fingerprint import Shapes, names_key, shapes_key, skeleton_key

FILE = Path(__file__).with_name("index.json.xz")
FORMAT = 1
HEADLESS = "?num_classes=0"  # after the name of a timm model that gives features


@dataclass(frozen=True)
class OpenDim:
    """A dimension whose size an argument of the constructor sets: ``size = factor * value + offset``.

    Attributes:
        tensor: Name of the tensor.
        dim: Which dimension.
        argument: Name of the argument, such as ``"num_classes"`` or ``"in_chans"``.
        factor: How much one more of the argument adds.
        offset: The size at an argument of 0.
    """

    tensor: str
    dim: int
    argument: str
    factor: int
    offset: int


@dataclass(frozen=True)
class Known:
    """One architecture of a library, as the index lists it.

    Attributes:
        library: ``"timm"``, ``"torchvision"`` or ``"transformers"``.
        name: Name of the constructor; for transformers the class, with a preset after a slash.
        shapes: Hash of all names and shapes, open dimensions left out.
        open: The open dimensions.
        arguments: Fixed arguments of the constructor, such as ``num_classes=0`` for a net without its head.
    """

    library: str
    name: str
    shapes: str
    open: tuple[OpenDim, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name by which a user chooses it: ``"timm:resnet50"``."""
        return f"{self.library}:{self.name}"

    @property
    def key(self) -> str:
        """The name in groups of equal fingerprints: that of a net without its head says so."""
        return self.id + (HEADLESS if self.arguments.get("num_classes") == 0 else "")

    def fit(self, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments with which the constructor gives these shapes, or None if no arguments do."""
        found = dict(self.arguments)
        for one in self.open:
            shape = shapes.get(one.tensor)
            if shape is None or one.dim >= len(shape):
                return None
            value, rest = divmod(shape[one.dim] - one.offset, one.factor)
            if rest or value < 1 or found.setdefault(one.argument, value) != value:
                return None
        return found if shapes_key(shapes, {(o.tensor, o.dim) for o in self.open}) == self.shapes else None


@dataclass(frozen=True)
class Group:
    """Architectures of equal names and shapes, compared.

    Attributes:
        classes: Sets of keys; the spaces of one class are equal.
        differs: In what the classes differ: ``"stride"``, ``"activation"``, ``"gauges"``, or ``"structure"``.
    """

    classes: tuple[tuple[str, ...], ...]
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """All known architectures.

    Attributes:
        versions: Version of each library that the index was made with.
        entries: Rows of architectures by the hash of their names; :meth:`candidates` reads them.
        groups: Architectures of several libraries that share a fingerprint, by the key of each; :meth:`differs` reads
            them where one of the libraries is missing.
        inferable: Names of architectures whose space :func:`metanet.infer` derives rightly without the library.
        skeletons: Classes of transformers by the hash of their names with every number replaced.
        classes: Every class of transformers that may be constructed.
        presets: Published configurations of transformers: fields that differ from the defaults, by name.
    """

    versions: Mapping[str, str]
    entries: Mapping[str, Sequence[Sequence[Any]]]
    groups: Mapping[str, Group]
    inferable: frozenset[str]
    skeletons: Mapping[str, Sequence[str]]
    classes: frozenset[str]
    presets: Mapping[str, Mapping[str, Any]]

    def candidates(self, shapes: Shapes) -> list[tuple[Known, dict[str, Any]]]:
        """Return all architectures of these names and shapes, with the arguments of their constructors."""
        rows = self.entries.get(names_key(shapes), ())
        known = [Known(r[0], r[1], r[2], tuple(OpenDim(*o) for o in r[3]), r[4]) for r in rows]
        return [(one, found) for one in known if (found := one.fit(shapes)) is not None]

    def differs(self, known: Known, others: Sequence[Known]) -> Sequence[str]:
        """Return in what an architecture may differ from others of its names and shapes, without constructing it.

        It differs in structure for all that is known if the index does not compare it with one of them.
        """
        found = self.groups.get(known.key)
        if found is None:
            return ("structure",)
        own = next(members for members in found.classes if known.key in members)
        if any(other.key in own for other in others):
            return ()
        compared = {key for members in found.classes for key in members}
        return found.differs if any(other.key in compared for other in others) else ("structure",)

    def classes_like(self, shapes: Shapes) -> Sequence[str]:
        """Return the classes of transformers with these names at some depth."""
        return self.skeletons.get(skeleton_key(shapes), ())

    def all_names(self) -> frozenset[str]:
        """Return the names of all architectures, with their libraries."""
        return frozenset(f"{row[0]}:{row[1]}" for rows in self.entries.values() for row in rows)


@cache
def load_index(file: Path = FILE) -> Index:
    """Read the index once.

    Raises:
        SpaceError: It is missing, damaged or of a newer format.
    """
    try:
        return _index_of(file)
    except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, SpaceError):
            raise
        raise SpaceError(f"Cannot read the index {file}: got '{error}'. Install metanet again.") from error


def _index_of(file: Path) -> Index:
    data = json.loads(lzma.decompress(file.read_bytes()))
    check_format(data["format"], FORMAT, f"The index {file}", SpaceError)
    groups = [Group(tuple(map(tuple, g["classes"])), tuple(g["differs"])) for g in data["groups"]]
    return Index(
        data["versions"],
        data["entries"],
        {name: group for group in groups for names in group.classes for name in names},
        frozenset(data["inferable"]),
        data["skeletons"],
        frozenset(data["classes"]),
        data["presets"],
    )


def write_index(data: Mapping[str, Any], file: Path = FILE) -> None:
    """Write what :func:`load_index` reads."""
    text = json.dumps({"format": FORMAT, **data}, separators=(",", ":"), sort_keys=True)
    file.write_bytes(lzma.compress(text.encode(), preset=9))
