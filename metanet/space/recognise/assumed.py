"""What a recognised architecture is taken to have because it is published so, since no name or shape tells it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from metanet.space.weight_space import WeightSpace

HEADS = frozenset(("num_heads", "n_heads", "num_attention_heads", "heads", "n_head", "nhead", "num_head"))


def assumed(module: nn.Module, space: WeightSpace) -> str:
    """Return in one phrase what the claims of a traced space rest on besides names and shapes; empty if on nothing.

    A network with 6 heads has the names and shapes of one with 3, group norm of 4 groups those of 8, and scalings
    through ReLU are none through GELU.

    Args:
        module: The library's module.
        space: Its traced space.
    """
    found = list(dict.fromkeys(_of_parts(module)))
    if space.gauges:
        found.append("activations")
    if not found:
        return ""
    return f"with its published {' and '.join((', '.join(found[:-1]), found[-1]) if found[1:] else found)}"


def _of_parts(module: nn.Module) -> Iterator[str]:
    for part in module.modules():
        values = vars(part)
        if any(isinstance(values.get(name), int) and values[name] > 1 for name in HEADS & values.keys()):
            yield "number of heads"
        if isinstance(part, nn.GroupNorm) and 1 < part.num_groups < part.num_channels:
            yield "groups of norm layers"
