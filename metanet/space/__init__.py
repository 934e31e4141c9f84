"""Weight spaces: which dimensions of which tensors share an axis, and what connects the axes."""

from metanet.space.labels import Axis, Label
from metanet.space.rules.registry import rule
from metanet.space.trace import trace
from metanet.space.weight_space import Link, Opaque, TensorSpec, WeightSpace

__all__ = ["Axis", "Label", "Link", "Opaque", "TensorSpec", "WeightSpace", "rule", "trace"]
