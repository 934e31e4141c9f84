"""What libraries call the same tensor: tied tensors that files store once, and entries that files need not have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from metanet.space.recognise.fingerprint import Shapes

# buffers that older versions of transformers saved, computed from the configuration alone
DERIVED = re.compile(r"(^|\.)(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|attention\.bias)$")


def without_ties(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module with every tied tensor once, under its first name."""
    seen: set[int] = set()
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter) and id(tensor) in seen:
            continue
        seen.add(id(tensor))
        found[name] = tensor
    return found


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
    return {n for n in found if not n.endswith(".bias") or shapes[n][:2] == (1, 1) and len(shapes[n]) == 4}


def difference(state: Shapes, module: nn.Module, own: Shapes) -> str | None:
    """Return in one phrase how a state dict differs from that of a module; None if it is one of the module.

    A tied tensor may be there under any of its names.

    Args:
        state: Names and shapes of the file, without counters.
        module: The module.
        own: Names and shapes of the module, without counters.
    """
    ties = tied_names(module)
    for name, shape in own.items():
        there = [n for n in ties.get(name, (name,)) if n in state]
        if not there:
            return f"'{name}' {list(shape)} is missing"
        for n in there:
            if state[n] != shape:
                return f"'{n}' is {list(state[n])} instead of {list(shape)}"
    extra = next((n for n in state if n not in own), None)
    return None if extra is None else f"'{extra}' {list(state[extra])} is not part of it"
