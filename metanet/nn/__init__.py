"""Permutation-equivariant layers on neuron graphs, one family a file. Parameters are shared over links and nodes."""

from metanet.nn.edge_state import EdgeEmbedding, EdgeRound
from metanet.nn.features import LINK_FEATURES, NODE_FEATURES, layout_features, link_features, node_features
from metanet.nn.gauge import SignedBlockEmbedding, SignedNodeEmbedding
from metanet.nn.heads import NeuronHead, WeightHead
from metanet.nn.nodes import NodeEmbedding, NodeUpdate
from metanet.nn.operator import Parallel, Sweep
from metanet.nn.operators import BlockEmbedding
from metanet.nn.pooling import GraphPooling
from metanet.nn.signed_update import SignedNodeUpdate

__all__ = [
    "LINK_FEATURES",
    "NODE_FEATURES",
    "BlockEmbedding",
    "EdgeEmbedding",
    "EdgeRound",
    "GraphPooling",
    "NeuronHead",
    "NodeEmbedding",
    "NodeUpdate",
    "Parallel",
    "SignedBlockEmbedding",
    "SignedNodeEmbedding",
    "SignedNodeUpdate",
    "Sweep",
    "WeightHead",
    "layout_features",
    "link_features",
    "node_features",
]
