"""ONNX files as networks: the graph of a file is run with torch, so that it is traced and certified like any module."""

from metanet.space.onnx.build import onnx_network
from metanet.space.onnx.module import OnnxModule
from metanet.space.onnx.registry import operator

__all__ = ["OnnxModule", "onnx_network", "operator"]
