"""Fingerprints: what the names and shapes of a state dict identify, without counters and without values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

COUNTERS = ("num_batches_tracked",)
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
BYTES = 6  # of a hash: 48 bits keep some two thousand entries apart, and a module is compared before it is used


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of every tensor, without the counters of batch norms."""
    return {name: tuple(t.shape) for name, t in state.items() if name.rpartition(".")[2] not in COUNTERS}


def names_key(names: Iterable[str]) -> str:
    """Return the hash of a set of names."""
    return _hash("\n".join(sorted(names)))


def shapes_key(shapes: Mapping[str, tuple[int, ...]], open_dims: Collection[tuple[str, int]] = ()) -> str:
    """Return the hash of names with shapes.

    Args:
        shapes: Shape of every tensor by name.
        open_dims: Pairs of a name and a dimension whose size is left out of the hash, such as the number of classes.
    """
    known = set(open_dims)
    lines = (
        f"{name} {','.join('*' if (name, d) in known else str(size) for d, size in enumerate(shape))}"
        for name, shape in sorted(shapes.items())
    )
    return _hash("\n".join(lines))


def skeleton_key(names: Iterable[str]) -> str:
    """Return the hash of the set of names in which every number between dots is replaced: equal for all depths."""
    return names_key({NUMBER.sub("#", name) for name in names})


def common_prefixes(names: Collection[str]) -> Iterator[str]:
    """Yield the prefixes that all names share, from none to the longest: ``""``, ``"module."``, ``"module.net."``."""
    prefix = ""
    while True:
        yield prefix
        heads = {name[len(prefix) :].partition(".")[:2] for name in names}
        if len(heads) != 1 or not next(iter(heads))[1]:
            return
        prefix += next(iter(heads))[0] + "."


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=BYTES).hexdigest()
