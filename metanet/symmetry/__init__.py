"""Group elements that leave a network's function unchanged: draw them, act with them, certify them."""

from metanet.symmetry.canonical import canonicalise
from metanet.symmetry.certify import Certificate, certify
from metanet.symmetry.move import Move, sample

__all__ = ["Certificate", "Move", "canonicalise", "certify", "sample"]
