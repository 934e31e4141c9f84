"""Nested blocks whose module may add its input to its output, which no name tells."""

from __future__ import annotations

from collections.abc import Sequence

from metanet.space.inference.layers import Layer
from metanet.space.inference.refusal import Unlisted, words
from metanet.space.inference.sizes import read_size

INR = words("layers net siren seq")
"""Containers of implicit neural representations, whose entries hold one linear layer each: net.0.linear, layers.0.0."""


def check_block(block: Sequence[Layer], first: Sequence[Layer] | None, container: str) -> None:
    """Raise if a numbered block of layers may be an (inverted) residual one.

    A block that gives as many values as it reads may add the two. Entries of one linear layer, as implicit neural
    representations have them, are taken for plain layers if the first of them changes the size.

    Args:
        block: The layers of the block, in order.
        first: The first entry of the container that it lies in.
        container: Name of that container, without number.

    Raises:
        Unlisted: The block may have a skip connection.
    """
    weights = [layer for layer in block if layer.kind in ("linear", "convolution")]
    if not weights:
        return
    reads = block[0].size if block[0].kind in ("batch_norm", "norm") else read_size(weights[0])
    if reads != weights[-1].size:
        return
    if container in INR and first is not None and _is_linear(first) and _is_linear(block):
        same_name = len(first[0].components) == len(block[0].components)
        if same_name and first[0].size != read_size(first[0]):
            return
    raise Unlisted(
        weights[0], f"opens a block of {len(weights)} layers that reads and gives {reads} values",
        "a residual or inverted residual block, which adds what it reads to what it gives",
    )  # fmt: skip


def _is_linear(block: Sequence[Layer]) -> bool:
    return len(block) == 1 and block[0].kind == "linear"
