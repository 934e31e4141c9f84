"""What torchvision's models are traced on; of a detector, everything that has weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLIP = {"mvit": (16, 224), "swin3d": (8, 224), "s3d": (16, 224)}  # frames and size; others take 16 of 112
ROI = 7  # size that RoIAlign gives for boxes; masks and key points get twice as much


def with_inputs(module: nn.Module, name: str, kind: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a module to trace and its inputs.

    Args:
        module: A model of torchvision.
        name: Its name in ``torchvision.models``.
        kind: The module of ``torchvision.models`` that it is defined in: ``"detection"``, ``"video"``, ...
    """
    if kind == "detection":
        return Detector(module).eval(), (torch.zeros(1, 3, 320, 320),)
    if kind == "video":
        frames, size = next((shape for stem, shape in CLIP.items() if name.startswith(stem)), (16, 112))
        return module, (torch.zeros(1, 3, frames, size, size),)
    if kind == "optical_flow":
        return module, (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))
    side: Any = 299 if name.startswith("inception") else getattr(module, "image_size", 224)
    return module, (torch.zeros(1, 3, side, side),)


class Detector(nn.Module):
    """A detector without the choice of boxes, which has no weights: backbone, proposals, and heads on pooled maps.

    Each head of regions reads maps that are pooled per channel, as RoIAlign does, so which axes the weights share is
    that of the detector itself. The names of all tensors are those of the detector.

    Args:
        detector: One of ``torchvision.models.detection``.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        for name, child in detector.named_children():
            if name != "transform":
                self.add_module(name, child)

    def forward(self, images: Tensor) -> list[Any]:
        """Return all that the heads predict on feature maps of ``images [B, 3, H, W]``."""
        parts: Any = self
        features = parts.backbone(images)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        if not hasattr(self, "rpn"):
            return [parts.head(maps)]
        found = [parts.rpn.head(maps)]
        regions = parts.roi_heads
        pooled = maps[:4] if len(maps) > 1 else maps  # RoIAlign does not read the coarsest map of a pyramid
        for one in pooled:
            found.append(regions.box_predictor(regions.box_head(F.adaptive_avg_pool2d(one, ROI))))
            for kind in ("mask", "keypoint"):
                if getattr(regions, f"{kind}_head", None) is not None:
                    read = getattr(regions, f"{kind}_head")(F.adaptive_avg_pool2d(one, 2 * ROI))
                    found.append(getattr(regions, f"{kind}_predictor")(read))
        return found
