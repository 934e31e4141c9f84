"""What a finished run leaves behind: test scores beside StatNN's, as a table, a JSON file and a picture."""

from __future__ import annotations

import json
import os
import platform
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from metanet.errors import ConfigError
from metanet.models.statnn import StatNN
from metanet.tasks.quantiles import Quantiles
from metanet.tasks.scores import Scores, score
from metanet.zoo.data import ZooDataModule


@dataclass(frozen=True)
class RunFacts:
    """What a comparison of runs needs besides test scores.

    Attributes:
        monitor: Name of the score on the validation split by which the checkpoint was chosen.
        validation: That score; None if it was undefined in every epoch.
        epoch: Epoch of that checkpoint, from 0.
        epochs: Epochs trained.
        parameters: Trainable parameters of the metanet.
        seconds_per_epoch: Median time of training an epoch, without validation; None if this process trained none.
        machine: What it was trained on.
    """

    monitor: str
    validation: float | None
    epoch: int
    epochs: int
    parameters: int
    seconds_per_epoch: float | None
    machine: str


def machine_name(device: torch.device) -> str:
    """Name of a GPU, or of the CPU and the number of its cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_name()}, {os.cpu_count()} cores"


def cpu_name() -> str:
    """Name of the CPU, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


@dataclass(frozen=True)
class RunReport:
    """What every report of a run has.

    Attributes:
        zoo: Name of the zoo.
        target: What is predicted.
        seed: Seed of the run.
        name: Class of the metanet.
        facts: How the run went.
    """

    zoo: str
    target: str
    seed: int
    name: str
    facts: RunFacts

    @abstractmethod
    def table(self) -> Table:
        """The scores for people."""

    @abstractmethod
    def draw(self, figure: Any) -> None:
        """Draw the predictions into a matplotlib figure."""

    @abstractmethod
    def write(self, folder: Path) -> list[Path]:
        """Write ``metrics.json``, ``predicted.png`` and ``predicted.svg``; return their paths."""

    def save(self, folder: Path, scores: Mapping[str, Any]) -> list[Path]:
        """Write the files, given the scores by model."""
        content = {**scores, "seed": self.seed, "zoo": self.zoo, "run": asdict(self.facts)}
        files = [folder / "metrics.json", folder / "predicted.png", folder / "predicted.svg"]
        write_whole(files[0], (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        for file in files[1:]:
            self.plot(file)
        return files

    def plot(self, file: Path) -> None:
        """Draw the picture; the ending of the file decides the format."""
        from matplotlib.figure import Figure  # only runs that end draw, and importing matplotlib takes a second

        figure = Figure(figsize=(9, 4.6), layout="constrained")
        self.draw(figure)
        temporary = file.with_name(f".{file.name}.tmp")
        figure.savefig(temporary, format=file.suffix[1:], dpi=150)
        os.replace(temporary, file)


@dataclass(frozen=True)
class Report(RunReport):
    """Predictions of a number on the test split of a zoo.

    Attributes:
        true: Targets, ``[N]``.
        metanet: Predictions of the metanet, ``[N]``.
        statnn: Predictions of StatNN, fitted on the same training nets, ``[N]``.
    """

    true: np.ndarray
    metanet: np.ndarray
    statnn: np.ndarray

    def scores(self) -> dict[str, Scores]:
        """Scores by model, ``metanet`` and ``statnn``."""
        return {"metanet": score(self.metanet, self.true), "statnn": score(self.statnn, self.true)}

    def table(self) -> Table:
        """The scores for people."""
        table = Table(title=f"{self.zoo}: {self.target} of {len(self.true)} test nets, seed {self.seed}")
        table.add_column("model")
        for name in ("Kendall tau", "R2", "MAE"):
            table.add_column(name, justify="right")
        for key, found in self.scores().items():
            label = f"metanet ({self.name})" if key == "metanet" else "StatNN"
            table.add_row(label, f"{found.tau:.3f}", f"{found.r2:.3f}", f"{found.mae:.4f}")
        return table

    def write(self, folder: Path) -> list[Path]:
        """Write ``metrics.json``, ``predicted.png`` and ``predicted.svg``; return their paths."""
        return self.save(folder, {key: found.as_dict() for key, found in self.scores().items()})

    def draw(self, figure: Any) -> None:
        """Predicted against true values, the metanet beside StatNN."""
        every = np.concatenate([self.true, self.metanet, self.statnn])
        finite = every[np.abs(every) < 1e150]  # beyond, matplotlib cannot place marks
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        margin = 0.04 * (high - low) or 0.5
        target = self.target.replace("_", " ")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        scores = self.scores()
        for axes, key, label in zip(panels, ("metanet", "statnn"), (self.name, "StatNN"), strict=True):
            axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=1)
            axes.scatter(self.true, getattr(self, key), s=12, alpha=0.6, linewidths=0, zorder=2)
            axes.set_title(f"{label}: Kendall tau {scores[key].tau:.3f}")
            axes.set_xlabel(f"true {target}")
            axes.set_xlim(low - margin, high + margin)
            axes.set_ylim(low - margin, high + margin)
            axes.set_aspect("equal")
        panels[0].set_ylabel(f"predicted {target}")
        figure.suptitle(f"{self.zoo}: {len(self.true)} test nets")


def statnn_predictions(
    data: ZooDataModule, seed: int, quantiles: Quantiles | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit StatNN on the training nets; return its predictions for the test nets and their targets, ``[N]`` each.

    With ``quantiles`` it learns levels, as a metanet does that is trained on ranks.
    """
    train, test = (list(data.split(split).graphs()) for split in ("train", "test"))
    wanted = np.concatenate([y for _, y in train])
    if quantiles is not None:
        wanted = quantiles.level(torch.as_tensor(wanted)).numpy()
    model = StatNN(seed=seed).fit([g for g, _ in train], wanted)
    found = model.predict([g for g, _ in test])
    if quantiles is not None:
        found = quantiles.value(torch.as_tensor(found)).numpy()
    return found, np.concatenate([y for _, y in test])


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"Cannot write {path}: got '{error.strerror}'. Give another --trainer.default_root_dir."
        ) from error


def epoch_line(epoch: int, epochs: int | None, step: int, metrics: Mapping[str, float]) -> str:
    """One line on an epoch, for logs."""
    values = "  ".join(f"{name}={value:.4f}" for name, value in metrics.items())
    return f"epoch {epoch}/{epochs if epochs and epochs > 0 else '?'}  step {step}  {values}"
