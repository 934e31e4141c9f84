"""Metanets assembled from the layers of :mod:`metanet.nn`."""

from metanet.models.base import Metanet

__all__ = ["Metanet"]
