"""metanet: learn from the weights of neural networks."""

from metanet.errors import MetanetError
from metanet.space import WeightSpace, trace
from metanet.symmetry import certify

__version__ = "0.1.0"

__all__ = ["MetanetError", "WeightSpace", "certify", "trace"]
