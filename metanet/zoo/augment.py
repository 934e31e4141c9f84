"""Weight-space augmentation: nets moved by their own symmetries, so that their weights change and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.symmetry.kinds import KINDS


def augment(graph: NeuronGraph, kinds: Sequence[str], seeds: Sequence[Sequence[int]]) -> NeuronGraph:
    """Move every net by a random element of its symmetry group.

    A graph of one space holds nets of one function class, but each net gets its own draw: moving a whole batch alike
    would leave the nets' relations to each other as they are.

    Args:
        graph: B nets.
        kinds: Generators to draw from: ``permutation``, ``scale``, ``sign``, ``phase``, ``shift``; those that the space
            lacks do nothing.
        seeds: For every net, the numbers that its draw follows from.

    Returns:
        Nets of the same functions, in the same order.
    """
    check_kinds("kinds", kinds)
    states = []
    for number, seed in enumerate(seeds):
        draw = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
        states.append(graph.space.sample(draw, tuple(kinds)).apply(graph.state_dict(number)))
    return NeuronGraph.from_state_dicts(graph.space, states)


def check_kinds(where: str, kinds: Sequence[str]) -> None:
    """Refuse unknown kinds of symmetry.

    Raises:
        ConfigError: One is not known.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ConfigError(f"{where}: got {unknown}. Accepted: {', '.join(KINDS)}.")
