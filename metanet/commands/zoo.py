"""``metanet zoo``: build a zoo, look at one, take a net out of one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metanet.errors import ZooError

if TYPE_CHECKING:
    from metanet.zoo import ModelZoo

app = typer.Typer(help="Build, show and export model zoos.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="ZOO", help="Name of a zoo, or its folder.")]
BARS = 10
WIDTH = 40


@app.command()
def build(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or its YAML file.")],
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; one per core by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to build; by default one in METANET_DATA.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Build part I of N only (from 1), to be merged.")] = "",
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...")] = "cpu",
    images: Annotated[Path | None, typer.Option(help="Folder of images; by default METANET_IMAGES.")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster: local, auto, HOST:PORT.")] = None,
) -> None:
    """Build a zoo from a recipe, or a part of it, or go on where a build stopped."""
    from metanet.zoo import build_part, build_zoo, load_recipe
    from metanet.zoo.display import show_build, show_download

    part = _part(shard) if shard else None
    recipe = load_recipe(name)
    with show_download() as download, show_build(f"{recipe.name} {shard}".strip()) as progress:
        if part is None:
            zoo = build_zoo(recipe, out, workers, progress, device=device, images=images, ray=ray, download=download)
            done = f"{zoo.path}: {len(zoo)} nets"
        else:
            path = build_part(
                recipe, part, out, workers, progress, device=device, images=images, ray=ray, download=download
            )
            done = f"{path}: part {shard}; merge all parts with: metanet zoo merge"
    print(done)


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Name or folder of the zoo to make.")],
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Names or folders of all its parts.")],
) -> None:
    """Put parts made by 'build --shard' together: the zoo that one uninterrupted build makes, byte for byte."""
    from metanet.zoo import merge_zoos
    from metanet.zoo.display import show_build

    with show_build(out.name, doing="merging") as progress:
        zoo = merge_zoos(out, parts, progress)
    print(f"{zoo.path}: {len(zoo)} nets; the parts are no longer needed")


def _part(shard: str) -> tuple[int, int]:
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise ZooError(f"Option --shard: got '{shard}'. Accepted: I/N with I from 1 to N, for example 1/2.")
    return int(number), int(count)


@app.command()
def info(
    name: Name,
    label: Annotated[str, typer.Option(help="Label whose histogram is drawn.")] = "test_accuracy",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show a zoo's card, its splits and spaces, and the histogram of a label."""
    from metanet.zoo import open_zoo

    zoo = open_zoo(name)
    splits = dict(Counter(map(str, zoo.column("split"))))  # "none": nets that diverged
    spaces = {digest[:8]: len(rows) for digest, rows in zoo.by_space().items()}
    if as_json:
        print(json.dumps({"card": zoo.card, "nets": len(zoo), "splits": splits, "spaces": spaces}, indent=2))
        return
    print(f"{zoo.name} in {zoo.path}: {len(zoo)} nets")
    for key in ("description", "licence", "source", "version"):
        if key in zoo.card:
            print(f"  {key}: {zoo.card[key]}")
    print("  splits: " + ", ".join(f"{count} {split}" for split, count in splits.items()))
    print("  spaces: " + ", ".join(f"{digest} ({count} nets)" for digest, count in spaces.items()))
    print(f"\n{label}")
    print("\n".join(_histogram(zoo, label)))


@app.command()
def export(
    name: Name,
    net: Annotated[str, typer.Argument(help="Id of a net, or its row.")],
    file: Annotated[Path, typer.Argument(help="File to write: .safetensors or .pt.")],
) -> None:
    """Write one net as a checkpoint file that carries its weight space."""
    from metanet.zoo import export_net, open_zoo

    print(export_net(open_zoo(name), int(net) if net.isdecimal() else net, file))


def _histogram(zoo: ModelZoo, label: str) -> list[str]:
    """One line a bin: its range, a bar, its count."""
    import numpy as np

    values = zoo.column(label)
    if not np.issubdtype(values.dtype, np.number):
        raise ZooError(f"zoo '{zoo.name}': label '{label}' is not a number, so it has no histogram; choose another")
    counts, edges = np.histogram(values[np.isfinite(values)], BARS)
    most = max(int(counts.max()), 1)
    rows = zip(edges, edges[1:], counts, strict=False)
    return [f"  {low:10.4g} to {high:10.4g}  {'█' * round(WIDTH * n / most):{WIDTH}s} {n}" for low, high, n in rows]
