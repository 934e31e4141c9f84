"""Recognise the architecture of a state dict by its names and shapes, and trace the library's own module.

The index of this package lists architectures by fingerprint, at present those of torchvision;
``python -m metanet.space.recognise.make_index`` makes it anew, with those of timm and transformers.
Nothing of a file is executed: a constructor is called
only if the index names it, with plain numbers and texts as its arguments.
"""

from metanet.space.recognise.recognition import UNKNOWN, Recognition, recognise

__all__ = ["UNKNOWN", "Recognition", "recognise"]
