"""The one family of errors a user can meet.

A message says where (file, tensor name, module path), what was found (``got ...``), what is accepted, and what to
do next. Commands print it on one line and exit with code 2; library functions raise it.
"""


class MetanetError(ValueError):
    """Base of every error that metanet raises on bad input."""


class CheckpointError(MetanetError):
    """A checkpoint file is missing, damaged, unsafe to read or in an unknown format."""


class SpaceError(MetanetError):
    """A weight space cannot be derived, or tensors do not belong to the space given."""


class GraphError(MetanetError):
    """A neuron graph cannot be built, converted or drawn."""


class ZooError(MetanetError):
    """A model zoo, its recipe or its data folder is unusable."""


class ConfigError(MetanetError):
    """A configuration value or command-line option is not acceptable."""


class CoverageWarning(UserWarning):
    """A neuron graph leaves parameters out, so that no metanet sees them."""
