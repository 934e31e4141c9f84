"""Rules: what each ATen operation says about axes. Importing this package registers all of them."""

from metanet.space.rules import attention, contraction, elementwise, norms, reduction, selection, views
from metanet.space.rules.registry import lookup, rule

__all__ = [
    "attention", "contraction", "elementwise", "lookup", "norms", "reduction", "rule", "selection", "views",
]  # fmt: skip
