"""Neuron graphs: dense blocks between node sets, one view of them as PyG data, drawing."""

from metanet.graph.layout import Block, Layout, NodeSet, Vector, layout_of
from metanet.graph.neuron_graph import NeuronGraph

__all__ = ["Block", "Layout", "NeuronGraph", "NodeSet", "Vector", "layout_of"]
