"""Checkpoints that the trainer loads, for ``fit``, ``validate`` and ``test``: plain data of the form that it writes.

Lightning opens every checkpoint, whichever way its path was found, through a ``CheckpointIO``. The one here reads the
file as :func:`~metanet.tasks.run_file.read_run_file` does, so that nothing in it is executed. What restores a training
(loops, optimisers, schedulers, callbacks) is compared with what this training itself would write.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from metanet.errors import CheckpointError
from metanet.tasks.restore import checked_settings, task_kind
from metanet.tasks.run_file import TRAINING, read_run_file

LARGEST = 2**53  # of a counter
HERE = "Give the checkpoint of a run with the same configuration, or start anew without --ckpt_path."


class RunCheckpointIO(TorchCheckpointIO):
    """Reads the checkpoints of runs as plain data; writes them as Lightning does.

    Args:
        task: The task that they must be of.
        target: What it must predict.

    Attributes:
        weights: Whether only the weights are wanted, as they are unless a training goes on.
        pending: The file whose content is being restored, until the trainer has taken it in.
        content: What was read from it.
    """

    def __init__(self, task: str, target: str, weights: bool) -> None:
        self.task, self.target, self.weights = task, target, weights
        self.pending: Path | None = None
        self.content: dict[str, Any] = {}

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, to the CPU.

        Raises:
            CheckpointError: It is no file on this machine, no plain data, or of another task.
        """
        file = Path(str(path))
        self.content, self.pending = read_run_file(file), file
        target = checked_settings(file, self.content).get("target", self.target)
        found = task_kind(file, self.content).name
        if found != self.task:
            raise CheckpointError(f"{file} is of the task {found}, this configuration of {self.task}. Change --task.")
        if target != self.target:
            raise CheckpointError(
                f"{file} predicts {target!r}, this configuration {self.target!r}. Change --data.target."
            )
        if not self.weights:
            return dict(self.content)
        return {key: value for key, value in self.content.items() if key not in TRAINING}


class ResumeCheck(Callback):
    """Compares the state of a training with that of this one, before it is restored.

    Args:
        io: Reads the checkpoints.
    """

    def __init__(self, io: RunCheckpointIO) -> None:
        self.io = io

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare.

        Raises:
            CheckpointError: Something has another form.
        """
        if self.io.pending is not None:
            check_training(self.io.pending, self.io.content, trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that all is restored."""
        self.io.pending, self.io.content = None, {}

    on_validation_start = on_test_start = on_train_start


def check_training(path: Path, content: Mapping[str, Any], trainer: pl.Trainer) -> None:
    """Refuse the state of a training that has another form than what the trainer would write.

    Raises:
        CheckpointError: It has.
    """
    missing = [key for key in ("loops", "callbacks", "optimizer_states", "lr_schedulers") if key not in content]
    if missing:
        raise CheckpointError(f"{path} lacks '{missing[0]}': it holds no training to go on with. {HERE}")
    optimizers = [optimizer.state_dict()["param_groups"] for optimizer in trainer.optimizers]
    states = content["optimizer_states"]
    if not isinstance(states, list) or not all(
        isinstance(s, dict) and {"state", "param_groups"} == set(s) for s in states
    ):
        raise CheckpointError(f"{path}: 'optimizer_states' is not what an optimiser writes. {HERE}")
    _same(path, "optimizer_states", [state["param_groups"] for state in states], optimizers)
    for optimizer, state in zip(trainer.optimizers, states, strict=True):
        _check_moments(path, state["state"], [p for group in optimizer.param_groups for p in group["params"]])
    schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    _same(path, "lr_schedulers", content["lr_schedulers"], schedulers)
    loops = content["loops"]
    _same(
        path,
        "loops.fit_loop",
        loops.get("fit_loop") if isinstance(loops, dict) else loops,
        trainer.fit_loop.state_dict(),
    )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint):
            _check_kept(path, callback)


