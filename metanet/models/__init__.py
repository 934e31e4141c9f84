"""Metanets assembled from the layers of :mod:`metanet.nn`."""

from metanet.models.base import Metanet, PooledMetanet
from metanet.models.edge_state import EdgeStateMetanet
from metanet.models.operator import OperatorMetanet

__all__ = ["EdgeStateMetanet", "Metanet", "OperatorMetanet", "PooledMetanet"]
