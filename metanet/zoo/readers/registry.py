"""Readers of published zoos by format, and what a reader gives: nets one by one, with labels and architecture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.space.inference.options import InferOptions

Meaning: TypeAlias = tuple[str, str]
"""Unit and meaning of a column."""


class Blueprint(Hashable, Protocol):
    """The architecture of a net whose forward pass is known: equal blueprints have the same weight space."""

    def module(self) -> tuple[nn.Module, Any]:
        """A module whose ``state_dict`` names are those of the net's tensors, and an example input."""


@dataclass(frozen=True, eq=False)
class SourceNet:
    """One net of a published zoo.

    Attributes:
        tensors: Its weights by name.
        labels: Hyperparameters and measurements; values are numbers, text, truth values or None.
        split: ``train``, ``validation`` or ``test`` as published; ``none`` for nets outside all splits.
        run: Training that it comes from; by default its own.
        blueprint: Its architecture, if the forward pass is known; otherwise its space is inferred from the tensors.
        activation: Nonlinearity, for inferred spaces.
        space: Its weight space, if the file carries it.
        options: What the format says of its nets, for inferred spaces: options of :func:`metanet.infer`.
    """

    tensors: Mapping[str, Tensor]
    labels: Mapping[str, Any] = field(default_factory=dict)
    split: str = "none"
    run: str = ""
    blueprint: Blueprint | None = None
    activation: str | None = None
    space: WeightSpace | None = None
    options: InferOptions = field(default_factory=lambda: InferOptions())


@dataclass(frozen=True, eq=False)
class Source:
    """An opened zoo in its published format; nothing but its index was read.

    Attributes:
        ids: Names of the nets, unique.
        read: Reads net number ``i``; may fail in any way for a damaged net, which is then listed as unreadable.
        columns: Unit and meaning of labels.
        notes: What a user should know about this copy, for the card: splits, quirks.
    """

    ids: Sequence[str]
    read: Callable[[int], SourceNet]
    columns: Mapping[str, Meaning] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ZooFormat:
    """A registered format.

    Attributes:
        name: Its name.
        title: What it is and who published it.
        licence: Licence of the published zoos.
        source: Where they are.
        holds: What the path given must hold.
        open: Opens a folder or file; its keyword-only parameters are the options.
    """

    name: str
    title: str
    licence: str
    source: str
    holds: str
    open: Callable[..., Source]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Options of the format by name."""
        found = inspect.signature(self.open, eval_str=True).parameters
        return {name: p for name, p in found.items() if p.kind is p.KEYWORD_ONLY}


_FORMATS: dict[str, ZooFormat] = {}


def zoo_reader(
    name: str, *, title: str, licence: str, source: str, holds: str
) -> Callable[[Callable[..., Source]], Callable[..., Source]]:
    """Register the decorated function ``open(path, *, options) -> Source`` as the reader of a format.

    The function raises :class:`~metanet.errors.ZooError` if the path does not hold such a zoo. It never executes
    anything from a file: tensors come from :func:`metanet.checkpoint.load` or NumPy without pickles.

    Args:
        name: Name of the format.
        title: What it is and who published it.
        licence: Licence of the published zoos.
        source: Where they are.
        holds: What the path given must hold, for messages.
    """

    def register(function: Callable[..., Source]) -> Callable[..., Source]:
        _FORMATS[name] = ZooFormat(name, title, licence, source, holds, function)
        return function

    return register


def zoo_formats() -> dict[str, ZooFormat]:
    """Formats that :func:`metanet.zoo.import_zoo` reads, by name."""
    return dict(sorted(_FORMATS.items()))


def find_format(name: str) -> ZooFormat:
    """The format of that name.

    Raises:
        ZooError: There is none.
    """
    if name not in _FORMATS:
        raise ZooError(f"Unknown zoo format: got '{name}'. Accepted: {', '.join(zoo_formats())}.")
    return _FORMATS[name]
