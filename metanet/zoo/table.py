"""The table of a zoo, ``models.parquet``: one row a net, checked when the zoo is opened."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metanet.errors import ZooError
from metanet.zoo.card import REBUILD

TABLE = "models.parquet"
COLUMNS = ("id", "space", "shard", "row", "split", "run")
MARK = "diverged"  # a column of truth values, if there is one
CODED = ("space", "split")  # texts of few values, held as codes


def read_table(path: Path) -> pa.Table:
    """Read the table of the zoo in a folder.

    Raises:
        ZooError: It is damaged, or lacks a column that every zoo has.
    """
    try:
        table = pq.read_table(path / TABLE, read_dictionary=list(CODED), memory_map=True).unify_dictionaries()
        table.validate(full=True)  # texts are UTF-8
        names = table.column_names
    except Exception as error:  # a damaged file raises whatever its damage leads to
        reason = " ".join(str(error).split())
        raise ZooError(f"Cannot open the zoo {path}: {TABLE} is damaged (got '{reason}'). {REBUILD}") from error
    lacking = [name for name in COLUMNS if name not in names]
    if lacking:
        raise ZooError(
            f"Cannot open the zoo {path}: the table lacks the columns {', '.join(lacking)}. Columns needed: "
            f"{', '.join(COLUMNS)}."
        )
    if len(set(names)) < len(names):
        raise ZooError(f"Cannot open the zoo {path}: two columns of {TABLE} have one name. {REBUILD}")
    _check_columns(path, table)
    return table


def _check_columns(path: Path, table: pa.Table) -> None:
    """Refuse a table whose first columns are of other types, or lack values.

    Raises:
        ZooError: It is one.
    """
    for name in COLUMNS:
        kind = table.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        fits = pa.types.is_integer(kind) if name in ("shard", "row") else pa.types.is_string(kind)
        if len(table) and (table[name].null_count or (not fits and name != "run")):
            found = "missing values" if table[name].null_count else f"the type {kind}"
            raise ZooError(f"Cannot open the zoo {path}: column '{name}' of {TABLE} has {found}. {REBUILD}")
    if MARK in table.column_names and not _is_mark(table.schema.field(MARK).type):
        found = table.schema.field(MARK).type
        raise ZooError(f"Cannot open the zoo {path}: column '{MARK}' of {TABLE} has the type {found}. {REBUILD}")
    bad = [d for d in table["space"].unique().to_pylist() if not str(d).isalnum()]
    if bad:  # it names files
        raise ZooError(f"Cannot open the zoo {path}: got the digest {bad[0][:40]!r} in {TABLE}. {REBUILD}")


def _is_mark(kind: pa.DataType) -> bool:
    return pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
