"""``metanet zoo``: build a zoo and take a net out of one; see also :mod:`metanet.commands.zoo_content`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metanet.commands.zoo_content import Name, import_published, info, list_zoos, verify
from metanet.errors import ZooError

app = typer.Typer(help="Build, import, show, check and export model zoos.", no_args_is_help=True)
app.command("list")(list_zoos)
app.command("info")(info)
app.command("import")(import_published)
app.command("verify")(verify)


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
def export(
    name: Name,
    net: Annotated[str, typer.Argument(help="Id of a net, or its row.")],
    file: Annotated[Path, typer.Argument(help="File to write: .safetensors or .pt.")],
) -> None:
    """Write one net as a checkpoint file that carries its weight space."""
    from metanet.zoo import export_net, open_zoo

    print(export_net(open_zoo(name), int(net) if net.isdecimal() else net, file))
