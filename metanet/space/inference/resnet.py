"""Residual networks in torchvision's naming: ``layer1.0.conv1``, ``layer1.0.bn1``, ``layer1.0.downsample.0``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metanet.space.axes import unify
from metanet.space.inference.chain import Chain, State
from metanet.space.inference.layers import Layer
from metanet.space.inference.naming import Naming
from metanet.space.inference.refusal import Unlisted, refuse, stem_and_number
from metanet.space.inference.sizes import read_size

PLACE = re.compile(r"(?:.*[./])?layer(\d+)\.(\d+)\.(.+)")
BLOCK = re.compile(r"(?:.*\.)?layer\d+\.\d+\.conv1\.weight")
INNER = re.compile(r"(conv|bn)(\d+)")
SHORTCUT = re.compile(r"(?:downsample|shortcut)\.(\d+)")


@dataclass(frozen=True)
class ResidualBlock:
    """One block: ``relu(x + body(x))``, or ``relu(shortcut(x) + body(x))`` where the width or the stride changes."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...]

    def run(self, chain: Chain, state: State) -> State:
        """Visit the body, then the shortcut, and add.

        Raises:
            SpaceError: Body and shortcut do not give equally many channels.
        """
        out = chain.run(self.body, state)
        aside = chain.run(self.shortcut, state)
        if out.dim is None or aside.dim is None or out.dim.size != aside.dim.size:
            raise refuse(
                *self.body[0].main,
                f"opens a block that turns {aside.dim.size if aside.dim else 0} channels into "
                f"{out.dim.size if out.dim else 0} and has no downsample layer",
                ["a shortcut that pads or drops channels", "a block without a shortcut"],
            )
        unify(aside.dim, out.dim)
        return State(out.dim, True, max(out.depth, aside.depth), out.before, out.taps)


def is_residual(names: Iterable[str]) -> bool:
    """Whether names follow torchvision's residual networks."""
    return any(BLOCK.fullmatch(name) for name in names)


def split(layers: Sequence[Layer], registered: dict[str, int]) -> tuple[list[Layer], list[ResidualBlock], list[Layer]]:
    """Return the stem, the blocks in order, and the head of a residual network.

    Args:
        layers: All its layers.
        registered: Position of every layer in the file, if the file keeps the order of the code, so that norms before
            their convolution show; else empty.

    Raises:
        SpaceError: A block holds other layers, or is of the pre-activation form.
    """
    places: dict[tuple[int, int], list[Layer]] = {}
    rest: list[Layer] = []
    for layer in layers:
        found = PLACE.fullmatch(layer.path)
        if found is None:
            rest.append(layer)
        else:
            places.setdefault((int(found[1]), int(found[2])), []).append(layer)
    stem, head = [], []
    try:
        naming = Naming()
        stem = _ordered(naming, [layer for layer in rest if layer.kind != "linear"])
        head = _ordered(naming, [layer for layer in rest if layer.kind == "linear"])
    except Unlisted as unlisted:
        raise unlisted.error() from None
    blocks = [_block(places[place], bool(registered)) for place in sorted(places)]
    _check_stem(stem, blocks, registered)
    return stem, blocks, head


def _ordered(naming: Naming, layers: list[Layer]) -> list[Layer]:
    return naming.order(layers) if len(layers) > 1 else layers


def _check_stem(stem: list[Layer], blocks: list[ResidualBlock], registered: dict[str, int]) -> None:
    """Raise if the norm beside the blocks may be the last one of a pre-activation network."""
    normed = [layer for layer in blocks[0].body if layer.kind == "batch_norm"]
    if normed and not any(layer.kind == "batch_norm" for layer in stem):
        raise _preactivation(normed[0])
    first, last = blocks[0].body[0], blocks[-1].body
    width = next(layer.size for layer in reversed(last) if layer.kind == "convolution")
    for layer in stem:
        late = bool(registered) and registered[layer.path] > registered[first.path]
        bare = layer.kind == "batch_norm" and stem_and_number(layer.components[-1])[1] == 0
        unnamed = not registered and bare and layer.size == width
        if late or unnamed:
            raise _preactivation(layer)


def is_resnext(blocks: Sequence[ResidualBlock]) -> bool:
    """Return whether the second of three convolutions has the same number of groups, at least 8, in every block.

    So many groups are those of ResNeXt: GLU leaves one channel of two, maxout and pixel shuffle one of a few.
    """
    groups = set()
    for block in blocks:
        kernels = [layer for layer in block.body if layer.kind == "convolution"]
        if len(kernels) != 3 or kernels[0].size % read_size(kernels[1]):
            return False
        groups.add(kernels[0].size // read_size(kernels[1]))
    return len(groups) == 1 and min(groups) >= 8


def _block(layers: Sequence[Layer], order_known: bool) -> ResidualBlock:
    body: dict[tuple[int, int], Layer] = {}
    shortcut: dict[int, Layer] = {}
    for layer in layers:
        found = PLACE.fullmatch(layer.path)
        inner = INNER.fullmatch(found[3]) if found else None
        aside = SHORTCUT.fullmatch(found[3]) if found else None
        if inner is not None and (layer.kind == "convolution") == (inner[1] == "conv"):
            body[int(inner[2]), inner[1] == "bn"] = layer
        elif aside is not None and layer.kind in ("convolution", "batch_norm"):
            shortcut[int(aside[1])] = layer
        else:
            raise refuse(
                *layer.main, f"lies in a residual block beside convN, bnN and downsample (as {layer.kind})",
                ["a gate or an extra branch, whose place is not in the file"],
            )  # fmt: skip
    ordered = tuple(body[key] for key in sorted(body))
    _check_postactivation(layers, body, order_known)
    return ResidualBlock(ordered, tuple(shortcut[key] for key in sorted(shortcut)))


def _check_postactivation(layers: Sequence[Layer], body: dict[tuple[int, int], Layer], order_known: bool) -> None:
    place = {id(layer): at for at, layer in enumerate(layers)}
    for (number, is_norm), norm in body.items():
        convolution = body.get((number, False))
        if is_norm and (
            convolution is None
            or norm.size != convolution.size
            or (order_known and place[id(norm)] < place[id(convolution)])
        ):
            raise _preactivation(norm)


def _preactivation(norm: Layer) -> Exception:
    return refuse(
        *norm.main,
        "does not follow the convolution of its number",
        ["a pre-activation residual network", "a custom block"],
    )
