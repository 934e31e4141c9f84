"""Checkpoint files: named tensors and metadata, without running anything that a file holds.

``load`` recognises a file by its content, ``save`` writes safetensors or ``.pt``. Every reader is one module of this
package, registered with ``@reader``; a reader for a further format is registered in the same way.
"""

from metanet.checkpoint import (  # noqa: F401  (importing a reader registers it; the first that recognises a file reads it)
    keras,
    numpy,
    onnx,
    pytorch,
    safetensors,
    sb3,
    sharded,
    torchscript,
)
from metanet.checkpoint.loading import load
from metanet.checkpoint.registry import Contents, Probe, formats, reader
from metanet.checkpoint.saving import save
from metanet.checkpoint.checkpoint import Checkpoint

__all__ = ["Checkpoint", "Contents", "Probe", "formats", "load", "reader", "save"]
