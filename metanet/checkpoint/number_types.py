"""Which tensors of a file are weights as they stand: codes of numbers are refused, float8 is widened."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from metanet.checkpoint.budget import charge
from metanet.errors import CheckpointError

PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128}
EXACT = {torch.bool, torch.int64, torch.complex32}
"""Types of masks, counters and indices; as weights they are refused where a graph is made of them."""

FLOAT8 = {getattr(torch, name) for name in dir(torch) if name.startswith("float8_")}
PACKED = re.compile(r"(^|[._])(qweight|W_q|weight_packed|packed_weight|_packed_params|Qidxs|codes|qzeros|blocks)$")
WEIGHT = re.compile(
    r"(^|[._])(weights?|kernel|bias|gamma|beta|w|b)([._]?(raw|ih|hh|data|int8|quantized|q|l?\d+))*$", re.I
)
SCALE = re.compile(
    r"(^|[._])(weight_|w_|kernel_|q|input_)?(scales?|scale_inv|scale_weight|zeros?|zero_points?|absmax|SCB|quant_map|codebooks?|"
    r"statistics|weight_format|scaling_factor|scb)(_?\d+)?$"
)


def readable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check that no tensor is the code of a weight, and widen float8 to bfloat16, which holds its values exactly.

    A code is an integer or float8 number that means something only together with a scale. Codes are found by their
    scale beside them (bitsandbytes, GPTQ, AWQ, HQQ, float8 with ``weight_scale``, ...), by the name of a weight whose
    values are integers, or because no matrix of the file holds anything else. Counters, indices, masks (0 and 1) and
    short tables pass.

    Raises:
        CheckpointError: A code was found.
    """
    beside: dict[str, list[str]] = {}
    for name in tensors:
        if SCALE.search(name):
            beside.setdefault(owner(name), []).append(name)
    matrices = [tensor for tensor in tensors.values() if tensor.dim() > 1]
    bare = bool(matrices) and not any(tensor.dtype in PLAIN | FLOAT8 for tensor in matrices)
    for name, tensor in tensors.items():
        if tensor.dtype not in PLAIN | EXACT:
            refuse_code(name, tensor, beside, bare)
    return {name: widen(name, tensor) for name, tensor in tensors.items()}


def refuse_code(name: str, tensor: Tensor, beside: Mapping[str, list[str]], bare: bool) -> None:
    """Refuse one tensor if it holds codes.

    Args:
        name: Name of the tensor.
        tensor: The tensor, of a type that codes have.
        beside: Names of scales by the module, or the tensor, that they are right below.
        bare: Whether no matrix of the file holds floating-point numbers.

    Raises:
        CheckpointError: It does.
    """
    kind = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if str(tensor.dtype).startswith("torch.float4"):
        raise CheckpointError(
            f"'{name}' holds quantised numbers, two a byte (got {kind}). Only float weights are accepted: load the "
            "model that it was made from."
        )
    weight = bool(WEIGHT.search(name))
    near = (*beside.get(owner(name), ()), *beside.get(f"{name}.", ()))
    scale = next((one for one in near if one != name), None)
    if PACKED.search(name) or (scale is not None and (weight or tensor.dim() > 1)):
        raise CheckpointError(
            f"'{name}' is a quantised weight (got {kind}{f' beside {scale!r}' if scale else ''}). Only float weights "
            "are accepted: dequantise the model before saving it, or load the float checkpoint that it was made from."
        )
    if tensor.dtype not in FLOAT8 and (weight or (bare and tensor.dim() > 1)) and not is_mask(tensor):
        raise CheckpointError(
            f"'{name}' holds whole numbers in place of weights (got {kind}, and no scale beside it). They are the "
            "codes of a quantised model: load the float checkpoint that it was made from."
        )


def owner(name: str) -> str:
    """The module that a tensor belongs to, as ``"layer."``; the tensor's own name counts where its parts have names."""
    return name[: name.rfind(".") + 1]


def is_mask(tensor: Tensor) -> bool:
    """Whether all values are 0 or 1, or there are none."""
    return bool((tensor.to(torch.int64) >> 1 == 0).all())


def widen(name: str, tensor: Tensor) -> Tensor:
    """A float8 tensor as bfloat16, which holds all its values exactly; any other as it is."""
    if tensor.dtype not in FLOAT8:
        return tensor
    charge(2 * tensor.numel(), f"'{name}' as bfloat16")
    return tensor.to(torch.bfloat16)
