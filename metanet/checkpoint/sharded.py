"""Sharded models: an ``*.index.json`` that says which file holds which tensor."""

import json
from pathlib import Path

from torch import Tensor

from metanet.checkpoint.registry import Contents, Probe, reader
from metanet.errors import CheckpointError


def recognises(probe: Probe) -> bool:
    """JSON with a weight map."""
    named = probe.path.name.endswith(".index.json")
    return probe.head.lstrip().startswith(b"{") and (named or b'"weight_map"' in probe.head)


@reader("sharded", extensions=(".index.json",), recognises=recognises)
def read(path: Path) -> Contents:
    """Read every shard once and put the tensors in the order of the index.

    Raises:
        CheckpointError: The index is damaged, a shard is missing or outside the folder, or lacks a tensor.
    """
    index = parse(path)
    shards: dict[str, dict[str, Tensor]] = {}
    for shard in dict.fromkeys(index.values()):
        shards[shard] = read_shard(path, shard)
    for name, shard in index.items():
        if name not in shards[shard]:
            raise CheckpointError(f"'{name}' is not in '{shard}', where the index has it. Download both again.")
    return {name: shards[shard][name] for name, shard in index.items()}, {"shards": str(len(shards))}


def read_shard(path: Path, shard: str) -> dict[str, Tensor]:
    """Read one shard, a plain file name beside the index."""
    from metanet.checkpoint.loading import inspect, load  # a shard is itself a file of any format

    if Path(shard).name != shard or shard in ("", ".", ".."):
        raise CheckpointError(f"the index names the shard '{shard}', accepted are names of files in its own folder.")
    if not (path.parent / shard).exists():
        raise CheckpointError(f"the shard '{shard}' is missing beside it. Download all shards.")
    if recognises(inspect(path.parent / shard)):
        raise CheckpointError(f"the shard '{shard}' is an index itself, accepted are files of weights.")
    return dict(load(path.parent / shard).tensors)


def parse(path: Path) -> dict[str, str]:
    """The weight map of an index: tensor name to file name.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        index = json.loads(path.read_bytes())["weight_map"]
        unclear = next((f"{name!r} in {shard}" for name, shard in index.items() if not isinstance(shard, str)), None)
        if unclear is not None:
            raise ValueError(unclear)
        return dict(index)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the index has no readable 'weight_map' (got {type(error).__name__}: {error})."
        ) from None
