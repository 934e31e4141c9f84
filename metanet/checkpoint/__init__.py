"""Checkpoint files: named tensors and metadata, without running anything that a file holds.

``load`` recognises a file by its content, ``save`` writes safetensors or ``.pt``. Every reader is one module of this
package, registered with ``@reader``; a reader for a further format is registered in the same way.
"""

# importing a reader registers it
from metanet.checkpoint import (  # noqa: F401
    keras,
    numpy,
    onnx,
    pytorch,
    safetensors,
    sb3,
    sharded,
    torchscript,
)
from metanet.checkpoint.checkpoint import Checkpoint
from metanet.checkpoint.loading import load
from metanet.checkpoint.registry import Contents, Probe, formats, reader
from metanet.checkpoint.saving import save

__all__ = ["Checkpoint", "Contents", "Probe", "formats", "load", "reader", "save"]
