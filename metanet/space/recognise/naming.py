"""What libraries call the same tensor: tied tensors that files store once, and entries that files need not have."""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from metanet.space.recognise.fingerprint import Shapes
from metanet.space.weight_space import WeightSpace

# buffers that older versions of transformers saved, computed from the configuration alone
DERIVED = re.compile(r"(^|\.)(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|attention\.bias)$")


# names under which files leave a tied tensor out, the less likely to be kept the later
COPIES = (
    re.compile(r"(^|\.)(encoder|decoder)\.embed_tokens\.weight$"),
    re.compile(r"(^|\.)(lm_head|proj_out|embed_out|vocab_projector|decoder)\.(weight|bias)$"),
)


def kept(names: Iterable[str]) -> str:
    """Return the name of a tied tensor under which transformers keeps it: that of the embedding, not of the head."""
    return min(names, key=lambda n: (max((i + 1 for i, copy in enumerate(COPIES) if copy.search(n)), default=0), n))


def without_ties(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module with every tied tensor once."""
    ties = tied_names(module)
    return {n: t for n, t in module.state_dict().items() if n not in ties or n == kept(ties[n])}


def shared_names(state: Mapping[str, Tensor]) -> set[str]:
    """Return the names that a state dict has beside another name of the same tensor, or of an equal copy.

    Copies are looked for under names that are usually tied alone; equal values elsewhere are accidents of a beginning.
    """
    places: dict[object, list[str]] = {}
    for name, tensor in state.items():
        if not tensor.is_meta and tensor.numel() > 1:
            place = tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()
            places.setdefault(place, []).append(name)
    groups = [*places.values(), *_equal_copies(state, list(places.values()))]
    return {name for names in groups for name in set(names) - {kept(names)}}


def _equal_copies(state: Mapping[str, Tensor], places: Sequence[list[str]]) -> list[list[str]]:
    """Return groups of names of equal tensors, with a name that is usually tied in each.

    A checksum sorts the tensors, so that the time grows with their size and not with the number of their pairs.

    Args:
        state: The tensors.
        places: The names of each tensor in memory.
    """
    alike: dict[object, list[list[str]]] = {}
    for names in places:
        alike.setdefault((state[names[0]].shape, state[names[0]].dtype), []).append(names)
    equal: dict[object, list[str]] = {}
    for kind, copies in alike.items():
        if len(copies) > 1 and any(map(_usually_tied, copies)):
            for names in copies:
                equal.setdefault((kind, _checksum(state[names[0]])), []).extend(names)
    return [names for names in equal.values() if _usually_tied(names)]


def _usually_tied(names: Iterable[str]) -> bool:
    return any(copy.search(name) for name in names for copy in COPIES)


def _checksum(tensor: Tensor) -> int:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return zlib.crc32(plain.view(torch.uint8).numpy().data)


def tied_names(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return for every name of a tied parameter all names of it, in the order of the state dict."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter):
            names.setdefault(id(tensor), []).append(name)
    return {name: tuple(same) for same in names.values() if len(same) > 1 for name in same}


def derived(names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the names of buffers that older versions of transformers saved beside the weights.

    A causal mask (``attn.bias``) is told from a bias by its shape ``[1, 1, N, N]``.
    """
    found = {n for n in names if DERIVED.search(n)}
    return {n for n in found if not n.endswith(".bias") or (shapes[n][:2] == (1, 1) and len(shapes[n]) == 4)}


def difference(state: Mapping[str, tuple[int, ...]], module: nn.Module, own: Shapes, prefix: str = "") -> str | None:
    """Return in one phrase how a state dict differs from that of a module; None if it is one of the module.

    A tied tensor may be there under any of its names.

    Args:
        state: Names and shapes of the file, without counters.
        module: The module.
        own: Names and shapes of the module, without counters.
        prefix: What stands before every name in the file.
    """
    ties = tied_names(module)
    for name, shape in own.items():
        there = [prefix + n for n in ties.get(name, (name,)) if prefix + n in state]
        if not there:
            return f"'{prefix}{name}' {list(shape)} is missing"
        for n in there:
            if state[n] != shape:
                return f"'{n}' is {list(state[n])} instead of {list(shape)}"
    extra = next((n for n in state if n.removeprefix(prefix) not in own), None)
    return None if extra is None else f"'{extra}' {list(state[extra])} is not part of it"


def renamed(space: WeightSpace, names: Container[str]) -> WeightSpace:
    """Return a space whose tied tensors go by names that a file has; other names of them are dropped.

    Args:
        space: A space of the module.
        names: The names in the file.
    """
    new = {}
    for spec in space.tensors:
        there = [n for n in (spec.name, *spec.aliases) if n in names]
        new[spec.name] = (there[0], tuple(there[1:])) if there else (spec.name, spec.aliases)
    if all(new[spec.name] == (spec.name, spec.aliases) for spec in space.tensors):
        return space

    def to(name: str) -> str:
        return new[name][0] if name in new else name

    tensors = tuple(replace(t, name=new[t.name][0], aliases=new[t.name][1]) for t in space.tensors)
    links = tuple(replace(link, tensor=to(link.tensor)) for link in space.links)
    gauges = tuple(
        replace(g, parts=tuple(replace(p, tensor=to(p.tensor), through=to(p.through)) for p in g.parts))
        for g in space.gauges
    )
    return replace(space, tensors=tensors, links=links, gauges=gauges)
