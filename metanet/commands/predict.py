"""``metanet predict``: what a trained metanet says about checkpoint files."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metanet.commands.options import (
    ArchitectureOption,
    ChainOption,
    ChannelsLastOption,
    GroupedOption,
    NormGroupsOption,
    TransposedOption,
    infer_options,
)
from metanet.errors import ConfigError, SpaceError

if TYPE_CHECKING:
    from metanet.prediction import Prediction
    from metanet.space import WeightSpace


def predict(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Checkpoint files.")],
    metanet: Annotated[str, typer.Option(metavar="RUN", help="Run folder that train.py wrote, or a .ckpt file.")],
    activation: Annotated[str | None, typer.Option(help="Nonlinearity, which a bare state dict does not tell.")] = None,
    space: Annotated[str | None, typer.Option(metavar="FILE", help="JSON of the nets' weight space.")] = None,
    any_architecture: Annotated[
        bool, typer.Option("--any-architecture", help="Go on with an architecture the metanet was not trained on.")
    ] = False,
    chain: ChainOption = False,
    norm_groups: NormGroupsOption = None,
    channels_last: ChannelsLastOption = None,
    grouped: GroupedOption = None,
    transposed: TransposedOption = None,
    architecture: ArchitectureOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Import the metanet's class if the run names one that is not metanet's own.")
    ] = False,
) -> None:
    """Predict a property of networks, such as their test accuracy, from their weights."""
    if as_json and as_csv:
        raise ConfigError("got --json and --csv; choose one")
    from metanet.prediction import predict as run_predict  # --help does not wait for torch

    found = run_predict(
        metanet,
        files,
        space=None if space is None else read_space(space),
        activation=activation,
        any_architecture=any_architecture,
        options=infer_options(chain, norm_groups, channels_last, grouped, transposed, architecture),
        trust=trust,
    )
    rows = [as_row(prediction) for prediction in found]
    if as_json:
        print(json.dumps(rows, indent=1))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        show(found)


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction for programs."""
    return {
        "file": prediction.source,
        "target": prediction.target,
        "predicted": prediction.value,
        "deviation": prediction.deviation,
        "probability": prediction.probability,
        "space": prediction.space.digest,
        "trained_on": prediction.trained_on,
        "note": prediction.note,
    }


def show(predictions: list[Prediction]) -> None:
    """Print predictions as a table for people."""
    from rich.console import Console
    from rich.table import Table

    from metanet.graph.match import activations

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column(f"predicted {predictions[0].target}", justify="right")
    table.add_column("space")
    table.add_column("note")
    for p in predictions:
        kind = f"{activations(p.space) or '?'}, {p.space.parameters:,} parameters, {p.space.digest[:8]}"
        note = p.note if p.trained_on else f"{p.note}; not trained on this architecture"
        value = f"{p.value:.4f}" if isinstance(p.value, float) else "none" if p.value is None else str(p.value)
        unsure = "" if p.deviation is None else f" ± {p.deviation:.4f}"
        unsure += "" if p.probability is None else f" ({p.probability:.0%})"
        table.add_row(p.source, value + unsure, kind, note)
    Console().print(table)


def read_space(path: str) -> WeightSpace:
    """Read a weight space from its JSON.

    Raises:
        SpaceError: The file is missing or holds something else.
    """
    from metanet.space import WeightSpace

    try:
        return WeightSpace.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read the weight space {path}: {error}") from None
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from None
