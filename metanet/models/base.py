"""The interface of every metanet."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from metanet.graph import NeuronGraph


class Metanet(nn.Module):
    """A module from a batch of neuron graphs of one space to predictions, one row a net.

    What it promises: the prediction of a net is the same alone and in any batch, and the same after any permutation of
    its hidden neurons.

    Attributes:
        out_features: Numbers predicted per net.
    """

    out_features: int

    @abstractmethod
    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predict for every net of the batch.

        Args:
            graph: B nets of one space.

        Returns:
            Predictions ``[B, out_features]``.
        """
