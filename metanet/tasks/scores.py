"""How good predictions of a number per net are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau


@dataclass(frozen=True)
class Scores:
    """Kendall's tau-b, coefficient of determination, mean absolute error (unit of the target), number of nets.

    A score that does not exist (tau of constant predictions, R2 of constant targets, any of predictions that are not
    finite) is NaN.
    """

    tau: float
    r2: float
    mae: float
    count: int

    def as_dict(self) -> dict[str, float | None]:
        """The three scores, None where one does not exist, for JSON."""
        found = {"tau": self.tau, "r2": self.r2, "mae": self.mae}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}


def score(predicted: ArrayLike, true: ArrayLike) -> Scores:
    """Compare predictions ``[N]`` with targets ``[N]``.

    tau-b = (P - Q) / sqrt((P + Q + T)(P + Q + U)), with P concordant and Q discordant pairs, T pairs tied in the
    predictions only, U in the targets only (Kendall 1945); R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2.
    """
    p, y = np.asarray(predicted, np.float64).reshape(-1), np.asarray(true, np.float64).reshape(-1)
    if not len(y) or not np.isfinite(p).all():
        return Scores(float("nan"), float("nan"), float("nan"), len(y))
    spread = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(np.sum((y - p) ** 2)) / spread if spread > 0 else float("nan")
    tau = float(kendalltau(p, y).statistic) if len(y) > 1 and np.ptp(p) > 0 and spread > 0 else float("nan")
    return Scores(tau, r2, float(np.mean(np.abs(y - p))), len(y))


@dataclass(frozen=True)
class ClassScores:
    """Share of nets told rightly, its mean over classes, mean cross-entropy in nats, number of nets.

    All scores are NaN if no prediction is finite.
    """

    accuracy: float
    balanced_accuracy: float
    nll: float
    count: int

    def as_dict(self) -> dict[str, float | None]:
        """The three scores, None where one is not finite, for JSON."""
        found = {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy, "nll": self.nll}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}


def classified(probabilities: ArrayLike, true: ArrayLike) -> ClassScores:
    """Compare class probabilities ``[N, classes]`` with the numbers of the true classes ``[N]``.

    The balanced accuracy is the mean, over the classes that occur, of the share of their nets told rightly.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(true).astype(np.int64)
    finite = np.isfinite(p).all(1)
    if not finite.any():
        return ClassScores(float("nan"), float("nan"), float("nan"), len(y))
    right = (p.argmax(1) == y) & finite
    per_class = [right[y == c].mean() for c in np.unique(y)]
    nll = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()
    return ClassScores(float(right.mean()), float(np.mean(per_class)), float(nll), len(y))
