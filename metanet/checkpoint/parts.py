"""Tell the part of a net that one of several files or processes holds: it is never taken for the whole."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metanet.checkpoint.nodes import attributes
from metanet.checkpoint.unpickle import Stub
from metanet.errors import CheckpointError

SHARD = re.compile(r"(.*?)[-_.]?(\d{5})-of-(\d{5})(.*)")
RANK = re.compile(r"(.*?)(consolidated\.|zero_pp_rank_|(?:mp|tp|pp|fsdp)_rank_|shard[-_]?)(\d+)(.*)")
FLAT = re.compile(r"(^|\.)_?(fsdp_)?flat_param(_\d+)?$")
SIZES = ("mp_world_size", "tensor_model_parallel_size", "pipeline_model_parallel_size", "model_parallel_size")


def refuse_part(path: Path) -> None:
    """Refuse a file whose name says that it holds one part of a net: a shard, or what one of several processes held.

    Raises:
        CheckpointError: It does.
    """
    if path.suffix == ".distcp":
        raise CheckpointError(
            "it is one file of a distributed checkpoint. Convert the folder first, with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and load the result."
        )
    shard = SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1:
        index = f"{shard[1]}{shard[4]}.index.json"
        raise CheckpointError(
            f"it is part {int(shard[2])} of {int(shard[3])} of a model (got its name). Load the index that lists all "
            f"parts, such as '{index}'; it reads them together."
        )
    rank = RANK.fullmatch(path.name)
    if rank is None:
        return
    first, word, number, last = rank.groups()
    others = re.compile(f"{re.escape(first + word)}(\\d+){re.escape(last)}")
    beside = [other.name for other in path.parent.iterdir() if other != path and others.fullmatch(other.name)]
    if int(number) > 0 or beside or word == "zero_pp_rank_":
        raise CheckpointError(
            f"it is the part of a model that process {int(number)} of several held (got its name"
            f"{f', and {beside[0]!r} beside it' if beside else ''}). Merge the parts with the tool of the library that "
            "wrote them, and load the result."
        )


def refuse_rank(tree: Any) -> None:
    """Refuse the checkpoint of one of several processes, which says how many there were.

    DeepSpeed notes ``mp_world_size`` beside the weights, Megatron ``tensor_model_parallel_size`` in its arguments.

    Raises:
        CheckpointError: There were several.
    """
    if not isinstance(tree, dict):
        return
    said = attributes(tree["args"]) if isinstance(tree.get("args"), Stub) else tree.get("args")
    for notes in (tree, said if isinstance(said, dict) else {}):
        for key in SIZES:
            count = notes.get(key)
            if isinstance(count, int) and count > 1:
                raise CheckpointError(
                    f"it is the part of a model that one of {count} processes held (got {key} {count}). Merge the "
                    "parts with the tool of the library that wrote them, and load the result."
                )


def refuse_flat(names: Iterable[str]) -> None:
    """Refuse flattened parameters of FSDP, of which each process holds a slice.

    Raises:
        CheckpointError: There is one.
    """
    flat = next((name for name in names if FLAT.search(name)), None)
    if flat is not None:
        raise CheckpointError(
            f"'{flat}' is a slice of the flattened parameters of a sharded model. Save it with a full state dict "
            "(StateDictType.FULL_STATE_DICT)."
        )
