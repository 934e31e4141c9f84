"""An audit as a table and as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from metanet.audit import Audit, AuditRow
from metanet.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3


def table(audit: Audit) -> Table:
    """The audit for people; movements are in standard deviations of the predictions over nets."""
    found = Table(title=f"{audit.metanet} on {audit.zoo}: how far predictions move, in their spread over nets")
    found.add_column("transformation", no_wrap=True)
    for name in ("claimed", "nets", "functional\nresidual", "median", "max"):
        found.add_column(name, justify="right")
    found.add_column("verdict", no_wrap=True)
    for row in audit.rows:
        residual = f"{row.residuals.max().item():.1e}" if len(row.residuals) else "not known"
        moved = (
            [f"{number.item():.1e}" for number in (row.movement.median(), row.movement.max())]
            if len(row.before)
            else ["", ""]
        )
        claimed = "" if row.control else "yes" if row.claimed else "no"
        found.add_row(row.transformation, claimed, str(len(row.before)), residual, *moved, row.verdict)
    return found


def plot(audit: Audit, path: str | os.PathLike[str]) -> Path:
    """Draw predictions after against before, one panel a transformation; the ending of the file decides the format.

    Raises:
        ConfigError: The ending is none of .png, .svg, .pdf, or the file cannot be written.
    """
    from matplotlib.figure import Figure  # importing matplotlib takes a second

    file = Path(path)
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"Cannot draw {file}: got the ending '{file.suffix}'. Accepted: .png, .svg, .pdf.")
    rows = [row for row in audit.rows if len(row.before)]
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 3.5 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    for panel, row in zip(panels, rows, strict=False):
        _draw(panel, row)
    figure.suptitle(f"{audit.metanet} on {audit.zoo}: predictions before and after rewriting the nets")
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        figure.savefig(temporary, format=file.suffix[1:], dpi=150)
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"Cannot write {file}: got '{error.strerror}'. Choose another file.") from error
    return file


def _draw(axes: Axes, row: AuditRow) -> None:
    before, after = row.before.flatten().numpy(), row.after.flatten().numpy()
    low, high = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=1)
    axes.scatter(before, after, s=14, alpha=0.7, linewidths=0, zorder=2)
    worst = row.movement.max().item()
    axes.set_title(f"{row.transformation}\n{row.verdict}, at most {worst:.1e} spreads", fontsize=9)
    axes.set_xlabel("predicted before")
    axes.set_ylabel("predicted after")
