"""Fourier transforms, and the reverse of cutting windows out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.space.onnx.registry import Ints, Number, Refused, axis_of, operator

WIDTHS = 2**16  # of a transform


@operator("DFT")
def fourier(
    x: Tensor, dft_length: Number | None = None, axis: Number | None = None, *, inverse: int = 0, onesided: int = 0,
    opset: int = 20,
) -> Tensor:  # fmt: skip
    """Discrete Fourier transform of numbers whose last dimension is their real, or real and imaginary, part."""
    at = axis_of((1 if opset < 20 else -2) if axis is None else int(axis), x.ndim)
    if at == x.ndim - 1 or x.shape[-1] > 2 or (inverse and onesided):
        raise Refused("it transforms the parts of its numbers, or a half back into the whole")
    size = x.shape[at] if dft_length is None else int(dft_length)
    if not 1 <= size <= WIDTHS:
        raise Refused(f"it is a transform of {size} numbers; 1 to {WIDTHS:,} are accepted")
    kind, x = x.dtype, x.double()  # in single precision zeros would come out as 1e-6
    numbers = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    found = torch.fft.ifft(numbers, size, at) if inverse else torch.fft.fft(numbers, size, at)
    return torch.view_as_real(found.narrow(at, 0, size // 2 + 1) if onesided else found).to(kind)


@operator("STFT")
def short_time_fourier(
    signal: Tensor, frame_step: Number, window: Tensor | None = None, frame_length: Number | None = None, *,
    onesided: int = 1,
) -> Tensor:  # fmt: skip
    """Fourier transforms of windows of a signal ``[N, length, 1 or 2]``: ``[N, frames, frequencies, 2]``."""
    size = int(frame_length) if frame_length is not None else window.shape[0] if window is not None else 0
    if not 1 <= size <= min(signal.shape[1], WIDTHS) or frame_step < 1:
        raise Refused(f"its frames are of {size} steps, {frame_step} steps apart, on {signal.shape[1]} steps")
    frames = signal.unfold(1, size, int(frame_step)).transpose(2, 3)  # [N, frames, size, parts]
    frames = frames if window is None else frames * window.reshape(-1, 1)
    return fourier(frames, None, 2, onesided=onesided)


@operator("Col2Im")
def windows_to_image(
    x: Tensor, image_shape: Ints, block_shape: Ints, *, dilations: Ints | None = None, pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """Add windows up to the image that they were cut out of: ``[N, C taps, windows] -> [N, C, H, W]``."""
    given = list(pads or [0] * 4)
    if len(image_shape) != 2 or len(given) != 4 or given[:2] != given[2:]:
        raise Refused(
            f"its image is {list(image_shape)} with pads {given}; two dimensions, padded evenly, are accepted"
        )
    sizes = [image_shape, block_shape, dilations or (1, 1), given[:2], strides or (1, 1)]
    return F.fold(x, *map(tuple, sizes))


@operator("Det")
def determinant(x: Tensor) -> Tensor:
    """The determinants of matrices."""
    return torch.linalg.det(x)
