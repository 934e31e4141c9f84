"""What a run prints and keeps while it trains."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from metanet.errors import ConfigError
from metanet.tasks.report import epoch_line
from metanet.zoo.data import ZooDataModule

CHECKPOINTS, CONFIG = "checkpoints", "config.yaml"
SHOWN = ("train_loss", "val_loss", "val_tau", "val_r2", "val_mae", "val_accuracy", "val_balanced_accuracy")


class EpochLines(Callback):
    """One line an epoch, for output that is no terminal, where a progress bar would be unreadable."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line; the epoch's validation is over by now."""
        found = {name: float(trainer.callback_metrics[name]) for name in SHOWN if name in trainer.callback_metrics}
        line = epoch_line(trainer.current_epoch + 1, trainer.max_epochs, trainer.global_step, found)
        print(f"{line}  {time.perf_counter() - self._start:.0f} s", flush=True)


class RunNotes(Callback):
    """Says which nets a run reads and where it writes, times its epochs, says how to go on after an interrupt.

    Args:
        folder: The run folder.
        resume: Command that goes on.

    Attributes:
        seconds: Of training, for every epoch of this process.
    """

    def __init__(self, folder: Path, resume: str) -> None:
        self.folder, self.resume = folder, resume
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._start = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it: validation ends every epoch of training."""
        if trainer.state.fn == "fit":
            self.seconds.append(time.perf_counter() - self._start)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the head lines."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ZooDataModule):
            print(data.summary())
        count = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        name = type(pl_module.metanet).__name__
        print(f"{name}: {count:,} parameters, on {pl_module.device}; run folder {self.folder}", flush=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """After Ctrl+C, name the command that resumes."""
        if isinstance(exception, KeyboardInterrupt) and (self.folder / CHECKPOINTS / "last.ckpt").is_file():
            print(f"\ninterrupted after epoch {trainer.current_epoch}; go on with: {self.resume}", flush=True)


class RunConfig(SaveConfigCallback):
    """Writes the whole configuration to ``config.yaml`` in the run folder."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"save_to_log_dir": False}))

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it, once per fit."""
        if stage == "fit":
            target = Path(trainer.default_root_dir) / CONFIG
            self.parser.save(self.config, target, overwrite=True, multifile=False)


def checkpoint_callbacks(folder: Path, monitor: str) -> list[Callback]:
    """Keep the checkpoint of the best validation score, and that of the last epoch to resume from."""
    where = folder / CHECKPOINTS
    best = ModelCheckpoint(where, "best", monitor=monitor, mode="max", enable_version_counter=False)
    last = ModelCheckpoint(where, "last", enable_version_counter=False)
    return [best, last]


def loggers(folder: Path) -> list[Logger]:
    """Numbers of the run as ``csv/version_N/metrics.csv`` and for TensorBoard."""
    return [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard", version="")]


def run_folder(root: Path, name: str, seed: int, resume: bool) -> Path:
    """The folder ``root/name/seed-N`` of a run; ``seed-N.2`` and so on where earlier runs were.

    A run that resumes takes the newest folder that is there. A run that failed before it began left no config, and its
    folder is taken again.
    """
    first = root / name / f"seed-{seed}"
    number, folder, newest = 1, first, first
    while (folder / CONFIG).exists():
        number, newest = number + 1, folder
        folder = first.with_name(f"{first.name}.{number}")
    return newest if resume else folder


def make_run_folder(folder: Path) -> None:
    """Create it.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"Cannot write the run folder {folder}: got '{error.strerror}'. Change its permission, or choose another "
            "with --trainer.default_root_dir."
        ) from error
