"""Images that zoo nets are trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from metanet.errors import ZooError
from metanet.zoo.image_files import read_cifar, read_idx
from metanet.zoo.sources import SOURCES, Source, fetch_images, find_source, images_folder, read_content

SCALES = ("standard", "signed", "unit")
TRAIN_IMAGES = {"digits": 1000, "mnist": 60000, "fashion_mnist": 60000, "cifar10": 50000}
CHUNK = 5000  # images worked on at once, to bound memory


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their classes and a fixed train/test split, in the order of their authors.

    The published sources have their training images first and then their test images.

    Attributes:
        pixels: ``[N, C, H, W]``, float32.
        classes: ``[N]``, int64.
        train: Positions of the training images, ascending.
        test: Positions of the test images, ascending.
    """

    pixels: np.ndarray
    classes: np.ndarray
    train: np.ndarray
    test: np.ndarray


def load_images(
    source: str,
    grayscale: bool = False,
    pool: int = 1,
    scale: str = "standard",
    folder: str | Path | None = None,
) -> Images:
    """Load a source of images.

    Args:
        source: ``digits``, which ships with scikit-learn, or ``mnist``, ``fashion_mnist``, ``cifar10``.
        grayscale: Replace the channels by their mean.
        pool: Replace squares of this width, in pixels, by their mean.
        scale: ``unit`` for values in [0, 1], ``signed`` for [-1, 1], ``standard`` for mean 0 and deviation 1 of each
            channel over the training images (both constants rounded to three decimals).
        folder: Folder of images (:func:`metanet.zoo.sources.fetch_images`).

    Returns:
        The images; do not change them, they are kept for the next call.

    Raises:
        ZooError: A value is not acceptable, or files are missing or damaged.
    """
    if source != "digits":
        find_source(source)
    if scale not in SCALES:
        raise ZooError(f"Images '{source}': got scale {scale!r}. Accepted: {', '.join(SCALES)}.")
    return _load(source, grayscale, pool, scale, images_folder(folder))


def prepare_images(
    source: str, folder: str | Path | None = None, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Make sure that the files of a source are there, downloading them if need be.

    Args:
        source: As for :func:`load_images`.
        folder: As for :func:`load_images`.
        progress: Called with file, bytes so far and bytes in all while one is downloaded.

    Raises:
        ZooError: The source is unknown, or its files are missing.
    """
    if source != "digits":
        fetch_images(source, folder, progress)


@lru_cache(maxsize=2)
def _load(source: str, grayscale: bool, pool: int, scale: str, folder: Path | None) -> Images:
    raw = _digits() if source == "digits" else _published(SOURCES[source], fetch_images(source, folder))
    channels, height, width = raw.pixels.shape[1:]
    if type(pool) is not int or pool < 1 or height % pool or width % pool:
        raise ZooError(f"Images '{source}': got pool {pool!r}. Accepted: a divisor of {height} and {width}.")
    white = (16 if source == "digits" else 255) * pool * pool * (channels if grayscale else 1)
    if scale == "standard":
        shift, factor = _moments(raw.pixels[raw.train], grayscale, pool, white)
    else:
        shift, factor = (np.array(x) for x in ((0.5, 0.5) if scale == "signed" else (0.0, 1.0)))
    shape = (len(raw.pixels), 1 if grayscale else channels, height // pool, width // pool)
    pixels = np.empty(shape, dtype=np.float32)
    for i in range(0, len(pixels), CHUNK):
        pixels[i : i + CHUNK] = (_sums(raw.pixels[i : i + CHUNK], grayscale, pool) / white - shift) / factor
    return Images(pixels, raw.classes, raw.train, raw.test)


def _sums(pixels: np.ndarray, grayscale: bool, pool: int) -> np.ndarray:
    """Sum channels and squares of pixels; in whole numbers, so that every machine gets the same means."""
    n, channels, height, width = pixels.shape
    squares = pixels.reshape(n, channels, height // pool, pool, width // pool, pool)
    out = squares.sum(axis=(3, 5), dtype=np.int64)
    return out.sum(axis=1, keepdims=True) if grayscale else out


def _moments(pixels: np.ndarray, grayscale: bool, pool: int, white: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each channel, ``[C, 1, 1]``, rounded to three decimals."""
    counts = np.zeros((1 if grayscale else pixels.shape[1], white + 1), dtype=np.int64)
    for i in range(0, len(pixels), CHUNK):
        sums = _sums(pixels[i : i + CHUNK], grayscale, pool)
        counts += np.stack([np.bincount(sums[:, c].ravel(), minlength=white + 1) for c in range(len(counts))])
    values = np.arange(white + 1) / white
    total = counts.sum(axis=1)
    mean = counts @ values / total
    deviation = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    return mean.round(3)[:, None, None], np.maximum(deviation.round(3), 1e-3)[:, None, None]


def _digits() -> Images:
    """1,797 images of handwritten digits, 8x8 (UCI optdigits test set); 1,000 to train on, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, classes = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(classes)), train_size=1000, random_state=0, stratify=classes)
    pixels = data.reshape(-1, 1, 8, 8).astype(np.uint8)
    return Images(pixels, classes.astype(np.int64), np.sort(train), np.sort(test))


def _published(source: Source, paths: dict[str, Path]) -> Images:
    """Read the files of a source, training files first, as :class:`Images` of bytes."""
    contents = {name: (read_content(source, name, path), path) for name, path in paths.items()}
    if "test_batch.bin" in contents:
        parts = [read_cifar(*contents[name]) for name in source.files]
        counts = [len(classes) for _, classes in parts]
        train = sum(counts[:-1])
    else:
        images = [read_idx(*contents[f"{part}-images-idx3-ubyte"], 3) for part in ("train", "t10k")]
        labels = [read_idx(*contents[f"{part}-labels-idx1-ubyte"], 1) for part in ("train", "t10k")]
        parts = [(i[:, None], c) for i, c in zip(images, labels, strict=True)]
        train = len(labels[0])
    pixels = np.concatenate([pixels for pixels, _ in parts])
    classes = np.concatenate([classes for _, classes in parts]).astype(np.int64)
    return Images(pixels, classes, np.arange(train), np.arange(train, len(classes)))
