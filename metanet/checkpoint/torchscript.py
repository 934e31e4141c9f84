"""TorchScript archives: their weights only. The code in them is not compiled and ``torch.jit.load`` is not used."""

import re
from pathlib import Path

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.collect import collect
from metanet.checkpoint.pytorch import read_archive, root_of
from metanet.checkpoint.registry import Contents, Probe, reader
from metanet.errors import CheckpointError


def recognises(probe: Probe) -> bool:
    """A ``torch.save`` archive that also has constants and code."""
    has = {pattern: any(re.fullmatch(pattern, name) for name in probe.members) for pattern in PATTERNS}
    return all(has.values())


PATTERNS = (r"[^/]+/data\.pkl", r"[^/]+/constants\.pkl", r"[^/]+/code/.+")


@reader("torchscript", extensions=(), recognises=recognises)
def read(path: Path) -> Contents:
    """Read the tensors of a scripted or traced module under their attribute names, as ``state_dict`` has them.

    ``torch.jit.freeze`` moves weights into a nameless table of constants: they are called ``constants.0``, ...
    """
    with Archive(path) as archive:
        root = root_of(archive)
        tree = read_archive(archive, root, "data")
        try:
            return collect(tree, wrapped=False)
        except CheckpointError as error:
            if "no tensors" not in str(error):
                raise
        constants = read_archive(archive, root, "constants")
        tensors, _ = collect({"constants": constants}, wrapped=False)
        return tensors, {"torchscript": "frozen"}
