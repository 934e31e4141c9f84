"""Options of commands that infer a space from names and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from metanet.errors import ConfigError

if TYPE_CHECKING:
    from metanet.space.inference.options import InferOptions

PANEL = "Options for files without code"
ChainOption: TypeAlias = Annotated[
    bool, typer.Option("--chain", rich_help_panel=PANEL, help="The layers form one chain, each used once.")
]
NormGroupsOption: TypeAlias = Annotated[
    int | None, typer.Option(rich_help_panel=PANEL, help="Groups of norm layers without statistics; 1: layer norm.")
]
ChannelsLastOption: TypeAlias = Annotated[
    bool | None,
    typer.Option("--channels-last/--channels-first", rich_help_panel=PANEL, help="How maps are flattened."),
]
GroupedOption: TypeAlias = Annotated[
    bool | None,
    typer.Option("--grouped/--not-grouped", rich_help_panel=PANEL,
                 help="Convolutions that read some of the channels are grouped ones."),
]  # fmt: skip
TransposedOption: TypeAlias = Annotated[
    bool | None,
    typer.Option("--transposed/--not-transposed", rich_help_panel=PANEL, help="Matrices are stored [in, out]."),
]
ArchitectureOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=PANEL,
                 help="timm:NAME, torchvision:NAME, transformers:CLASS, a config.json, or unknown."),
]  # fmt: skip


def infer_options(
    chain: bool,
    norm_groups: int | None,
    channels_last: bool | None,
    grouped: bool | None,
    transposed: bool | None,
    architecture: str | None,
) -> InferOptions:
    """Return the options that were given, as :func:`metanet.infer` takes them."""
    given: InferOptions = {}
    if chain:
        given["chain"] = chain
    if norm_groups is not None:
        if norm_groups < 1:
            raise ConfigError(f"--norm-groups {norm_groups}: got a number below 1. Accepted: 1, 2, 3 ...")
        given["norm_groups"] = norm_groups
    if channels_last is not None:
        given["channels_last"] = channels_last
    if grouped is not None:
        given["grouped"] = grouped
    if transposed is not None:
        given["transposed"] = transposed
    if architecture is not None:
        given["architecture"] = architecture
    return given
