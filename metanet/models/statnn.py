"""StatNN: gradient-boosted trees on statistics of every tensor, the baseline that costs nothing.

Source: Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin, "Predicting Neural Network Accuracy from Weights" (2020,
arXiv:2002.11448), which names seven statistics per weight tensor and bias, and a gradient-boosting regressor.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from metanet.errors import ConfigError, GraphError
from metanet.graph import NeuronGraph
from metanet.graph.match import activations

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = ("mean", "variance", *(f"quantile {q:g}" for q in QUANTILES))


class StatNN:
    """Regression on seven statistics per tensor: mean, variance, and the quantiles 0, 25, 50, 75 and 100 %.

    Nets of several spaces share columns by tensor name; a tensor that a net lacks is a missing value, which the trees
    handle. The nonlinearities of the space are one more feature, as the activation is in published comparisons.

    Args:
        seed: Seed of the trees.
        max_iter: Trees at most.
        learning_rate: Shrinkage per tree.
        max_leaf_nodes: Leaves per tree.
        min_samples_leaf: Nets per leaf at least.
        l2_regularization: Penalty on leaf values.
        max_features: Share of features that each split may choose from.
        classifier: Whether targets are the numbers of classes; predictions are then probabilities ``[N, classes]``.
    """

    def __init__(
        self,
        seed: int = 0,
        max_iter: int = 500,
        learning_rate: float = 0.05,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 10,
        l2_regularization: float = 0.0,
        max_features: float = 0.5,
        classifier: bool = False,
    ) -> None:
        self.tensors: list[str] = []
        self.activations: list[str] = []
        self.settings = {
            "random_state": seed,
            "max_iter": max_iter,
            "learning_rate": learning_rate,
            "max_leaf_nodes": max_leaf_nodes,
            "min_samples_leaf": min_samples_leaf,
            "l2_regularization": l2_regularization,
            "max_features": max_features,
            "early_stopping": False,
        }
        self.classifier = classifier
        self._trees: HistGradientBoostingRegressor | HistGradientBoostingClassifier | None = None

    def fit(self, graphs: NeuronGraph | Iterable[NeuronGraph], targets: Tensor | np.ndarray) -> StatNN:
        """Fit the trees.

        Args:
            graphs: Batches of nets, each of one space.
            targets: One number a net, in the order of the batches, ``[N]``.

        Returns:
            Itself.

        Raises:
            GraphError: There is no net, or not one target a net.
        """
        batches = _batches(graphs)
        values = np.asarray(targets, dtype=np.float64).reshape(-1)
        count = sum(graph.batch_size for graph in batches)
        if count == 0 or count != len(values):
            raise GraphError(f"StatNN.fit needs one target per net; got {count} nets and {len(values)} targets")
        self.tensors = list(dict.fromkeys(name for graph in batches for name in graph.space.tensor))
        self.activations = sorted({activations(graph.space) for graph in batches})
        categorical = [len(self.tensors) * len(STATISTICS)]
        kind = HistGradientBoostingClassifier if self.classifier else HistGradientBoostingRegressor
        self._trees = kind(categorical_features=categorical, **self.settings)
        self._trees.fit(self.features(batches), values)
        return self

    def predict(self, graphs: NeuronGraph | Iterable[NeuronGraph]) -> np.ndarray:
        """Predictions ``[N]``, or probabilities ``[N, classes]`` of a classifier, in the order of the batches.

        Raises:
            ConfigError: :meth:`fit` was not called.
        """
        if self._trees is None:
            raise ConfigError("StatNN.predict got a model that is not fitted; call fit(graphs, targets) first")
        table = self.features(_batches(graphs))
        return np.asarray(self._trees.predict_proba(table) if self.classifier else self._trees.predict(table))

    def features(self, graphs: NeuronGraph | Iterable[NeuronGraph]) -> np.ndarray:
        """The table that the trees read: ``[N, 7 tensors + 1]``, float64, NaN where a net lacks a tensor.

        The last column numbers the activation; one not met by :meth:`fit` is missing.
        """
        rows = []
        for graph in _batches(graphs):
            table = np.full((graph.batch_size, len(self.tensors) * len(STATISTICS) + 1), np.nan)
            for column, name in enumerate(self.tensors):
                if name in graph.tensors:
                    start = column * len(STATISTICS)
                    table[:, start : start + len(STATISTICS)] = statistics(graph.tensors[name])
            activation = activations(graph.space)
            if activation in self.activations:
                table[:, -1] = self.activations.index(activation)
            rows.append(table)
        return np.concatenate(rows)


def statistics(tensor: Tensor) -> np.ndarray:
    """Seven statistics of each net's values: ``[B, *shape] -> [B, 7]``, in the order of ``STATISTICS``."""
    values = tensor.detach().cpu().double().numpy().reshape(len(tensor), -1)
    quantiles = np.quantile(values, QUANTILES, axis=1)
    return np.column_stack([values.mean(1), values.var(1), quantiles.T])


def _batches(graphs: NeuronGraph | Iterable[NeuronGraph]) -> list[NeuronGraph]:
    return [graphs] if isinstance(graphs, NeuronGraph) else list(graphs)
