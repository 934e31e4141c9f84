"""Export a net of a zoo as a checkpoint file of its own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import safetensors.torch
import torch

import metanet
from metanet.errors import ZooError
from metanet.zoo.store import ModelZoo
from metanet.zoo.write import write_file


def export_net(zoo: ModelZoo, id_or_row: str | int, path: str | Path) -> Path:
    """Write a net as ``.safetensors``, or as a ``.pt`` that loads with ``weights_only=True``.

    The metadata hold its weight space (``metanet.space``, JSON), its labels (``metanet.labels``, JSON) and the version.
    A ``.pt`` file is ``{"state_dict": tensors, "metadata": metadata}``.

    Args:
        zoo: The zoo.
        id_or_row: Id of the net, or its position in ``zoo``.
        path: File to write; its ending decides the format.

    Returns:
        The file.

    Raises:
        ZooError: No such net, another ending, or the file cannot be written.
    """
    file = Path(path)
    if file.suffix not in (".safetensors", ".pt"):
        raise ZooError(f"Cannot export to {file}: got the ending '{file.suffix}'. Accepted: .safetensors, .pt.")
    net = zoo[_row(zoo, id_or_row)]
    metadata = {
        "metanet.space": net.space.to_json(),
        "metanet.labels": json.dumps({"id": net.id, "zoo": zoo.name} | net.labels),
        "metanet.version": metanet.__version__,
    }
    if file.suffix == ".safetensors":
        write_file(file, safetensors.torch.save(net.tensors, metadata=metadata))
    else:
        buffer = io.BytesIO()
        torch.save({"state_dict": net.tensors, "metadata": metadata}, buffer)
        write_file(file, buffer.getvalue())
    return file


def _row(zoo: ModelZoo, id_or_row: str | int) -> int:
    if isinstance(id_or_row, str):
        rows = zoo.rows(id=id_or_row)
        if len(rows):
            return int(rows[0])
    elif -len(zoo) <= id_or_row < len(zoo):
        return id_or_row
    example = zoo.table["id"][0].as_py() if len(zoo) else ""
    raise ZooError(
        f"Zoo '{zoo.name}' has no net {id_or_row!r}. "
        f"Accepted: an id such as {example!r}, or a row of 0..{len(zoo) - 1}."
    )
