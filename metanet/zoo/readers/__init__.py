"""Readers of published zoos, one format a module, registered by ``@zoo_reader``."""

# importing a reader registers it
from metanet.zoo.readers import (  # noqa: F401
    folder,
    inrs,
    modelzoos,
    safetensors_folders,
    small_cnn_zoo,
    stable_baselines3,
    transformers,
    wild_park,
)
from metanet.zoo.readers.registry import Blueprint, Source, SourceNet, ZooFormat, zoo_formats, zoo_reader

__all__ = ["Blueprint", "Source", "SourceNet", "ZooFormat", "zoo_formats", "zoo_reader"]
