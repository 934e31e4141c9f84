"""Trainings whose validation score is undefined in every epoch, so that none is the best."""

from __future__ import annotations

from pathlib import Path

import torch

from metanet.tasks.report import write_whole
from metanet.tasks.run_file import read_run_file
from metanet.zoo.data import ZooDataModule


def take_last(best: Path) -> int:
    """Replace the best checkpoint by the last one, unless that one's weights are not finite; return its epoch.

    Where the validation score is undefined in every epoch, the best checkpoint is that of the first.
    """
    last = best.with_name("last.ckpt")
    content = read_run_file(last) if last.is_file() else {}
    if not all(t.isfinite().all() for t in content.get("state_dict", {"": torch.tensor(torch.nan)}).values()):
        return int(read_run_file(best)["epoch"])
    write_whole(best, last.read_bytes())
    return int(content["epoch"])


def undefined(monitor: str | None, data: ZooDataModule, epoch: int) -> str:
    """One sentence on a validation score that was undefined in every epoch."""
    targets = data.split("validation").targets
    reason = f"got {len(targets)} validation net{'s' if len(targets) > 1 else ''}"
    if len(targets) > 1:
        reason = "all validation nets have the same target" if (targets == targets[0]).all() else ""
    reason = reason or "predictions are all the same or not finite: the training diverged; lower the learning rate"
    return (
        f"{monitor} is undefined in every epoch ({reason}), so no epoch is better: the one tested is epoch {epoch + 1}."
    )
