"""Images that zoo nets are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from metanet.errors import ZooError


@dataclass(frozen=True, eq=False)
class Images:
    """Standardised images with their classes and a fixed train/test split.

    Attributes:
        pixels: ``[N, C, H, W]``, float64.
        classes: ``[N]``, int64.
        train: Positions of the training images, ascending.
        test: Positions of the test images, ascending.
    """

    pixels: np.ndarray
    classes: np.ndarray
    train: np.ndarray
    test: np.ndarray


@cache
def load_images(source: str) -> Images:
    """Load a source of images by name; only ``digits`` so far, which ships with scikit-learn.

    Raises:
        ZooError: The source is unknown.
    """
    if source != "digits":
        raise ZooError(f"Unknown source of images: got {source!r}. Accepted: digits.")
    return _digits()


def _digits() -> Images:
    """1,797 images of handwritten digits, 8x8 (UCI optdigits test set); 1,000 to train on, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, classes = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(classes)), train_size=1000, random_state=0, stratify=classes)
    pixels = data.reshape(-1, 1, 8, 8) / 16
    pixels = (pixels - 0.305) / 0.376  # mean and deviation over all pixels, rounded
    return Images(pixels, classes.astype(np.int64), np.sort(train), np.sort(test))
