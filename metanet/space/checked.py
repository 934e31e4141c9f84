"""Check a weight space that came from a file: every field has its type, and every name, dimension and size fits."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal, Union

from metanet.errors import SpaceError

if TYPE_CHECKING:
    from metanet.space.weight_space import WeightSpace


def check_space(space: WeightSpace) -> None:
    """Check types first, then what refers to what.

    Raises:
        SpaceError: A field has another type than it declares, or two parts contradict each other.
    """
    check_fields(space)
    if any(axis.size < 1 for axis in space.axes):
        raise SpaceError("an axis has a size below 1")
    if len(space.axis) < len(space.axes) or len(space.tensor) < len(space.tensors):
        raise SpaceError("two axes or two tensors have one name")
    for spec in space.tensors:
        if spec.shape != tuple(label.size for label in spec.labels):
            raise SpaceError(f"the shape {list(spec.shape)} of '{spec.name}' is not that of its labels")
    for link in space.links:
        named(space, link.tensor, (*link.source_dims, *link.target_dims))
    for gauge in space.gauges:
        if not set(gauge.axes) <= space.axis.keys():
            raise SpaceError(f"a symmetry names an unknown axis (got {', '.join(gauge.axes)})")
        for part in gauge.parts:
            named(space, part.tensor, () if part.through else part.dims)


def named(space: WeightSpace, name: str, dims: tuple[int, ...]) -> None:
    """Check that a tensor exists and has these dimensions.

    Raises:
        SpaceError: It does not.
    """
    spec = space.tensor.get(name)
    if spec is None or not all(0 <= dim < len(spec.shape) for dim in dims):
        raise SpaceError(f"'{name}' with the dimensions {list(dims)} is named, which is no tensor of the space")


def check_fields(item: Any) -> None:
    """Check every field of a dataclass, and of the dataclasses in it, against its annotation.

    Raises:
        SpaceError: A value has another type.
    """
    hints = _hints(typing.cast(Hashable, type(item)))
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if not fits(value, hints[field.name]):
            raise SpaceError(f"{type(item).__name__} has the {field.name} {str(value)[:60]!r} of another type")


@functools.cache
def _hints(kind: Hashable) -> dict[str, Any]:
    """Annotations of a dataclass, evaluated once: a space has thousands of parts."""
    return typing.get_type_hints(typing.cast(type, kind))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type: a plain one, a literal, a union, a tuple, or a dataclass."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        return len(each) == len(value) and all(map(fits, value, each))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            return False
        check_fields(value)
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
