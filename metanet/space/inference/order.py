"""The order in which layers are computed: from the format's own rule, from names and from sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from metanet.space.inference.layers import Layer
from metanet.space.inference.naming import Naming
from metanet.space.inference.options import Reading
from metanet.space.inference.refusal import Unlisted, refuse, stem_and_number
from metanet.space.inference.sizes import paths, place_vectors, proves_chain


def is_lost(state: Mapping[str, Tensor], layers: Sequence[Layer], file_format: str, chain: bool) -> bool:
    """Return whether the order of a file means nothing.

    safetensors sorts tensors by type, then by name. The order of another source is lost too if its names are sorted so,
    unless the user says that it lists a chain, or if its numbered layers are mixed up.
    """
    if file_format == "safetensors":
        return True
    if not chain and len(layers) > 1 and is_sorted(state):
        return True
    last: dict[tuple[tuple[str, ...], str], int] = {}
    for layer in layers:
        for depth, component in enumerate(layer.components):
            stem, number = stem_and_number(component)
            family = (layer.components[:depth], stem)
            if number < last.get(family, 0):
                return True
            last[family] = number
    return False


def is_sorted(state: Mapping[str, Tensor]) -> bool:
    """Return whether the names of the tensors of each type are sorted as text."""
    names: dict[object, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(tensor.dtype, []).append(name)
    return all(own == sorted(own) for own in names.values())


def find_order(layers: Sequence[Layer], reading: Reading, lost: bool) -> tuple[list[Layer], Unlisted | None]:
    """Find the order of a chain of layers.

    Names that denote chains tell it. Under other names, sizes tell it where they leave no other computation, and else
    the user does, who says that the layers are a chain: in the order of the file, or if that is lost, in the only order
    that fits the sizes.

    Returns:
        The order, and what remains unclear if the layers fit together in it, or None.

    Raises:
        SpaceError: The search was cut off, or the file lost its order and sizes allow several.
    """
    numbers = [layer for layer in layers if layer.kind == "scalar"]
    rest = [layer for layer in layers if layer.kind != "scalar"]
    try:
        return [*numbers, *Naming(reading.chain).order(rest)], None
    except Unlisted as unlisted:
        problem = unlisted
    if reading.chain and not lost:
        return list(layers), None
    weights = [layer for layer in rest if layer.kind in ("linear", "convolution")]
    found = paths(weights)
    if not found:
        return list(layers), problem
    if len(found) > 1 and reading.chain:
        raise _two_orders(found[0], found[1])
    if len(found) > 1 or not (reading.chain or proves_chain(found[0])):
        return [], problem
    placed, twice = place_vectors(found[0], [layer for layer in rest if layer not in weights])
    if twice is not None:
        return [], Unlisted(twice, f"fits several values of size {twice.size}", "a norm that is used twice")
    return [*numbers, *placed], None


def _two_orders(first: Sequence[Layer], second: Sequence[Layer]) -> Exception:
    a, b = next((a, b) for a, b in zip(first, second, strict=True) if a is not b)
    return refuse(
        *a.main, f"and '{b.main[0]}' {list(b.main[1])} could come in either order: the file lost its order",
        [f"'{a.main[0]}' first", f"'{b.main[0]}' first", "a state dict in the order of the code"],
    )  # fmt: skip
