"""Where queries meet keys: the operations between the layers that write them and the products of the two.

For each such place, what is to be known to try a symmetry on it alone: one linear layer that the queries come from, one
that the keys come from (perhaps the same), the operations between, and every value that others read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from metanet.space.calls import argument, operation_name
from metanet.space.gauge.trial import Trial, fits

PRODUCTS = {"scaled_dot_product_attention": (0, 1), "matmul": (0, 1), "bmm": (0, 1), "baddbmm": (1, 2)}
"""Operations that sum products over an axis, and which arguments those of queries and keys are."""
PLAIN = (
    "linear", "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze",
    "squeeze", "expand", "clone", "alias", "contiguous", "_to_copy", "slice", "split", "split_with_sizes", "chunk",
    "select", "unbind", "getitem", "mul", "div",
)  # fmt: skip
"""Operations that let all matrices pass, or (products with what varies) none of what is looked for here."""
PIECES = ("getitem", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow", "squeeze")
FAR = 100  # operations between a layer and the products, at most
SMALL = 2**16  # entries of other parameters that are read on the way, at most


@dataclass(frozen=True)
class Scores:
    """Queries and keys that meet.

    Attributes:
        node: The operation that multiplies them.
        queries: What it reads as queries ``[..., tokens, width]``.
        keys: What it reads as keys: ``[..., tokens, width]``, or the last two the other way round.
        layers: The linear layers that write queries and keys.
        between: The operations from the layers to the products, in order, the layers among them.
        leaving: Values (some of them pieces of those between) that other operations read.
    """

    node: fx.Node
    queries: fx.Node
    keys: fx.Node
    layers: tuple[fx.Node, fx.Node]
    between: tuple[fx.Node, ...]
    leaving: tuple[fx.Node, ...]

    @property
    def fused(self) -> bool:
        """Whether the operation is all of attention, which takes keys as they are."""
        return operation_name(self.node) == "aten.scaled_dot_product_attention"


def find_scores(trial: Trial, nodes: Sequence[fx.Node]) -> Iterator[Scores]:
    """All places where queries meet keys with more between than views.

    Args:
        trial: Knows what depends on parameters.
        nodes: The nodes of the graph, in order.
    """
    place = {node: n for n, node in enumerate(nodes)}
    for node in nodes:
        places = PRODUCTS.get(operation_name(node).removeprefix("aten.")) if node.op == "call_function" else None
        operands = [node.args[p] for p in places or ()]
        sides = [_back(trial, o) if isinstance(o, fx.Node) else None for o in operands]
        found = [side for side in sides if side is not None]
        if len(found) == 2:
            (first, a), (second, b) = found
            between = sorted(a | b, key=place.__getitem__)
            leaving = list(dict.fromkeys(_leaving(trial, between, node, operands, (first, second))))
            if not all(map(_plain, between)) and not any(n.op == "output" for n in leaving):
                queries, keys = (o for o in operands if isinstance(o, fx.Node))
                yield Scores(node, queries, keys, (first, second), tuple(between), tuple(leaving))


def _back(trial: Trial, start: fx.Node) -> tuple[fx.Node, set[fx.Node]] | None:
    """The one layer that a value comes from and what lies between; None if there is no one layer."""
    layers: set[fx.Node] = set()
    between: set[fx.Node] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if node in between or node in trial.fixed:
            continue
        if node.op == "placeholder" and node is not start:
            if node.meta["val"].numel() > SMALL:
                return None
            continue
        between.add(node)
        if node.op != "call_function" or node.name in trial.walk.distrusted or len(between) > FAR or not fits(node):
            return None
        if operation_name(node) != "aten.linear":
            stack.extend(node.all_input_nodes)
        elif not trial.alone(node.args[1]) or layers:
            return None
        else:
            layers.add(node)
    return (next(iter(layers)), between) if layers else None


def _plain(node: fx.Node) -> bool:
    """Whether an operation treats all features alike, whatever they are."""
    name = operation_name(node).removeprefix("aten.")
    numbers = name not in ("mul", "div") or not isinstance(argument(node, "other"), fx.Node)
    return name in PLAIN and numbers


def _leaving(
    trial: Trial, between: Sequence[fx.Node], end: fx.Node, operands: Sequence[Any], layers: Sequence[fx.Node]
) -> Iterator[fx.Node]:
    """What others read (the layers too, and values and masks): of a value that is taken apart, the pieces taken."""
    inside = set(between).difference(layers)
    read = Counter(n for n in pytree.tree_leaves((end.args, dict(end.kwargs))) if isinstance(n, fx.Node))
    read.subtract(operands)
    for node in between:
        for user in node.users:
            if user in inside or (user is end and not read[node]):
                continue
            piece = user.op == "call_function" and operation_name(user).removeprefix("aten.") in PIECES
            apart = piece and all(n in between or n in trial.fixed for n in user.all_input_nodes)
            yield user if apart or user.op == "output" else node
