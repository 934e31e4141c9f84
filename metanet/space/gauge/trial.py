"""Running parts of a traced graph on numbers: what depends on no parameter is computed, what a part reads is random.

Some symmetries hang on what an operation computes rather than on its kind: whether two halves of a query turn with the
same frequency. Such a claim is tried, in float64, on the few operations that it is about. What they read beside what
moves is random where it may be anything (weights of norms, inputs, buffers that a checkpoint may overwrite), so that
what holds for the numbers drawn holds for all numbers, with probability one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from metanet.space.calls import instances, operation_name
from metanet.space.walk import Value, Walk

NUMBERS = 100  # random integers (positions, numbers of words) are smaller
LARGE = 2**21  # entries of a tensor above which nothing is tried
AGREE = 1e-9  # relative; what differs at all differs by far more


class Trial:
    """Runs parts of a graph.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        constants: Tensors that the architecture fixes, by graph input; on the meta device they are random.
    """

    def __init__(self, walk: Walk, nodes: Sequence[fx.Node], constants: Mapping[fx.Node, Tensor]) -> None:
        self.walk, self.constants = walk, constants
        self.generator = torch.Generator().manual_seed(0)
        self.values: dict[fx.Node, Any] = {}
        self.numbers: dict[Any, int] = {}
        self.known: dict[fx.Node, int] = {}
        self.fixed: set[fx.Node] = set()
        """Nodes that depend on no parameter."""
        self.named = Counter(walk.values[n].origin.tensor for n in nodes if self.governed(n))
        for node in nodes:
            if node.op == "placeholder":
                if not self.governed(node):
                    self.fixed.add(node)
            elif node.op == "call_function" and all(n in self.fixed for n in node.all_input_nodes):
                self.fixed.add(node)

    def governed(self, node: fx.Node) -> bool:
        """Whether a graph input is a tensor of the weight space."""
        value = self.walk.values.get(node)
        return node.op == "placeholder" and isinstance(value, Value) and value.origin is not None

    def tensor(self, node: Any) -> str:
        """Name of the tensor that a graph input or a view of it is."""
        return str(self.walk.values[node].origin.tensor)

    def alone(self, node: Any) -> bool:
        """Whether something is a parameter that one operation reads, under one name."""
        known = isinstance(node, fx.Node) and self.governed(node) and len(node.users) == 1
        return known and self.named[self.walk.values[node].origin.tensor] == 1

    def random(self, shape: Iterable[int]) -> Tensor:
        """Normal numbers in float64."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def run(self, nodes: Sequence[fx.Node], given: Mapping[fx.Node, Tensor]) -> dict[fx.Node, Any]:
        """The results of some operations, in order.

        Args:
            nodes: The operations; what they read is given, among them, a parameter, or depends on no parameter.
            given: Results that are not to be computed.
        """
        found: dict[fx.Node, Any] = dict(given)
        for node in nodes:
            if node not in found:
                found[node] = _called(node, lambda n: found[n] if n in found else self.constant(n))
        return found

    def constant(self, node: fx.Node) -> Any:
        """What a node yields that moves with nothing: the same whenever it is asked for."""
        if node not in self.values:
            if node.op == "placeholder":
                self.values[node] = self._given(node)
            elif node in self.fixed:
                with torch.no_grad():
                    self.values[node] = _called(node, self.constant)
            else:
                raise ValueError(f"{node} depends on parameters")
        return self.values[node]

    def _given(self, node: fx.Node) -> Any:
        example = node.meta.get("val")
        if not isinstance(example, Tensor):
            return example
        known = self.constants.get(node)
        if known is not None and not known.is_meta:
            return _doubled(known.detach().cpu())
        if example.is_floating_point():
            return self.random(example.shape)
        if example.dtype == torch.bool:
            raise ValueError("truth values choose between branches, of which none may stay unseen")
        return torch.randint(NUMBERS, tuple(example.shape), generator=self.generator, dtype=example.dtype)

    def number(self, node: Any, region: Mapping[fx.Node, int]) -> int:
        """A number that is equal for things computed in the same way.

        Args:
            node: A node, or any argument of one.
            region: Nodes that are called by their place instead of by what they compute.
        """
        if not isinstance(node, fx.Node):
            return self._numbered(repr(node))
        if node in region:
            return self._numbered(("place", region[node]))
        if node.op != "call_function":
            return self._numbered((node.op, node.name))
        if node not in self.known:
            self.known[node] = self.called(node, {})
        return self.known[node]

    def called(self, node: fx.Node, region: Mapping[fx.Node, int]) -> int:
        """The number of a call: that of its operation and its arguments."""
        parts, structure = pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: isinstance(x, fx.Node))
        return self._numbered((str(node.target), str(structure), *(self.number(p, region) for p in parts)))

    def _numbered(self, key: Any) -> int:
        return self.numbers.setdefault(key, len(self.numbers))


def fits(node: fx.Node) -> bool:
    """Whether what a node yields is small enough to be tried."""
    return all(t.numel() <= LARGE for t in instances(node.meta.get("val"), Tensor))


def agree(a: Any, b: Any) -> bool:
    """Whether two (nested) results are the same up to rounding."""
    pairs = zip(instances(a, Tensor), instances(b, Tensor), strict=True)
    return all(bool((x - y).abs().max() <= AGREE * x.abs().max()) if x.numel() else True for x, y in pairs)


def _called(node: fx.Node, look: Any) -> Any:
    """An operation on numbers in float64, on the CPU."""
    args, kwargs = pytree.tree_map(_real, fx.node.map_arg((node.args, dict(node.kwargs)), look))
    if operation_name(node) in ("aten.view", "aten._unsafe_view"):
        return args[0].reshape(args[1])
    return pytree.tree_map_only(Tensor, _doubled, node.target(*args, **kwargs))  # type: ignore[operator]


def _real(argument: Any) -> Any:
    """Types of numbers at twice the precision, and the CPU for every device."""
    if isinstance(argument, torch.dtype):
        return torch.float64 if argument.is_floating_point else torch.complex128 if argument.is_complex else argument
    return torch.device("cpu") if isinstance(argument, torch.device) else argument


def _doubled(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
