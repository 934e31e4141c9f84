"""Metanets assembled from the layers of :mod:`metanet.nn`."""

from metanet.models.base import Metanet
from metanet.models.operator import OperatorMetanet

__all__ = ["Metanet", "OperatorMetanet"]
