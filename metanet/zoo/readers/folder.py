"""The general case: a folder of checkpoints and a CSV of labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from metanet.checkpoint import load
from metanet.errors import ZooError
from metanet.graph.build import SPACE_KEY
from metanet.space import WeightSpace
from metanet.space.infer import infer
from metanet.space.inference.options import InferOptions
from metanet.zoo.readers.registry import Source, SourceNet, zoo_reader
from metanet.zoo.readers.tables import parse_columns, read_csv, weights_first
from metanet.zoo.split import SPLITS

RESERVED = ("id", "split", "run", "activation")


@zoo_reader(
    "folder",
    title="Checkpoints of a folder, with labels from a CSV file",
    licence="unknown",
    source="a folder of the user",
    holds="a folder of checkpoint files with labels.csv, whose column 'file' names them",
)
def open_folder(
    path: Path,
    *,
    labels: Path | None = None,
    activation: str | None = None,
    chain: bool = False,
    norm_groups: int | None = None,
    channels_last: bool | None = None,
    grouped: bool | None = None,
    transposed: bool | None = None,
    architecture: str | None = None,
) -> Source:
    """Open a folder of checkpoints in any format that :func:`metanet.load` reads.

    The CSV's column ``file`` names a checkpoint below the folder. The columns ``id``, ``split`` (train, validation,
    test), ``run`` (which training a checkpoint comes from) and ``activation`` mean what they say; all others are
    labels. A space that a file carries is used, otherwise the architecture is recognised, or its space inferred from
    names and shapes.

    Args:
        path: The folder.
        labels: The CSV file, by default ``labels.csv`` in the folder.
        activation: Nonlinearity of all nets, which no state dict tells, unless the CSV has a column of it.
        chain: As in :func:`metanet.infer`, like the options that follow; for nets whose space is inferred.
        norm_groups: See there.
        channels_last: See there.
        grouped: See there.
        transposed: See there.
        architecture: See there.
    """
    options = InferOptions(
        chain=chain,
        norm_groups=norm_groups,
        channels_last=channels_last,
        grouped=grouped,
        transposed=transposed,
        architecture=architecture,
    )
    table = Path(labels) if labels is not None else path / "labels.csv"
    rows = parse_columns(read_csv(table))
    if not rows or "file" not in rows[0]:
        got = ", ".join(rows[0]) if rows else "no rows"
        raise ZooError(f"{table}: got {got}. A column 'file' is needed, which names the checkpoints below {path}.")
    wrong = sorted({str(row["split"]) for row in rows if "split" in row} - {*SPLITS, "none", "None"})
    if wrong:
        raise ZooError(f"{table}: got the split '{wrong[0]}'. Accepted: {', '.join(SPLITS)}, none.")
    ids = [str(row.get("id") or row["file"]) for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ZooError(f"{table}: got '{twice}' twice. Names must differ: add a column 'id'.")

    def read(number: int) -> SourceNet:
        row = dict(rows[number])
        checkpoint = load(path / str(row["file"]))
        checkpoint = replace(checkpoint, tensors=weights_first(checkpoint.tensors))
        kind = str(row["activation"]) if row.get("activation") else activation
        text = checkpoint.metadata.get(SPACE_KEY)
        space = WeightSpace.from_json(text) if text is not None else infer(checkpoint, kind, **options)
        own = {name: value for name, value in row.items() if name not in ("id", "split", "run")}
        return SourceNet(
            checkpoint.tensors, own, str(row.get("split") or "none"), str(row.get("run") or ids[number]), space=space
        )

    return Source(ids, read, {"file": ("", "checkpoint below the imported folder")}, (f"labels of {table.name}",))
