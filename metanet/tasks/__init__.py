"""Learning problems on neuron graphs, as Lightning modules."""

from metanet.tasks.base import PropertyTask
from metanet.tasks.classification import PropertyClassification
from metanet.tasks.regression import PropertyRegression

TASKS: dict[str, type[PropertyTask]] = {task.name: task for task in (PropertyRegression, PropertyClassification)}
"""Tasks by the name that configurations call them."""

__all__ = ["TASKS", "PropertyClassification", "PropertyRegression", "PropertyTask"]
