"""``metanet audit``: how far a trained metanet's predictions move when nets are rewritten without changing them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

BROKEN = 1  # exit code where a claim is broken


def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder that train.py wrote, or a .ckpt file.")],
    zoo: Annotated[str, typer.Argument(metavar="ZOO", help="Zoo to draw nets from: its folder or name.")],
    split: Annotated[str, typer.Option(help="Split of the zoo.")] = "test",
    nets: Annotated[int, typer.Option(min=2, help="How many nets.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Draw predictions before and after.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Import the metanet's class if the run names one that is not metanet's own.")
    ] = False,
) -> None:
    """Measure the invariances of a trained metanet; exits with 1 if one that it claims does not hold."""
    from rich.console import Console

    from metanet.audit import audit as run_audit  # --help does not wait for torch
    from metanet.audit_report import plot as draw
    from metanet.audit_report import table

    with Console(stderr=True).status("reading") as status:
        found = run_audit(run, zoo, split=split, nets=nets, seed=seed, trust=trust, progress=status.update)
    if as_json:
        rows = [row.as_dict() for row in found.rows]
        print(json.dumps({"metanet": found.metanet, "zoo": found.zoo, "ok": found.ok, "rows": rows}, indent=1))
    else:
        Console().print(table(found))
    if plot is not None:
        file = draw(found, plot)
        if not as_json:
            print(f"drawn: {file}")
    if not found.ok:
        raise typer.Exit(BROKEN)
