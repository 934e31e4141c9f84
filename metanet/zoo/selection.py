"""Which nets of a table are wanted: filters of columns, expressions, functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metanet.errors import ZooError

Filter: TypeAlias = Any
"""A value, a list of accepted values, a range ``{"min": a, "max": b}``, or a function of a column that gives a mask."""
Where: TypeAlias = "pc.Expression | Callable[[pa.Table], Any]"
RANGE = ("min", "max")


def mask_of(name: str, column: np.ndarray, want: Filter) -> np.ndarray:
    """Mask of the nets whose value in a column is wanted; a missing value is wanted only as None, or by a function.

    Raises:
        ZooError: The filter is a mapping that is no range, or a function that gives no mask.
    """
    if callable(want):
        return check_mask(f"the filter of column '{name}'", want(column), len(column))
    if isinstance(want, Mapping):
        return _range(name, column, want)
    if isinstance(want, list | tuple | set | frozenset | np.ndarray):
        wanted = list(want)
        if column.dtype == object:  # texts, of which some may be missing
            return np.fromiter((value in wanted for value in column), bool, len(column))
        return np.isin(column, wanted)
    return np.asarray(column == want, dtype=bool) if want is not None else _missing(column)


def mask_where(table: pa.Table, where: Where) -> np.ndarray:
    """Mask of the rows that satisfy a pyarrow expression, or a function of the whole table.

    Raises:
        ZooError: The expression names a column that is not there or compares what cannot be compared.
    """
    if callable(where):
        return check_mask("the function given as where", where(table), table.num_rows)
    position = "position in this table"
    try:
        numbered = table.append_column(position, pa.array(np.arange(table.num_rows)))
        found = numbered.filter(where)[position].to_numpy()
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise ZooError(
            f"Cannot filter by {where}: {' '.join(str(error).split())[:200]}. Columns: {', '.join(table.column_names)}."
        ) from None
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[found] = True
    return mask


def check_mask(what: str, given: Any, count: int) -> np.ndarray:
    """A function's answer as a mask.

    Raises:
        ZooError: It is not one truth value a net.
    """
    mask = np.asarray(given)
    if mask.shape != (count,) or mask.dtype != bool:
        raise ZooError(f"{what} gave {mask.dtype} {list(mask.shape)}. A mask is needed: bool [{count}], one a net.")
    return mask


def _range(name: str, column: np.ndarray, want: Mapping[str, Any]) -> np.ndarray:
    if not want or set(want) - set(RANGE):
        raise ZooError(f"Filter of column '{name}': got {dict(want)}. Accepted in a range: min, max or both.")
    if not np.issubdtype(column.dtype, np.number):
        raise ZooError(f"Filter of column '{name}': a range needs numbers, the column holds {column.dtype}.")
    return np.asarray((column >= want.get("min", -np.inf)) & (column <= want.get("max", np.inf)))


def _missing(column: np.ndarray) -> np.ndarray:
    if column.dtype == object:
        return np.fromiter((value is None for value in column), bool, len(column))
    return np.isnan(column) if np.issubdtype(column.dtype, np.floating) else np.zeros(len(column), dtype=bool)
