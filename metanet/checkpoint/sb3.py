"""Stable-Baselines3 archives: ``policy.pth`` of the zip that ``model.save`` writes."""

import io
from pathlib import Path

from metanet.checkpoint.archive import Archive
from metanet.checkpoint.budget import JsonError, parse_json
from metanet.checkpoint.collect import note
from metanet.checkpoint.pytorch import read_file
from metanet.checkpoint.registry import Contents, Probe, reader


def recognises(probe: Probe) -> bool:
    """A zip archive with a policy beside the algorithm's data."""
    return {"policy.pth", "data"} <= set(probe.members)


@reader("stable-baselines3", extensions=(".zip",), recognises=recognises)
def read(path: Path) -> Contents:
    """Read the policy's tensors; plain values of the algorithm become metadata, its pickled objects are not opened.

    Optimiser states (``policy.optimizer.pth``) and other variables of the algorithm are left out.
    """
    with Archive(path) as archive:
        tensors, metadata = read_file(io.BytesIO(archive.read("policy.pth")))
        metadata |= settings(archive.read("data"))
        if "_stable_baselines3_version" in archive.names:
            metadata["stable_baselines3_version"] = archive.read("_stable_baselines3_version").decode(errors="replace")
        left_out = [name for name in archive.names if name.endswith(".pth") and name != "policy.pth"]
    named = [name for name in (metadata.get("left_out"), *left_out) if name]
    return tensors, metadata | note(named)


def settings(data: bytes) -> dict[str, str]:
    """Numbers and strings at the top of the algorithm's JSON; a damaged one costs the metadata, not the weights."""
    try:
        values = parse_json(data)
    except JsonError:
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: str(value) for key, value in values.items() if isinstance(value, (str, int, float))}
