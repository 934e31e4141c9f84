"""Learning problems on neuron graphs, as Lightning modules."""

from metanet.tasks.regression import PropertyRegression

__all__ = ["PropertyRegression"]
