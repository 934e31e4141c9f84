"""The table of rules, and the decorator that fills it.

A rule is a function ``rule(walk, node, *args, **kwargs)``. Arguments that are tensors arrive as
:class:`~metanet.space.walk.Value`, everything else as it stands in the graph. It unifies, refines or freezes dims and
returns the value (or a tuple of values) that the operation yields::

    from metanet.space import rule

    @rule("mylib.swish")            # the operation's name without its overload
    def swish(walk, node, x):       # elementwise: the output has the input's dims
        return walk.like(node, x, activation="swish")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rule = Callable[..., Any]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations named, replacing what was registered before.

    Args:
        names: Operation names as ``namespace.operation`` without an overload; ``aten.`` may be left out.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name if "." in name else f"aten.{name}"] = function
        return function

    return register


def lookup(name: str) -> Rule | None:
    """The rule of an operation, or None."""
    return _RULES.get(name)
