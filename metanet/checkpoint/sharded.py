"""Sharded models: an ``*.index.json`` that says which file holds which tensor."""

from pathlib import Path

from torch import Tensor

from metanet.checkpoint.budget import JsonError, charge, parse_json
from metanet.checkpoint.collect import note
from metanet.checkpoint.parts import SHARD
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
    check_complete(path, set(index.values()))
    shards = {shard: read_shard(path, shard) for shard in dict.fromkeys(index.values())}
    for name, shard in index.items():
        if name not in shards[shard]:
            raise CheckpointError(f"'{name}' is not in '{shard}', where the index has it. Download both again.")
    left = [name for shard, tensors in shards.items() for name in tensors if index.get(name) != shard]
    return {name: shards[shard][name] for name, shard in index.items()}, {"shards": str(len(shards))} | note(left)


def check_complete(path: Path, shards: set[str]) -> None:
    """Check that an index names every shard where the names say how many there are.

    Raises:
        CheckpointError: It lacks some, or names one file twice by links.
    """
    found = [match for shard in shards if (match := SHARD.fullmatch(shard))]
    count = max((int(match[3]) for match in found), default=0)
    if found and len(found) < count:
        raise CheckpointError(f"the index names {len(found)} of {count} shards. Download it again.")
    files = {(path.parent / shard).resolve() for shard in shards}
    if len(files) < len(shards):
        raise CheckpointError("several shards of the index are links to one file, so it is damaged. Download it again.")


def read_shard(path: Path, shard: str) -> dict[str, Tensor]:
    """Read one shard, a plain file name beside the index."""
    from metanet.checkpoint.loading import inspect, load_file  # a shard is itself a file of any format

    if Path(shard).name != shard or shard in ("", ".", ".."):
        raise CheckpointError(f"the index names the shard '{shard}', accepted are names of files in its own folder.")
    if not (path.parent / shard).exists():
        raise CheckpointError(f"the shard '{shard}' is missing beside it. Download all shards.")
    if recognises(inspect(path.parent / shard)):
        raise CheckpointError(f"the shard '{shard}' is an index itself, accepted are files of weights.")
    return dict(load_file(path.parent / shard, shard=True).tensors)


def parse(path: Path) -> dict[str, str]:
    """The weight map of an index: tensor name to file name.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        charge(path.stat().st_size, "the index")
        index = parse_json(path.read_bytes())["weight_map"]
        unclear = next((f"{name!r} in {shard}" for name, shard in index.items() if not isinstance(shard, str)), None)
        if unclear is not None:
            raise ValueError(unclear)
        return dict(index)
    except CheckpointError:
        raise
    except (JsonError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the index has no readable 'weight_map' (got {type(error).__name__}: {error})."
        ) from None
