"""Histograms of a zoo's labels, in the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metanet.errors import ZooError
from metanet.zoo.store import ModelZoo

BARS = 10
WIDTH = 40
MAIN = ("test_accuracy", "psnr", "test_acc", "final_mean_reward", "score")  # shown if nothing was asked for


def main_labels(zoo: ModelZoo) -> list[str]:
    """The label that a zoo is mostly about: a measurement by its name, otherwise the first number that varies."""
    varied = [name for name in zoo.table.column_names[6:] if _varies(zoo, name)]
    return [name for name in MAIN if name in varied][:1] or varied[:1]


def values_of(zoo: ModelZoo, label: str) -> np.ndarray:
    """The finite values of a label.

    Raises:
        ZooError: There is no such column, it is not a number, or no net has it.
    """
    values = zoo.column(label)
    if not np.issubdtype(values.dtype, np.number):
        raise ZooError(f"zoo '{zoo.name}': label '{label}' is not a number, so it has no histogram; choose another")
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise ZooError(f"zoo '{zoo.name}': no net has a finite '{label}', so it has no histogram; choose another")
    return values


def draw_histogram(zoo: ModelZoo, label: str) -> list[str]:
    """One line a bin: its range, a bar, its count."""
    values = values_of(zoo, label)
    if not np.isfinite(float(values.max()) - float(values.min())):
        raise ZooError(f"zoo '{zoo.name}': label '{label}' has values too far apart for a histogram; choose another")
    counts, edges = np.histogram(values, BARS)
    most = max(int(counts.max()), 1)
    rows = zip(edges, edges[1:], counts, strict=False)
    return [f"  {low:10.4g} to {high:10.4g}  {'█' * round(WIDTH * n / most):{WIDTH}s} {n}" for low, high, n in rows]


def plot_histograms(zoo: ModelZoo, labels: Sequence[str], file: Path) -> None:
    """Write a picture with one histogram a label.

    Raises:
        ZooError: A label has no histogram, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(labels), 3), layout="constrained")
    columns = zoo.card.get("columns", {})
    for place, label in enumerate(labels):
        axes = figure.add_subplot(1, len(labels), place + 1)
        axes.hist(values_of(zoo, label), bins=4 * BARS)
        unit = columns.get(label, {}).get("unit", "")
        axes.set_xlabel(f"{label} ({unit})" if unit else label)
        axes.set_ylabel("nets")
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ZooError(
            f"Cannot write {file}: got {error}. Give a .png, .svg or .pdf in a folder that exists."
        ) from None


def _varies(zoo: ModelZoo, name: str) -> bool:
    values = zoo.column(name)
    if not np.issubdtype(values.dtype, np.number):
        return False
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and finite.min() < finite.max()
