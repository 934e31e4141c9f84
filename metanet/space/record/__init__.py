"""Recording: one run of a module on tensors without data, and the graph of its operations."""

from metanet.space.record.recorder import Recorder, capture
from metanet.space.record.standins import Unrecorded

__all__ = ["Recorder", "Unrecorded", "capture"]
