"""Ways to read the names of a state dict: without prefixes, copies, tied names and derived buffers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from metanet.checkpoint.collect import COPY
from metanet.errors import SpaceError
from metanet.space.recognise.fingerprint import Shapes, common_prefixes, shapes_of
from metanet.space.recognise.index import Index
from metanet.space.recognise.naming import derived, shared_names

ADAPTER = re.compile(r"(^|[._])lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)")
BASE = ".base_layer."


@dataclass(frozen=True)
class View:
    """One way to read the names of a state dict.

    Attributes:
        prefix: What stands before every name: ``""``, ``"module."``, ``"model.backbone."``.
        shapes: Shapes by name without the prefix, every tied tensor once, without derived buffers.
        whole: Shapes of all tensors that belong to the net, by their full names.
    """

    prefix: str
    shapes: Shapes
    whole: Shapes


def views(state: Mapping[str, Tensor]) -> Iterator[View]:
    """Yield the ways to read a state dict, the plain ones first."""
    whole = shapes_of(_without_copies(state))
    shared = shared_names({name: state[name] for name in whole})
    for prefix in common_prefixes(whole):
        bare = {name.removeprefix(prefix): shape for name, shape in whole.items()}
        extra = derived(bare, bare)
        less = {name for name in bare if prefix + name in shared}
        for left_out in dict.fromkeys(map(frozenset, (set(), less, extra, less | extra))):
            shapes = {name: shape for name, shape in bare.items() if name not in left_out}
            kept = {name: shape for name, shape in whole.items() if name.removeprefix(prefix) not in extra & left_out}
            if shapes:
                yield View(prefix, shapes, kept)


def _without_copies(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict without moving averages of a net that it holds itself, as :func:`metanet.load` does."""
    heads = {name.partition(".")[0] for name in state if "." in name}
    originals = {head for head in heads if not COPY.search(head)}
    if not originals or originals == heads:
        return state
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] in originals}


def explain(state: Mapping[str, Tensor], index: Index, configured: bool) -> None:
    """Refuse what holds a known architecture beside other tensors, or a class of transformers of unknown sizes.

    Args:
        state: A state dict of no known architecture.
        index: The known architectures.
        configured: Whether there is a ``config.json`` beside the file, which did not fit.

    Raises:
        SpaceError: It is one of those; the message says what to do.
    """
    adapters = [name for name in state if ADAPTER.search(name)]
    if adapters:
        base = {name.replace(BASE, "."): tensor for name, tensor in state.items() if name not in adapters}
        found = next((f for view in views(base) for f in index.candidates(view.shapes)), None) if base else None
        if found is not None:
            raise SpaceError(
                f"{len(adapters)} tensors of low-rank adapters ('{adapters[0]}', ...) stand beside the weights of "
                f"{found[0].id}, which a graph of that net has no place for. Merge them into it (merge_and_unload) "
                "and save it again"
            )
    heads = list(dict.fromkeys(name.partition(".")[0] for name in state if "." in name))
    if 1 < len(heads) <= 8:
        for head in heads:
            part = {name: tensor for name, tensor in state.items() if name.partition(".")[0] == head}
            found = next((f for view in views(part) for f in index.candidates(view.shapes)), None)
            if found is not None:
                rest = next(name for name in state if name not in part)
                raise SpaceError(
                    f"the tensors below '{head}.' are {found[0].id}, and beside them is '{rest}', whose part in the "
                    f"computation is not known. Choose the net with load(...).select('{head}')"
                )
    for view in views(state):
        kinds = index.classes_like(view.shapes)
        if kinds:
            beside = (
                "the config.json beside it is of another net" if configured else "there is no config.json beside it"
            )
            raise SpaceError(
                f"the names are those of transformers' {' or '.join(kinds[:3])}, and its number of heads and other "
                f"settings are not in the shapes; {beside}. Put the config.json of the net beside the file, or pass "
                "its path as architecture (--architecture)"
            )
