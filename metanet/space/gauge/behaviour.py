"""How elementwise functions respond when their argument is multiplied by a factor.

``f(c z) = c^k f(z)``: a number k says so for every positive c in ``POSITIVE``, for ``c = -1`` in ``SIGN`` (1 for odd
functions, 0 for even ones). Functions not listed allow no factor.
"""

from __future__ import annotations

from fractions import Fraction

from metanet.space.gauge.forms import Number

LINEAR = (
    "neg", "clone", "alias", "contiguous", "detach", "detach_", "_to_copy", "to", "view", "reshape", "_unsafe_view",
    "flatten", "unflatten", "view_copy", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze",
    "expand", "repeat",
    "dropout", "lift_fresh", "lift_fresh_copy", "tril", "triu", "pixel_shuffle", "pixel_unshuffle",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "im2col",
    "col2im", "constant_pad_nd", "slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "select",
    "unbind",
    "index", "index_select", "_convert_element_type", "movedim", "swapaxes",
)  # fmt: skip

HOMOGENEOUS = (
    "relu", "leaky_relu", "abs", "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
)  # fmt: skip

ODD = (
    "tanh",
    "sin",
    "erf",
    "asinh",
    "sinh",
    "atan",
    "tan",
    "asin",
    "hardshrink",
    "softshrink",
    "tanhshrink",
    "softsign",
)
EVEN = ("cos", "cosh", "abs", "square")

POSITIVE: dict[str, Number] = {
    **dict.fromkeys((*LINEAR, *HOMOGENEOUS), 1),
    "square": 2,
    "sqrt": Fraction(1, 2),
    "rsqrt": Fraction(-1, 2),
    "reciprocal": -1,
    "sign": 0,
}
SIGN: dict[str, Number] = {
    **dict.fromkeys((*LINEAR, *ODD, "reciprocal", "sign"), 1),
    **dict.fromkeys(EVEN, 0),
}
