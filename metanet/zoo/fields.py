"""What nets are trained on: images to classify, or images as functions of position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metanet.errors import ZooError
from metanet.zoo.images import Images, load_images
from metanet.zoo.recipe import Recipe

SPANS = {"unit": 1.0, "signed": 2.0}  # highest minus lowest value of the scales that PSNR is defined for


@dataclass(frozen=True, eq=False)
class Fields:
    """Images as functions from positions to values.

    Attributes:
        points: ``[P, 2]``, float32, each coordinate from -1 to 1; the column changes fastest.
        values: ``[N, C, P]``, float32.
        classes: ``[N]``, int64.
        span: Highest possible value minus lowest.
    """

    points: np.ndarray
    values: np.ndarray
    classes: np.ndarray
    span: float


def load_data(recipe: Recipe, folder: str | None = None) -> Images | Fields:
    """Load what the nets of a recipe are trained on.

    Args:
        recipe: The recipe.
        folder: Folder of images (:func:`metanet.zoo.sources.fetch_images`).

    Raises:
        ZooError: Images are missing, or their scale does not suit the task.
    """
    options = dict(recipe.images)
    images = load_images(recipe.source, folder=folder, **options)
    if recipe.task == "classify":
        return images
    scale = str(options.get("scale"))
    if scale not in SPANS:
        raise ZooError(f"Recipe '{recipe.name}', key 'images.scale': got {scale!r}. To fit, accepted: unit, signed.")
    return fields_of(images, SPANS[scale], recipe.coordinates)


def fields_of(images: Images, span: float, coordinates: str) -> Fields:
    """Turn images into functions of position.

    Args:
        images: The images.
        span: Highest possible value minus lowest.
        coordinates: ``xy`` for (column, row), ``ij`` for (row, column).
    """
    height, width = images.pixels.shape[2:]
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    order = (columns, rows) if coordinates == "xy" else (rows, columns)
    points = np.stack([axis.ravel() for axis in order], axis=1).astype(np.float32)
    return Fields(points, images.pixels.reshape(*images.pixels.shape[:2], -1), images.classes, span)


def move_images(images: Tensor, moves: Tensor) -> Tensor:
    """Flip and shift images; what comes in at an edge repeats it.

    Args:
        images: ``[n, C, H, W]``.
        moves: ``[n, 3]``: 1 to flip left and right, then rows and columns to shift by.
    """
    n, channels, height, width = images.shape
    rows = (torch.arange(height, device=moves.device) + moves[:, 1:2]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=moves.device) + moves[:, 2:3]).clamp_(0, width - 1)
    columns = torch.where(moves[:, :1] == 1, width - 1 - columns, columns)
    where = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(n, channels, -1)
    return images.flatten(2).gather(2, where).view(images.shape)
