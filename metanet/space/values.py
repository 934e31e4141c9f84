"""What a walk knows of tensor values: their dims, where they come from, and what they meet."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from metanet.space.axes import Dim, counted, factors_of
from metanet.space.calls import instances
from metanet.space.weight_space import LinkKind

SELECTIONS = ("aten.index", "aten._unsafe_index", "aten.index_select", "aten.gather", "aten.embedding")
"""Operations whose result consists of entries of their first operand, chosen by the others."""


@dataclass(frozen=True)
class Origin:
    """That a value is a view of one tensor of the state dict.

    Attributes:
        tensor: Name of the tensor.
        dims: For each dimension of the value, the tensor's dimension it runs over, or None.
    """

    tensor: str
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Value:
    """What is known of one tensor value during the walk.

    Attributes:
        dims: The label of each dimension.
        origin: The state-dict tensor it is a view of, if it is one.
        depth: Weight links on the longest path from the input.
        pending: Numbers of the links whose following activation has not been met yet.
        tensors: The state-dict tensors that it was computed from, until they meet values that depend on the inputs.
        data: Whether it depends on the inputs.
    """

    dims: tuple[Dim, ...]
    origin: Origin | None = None
    depth: int = 0
    pending: frozenset[int] = frozenset()
    tensors: frozenset[str] = frozenset()
    data: bool = True

    @functools.cached_property
    def factors(self) -> tuple[tuple[Dim, ...], ...]:
        """The factors of every dimension, to be asked for after the walk: they are remembered."""
        return tuple(tuple(factors_of(d)) for d in self.dims)

    @functools.cached_property
    def repeated(self) -> frozenset[Dim]:
        """Atoms that stand in two dimensions (``z_i z_j``) or twice in one, to be asked for after the walk."""
        return frozenset(atom for atom, count in counted(self.dims).items() if count > 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each dimension."""
        return tuple(d.size for d in self.dims)


@dataclass
class LinkDraft:
    """A :class:`~metanet.space.weight_space.Link` whose labels are still dims."""

    tensor: str
    kind: LinkKind
    source: Dim | None
    target: Dim
    source_dims: tuple[int, ...]
    target_dims: tuple[int, ...]
    depth: int
    stride: tuple[int, ...]
    module: str
    activation: str | None = None


@dataclass(frozen=True)
class Use:
    """That a tensor, or what was computed from it alone, met values that depend on the inputs.

    Attributes:
        name: The operation, such as ``"aten.bmm"``.
        module: Path of the module that called it.
        result: Dims of what the operation gave.
        others: Dims of its other operands.
        depth: Weight links on the longest path from the input up to the result.
    """

    name: str
    module: str
    result: tuple[Dim, ...]
    others: tuple[Dim, ...]
    depth: int


def tensors_in(items: Any) -> Iterator[Value]:
    """All values within nested arguments."""
    return instances(items, Value)


def marked(result: Any, tensors: frozenset[str], data: bool) -> Any:
    """A rule's result, each of whose values is told what it is made of."""
    if isinstance(result, Value):
        same = (result.tensors, result.data) == (tensors, data)
        return result if same else replace(result, tensors=tensors, data=data)
    if isinstance(result, tuple | list):
        return type(result)(marked(r, tensors, data) for r in result)
    return result
