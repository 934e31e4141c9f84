"""What ``metanet zoo`` says about zoos that are there, and how it brings in others: list, info, import, verify."""

from __future__ import annotations

import json
import types
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from metanet.errors import ZooError

if TYPE_CHECKING:
    from metanet.zoo import ModelZoo
    from metanet.zoo.readers import ZooFormat

Name = Annotated[str, typer.Argument(metavar="ZOO", help="Name of a zoo, or its folder.")]
PROBLEMS = 1  # exit code
SHOWN = 10  # unreadable nets, weight spaces


def list_zoos(
    formats: Annotated[bool, typer.Option("--formats", help="List the formats that can be imported instead.")] = False,
) -> None:
    """List the zoos in METANET_DATA, or the formats that 'import' reads."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from metanet.zoo import zoo_formats, zoos_folder
    from metanet.zoo.catalogue import known_zoos

    if formats:
        table = Table("format", "reads", "options")
        for format in zoo_formats().values():
            table.add_row(format.name, f"{format.title}: {format.holds}", ", ".join(format.options))
    else:
        zoos = known_zoos()
        if not zoos:
            print(f"no zoos in {zoos_folder()}; make one with: metanet zoo build digits-cnn")
            return
        table = Table("zoo", "nets", "description", title=str(zoos_folder()))
        for name, card in zoos.items():
            table.add_row(
                escape(name),
                f"{card['nets']:,}" if "nets" in card else "?",
                escape(card.get("description") or "") if card else "its card cannot be read: metanet zoo verify",
            )
    Console().print(table)


def info(
    name: Name,
    label: Annotated[list[str] | None, typer.Option(help="Label whose histogram is drawn; may be repeated.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the histograms as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show a zoo's card, its splits and spaces, and histograms of its labels."""
    from metanet.zoo import open_zoo
    from metanet.zoo.histogram import draw_histogram, main_labels, plot_histograms

    zoo = open_zoo(name)
    splits = dict(Counter(map(str, zoo.column("split"))))  # "none": nets that diverged
    spaces = {digest[:8]: len(rows) for digest, rows in zoo.by_space().items()}
    labels = label or main_labels(zoo)
    if plot is not None and labels:
        plot_histograms(zoo, labels, plot)
    if as_json:
        print(json.dumps({"card": zoo.card, "nets": len(zoo), "splits": splits, "spaces": spaces}, indent=2))
        return
    _print_card(zoo)
    print("  splits: " + ", ".join(f"{count} {split}" for split, count in splits.items()))
    more = f" and {len(spaces) - SHOWN} more" if len(spaces) > SHOWN else ""
    shown = list(spaces.items())[:SHOWN]
    print("  spaces: " + ", ".join(f"{digest} ({count} nets)" for digest, count in shown) + more)
    print("  labels: " + ", ".join(zoo.table.column_names[6:]))
    for one in labels:
        print(f"\n{one}")
        print("\n".join(draw_histogram(zoo, one)))
    if plot is not None and labels:
        print(f"\n{plot}")


def import_published(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="See 'metanet zoo list --formats'.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder or file of the published zoo.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new zoo, or a path of its folder.")],
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the format.")] = None,
) -> None:
    """Import a published zoo, in its own format. No code in its files is run."""
    from metanet.zoo import import_zoo
    from metanet.zoo.display import show_build
    from metanet.zoo.readers.registry import find_format

    options = _options(find_format(format), option or [])
    with show_build(name, doing="importing") as progress:
        zoo = import_zoo(format, path, name, progress=progress, **options)
    print(f"{zoo.path}: {len(zoo)} nets of {len(zoo.spaces)} weight spaces, {len(zoo.unreadable)} unreadable")
    for entry in zoo.unreadable[:SHOWN]:
        print(f"  unreadable: {entry['id']}: {entry['reason']}")
    if len(zoo.unreadable) > SHOWN:
        print(f"  and {len(zoo.unreadable) - SHOWN} more, all in {zoo.path / 'zoo.json'}")


def verify(name: Name) -> None:
    """Check checksums, weight spaces, shards against the table, and finite weights; exit code 1 on problems."""
    from metanet.zoo import verify_zoo
    from metanet.zoo.catalogue import zoo_folder
    from metanet.zoo.display import show_build
    from metanet.zoo.store import read_zoo

    folder = zoo_folder(name)
    with show_build(folder.name, doing="verifying") as progress:
        problems = verify_zoo(folder, progress)
    for problem in problems:
        print(f"  {' '.join(problem.split())}")
    print(f"{folder}: {f'{len(problems)} problems' if problems else f'all well, {len(read_zoo(folder))} nets'}")
    if problems:
        raise typer.Exit(PROBLEMS)


def _print_card(zoo: ModelZoo) -> None:
    print(f"{zoo.name} in {zoo.path}: {len(zoo)} nets")
    for key in ("description", "licence", "source", "version"):
        if zoo.card.get(key) is not None:
            print(f"  {key}: {zoo.card[key]}")
    for note in zoo.card.get("notes", []):
        print(f"  note: {note}")
    if zoo.unreadable:
        print(f"  unreadable: {len(zoo.unreadable)} nets, such as {zoo.unreadable[0]['id']}")


def _options(format: ZooFormat, given: list[str]) -> dict[str, Any]:
    """Options of a format from the words of the command line, each as the type that the format declares."""
    out: dict[str, Any] = {}
    for word in given:
        key, sign, text = word.partition("=")
        if not sign or key not in format.options:
            accepted = ", ".join(format.options) or "none"
            raise ZooError(f"Option '{word}' of format {format.name}. Accepted, as KEY=VALUE: {accepted}.")
        declared = format.options[key].annotation
        kinds = get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
        kind = next(k for k in kinds if k is not type(None))
        try:
            out[key] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise ZooError(f"Option '{word}' of format {format.name}: '{text}' is no {kind.__name__}.") from None
    return out
