"""Refuse weights that are codes of numbers rather than numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metanet.errors import CheckpointError

CODES = {torch.int8, torch.uint8, torch.int16, torch.int32} | {
    getattr(torch, name) for name in dir(torch) if name.startswith("float8_") or name.startswith("float4_")
}
"""Types that quantisation schemes store codes in; int64 is a counter or an index."""

PACKED = ("qweight", "weight_packed", "_packed_params", "packed_weight")
COMPANIONS = (
    *("SCB", "weight.SCB", "weight_format", "weight.absmax", "weight.quant_map", "weight_scale", "weight_scale_inv"),
    *("weight.scale", "weight.scales", "weight_scales", "scale", "scales", "zero_point", "weight_zero_point", "qzeros"),
)


def refuse_quantised(tensors: Mapping[str, Tensor]) -> None:
    """Check that no tensor is the integer or float8 code of a weight whose scale lies in another tensor.

    Plain integer tensors (counters, masks, tables) pass. Known schemes are found by names and types: bitsandbytes
    (``weight`` + ``weight.absmax`` or ``SCB``), GPTQ and AWQ (``qweight`` + ``scales``), float8 + ``weight_scale_inv``.

    Raises:
        CheckpointError: A quantised weight was found.
    """
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if tensor.dtype not in CODES:
            continue
        if str(tensor.dtype).startswith("torch.float4"):
            raise CheckpointError(
                f"'{name}' holds quantised numbers, two a byte (got {str(tensor.dtype).removeprefix('torch.')} "
                f"{list(tensor.shape)}). Only float weights are accepted: load the model that it was made from."
            )
        found = last if last in PACKED else next((c for c in siblings(stem, last) if c in tensors), None)
        if found is not None:
            raise CheckpointError(
                f"'{name}' is a quantised weight (got {str(tensor.dtype).removeprefix('torch.')} "
                f"{list(tensor.shape)} beside '{found}'). Only float weights are accepted: dequantise the model "
                "before saving it, or load the float checkpoint that it was made from."
            )


def siblings(stem: str, last: str) -> list[str]:
    """Names under which quantisation schemes store the scales of tensor ``stem.last``."""
    dotted = f"{stem}." if stem else ""
    weight = last.endswith(("weight", "kernel"))
    return [dotted + one.replace("weight", last, 1) for one in COMPANIONS] if weight else []
