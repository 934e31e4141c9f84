"""PropertyRegression: predict one number per net, such as its test accuracy, from its weights."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.tasks.base import PropertyTask
from metanet.tasks.quantiles import Quantiles
from metanet.tasks.report import Report, RunFacts, statnn_predictions
from metanet.tasks.scores import Scores, score
from metanet.zoo.data import ZooDataModule


class PropertyRegression(PropertyTask):
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

    name = "regression"
    monitor = "val_tau"
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
        super().__init__(metanet, target, optimizer, noise, warmup)
        with warnings.catch_warnings():  # under the command the metanet's configuration is saved, not the metanet
            warnings.filterwarnings("ignore", "Attribute 'metanet' is an instance of")
            self.save_hyperparameters()
        if ranks and loss == "gaussian":
            raise ConfigError("model.ranks: got true with the loss gaussian, whose deviations are of values. Drop one.")
        wanted = 2 if loss == "gaussian" else 1
        if metanet.out_features != wanted:
            meaning = "mean and log-variance, for the loss gaussian" if wanted == 2 else "one number a net"
            raise ConfigError(f"model.metanet: got out_features={metanet.out_features}. Accepted: {wanted}, {meaning}.")
        self.loss = loss
        self.quantiles = Quantiles() if ranks else None
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def prepare(self, data: ZooDataModule) -> None:
        """Take the target's statistics over the training nets.

        Raises:
            ConfigError: All targets are equal, or the loss is ``bce`` and they are no probabilities.
        """
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

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions in the target's unit, ``[B]``."""
        return super().forward(graph)

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

    def describe(self, graph: NeuronGraph) -> list[dict[str, Any]]:
        """Prediction and deviation of each net."""
        found, deviation = self.with_deviation(graph)
        unsure = [None] * len(found) if deviation is None else deviation.tolist()
        return [{"value": v, "deviation": d} for v, d in zip(found.tolist(), unsure, strict=True)]

    def report(self, data: ZooDataModule, seed: int, facts: RunFacts) -> Report:
        """Scores and picture of the test split, beside StatNN's."""
        statnn, _ = statnn_predictions(data, seed, self.quantiles)
        return Report(
            zoo=data.split("test").zoo.name,
            target=self.target,
            seed=seed,
            name=type(self.metanet).__name__,
            true=self.true.double().numpy(),
            metanet=self.predicted.double().numpy(),
            statnn=statnn[self.kept.numpy()],
            facts=facts,
        )

    def _score(self, predicted: Tensor, true: Tensor) -> Scores:
        return score(predicted, true)


def _log_variance(raw: Tensor) -> Tensor:
    """The second output, kept where neither the variance nor its inverse overflows."""
    return raw[:, 1].clamp(-10, 10)
