"""Reading the nodes of an exported graph: names, module paths, bound arguments, shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx


def operation_name(node: fx.Node) -> str:
    """``"aten.add"``: namespace and name without the overload."""
    return _name(node.target)


@functools.lru_cache(maxsize=4096)
def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    if packet is not None:
        return str(packet)
    name = getattr(target, "__name__", str(target))
    return f"higher_order.{name}" if isinstance(target, torch._ops.HigherOrderOperator) else name


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that called an operation, as in ``named_modules()``."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of what a node yields."""
    return tuple(int(s) for s in node.meta["val"].shape)


def bind(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in the order of the operation's schema, defaults filled in; keyword-only ones stay keywords."""
    left = dict(kwargs)
    rest = _positional(node.target)[len(args) :]
    return (*args, *(left.pop(name, default) for name, default in rest)), left


@functools.lru_cache(maxsize=4096)
def _positional(target: Any) -> tuple[tuple[str, Any], ...]:
    """Names and defaults of the positional arguments in an operation's schema."""
    schema = getattr(target, "_schema", None)
    specs = [a for a in schema.arguments if not a.kwarg_only] if schema is not None else []
    return tuple((a.name, a.default_value if a.has_default_value() else None) for a in specs)


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """The argument of that name in the operation's schema, as it stands in the graph, or its default."""
    schema = getattr(node.target, "_schema", None)
    for position, spec in enumerate(schema.arguments if schema is not None else ()):
        if spec.name == name:
            if name in node.kwargs:
                return node.kwargs[name]
            if not spec.kwarg_only and position < len(node.args):
                return node.args[position]
            return spec.default_value if spec.has_default_value() else default
    return default


def is_real(node: fx.Node) -> bool:
    """Whether a node yields floating-point numbers, alone or among others: integers and truth values are rounded."""
    return any(t.is_floating_point() or t.is_complex() for t in instances(node.meta.get("val"), torch.Tensor))


def is_read(node: fx.Node, number: int) -> bool:
    """Whether anything reads one of the several results of a node."""
    return any(len(user.users) > 0 for user in node.users if len(user.args) > 1 and user.args[1] == number)


def map_results(example: Any, make: Callable[[torch.Tensor], Any]) -> Any:
    """Rebuild a (nested) result with something new in place of every tensor."""
    if isinstance(example, torch.Tensor):
        return make(example)
    if isinstance(example, list | tuple):
        return tuple(map_results(e, make) for e in example)
    return None


def instances(items: Any, kind: type) -> Iterator[Any]:
    """Everything of one type within nested lists, tuples and mappings."""
    if isinstance(items, kind):
        yield items
    elif isinstance(items, Mapping):
        for item in items.values():
            yield from instances(item, kind)
    elif isinstance(items, list | tuple):
        for item in items:
            yield from instances(item, kind)
