"""Orders of layers that their sizes alone allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from metanet.errors import SpaceError
from metanet.space.inference.layers import Layer
from metanet.space.inference.refusal import WAY_OUT

STEPS = 20_000
Order = tuple[Layer, ...]


def read_size(layer: Layer) -> int:
    """Return how many values a layer with a weight matrix or kernel reads."""
    return layer.shapes["weight"][layer.in_dim]


def paths(layers: Sequence[Layer], most: int = 2) -> list[Order]:
    """Find orders in which every layer reads exactly as many values as the layer before it writes.

    Sizes are the vertices of a graph and layers its edges, so that an order is a path that takes every edge once. The
    search follows edges from the only possible start and goes back where it is stuck.

    Args:
        layers: Layers with a weight; convolutions cannot follow linear layers.
        most: Stop after this many orders.

    Raises:
        SpaceError: The search was cut off after ``STEPS`` steps, with fewer than ``most`` orders found.
    """
    written = Counter(layer.size for layer in layers)
    read = Counter(read_size(layer) for layer in layers)
    starts = [size for size in read if read[size] - written[size] == 1] or list(read)
    found: list[Order] = []
    waiting: list[tuple[int, Order, frozenset[int]]] = [(start, (), frozenset()) for start in reversed(starts)]
    steps = 0
    while waiting and len(found) < most:
        steps += 1
        if steps > STEPS:
            raise SpaceError(
                f"cannot infer the weight space: the file lost the order of its {len(layers)} layers, and the search "
                f"for an order that fits their sizes was cut off after {STEPS:,} steps. Alternatives: a state dict in "
                f"the order of the code; names that number the layers; {WAY_OUT}"
            )
        size, order, used = waiting.pop()
        if len(order) == len(layers):
            found.append(order)
            continue
        linear = bool(order) and order[-1].kind == "linear"
        for number, layer in enumerate(layers):
            if number not in used and read_size(layer) == size and not (linear and layer.kind == "convolution"):
                waiting.append((layer.size, (*order, layer), used | {number}))
    return found


def proves_chain(order: Sequence[Layer]) -> bool:
    """Return whether sizes leave no other computation than a chain.

    The input and all outputs have sizes that differ pairwise, and no size is the sum of two others: then no two values
    can be added, multiplied or joined, no layer can be used twice, and no two layers can read the same value. The input
    is smaller than all hidden values: then none of them is fed back beside it, as in a recurrent cell.
    """
    sizes = [read_size(order[0]), *(layer.size for layer in order)]
    if any(size < sizes[0] for size in sizes[1:-1]):
        return False
    return len(set(sizes)) == len(sizes) and not {a + b for a, b in combinations(sizes, 2)} & set(sizes)


def place_vectors(order: Sequence[Layer], vectors: Sequence[Layer]) -> tuple[Order, Layer | None]:
    """Put every norm layer behind the only value of its size.

    Returns:
        The order with the norm layers, and the first norm layer that fits several values, or None.
    """
    behind: dict[int, list[Layer]] = {}
    for vector in vectors:
        at = places(order, vector)
        if len(at) > 1:
            return tuple(order), vector
        behind.setdefault(at[0] if at else len(order), []).append(vector)
    placed = list(behind.get(0, []))
    for number, layer in enumerate(order, start=1):
        placed += [layer, *behind.get(number, [])]
    return tuple(placed), None


def places(order: Sequence[Layer], vector: Layer) -> list[int]:
    """List after how many layers a vector of this size can act, on a value or on its flattened maps."""
    if vector.kind == "scalar" or vector.size == 1:
        return [0]
    found = [0] if read_size(order[0]) == vector.size else []
    for number, layer in enumerate(order, start=1):
        flat = number < len(order) and layer.kind == "convolution" and order[number].kind == "linear"
        if layer.size == vector.size or (flat and read_size(order[number]) == vector.size):
            found.append(number)
    return found
