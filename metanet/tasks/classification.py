"""PropertyClassification: tell the class of every net, such as the digit that it draws, from its weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.tasks.base import PropertyTask
from metanet.tasks.class_report import ClassReport, statnn_classes
from metanet.tasks.report import RunFacts
from metanet.tasks.run_file import CLASSES
from metanet.tasks.scores import ClassScores, classified
from metanet.zoo.data import ZooDataModule


class PropertyClassification(PropertyTask):
    """Train a metanet to tell which class every net belongs to, by cross-entropy.

    Classes are the values that the target takes among the training nets: what an implicit representation draws, or a
    hyperparameter to be recovered, numbers or text. A checkpoint carries them.

    Args:
        metanet: The metanet, with as many outputs as there are classes.
        target: Label that it predicts; set by the data module.
        optimizer: Optimiser, given the parameters.
        noise: Noise on the weights during training, as for :class:`~metanet.tasks.PropertyRegression`.
        smoothing: Label smoothing: this share of the target probability is spread evenly over all classes (Szegedy et
            al. 2016, arXiv:1512.00567).
        warmup: Share of all steps during which the learning rate rises linearly; a half cosine to zero follows.
    """

    name = "classification"
    monitor = "val_accuracy"

    def __init__(
        self,
        metanet: Metanet,
        target: str = "image_class",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        noise: float = 0.0,
        smoothing: float = 0.0,
        warmup: float = 0.05,
    ) -> None:
        super().__init__(metanet, target, optimizer, noise, warmup)
        with warnings.catch_warnings():  # under the command the metanet's configuration is saved, not the metanet
            warnings.filterwarnings("ignore", "Attribute 'metanet' is an instance of")
            self.save_hyperparameters()
        if not 0 <= smoothing < 1:
            raise ConfigError(f"model.smoothing: got {smoothing}. Accepted: a share, 0 <= smoothing < 1.")
        self.smoothing = smoothing
        self.classes: tuple[Any, ...] = ()

    def prepare(self, data: ZooDataModule) -> None:
        """Take the classes of the training nets.

        Raises:
            ConfigError: There are fewer than two, or not as many as the metanet has outputs.
        """
        if not data.classify:
            raise ConfigError(f"data.classify: got false. Accepted: true, to read '{self.target}' as classes.")
        count, outputs = len(data.classes), self.metanet.out_features
        if count < 2:
            raise ConfigError(
                f"data.target: '{self.target}' is {data.classes[0]!r} for every training net; choose another."
            )
        if outputs != count:
            raise ConfigError(
                f"model.metanet: got out_features={outputs}. Accepted: {count}, one for each value of '{self.target}' "
                f"({', '.join(map(str, data.classes[:10]))}{', ...' if count > 10 else ''})."
            )
        self.classes = data.classes

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Probabilities of the classes, ``[B, classes]``."""
        return super().forward(graph)

    def audited(self, graph: NeuronGraph) -> Tensor:
        """Logits less their mean, which a softmax does not see, ``[B, classes]``: unlike probabilities, never flat."""
        raw = self.metanet(graph)
        return raw - raw.mean(1, keepdim=True)

    def describe(self, graph: NeuronGraph) -> list[dict[str, Any]]:
        """The likeliest class of each net, and its probability."""
        probability, place = self(graph).max(1)
        names = self.classes or tuple(range(self.metanet.out_features))
        pairs = zip(place.tolist(), probability.tolist(), strict=True)
        return [{"value": names[i], "probability": p} for i, p in pairs]

    def report(self, data: ZooDataModule, seed: int, facts: RunFacts) -> ClassReport:
        """Scores and picture of the test split, beside StatNN's."""
        return ClassReport(
            zoo=data.split("test").zoo.name,
            target=self.target,
            seed=seed,
            name=type(self.metanet).__name__,
            classes=self.classes,
            true=self.true.long().numpy(),
            metanet=self.predicted.double().numpy(),
            statnn=statnn_classes(data, seed)[self.kept.numpy()],
            facts=facts,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the classes too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CLASSES] = list(self.classes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read them back."""
        super().on_load_checkpoint(checkpoint)
        self.classes = tuple(checkpoint.get(CLASSES, ()))

    def _loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(raw, targets.long(), label_smoothing=self.smoothing)

    def _decode(self, raw: Tensor) -> Tensor:
        return raw.softmax(1)

    def _score(self, predicted: Tensor, true: Tensor) -> ClassScores:
        return classified(predicted, true)
