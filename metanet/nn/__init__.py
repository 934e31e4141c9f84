"""Permutation-equivariant layers on neuron graphs, one family a file. Parameters are shared over links and nodes."""

from metanet.nn.features import LINK_FEATURES, NODE_FEATURES, link_features, node_features
from metanet.nn.operator import BlockEmbedding, NodeEmbedding, Sweep
from metanet.nn.pooling import GraphPooling

__all__ = [
    "LINK_FEATURES",
    "NODE_FEATURES",
    "BlockEmbedding",
    "GraphPooling",
    "NodeEmbedding",
    "Sweep",
    "link_features",
    "node_features",
]
