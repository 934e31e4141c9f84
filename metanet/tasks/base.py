"""What every learning problem on the nets of a zoo shares: one target a net, learned from its weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from metanet.errors import CheckpointError, ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.space import WeightSpace
from metanet.tasks.run_file import SPACES, TASK
from metanet.zoo.data import ZooBatch, ZooDataModule

if TYPE_CHECKING:
    from metanet.tasks.report import RunFacts, RunReport


HUGE = 1e6  # weight of a metanet, which a training that goes well does not come near


class PropertyTask(pl.LightningModule):
    """Train a metanet to predict a label of every net; a checkpoint names the weight spaces it was trained on.

    A subclass saves its hyperparameters, then calls this constructor.

    Args:
        metanet: The metanet.
        target: Label that it predicts.
        optimizer: Optimiser, given the parameters.
        noise: Noise on the weights during training (:func:`jitter`).
        warmup: Share of the steps during which the learning rate rises.
    """

    name: ClassVar[str]
    """What configurations call it."""
    monitor: ClassVar[str]
    """The score of the validation split by which the epoch is chosen; more is better."""

    def __init__(
        self, metanet: Metanet, target: str, optimizer: OptimizerCallable, noise: float, warmup: float
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ConfigError(f"model.warmup: got {warmup}. Accepted: a share of the steps, 0 <= warmup < 1.")
        if not noise >= 0:
            raise ConfigError(f"model.noise: got {noise}. Accepted: a number >= 0.")
        self.metanet, self.target, self.optimizer = metanet, target, optimizer
        self.noise, self.warmup = noise, warmup
        self.spaces: list[WeightSpace] = []
        self.test_scores: Any = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.predicted = self.true = torch.zeros(0)
        self.kept = torch.zeros(0, dtype=torch.bool)
        self.overflowing: dict[str, None] = {}

    @abstractmethod
    def prepare(self, data: ZooDataModule) -> None:
        """Take what the task needs to know of the targets, before training.

        Raises:
            ConfigError: The targets do not suit the task.
        """

    @abstractmethod
    def describe(self, graph: NeuronGraph) -> list[dict[str, Any]]:
        """What is said about each net: ``value``, and ``deviation`` or ``probability`` where the task has them."""

    def audited(self, graph: NeuronGraph) -> Tensor:
        """The numbers whose movement an audit measures, ``[B, K]``."""
        return self(graph).reshape(graph.batch_size, -1)

    @abstractmethod
    def report(self, data: ZooDataModule, seed: int, facts: RunFacts) -> RunReport:
        """What a finished run leaves behind, after its test."""

    @abstractmethod
    def _loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Loss of the metanet's outputs ``[B, out_features]``."""

    @abstractmethod
    def _decode(self, raw: Tensor) -> Tensor:
        """Predictions from the metanet's outputs."""

    @abstractmethod
    def _score(self, predicted: Tensor, true: Tensor) -> Any:
        """Scores of decoded predictions, a dataclass of numbers."""

    def setup(self, stage: str) -> None:
        """Take the target's statistics and the spaces from the data module, before training only."""
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or not isinstance(data, ZooDataModule):
            return
        self.prepare(data)
        self.spaces = data.spaces
        self.metanet.build(self.spaces)

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions of the nets of a graph."""
        return self._decode(self.metanet(graph))

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor | None:
        """Loss of a batch, without nets that overflow; None if all do."""
        graphs = batch.graphs
        if self.noise > 0:  # drawn anew from the seed and the step, so that a resumed run goes on as if uninterrupted
            seed = torch.initial_seed() + self.global_step
            graphs = tuple(jitter(g, self.noise, (seed + (i << 32)) % 2**63) for i, g in enumerate(graphs))
        raw, targets = torch.cat([self.metanet(graph) for graph in graphs]), batch.targets
        kept = self._finite(raw, batch.ids)
        if not kept.all():  # computed again, since the gradient through an overflow is not finite either
            if not kept.any():
                return None
            parts = zip(graphs, kept.split([graph.batch_size for graph in graphs]), strict=True)
            graphs = tuple(graph.select(part.nonzero().flatten()) for graph, part in parts if part.any())
            raw, targets = torch.cat([self.metanet(graph) for graph in graphs]), targets[kept]
        loss = self._loss(raw, targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))
        return loss

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Collect the predictions of a batch."""
        self._collect(batch, "val_loss")

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Collect the predictions of a batch."""
        self._collect(batch, "test_loss")

    def _collect(self, batch: ZooBatch, name: str) -> None:
        raw = torch.cat([self.metanet(graph) for graph in batch.graphs])
        kept = self._finite(raw, batch.ids)
        if kept.any():
            self.log(name, self._loss(raw[kept], batch.targets[kept]), batch_size=int(kept.sum()))
        self._seen.append((self._decode(raw).detach().cpu(), batch.targets.cpu(), kept.cpu()))

    def _finite(self, raw: Tensor, ids: Sequence[str]) -> Tensor:
        """Mask of the nets whose outputs are finite, ``[B]``; the others are noted as overflowing.

        Outputs of a metanet whose own weights are huge or not finite say nothing about nets: its training diverged, and
        all are kept.
        """
        finite = raw.detach().isfinite().all(1)
        if finite.all() or not all(p.detach().abs().max() < HUGE for p in self.metanet.parameters() if p.numel()):
            return torch.ones_like(finite)
        self.overflowing |= dict.fromkeys(id for id, good in zip(ids, finite.tolist(), strict=True) if not good)
        return finite

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole validation split."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole test split; keep ``predicted``, ``true``, ``kept`` and ``test_scores``."""
        self.test_scores = self._log_scores("test")

    def _log_scores(self, prefix: str) -> Any:
        predicted, true, self.kept = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self.predicted, self.true = predicted[self.kept], true[self.kept]
        self._seen.clear()
        found = self._score(self.predicted, self.true)
        values = {f"{prefix}_{name}": value for name, value in asdict(found).items() if name != "count"}
        self.log_dict(values, prog_bar=prefix == "val")
        return found

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser, with a linear warm-up and a half cosine over all steps."""
        optimizer = self.optimizer(self.parameters())
        steps = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step, steps, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the task, and the weight spaces that the metanet was trained on."""
        checkpoint[SPACES] = [space.to_json() for space in self.spaces]
        checkpoint[TASK] = self.name

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read them back.

        Raises:
            CheckpointError: It is no checkpoint of this task.
        """
        if SPACES not in checkpoint:
            raise CheckpointError(
                f"no checkpoint of a metanet run: got no '{SPACES}' in it. Give a file that fit wrote."
            )
        self.spaces = [WeightSpace.from_json(text) for text in checkpoint[SPACES]]
        if self.spaces:
            self.metanet.build(self.spaces)


def rate_factor(step: int, steps: float, warmup: float) -> float:
    """Factor on the learning rate: linear up over ``warmup * steps``, then ``(1 + cos(pi t)) / 2`` down to zero."""
    if math.isinf(steps):
        return 1.0
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def jitter(graph: NeuronGraph, noise: float, seed: int) -> NeuronGraph:
    """Add Gaussian noise to every value: ``w + noise * std(w) * e``, the standard deviation over each net's tensor."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name in graph.space.tensor:
        tensor = graph.tensors[name]
        spread = tensor.flatten(1).std(1, correction=0).reshape(-1, *[1] * (tensor.dim() - 1))
        draw = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
        tensors[name] = tensor + noise * spread * draw
    return NeuronGraph(graph.space, tensors)
