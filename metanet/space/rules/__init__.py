"""Rules: what each ATen operation says about axes. Importing this package registers all of them."""

from metanet.space.rules import (
    attention,
    contraction,
    elementwise,
    indexing,
    nested,
    norms,
    recurrent,
    reduction,
    selection,
    views,
    windows,
)
from metanet.space.rules.registry import lookup, rule

__all__ = [
    "attention", "contraction", "elementwise", "indexing", "lookup", "nested", "norms", "recurrent", "reduction",
    "rule", "selection", "views", "windows",
]  # fmt: skip
