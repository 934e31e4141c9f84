"""metanet: learn from the weights of neural networks.

Names are imported when they are first used, so that ``import metanet`` and ``metanet --help`` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metanet.errors import MetanetError

if TYPE_CHECKING:
    from metanet.checkpoint import load
    from metanet.graph.build import build
    from metanet.graph.neuron_graph import NeuronGraph
    from metanet.prediction import predict
    from metanet.space import WeightSpace, trace
    from metanet.space.infer import infer
    from metanet.symmetry import certify
    from metanet.zoo.catalogue import open_zoo

__version__ = "0.1.0"

__all__ = [
    "MetanetError",
    "NeuronGraph",
    "WeightSpace",
    "build",
    "certify",
    "infer",
    "load",
    "open_zoo",
    "predict",
    "trace",
]

_HOMES = {
    "NeuronGraph": "metanet.graph.neuron_graph",
    "WeightSpace": "metanet.space",
    "build": "metanet.graph.build",
    "certify": "metanet.symmetry",
    "infer": "metanet.space.infer",
    "load": "metanet.checkpoint",
    "open_zoo": "metanet.zoo.catalogue",
    "predict": "metanet.prediction",
    "trace": "metanet.space",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'metanet' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
