"""Trying on numbers whether the products of queries and keys stay when what layers write is changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from metanet.space.calls import argument
from metanet.space.gauge.heads import Rows, batch_factors, rows_of_heads
from metanet.space.gauge.scores import Scores
from metanet.space.gauge.trial import Trial, agree

Act = Callable[[Tensor], Tensor]
"""What is done to the result ``[..., rows]`` of a layer."""

SUMS = 4  # random sums over keys that are compared for every query


class Products:
    """The products of queries and keys at one place, for any results of the layers that write these.

    Args:
        trial: Runs the operations.
        scores: The place.
        memory: Answers so far: those for places where the same is computed (the layers of a network) are the same.
    """

    def __init__(self, trial: Trial, scores: Scores, memory: dict[Hashable, Any]) -> None:
        self.trial, self.scores, self.memory = trial, scores, memory
        self.key = _signature(trial, scores)

    @cached_property
    def given(self) -> dict[fx.Node, Tensor]:
        """Random results of the layers."""
        return {layer: self.trial.random(layer.meta["val"].shape) for layer in dict.fromkeys(self.scores.layers)}

    @cached_property
    def weights(self) -> Tensor:
        """Random weights of keys."""
        val = self.scores.keys.meta["val"]
        return self.trial.random((val.shape[-2 if self.scores.fused else -1], SUMS))

    @cached_property
    def base(self) -> list[Any]:
        """What is seen of these results."""
        return self._seen(self.given)

    def rows(self) -> tuple[Rows, Rows] | None:
        """The rows of queries and keys, head by head."""
        return self._remembered("rows", lambda: rows_of_heads(self.trial, self.scores, self.given))

    def stay(self, query: Act, key: Act, name: Hashable) -> bool:
        """Whether products, and whatever others read, stay when both layers' results are changed.

        Args:
            query: The change of queries.
            key: The change of keys, after that of queries where one layer writes both.
            name: What identifies the changes.
        """

        def tried() -> bool:
            changed = dict(self.given)
            for layer, act in zip(self.scores.layers, (query, key), strict=True):
                changed[layer] = act(changed[layer])
            return agree(self.base, self._seen(changed))

        return self._remembered(name, tried)

    def _remembered(self, name: Hashable, make: Callable[[], Any]) -> Any:
        if (self.key, name) not in self.memory:
            self.memory[self.key, name] = make()
        return self.memory[self.key, name]

    @torch.no_grad()
    def _seen(self, given: Mapping[fx.Node, Tensor]) -> list[Any]:
        """Products, summed over keys with random weights (equal sums: equal products, Freivalds), and what leaves."""
        node = self.scores.node
        found = self.trial.run((*self.scores.between, *self.scores.leaving), given)
        q, k = found[self.scores.queries], found[self.scores.keys]
        sums = (k.mT if self.scores.fused else k) @ self.weights
        if argument(node, "enable_gqa", False) and q.shape[-3] != k.shape[-3]:
            sums = sums.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
        return [q @ sums, *(found[n] for n in self.scores.leaving)]


def _signature(trial: Trial, scores: Scores) -> Hashable:
    """Equal for places where the same is computed from parameters of the same shapes in the same roles."""
    place = {node: n for n, node in enumerate(scores.between)}
    read = [
        n for node in scores.between if node not in scores.layers for n in node.all_input_nodes if trial.governed(n)
    ]
    shapes = []
    for node in dict.fromkeys(read):
        place[node] = len(place)
        shapes.append(tuple(node.meta["val"].shape))
    calls = [n for n in (*scores.between, *scores.leaving) if n not in scores.layers]
    sides = [batch_factors(trial, o) for o in (scores.queries, scores.keys)]
    alike = [[g is f for g in sides[0]] for f in sides[1]]
    return (
        tuple(place[n] for n in (*scores.layers, scores.queries, scores.keys)),
        tuple(tuple(layer.meta["val"].shape) for layer in scores.layers),
        tuple(shapes),
        tuple(trial.called(n, place) for n in calls),
        (str(scores.node.target), repr(argument(scores.node, "enable_gqa", False)), repr(alike)),
        tuple(tuple(f.size for f in side) for side in sides),
    )
