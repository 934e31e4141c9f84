"""The sub-commands of ``metanet``, one a module; :mod:`metanet.cli` registers them. They import torch when they run."""
