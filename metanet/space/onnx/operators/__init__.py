"""ONNX operators in terms of torch. Importing this package registers all of them."""

from metanet.space.onnx.operators import (
    constants,
    elementwise,
    linear,
    norms,
    pooling,
    recurrent,
    reduction,
    resize,
    signal,
    views,
)

__all__ = [
    "constants",
    "elementwise",
    "linear",
    "norms",
    "pooling",
    "recurrent",
    "reduction",
    "resize",
    "signal",
    "views",
]
