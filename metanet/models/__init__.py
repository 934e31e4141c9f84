"""Metanets assembled from the layers of :mod:`metanet.nn`, and published ones to compare with."""

from metanet.models.base import Metanet, PooledMetanet
from metanet.models.deepsets import DeepSetsMetanet
from metanet.models.edge_state import EdgeStateMetanet
from metanet.models.flat import FlatMetanet
from metanet.models.gauge import GaugeMetanet
from metanet.models.gmn import GMNMetanet
from metanet.models.graph_gnn import GraphGNNMetanet
from metanet.models.graph_transformer import GraphTransformerMetanet
from metanet.models.headed import NeuronPredictor, WeightEditor
from metanet.models.nfn import NFNMetanet
from metanet.models.operator import OperatorMetanet
from metanet.models.probegen import ProbeGenMetanet
from metanet.models.scalegmn import ScaleGMNMetanet
from metanet.models.transformer import TransformerMetanet

__all__ = [
    "DeepSetsMetanet",
    "EdgeStateMetanet",
    "FlatMetanet",
    "GMNMetanet",
    "GaugeMetanet",
    "GraphGNNMetanet",
    "GraphTransformerMetanet",
    "Metanet",
    "NFNMetanet",
    "NeuronPredictor",
    "OperatorMetanet",
    "PooledMetanet",
    "ProbeGenMetanet",
    "ScaleGMNMetanet",
    "TransformerMetanet",
    "WeightEditor",
]
