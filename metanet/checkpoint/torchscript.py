"""TorchScript archives: their weights only. The code in them is not compiled and ``torch.jit.load`` is not used."""

from pathlib import Path

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.collect import collect, note
from metanet.checkpoint.nodes import Finder
from metanet.checkpoint.pytorch import read_archive, root_of
from metanet.checkpoint.registry import Contents, Probe, reader


def recognises(probe: Probe) -> bool:
    """A ``torch.save`` archive that also has a pickle of constants."""
    tops = {name.split("/", 1)[1] for name in probe.members if name.count("/") == 1}
    return {"data.pkl", "constants.pkl"} <= tops


@reader("torchscript", extensions=(".pt",), recognises=recognises)
def read(path: Path) -> Contents:
    """Read the tensors of a scripted or traced module under their attribute names, as ``state_dict`` has them.

    ``torch.jit.freeze`` moves weights into a nameless table of constants: they are called ``constants.0``, ...
    """
    with Archive(path) as archive:
        root = root_of(archive)
        tree = read_archive(archive, root, "data")
        finder, constants = Finder(tree), read_archive(archive, root, "constants")
        if finder(tree):
            tensors, metadata = collect(tree, wrapped=False)
            loose = ["constants"] if Finder(constants)(constants) else []
            named = [name for name in (metadata.get("left_out"), *loose) if name]
            return tensors, metadata | note(named)
        tensors, _ = collect({"constants": constants}, wrapped=False)
        return tensors, {"torchscript": "frozen"}
