"""Resampling of positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Floats, Ints, Refused, Unused, axes_of, operator

ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SIZE = 2**14  # of a resampled dimension
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@operator("Upsample")
def upsample(x: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    """The older form of Resize."""
    return resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@operator("Resize")
def resize(
    x: Tensor, roi: Unused = None, scales: Floats | None = None, sizes: Ints | None = None, *,
    antialias: int = 0, axes: Ints | None = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
    opset: int = 19,
) -> Tensor:  # fmt: skip
    """Nearest, linear and cubic resampling, one dimension after the other.

    Torch's own functions are used where they mean the same; otherwise every dimension is multiplied by the matrix of
    its interpolation weights, which is exact too.
    """
    if opset < 11:  # the first Resize had no choice of coordinates
        coordinate_transformation_mode, nearest_mode = "asymmetric", "floor"
    if antialias or exclude_outside or keep_aspect_ratio_policy != "stretch":
        raise Refused("antialias, exclude_outside and kept aspect ratios are not supported")
    if coordinate_transformation_mode == "tf_crop_and_resize":
        raise Refused("it crops to a region")
    if mode not in ("nearest", "linear", "cubic") or nearest_mode not in ROUNDING or min(x.shape) < 1:
        raise Refused(f"its mode is '{mode}' with '{nearest_mode}', on an input of the shape {list(x.shape)}")
    where = axes_of(axes, x.ndim) if axes is not None else list(range(x.ndim))
    before = [x.shape[a] for a in where]
    if bool(sizes) == bool(scales) or len(sizes or scales or ()) != len(where):
        raise Refused(
            f"its scales {list(scales or ())} and sizes {list(sizes or ())} are not one of them for each dimension"
        )
    if not all(math.isfinite(s) and s > 0 for s in (sizes or scales or ())):
        raise Refused(f"its scales or sizes are {list(sizes or scales or ())}")
    if sizes:
        after = [int(s) for s in sizes]
        factors = [a / b for a, b in zip(after, before, strict=True)]
    else:
        factors = [float(s) for s in scales or ()]
        after = [math.floor(b * s) for b, s in zip(before, factors, strict=True)]
    if not 1 <= min(after) <= max(after) <= SIZE:
        raise Refused(f"its result has the sizes {after}; 1 to {SIZE:,} are accepted")
    inexact = [f for b, n, f in zip(before, after, factors, strict=True) if abs(b * f - n) > 1e-4]
    if inexact and coordinate_transformation_mode == "align_corners":
        raise Refused(f"its scale {inexact[0]:g} gives no whole size: runtimes disagree where corners lie then")
    if opset < 11 and mode == "nearest" and any(f < 1 and abs(1 / f - round(1 / f)) > 1e-6 for f in factors):
        raise Refused("it takes every other entry in uneven steps, for which version 10 does not say how it rounds")
    changed = {a: (n, f) for a, n, f in zip(where, after, factors, strict=True) if n != x.shape[a] or f != 1}
    kind = (mode, coordinate_transformation_mode, nearest_mode if mode == "nearest" else "")
    own = _torch(x, changed, kind, cubic_coeff_a)
    if own is not None:
        return own
    for axis, (size, factor) in changed.items():
        x = _along(x, axis, size, factor, kind, cubic_coeff_a)
    return x


def _torch(x: Tensor, changed: dict[int, tuple[int, float]], kind: tuple[str, str, str], a: float) -> Tensor | None:
    """Torch's function that means the same, or None."""
    n = x.ndim - 2
    mode, coordinates, rounding = kind
    exact = all(abs(x.shape[i] * factor - size) < 1e-6 for i, (size, factor) in changed.items())
    if n not in MODES or min(changed, default=2) < 2 or not exact:
        return x if not changed else None
    size = list(x.shape[2:])
    for axis, (new, _) in changed.items():
        size[axis - 2] = new
    if mode == "nearest":
        whole = all(float(factor).is_integer() for _, factor in changed.values())  # torch divides in single precision
        same = coordinates == "asymmetric" and rounding == "floor" and whole
        return F.interpolate(x, size, mode="nearest") if same else None
    aligned = coordinates == "align_corners"
    half = coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and min(size) > 1)
    if not (aligned or half):
        return None
    if mode == "linear":
        return F.interpolate(x, size, mode=MODES[n], align_corners=aligned)
    return F.interpolate(x, size, mode="bicubic", align_corners=aligned) if n == 2 and a == -0.75 else None


def _along(x: Tensor, axis: int, size: int, factor: float, kind: tuple[str, str, str], a: float) -> Tensor:
    """Resample one dimension."""
    mode, coordinates, rounding = kind
    own = x.shape[axis]
    places = [_place(i, own, size, factor, coordinates) for i in range(size)]
    if mode == "nearest":
        rows = [min(max(_round(p, rounding), 0), own - 1) for p in places]
        return x.index_select(axis, torch.tensor(rows, device=x.device))
    matrix = torch.zeros(size, own, dtype=torch.float64)
    for i, place in enumerate(places):
        low = math.floor(place)
        t = place - low
        taps = {0: 1 - t, 1: t} if mode == "linear" else dict(zip((-1, 0, 1, 2), _cubic(t, a), strict=True))
        for step, weight in taps.items():
            matrix[i, min(max(low + step, 0), own - 1)] += weight
    return (x.movedim(axis, -1) @ matrix.to(x.device, x.dtype).t()).movedim(-1, axis)


def _cubic(t: float, a: float) -> tuple[float, float, float, float]:
    """Keys' weights of four neighbours."""

    def near(d: float) -> float:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: float) -> float:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def _place(i: int, own: int, size: int, factor: float, coordinates: str) -> float:
    """Where an entry of the result lies in the source."""
    if coordinates == "asymmetric":
        return i / factor
    if coordinates == "align_corners":
        return i * (own - 1) / (size - 1) if size > 1 else 0.0
    if coordinates == "pytorch_half_pixel" and size == 1:
        return 0.0
    if coordinates == "half_pixel_symmetric":
        shift = own / 2 * (1 - size / (own * factor))
        return shift + (i + 0.5) / factor - 0.5
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / factor - 0.5
    raise Refused(f"its coordinates are '{coordinates}'")


def _round(place: float, rounding: str) -> int:
    if rounding == "floor":
        return math.floor(place)
    if rounding == "ceil":
        return math.ceil(place)
    return math.ceil(place - 0.5) if rounding == "round_prefer_floor" else math.floor(place + 0.5)


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """Values at places that a tensor names."""
    known = {"linear": "bilinear", "cubic": "bicubic"}
    return F.grid_sample(x, grid, known.get(mode, mode), padding_mode, bool(align_corners))
