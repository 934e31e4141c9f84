"""Recognise the architecture of a state dict by its names and shapes, and trace the library's own module.

The index of this package lists by fingerprint 109 of the 109 architectures of torchvision, 928 of the 1,371 of timm and
79 published sizes of transformers; and 181 classes of transformers by name, whose sizes the ``config.json`` beside a
file says. ``python -m metanet.space.recognise.make_index`` goes on with what is missing. Nothing of a file is executed:
a constructor is called only if the index names it, with plain numbers and texts as its arguments.

What no name or shape tells (number of heads, groups of norm layers, activations) is taken as published where the
fingerprint alone names the architecture; the source of the space, which ``metanet graph`` prints, says so.
"""

from metanet.space.recognise.recognition import UNKNOWN, Recognition, recognise

__all__ = ["UNKNOWN", "Recognition", "recognise"]
