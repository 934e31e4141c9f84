"""PropertyRegression: predict one number per net, such as its test accuracy, from its weights."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from metanet.errors import CheckpointError, ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.space import WeightSpace
from metanet.tasks.quantiles import Quantiles
from metanet.tasks.scores import Scores, score
from metanet.zoo.data import ZooBatch, ZooDataModule

SPACES = "metanet_spaces"  # key of the checkpoint


class PropertyRegression(pl.LightningModule):
    """Train a metanet to predict a label of every net.

    The target's mean and standard deviation over the training nets travel as buffers, so a checkpoint predicts in the
    target's own unit. A checkpoint also names the weight spaces it was trained on.

    Args:
        metanet: The metanet, with one output; with two, mean and log-variance, for ``gaussian``.
        target: Label that it predicts; set by the data module.
        optimizer: Optimiser, given the parameters.
        loss: ``mse`` or ``huber`` on the standardised target; ``bce``, cross-entropy with the target as a probability,
            for targets in [0, 1], predicts between 0 and 1; ``gaussian``, the negative log-likelihood of a normal
            distribution whose mean and variance the metanet predicts (Nix and Weigend 1994), for an uncertainty.
        noise: Gaussian noise on the weights during training, in units of each tensor's standard deviation within its
            net: nets close by do about as well, so this keeps the metanet from learning nets by heart.
        ranks: Learn the target's level among the training nets (:class:`~metanet.tasks.quantiles.Quantiles`) instead of
            its value; predictions are values again. Tau depends on the order only, and where most nets lie within a few
            points, as test accuracies do, a loss on values hardly sees it.
        warmup: Share of all steps during which the learning rate rises linearly; a half cosine to zero follows. Without
            a last step (``trainer.max_epochs: -1``) it stays constant after the warm-up's first step.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        metanet: Metanet,
        target: str = "test_accuracy",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        loss: Literal["mse", "huber", "bce", "gaussian"] = "mse",
        noise: float = 0.0,
        warmup: float = 0.05,
        ranks: bool = False,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():  # under the command the metanet's configuration is saved, not the metanet
            warnings.filterwarnings("ignore", "Attribute 'metanet' is an instance of")
            self.save_hyperparameters()
        if not 0 <= warmup < 1:
            raise ConfigError(f"model.warmup: got {warmup}. Accepted: a share of the steps, 0 <= warmup < 1.")
        if not noise >= 0:
            raise ConfigError(f"model.noise: got {noise}. Accepted: a number >= 0.")
        if ranks and loss == "gaussian":
            raise ConfigError("model.ranks: got true with the loss gaussian, whose deviations are of values. Drop one.")
        wanted = 2 if loss == "gaussian" else 1
        if metanet.out_features != wanted:
            meaning = "mean and log-variance, for the loss gaussian" if wanted == 2 else "one number a net"
            raise ConfigError(f"model.metanet: got out_features={metanet.out_features}. Accepted: {wanted}, {meaning}.")
        self.metanet, self.target, self.optimizer = metanet, target, optimizer
        self.loss, self.noise, self.warmup = loss, noise, warmup
        self.quantiles = Quantiles() if ranks else None
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.spaces: list[WeightSpace] = []
        self.test_scores: Scores | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.predicted = self.true = torch.zeros(0)

    def setup(self, stage: str) -> None:
        """Take the target's statistics and the spaces from the data module, before training only."""
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or not isinstance(data, ZooDataModule):
            return
        values, (mean, std) = data.split("train").targets, data.target_statistics
        if values.min() == values.max():
            raise ConfigError(f"data.target: '{self.target}' is {mean:.4g} for every training net; choose another.")
        if self.quantiles is not None:
            self.quantiles.fit(torch.as_tensor(values))
            values = self.quantiles.level(torch.as_tensor(values)).numpy()
            mean, std = float(values.mean()), float(values.std())
        if self.loss == "bce" and not (values.min() >= 0 and values.max() <= 1):
            raise ConfigError(
                f"model.loss: bce needs targets in [0, 1]; got '{self.target}' from {values.min():.4g} to "
                f"{values.max():.4g}. Choose mse or huber."
            )
        self.mean.fill_(mean)
        self.std.fill_(std)
        self.spaces = data.spaces
        self.metanet.build(self.spaces)

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions in the target's unit, ``[B]``."""
        return self._decode(self.metanet(graph))

    def with_deviation(self, graph: NeuronGraph) -> tuple[Tensor, Tensor | None]:
        """Predictions ``[B]``, and their standard deviations if the loss is ``gaussian``, in the target's unit."""
        raw = self.metanet(graph)
        deviation = torch.exp(0.5 * _log_variance(raw)) * self.std.to(raw) if self.loss == "gaussian" else None
        return self._decode(raw), deviation

    def _decode(self, raw: Tensor) -> Tensor:
        value = raw[:, 0]
        if self.loss == "bce":
            value = torch.sigmoid(value + torch.logit(self.mean.to(raw), eps=1e-3))
        else:
            value = value * self.std.to(raw) + self.mean.to(raw)
        return value if self.quantiles is None else self.quantiles.value(value)

    def _loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        value = raw[:, 0]
        targets = targets if self.quantiles is None else self.quantiles.level(targets)
        if self.loss == "bce":
            shifted = value + torch.logit(self.mean.to(raw), eps=1e-3)
            return functional.binary_cross_entropy_with_logits(shifted, targets)
        wanted = (targets - self.mean.to(raw)) / self.std.to(raw)
        if self.loss == "gaussian":
            return functional.gaussian_nll_loss(value, wanted, torch.exp(_log_variance(raw)))
        return functional.mse_loss(value, wanted) if self.loss == "mse" else functional.huber_loss(value, wanted)

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        graphs = batch.graphs
        if self.noise > 0:  # drawn anew from the seed and the step, so that a resumed run goes on as if uninterrupted
            seed = torch.initial_seed() + self.global_step
            graphs = tuple(jitter(g, self.noise, (seed + (i << 32)) % 2**63) for i, g in enumerate(graphs))
        loss = self._loss(torch.cat([self.metanet(graph) for graph in graphs]), batch.targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Collect the predictions of a batch."""
        self._collect(batch, "val_loss")

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Collect the predictions of a batch."""
        self._collect(batch, "test_loss")

    def _collect(self, batch: ZooBatch, name: str) -> None:
        raw = torch.cat([self.metanet(graph) for graph in batch.graphs])
        self.log(name, self._loss(raw, batch.targets), batch_size=len(batch.targets))
        self._seen.append((self._decode(raw).detach().cpu(), batch.targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log tau, R2 and MAE of the whole validation split."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log tau, R2 and MAE of the whole test split, and keep ``predicted``, ``true`` and ``test_scores``."""
        self.test_scores = self._log_scores("test")

    def _log_scores(self, prefix: str) -> Scores:
        self.predicted, self.true = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        found = score(self.predicted, self.true)
        values = {f"{prefix}_tau": found.tau, f"{prefix}_r2": found.r2, f"{prefix}_mae": found.mae}
        self.log_dict(values, prog_bar=prefix == "val")
        return found

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser, with a linear warm-up and a half cosine over all steps."""
        optimizer = self.optimizer(self.parameters())
        steps = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step, steps, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the weight spaces that the metanet was trained on."""
        checkpoint[SPACES] = [space.to_json() for space in self.spaces]

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


def _log_variance(raw: Tensor) -> Tensor:
    """The second output, kept where neither the variance nor its inverse overflows."""
    return raw[:, 1].clamp(-10, 10)


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