def _check_moments(path: Path, given: Any, parameters: list[Tensor]) -> None:
    """Check what an optimiser remembers of every parameter: numbers, or tensors that fit it."""
    entries = given.items() if isinstance(given, dict) else [(None, None)]
    for number, moments in entries:
        shape = parameters[number].shape if isinstance(number, int) and 0 <= number < len(parameters) else None
        fits = shape is not None and isinstance(moments, dict)
        for value in moments.values() if isinstance(moments, dict) else ():
            if shape is not None and isinstance(value, Tensor):  # of the parameter's shape, or a sum over it
                fits &= len(value.shape) != len(shape) or value.shape in (shape, (1,) * len(shape))
            else:
                fits &= value is None or isinstance(value, bool | int | float)
        if not fits:
            raise CheckpointError(
                f"{path}: 'optimizer_states' does not fit parameter {number!r} of the metanet. {HERE}"
            )


def _check_kept(path: Path, callback: ModelCheckpoint) -> None:
    """Check what a callback took over about the checkpoints that there are."""
    scores = [callback.best_model_score, callback.kth_value, *_values(callback.best_k_models)]
    paths = [callback.best_model_path, callback.kth_best_model_path, callback.last_model_path]
    paths += list(callback.best_k_models) if isinstance(callback.best_k_models, dict) else [None]
    numbers = all(s is None or (isinstance(s, Tensor) and s.numel() == 1) for s in scores)
    if not numbers or not all(isinstance(p, str) and _is_local(p) for p in paths):
        raise CheckpointError(f"{path}: 'callbacks' is not what a run writes about its checkpoints. {HERE}")


def _is_local(path: str) -> bool:
    """Say whether a path is one that a run writes; Lightning deletes files by these paths."""
    return "\0" not in path and ":" not in path.replace(Path(path).drive, "", 1) and ".." not in Path(path).parts


def _values(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, dict) else [""]


def _same(path: Path, where: str, got: Any, want: Any) -> None:
    """Compare the form of two trees: keys, lengths and types.

    Raises:
        CheckpointError: They differ.
    """
    problem = ""
    if isinstance(want, Mapping):
        problem = _difference(got, want)
        for key in () if problem else want:
            _same(path, f"{where}.{key}", got[key], want[key])
    elif isinstance(want, list | tuple):
        fits = isinstance(got, list | tuple) and len(got) == len(want)
        problem = "" if fits else f"is {_short(got)}, where {len(want)} values are accepted"
        for number, (one, other) in enumerate(zip(got, want, strict=True) if fits else ()):
            _same(path, f"{where}[{number}]", one, other)
    elif not _alike(got, want):
        problem = f"is {_short(got)}, where a value such as {_short(want)} is accepted"
    if problem:
        raise CheckpointError(f"{path}: '{where}' {problem}. {HERE}")


def _difference(got: Any, want: Mapping[str, Any]) -> str:
    if not isinstance(got, dict):
        return f"is {_short(got)}, where a mapping is accepted"
    lacking, beyond = [key for key in want if key not in got], [key for key in got if key not in want]
    if lacking or beyond:
        return (
            f"lacks {str(lacking[0])!r}"
            if lacking
            else f"has {str(beyond[0])[:80]!r}, which this training does not write"
        )
    return ""


def _alike(got: Any, want: Any) -> bool:
    if isinstance(want, bool) or want is None:
        return got is None or isinstance(got, bool | int | float)
    if isinstance(want, int | float):
        number = isinstance(got, int | float) and not isinstance(got, bool) and -LARGEST < got < LARGEST
        return number and (isinstance(got, int) or isinstance(want, float))
    if isinstance(want, Tensor):
        return isinstance(got, Tensor) and got.shape == want.shape
    return isinstance(got, str) and isinstance(want, str)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | type(None)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def best_file(callback: ModelCheckpoint) -> Path | None:
    """Return the best checkpoint of a training, which lies in the callback's folder; None if there is none.

    A resumed training knows it by the path that its checkpoint says, which may be that of another machine.
    """
    if not callback.best_model_path or callback.dirpath is None:
        return None
    file = Path(callback.dirpath) / Path(callback.best_model_path).name
    return file if file.is_file() else None
