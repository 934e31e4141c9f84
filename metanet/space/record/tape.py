"""The tape: operations in the order in which they were run, and the graph of those that the outputs need."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind


class Entry:
    """One operation of a tape, or one input of it.

    Attributes:
        func: The operation; for an input its name.
        args: Arguments, with entries in place of tensors.
        kwargs: Keyword arguments, likewise.
        result: The layout of what it yields, a tuple with layouts, or plain data.
        path: The module that called it.
        source: For an input, what it is and the name of the tensor that it stands for.
        needed: Whether an output depends on it.
    """

    __slots__ = ("args", "func", "kwargs", "needed", "node", "path", "result", "source")

    def __init__(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, path: str, source: Any = None
    ) -> None:
        self.func, self.args, self.kwargs, self.result, self.path = func, args, kwargs, result, path
        self.source, self.needed = source, False
        self.node: fx.Node | None = None


def replaced(items: Any, kind: type, make: Callable[[Any], Any]) -> Any:
    """Nested arguments with something else in place of everything of one type."""
    if type(items) is kind:
        return make(items)
    if isinstance(items, tuple):
        return tuple([replaced(i, kind, make) for i in items])
    if type(items) is list:
        return [replaced(i, kind, make) for i in items]
    if type(items) is dict:
        return {k: replaced(i, kind, make) for k, i in items.items()}
    return items


def entries_in(items: Any) -> Iterator[Entry]:
    """All entries within nested arguments."""
    kind = type(items)
    if kind is Entry:
        yield items
    elif kind is tuple or kind is list:
        for item in items:
            yield from entries_in(item)
    elif kind is dict:
        yield from entries_in(list(items.values()))


class Tape:
    """What has been recorded so far.

    Attributes:
        inputs: Inputs of the graph.
        entries: Operations.
    """

    def __init__(self) -> None:
        self.inputs: list[Entry] = []
        self.entries: list[Entry] = []

    def graph(self, outputs: tuple[Any, ...], value: Callable[[Any], Any]) -> tuple[fx.Graph, dict[fx.Node, Any]]:
        """The graph of all that the outputs need, and the source of every placeholder.

        Constants that they do not need are left out; weights, buffers and inputs are kept.

        Args:
            outputs: What the graph yields, with entries in place of tensors.
            value: Makes the tensors that the nodes' ``meta["val"]`` holds from results.
        """
        for entry in entries_in(outputs):
            entry.needed = True
        for entry in reversed(self.entries):
            if entry.needed:
                for other in entries_in((entry.args, entry.kwargs)):
                    other.needed = True
        graph, names, sources = fx.Graph(), _Names(), {}
        end = graph.output(())
        for entry in self.inputs:
            if entry.needed or entry.source[0] is not InputKind.CONSTANT_TENSOR:
                entry.node = fx.Node(graph, names.unique(entry.func), "placeholder", entry.func, (), {})
                entry.node.meta = {"val": value(entry.result)}
                sources[entry.node] = entry.source
                end.prepend(entry.node)
        for entry in self.entries:
            if entry.needed:
                args, kwargs = replaced(entry.args, Entry, _node_of), replaced(entry.kwargs, Entry, _node_of)
                name = names.unique(_name(entry.func))
                entry.node = fx.Node(graph, name, "call_function", entry.func, tuple(args), kwargs)
                stack = {entry.path: (entry.path, "")}
                entry.node.meta = {"val": value(entry.result), "nn_module_stack": stack}
                end.prepend(entry.node)  # Graph.call_function takes ten times as long: it names and looks up
        end.args = (replaced(outputs, Entry, _node_of),)
        return graph, sources


def _node_of(entry: Entry) -> fx.Node | None:
    return entry.node


@functools.cache
def _name(func: Any) -> str:
    """What nodes of an operation are called."""
    if func is operator.getitem:
        return "getitem"
    packet = func.overloadpacket if isinstance(func, torch._ops.OpOverload) else func
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2]


class _Names:
    """Names of nodes, each only once."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """The name, or the name with the first free number."""
        count = self.taken.get(name)
        if count is None:
            self.taken[name] = 0
            return name
        while True:
            count += 1
            found = f"{name}_{count}"
            if found not in self.taken:
                self.taken[name], self.taken[found] = count, 0
                return found
