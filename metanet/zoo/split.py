"""Splits by run: checkpoints of one training are never on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metanet.errors import ZooError

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.15, 0.15)


def split_runs(runs: Sequence[str] | np.ndarray, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> list[str]:
    """Draw a split for every run and give it to all nets of the run.

    Args:
        runs: Run of every net.
        fractions: Parts of the runs to train, validate and test on; they sum to 1.
        seed: Seed of the draw, which depends on the names of the runs and not on their order.

    Returns:
        The split of every net.

    Raises:
        ZooError: The fractions are not three numbers >= 0 that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ZooError(
            f"Cannot split a zoo by {tuple(fractions)}. Accepted: parts to train, validate and test on, that sum to 1."
        )
    names, place = np.unique(np.asarray(runs), return_inverse=True)
    position = np.empty(len(names), dtype=int)
    position[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names))
    edges = np.round(np.cumsum(fractions) * len(names)).astype(int)
    chosen = np.array(SPLITS)[np.minimum(np.searchsorted(edges, position, side="right"), 2)]
    return [str(split) for split in chosen[place]]
