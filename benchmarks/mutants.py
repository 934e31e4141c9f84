"""Mutants of Python files: what cosmic-ray changes, and the loss of one operand or of one statement.

What no test can be asked to notice is left out: docstrings, annotations, the texts of errors, sizes of caches, and
``is`` in place of ``==`` (Python keeps one object of a small number or a short text).
"""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).parent.parent
SKIPPED = {"VariableReplacer", "VariableInserter"}  # they want names, and put random numbers in their places
OWN = {"DropRight": ast.BinOp, "DropLeft": ast.BinOp, "DropFirst": ast.BoolOp, "DropLast": ast.BoolOp,
       "DropStatement": (ast.AugAssign, ast.Expr)}  # fmt: skip
IDENTITY = {"Is", "IsNot"}


@dataclass(frozen=True)
class Mutant:
    """One change of one place.

    Attributes:
        path: File, from the root of the repository.
        line: Number of the first line that changes.
        function: First line of the function around it (its first decorator); 0 outside of functions.
        operator: What changes it.
        before: The line, or the first of several, without indentation.
        after: The same after the change.
        source: The whole file after the change.
    """

    path: str
    line: int
    function: int
    operator: str
    before: str
    after: str
    source: str


@dataclass(frozen=True)
class Change:
    """A change that can be made: by what, which of its occurrences, where from and where to."""

    operator: str
    occurrence: int
    start: tuple[int, int]
    end: tuple[int, int]


class Module:
    """The places of a file that can be changed.

    Args:
        path: File, from the root of the repository.
    """

    def __init__(self, path: str) -> None:
        self.path, self.source = path, (ROOT / path).read_text()
        self.tree = ast.parse(self.source)
        hidden = [_ends(node) for node in _unnoticed(self.tree)]
        lines = self.source.splitlines()
        places: dict[tuple[int, int], list[Change]] = defaultdict(list)
        for change in (*_library(self.source), *_own(self.tree)):
            if "@lru_cache" in lines[change.start[0] - 1]:
                continue
            if not any(a <= change.start and change.end <= b for a, b in hidden):
                places[change.start].append(change)
        self.places = list(places.values())

    def mutant(self, change: Change) -> Mutant | None:
        """The file after a change; None if that is no change, or no Python."""
        source = self._changed(change)
        try:
            if source is None or ast.dump(ast.parse(source)) == ast.dump(self.tree):
                return None
        except (SyntaxError, ValueError):
            return None
        lines = zip(self.source.splitlines(), source.splitlines(), strict=False)
        number, before, after = next((i, *pair) for i, pair in enumerate(lines, 1) if pair[0] != pair[1])
        around = max((first for first, last in _functions(self.tree) if first <= number <= last), default=0)
        return Mutant(self.path, number, around, change.operator, before.strip(), after.strip(), source)

    def _changed(self, change: Change) -> str | None:
        if change.operator in OWN:
            found = [c for c in ast.walk(self.tree) if isinstance(c, OWN[change.operator])][change.occurrence]
            return _own_change(self.source, found, change)
        return mutate_code(self.source, OperatorProvider()[change.operator](), change.occurrence)


def _library(source: str) -> Iterator[Change]:
    """Changes that cosmic-ray makes."""
    provider, nodes = OperatorProvider(), list(ast_nodes(get_ast(source)))
    for name in provider:
        ends = set(name.split("_")[1:])
        if name in SKIPPED or (ends & IDENTITY and ends != IDENTITY):
            continue
        operator = provider[name]()
        positions = [p for node in nodes for p in operator.mutation_positions(node)]
        yield from (Change(name, number, *place) for number, place in enumerate(positions))


def _own(tree: ast.AST) -> Iterator[Change]:
    """``a + b`` to ``a`` and to ``b``, conditions likewise; a call or an assignment in place to nothing."""
    for name, kind in OWN.items():
        for number, node in enumerate(n for n in ast.walk(tree) if isinstance(n, kind)):
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                yield Change(name, number, *_ends(node))


def _own_change(source: str, node: Any, change: Change) -> str:
    if change.operator == "DropStatement":
        return _replaced(source, node, "pass")
    if isinstance(node, ast.BinOp):
        kept = [node.left if change.operator == "DropRight" else node.right]
    else:
        kept = node.values[1:] if change.operator == "DropFirst" else node.values[:-1]
    joint = " and " if isinstance(getattr(node, "op", None), ast.And) else " or "
    return _replaced(source, node, f"({joint.join(f'({ast.get_source_segment(source, k)})' for k in kept)})")


def _ends(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _replaced(source: str, node: Any, text: str) -> str:
    lines = source.splitlines(keepends=True)
    (first, start), (last, end) = _ends(node)
    head, tail = lines[first - 1].encode()[:start].decode(), lines[last - 1].encode()[end:].decode()
    return "".join([*lines[: first - 1], head + text + tail, *lines[last:]])


def _unnoticed(tree: ast.AST) -> Iterator[ast.AST]:
    """What no test can be asked to notice."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            yield from (a.annotation for a in every if a is not None and a.annotation is not None)
            yield from [node.returns] if node.returns is not None else []
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name[0].isupper() and not name.isupper():
                yield node  # the name of a type


def _functions(tree: ast.AST) -> list[tuple[int, int]]:
    """First and last lines of all functions that are not inside of others."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.append((min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno or 0))
    return [f for f in found if not any(a < f[0] and f[1] <= b for a, b in found)]


def sampled(paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """One mutant each of places drawn at random; a larger sample begins with the smaller one."""
    draw = random.Random(seed)
    places = [(module, changes) for module in map(Module, paths) for changes in module.places]
    draw.shuffle(places)
    found: list[Mutant] = []
    for module, changes in places:
        mutants = (module.mutant(change) for change in draw.sample(changes, len(changes)))
        mutant = next((m for m in mutants if m is not None), None)
        found += [mutant] if mutant is not None else []
        if len(found) == count:
            break
    return found
