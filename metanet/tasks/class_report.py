"""What a finished run of a classification leaves behind, beside StatNN: a table, a JSON file, a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from sklearn.metrics import confusion_matrix

from metanet.models.statnn import StatNN
from metanet.tasks.report import RunReport
from metanet.tasks.scores import ClassScores, classified
from metanet.zoo.data import ZooDataModule

NAMED = 20  # classes up to which the picture names each


@dataclass(frozen=True)
class ClassReport(RunReport):
    """Class probabilities on the test split of a zoo.

    Attributes:
        classes: Value of the target of each class.
        true: Number of each net's class, ``[N]``.
        metanet: Probabilities that the metanet gives, ``[N, classes]``.
        statnn: Those of StatNN, fitted on the same training nets, ``[N, classes]``.
    """

    classes: tuple[Any, ...]
    true: np.ndarray
    metanet: np.ndarray
    statnn: np.ndarray

    def scores(self) -> dict[str, ClassScores]:
        """Scores by model, ``metanet`` and ``statnn``."""
        return {"metanet": classified(self.metanet, self.true), "statnn": classified(self.statnn, self.true)}

    def table(self) -> Table:
        """The scores for people."""
        table = Table(title=f"{self.zoo}: {self.target} of {len(self.true)} test nets, seed {self.seed}")
        table.add_column("model")
        for name in ("accuracy", "balanced accuracy", "cross-entropy"):
            table.add_column(name, justify="right")
        for key, found in self.scores().items():
            label = f"metanet ({self.name})" if key == "metanet" else "StatNN"
            table.add_row(label, f"{found.accuracy:.3f}", f"{found.balanced_accuracy:.3f}", f"{found.nll:.3f}")
        return table

    def draw(self, figure: Any) -> None:
        """Confusion matrices, true classes down and predicted ones across, as shares of the true class."""
        figure.set_size_inches(9, 4.8)
        panels, scores, numbers = figure.subplots(1, 2), self.scores(), range(len(self.classes))
        for axes, key, label in zip(panels, ("metanet", "statnn"), (self.name, "StatNN"), strict=True):
            told = getattr(self, key).argmax(1)
            shares = confusion_matrix(self.true, told, labels=list(numbers), normalize="true")
            image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
            axes.set_title(f"{label}: accuracy {scores[key].accuracy:.3f}")
            axes.set_xlabel(f"predicted {self.target.replace('_', ' ')}")
            if len(self.classes) <= NAMED:
                axes.set_xticks(numbers, map(str, self.classes), rotation=90 if len(str(self.classes[0])) > 2 else 0)
                axes.set_yticks(numbers, map(str, self.classes))
        panels[0].set_ylabel(f"true {self.target.replace('_', ' ')}")
        figure.colorbar(image, ax=panels, label="share of the true class", shrink=0.8)
        figure.suptitle(f"{self.zoo}: {len(self.true)} test nets")

    def write(self, folder: Path) -> list[Path]:
        """Write ``metrics.json``, ``predicted.png`` and ``predicted.svg``; return their paths."""
        return self.save(folder, {key: found.as_dict() for key, found in self.scores().items()})


def statnn_classes(data: ZooDataModule, seed: int) -> np.ndarray:
    """Fit StatNN's trees as a classifier on the training nets; probabilities ``[N, classes]`` of the test nets."""
    train, test = (list(data.split(split).graphs()) for split in ("train", "test"))
    wanted = np.concatenate([y for _, y in train])
    model = StatNN(seed=seed, classifier=True).fit([g for g, _ in train], wanted)
    return model.predict([g for g, _ in test])
