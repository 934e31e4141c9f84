"""``recognise``: the architecture of a state dict, if it is one of the known libraries', and its traced space."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metanet.checkpoint.checkpoint import Checkpoint
from metanet.errors import SpaceError
from metanet.space.recognise.alternatives import common, distinct
from metanet.space.recognise.assumed import assumed
from metanet.space.recognise.configuration import NAME, Named, named, read_configuration
from metanet.space.recognise.construct import only_shapes, prefixed
from metanet.space.recognise.fingerprint import shapes_of
from metanet.space.recognise.index import Index, Known, load_index
from metanet.space.recognise.libraries import Inputs, create, import_library, is_installed, version
from metanet.space.recognise.naming import difference, renamed
from metanet.space.recognise.transformers_inputs import fits
from metanet.space.recognise.views import View, explain, views
from metanet.space.trace import trace
from metanet.space.weight_space import WeightSpace

UNKNOWN = "unknown"
CHOOSE = "pass architecture='{0}' (--architecture {0})"
REMEMBERED = 16  # spaces kept: a folder of checkpoints holds many of one architecture

_spaces: dict[Any, WeightSpace] = {}
_distinct: dict[Any, tuple[list[list[str]], set[str]]] = {}  # one entry a fingerprint that several share


@dataclass(frozen=True)
class Recognition:
    """A recognised architecture.

    Attributes:
        library: The library that it is from.
        name: Name of its constructor in the index.
        arguments: Arguments of the constructor.
        view: The part of the state dict that belongs to it, and the prefix of its names.
        others: Architectures of the same names and shapes whose spaces differ in what is left open in :attr:`space`.
        unseen: What those of them that are not installed differ in.
        said: Whether the user or a ``config.json`` named it; otherwise the fingerprint alone did, and the source of the
            space says what is taken as published.
    """

    library: str
    name: str
    arguments: Mapping[str, Any]
    view: View
    others: tuple[Known, ...] = ()
    unseen: tuple[str, ...] = ()
    said: bool = False

    @property
    def id(self) -> str:
        """``"timm:resnet50"``: what chooses the architecture."""
        return f"{self.library}:{self.name}"

    @cached_property
    def space(self) -> WeightSpace:
        """The traced space, in the names of the state dict; its source names the architecture, and what is assumed.

        Raises:
            SpaceError: The installed library makes other tensors, or its module cannot be traced.
        """
        arguments, whole = repr(sorted(self.arguments.items())), tuple(self.view.whole.items())
        key = (self.id, arguments, self.view.prefix, self.said, whole)
        if key not in _spaces:
            space, module = self._traced(self.name, self.library, self.arguments)
            spaces = [space]
            for other in self.others:
                fields = other.fit(self.view.shapes)
                spaces += [self._traced(other.name, other.library, fields)[0]] if fields is not None else []
            while len(_spaces) >= REMEMBERED:
                _spaces.pop(next(iter(_spaces)))
            agreed = common(spaces, self.unseen)
            taken = "" if self.said else assumed(module, agreed)
            _spaces[key] = replace(agreed, source=f"{self.id}, {taken}" if taken else self.id)
        return _spaces[key]

    def module(self) -> tuple[nn.Module, Inputs]:
        """Construct the library's module, with its weights unfilled and the names of the state dict, and its inputs.

        Raises:
            SpaceError: The installed library makes other tensors.
        """
        return self._module(self.name, self.library, self.arguments)

    def _module(self, name: str, library: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Inputs]:
        module, inputs = create(library, name, arguments, load_index().presets)
        wrong = difference(self.view.whole, module, shapes_of(module.state_dict()), self.view.prefix)
        if wrong is not None:
            made_with = load_index().versions.get(library, "unknown")
            raise SpaceError(
                f"recognised as {library}:{name}, but the installed {library} {version(library)} makes other tensors: "
                f"{wrong}. Install {library}=={made_with}, or {CHOOSE.format(UNKNOWN)} to infer without it"
            )
        return prefixed(module, self.view.prefix), inputs

    def _traced(self, name: str, library: str, arguments: Mapping[str, Any]) -> tuple[WeightSpace, nn.Module]:
        module, inputs = self._module(name, library, arguments)
        try:
            return renamed(trace(module, inputs), self.view.whole), module
        except SpaceError as error:
            raise SpaceError(f"recognised as {library}:{name}, which cannot be traced: {error}") from None


def recognise(
    checkpoint_or_state_dict: Checkpoint | Mapping[str, Tensor], architecture: str | None = None
) -> Recognition | None:
    """Recognise the architecture of a state dict.

    Args:
        checkpoint_or_state_dict: A loaded file, whose folder may have a ``config.json``, or tensors by name.
        architecture: The architecture, if several have these names and shapes: ``"timm:resnet50"``,
            ``"transformers:BertModel"``, or the path of a ``config.json``.

    Returns:
        The architecture, or None if it is none of the known ones, or one that inference without the library
        understands while the library is not installed.

    Raises:
        SpaceError: It is a known one, and its library is not installed; or several have these names and shapes and
            differ in structure; or it is a class of transformers of unknown configuration; or ``architecture`` is not
            known or does not fit.
    """
    source = checkpoint_or_state_dict
    tensors = source.tensors if isinstance(source, Checkpoint) else source
    state = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    if not state:
        return None
    index = load_index()
    if architecture is not None:
        return _chosen(state, architecture, index)
    beside = read_configuration(source.path.parent / NAME) if isinstance(source, Checkpoint) else None
    if beside is not None and (said := named(beside, index)) is not None:
        found = _configured(state, said, index)
        if found is not None:
            return found
    for view in views(state):
        candidates = index.candidates(view.shapes)
        if candidates:
            return _settle(candidates, view, index)
    explain(state, index, beside is not None)
    return None


def _settle(candidates: list[tuple[Known, dict[str, Any]]], view: View, index: Index) -> Recognition | None:
    """Choose among architectures of one fingerprint; those whose library is installed are compared as they are."""
    here = [(known, found) for known, found in candidates if is_installed(known.library)]
    away = [known for known, _ in candidates if not is_installed(known.library)]
    if not here:
        if any(known.id in index.inferable for known in away):
            return None
        raise _missing(away, index)
    by_key = {known.key: (known, found) for known, found in here}
    classes, differs = [[key] for key in by_key], set[str]()
    if len(by_key) > 1:
        name = (*by_key, view.prefix, repr([found for _, found in here]))
        if name not in _distinct:
            make = [(k, partial(create, o.library, o.name, found, index.presets)) for k, (o, found) in by_key.items()]
            _distinct[name] = distinct(make)
        classes, differs = _distinct[name]
    unseen = {what for known in away for what in index.differs(known, [one for one, _ in here])}
    if "structure" in differs | unseen:
        first = [by_key[members[0]][0].id for members in classes] + [
            known.id for known in away if "structure" in unseen
        ]
        first = list(dict.fromkeys(first))
        raise SpaceError(
            f"these names and shapes are those of {', '.join(first[:-1])} and {first[-1]}, which may compute different "
            f"things: {', or '.join(CHOOSE.format(id) for id in first)}"
        )
    if not classes:
        classes = [[next(iter(by_key))]]  # none can be constructed: the first says why
    chosen, *others = (by_key[members[0]][0] for members in classes)
    return Recognition(chosen.library, chosen.name, by_key[chosen.key][1], view, tuple(others), tuple(sorted(unseen)))


def _missing(known: list[Known], index: Index) -> SpaceError:
    libraries = list(dict.fromkeys(k.library for k in known))
    return SpaceError(
        f"recognised as {known[0].id}, whose library is not installed: install {' or '.join(libraries)} "
        f"(pip install {libraries[0]}; known with version {index.versions.get(libraries[0], '?')}), and it is traced"
    )


def _chosen(state: Mapping[str, Tensor], architecture: str, index: Index) -> Recognition:
    """Return the architecture that a user names."""
    if architecture.endswith(".json"):
        data = read_configuration(Path(architecture))
        said = named(data, index) if data is not None else None
        found = _configured(state, said, index) if said is not None else None
        if found is None:
            why = "it names no known class" if said is None else f"{said.library}:{said.name} makes other tensors"
            raise SpaceError(f"architecture {architecture} does not describe these {len(state)} tensors: {why}")
        return found
    names = index.all_names()
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, 3, 0.5)
        raise SpaceError(
            f"got the architecture '{architecture}'. Accepted: {', '.join(close) or 'timm:resnet50'} and the like, "
            f"transformers:CLASS, the path of a {NAME}, or {UNKNOWN} to infer without recognition"
        )
    for view in views(state):
        for known, arguments in index.candidates(view.shapes):
            if known.id == architecture:
                if not is_installed(known.library):
                    raise _missing([known], index)
                return Recognition(known.library, known.name, arguments, view, said=True)
    default = architecture.startswith("transformers:")
    advice = f" in its default configuration: pass the path of its {NAME} instead" if default else ""
    raise SpaceError(f"these {len(state)} tensors ({', '.join(list(state)[:3])}, ..) are not {architecture}{advice}")


def _configured(state: Mapping[str, Tensor], said: Named, index: Index) -> Recognition | None:
    """Return the architecture that a configuration names, if these are its tensors."""
    if not is_installed(said.library):
        known = Known(said.library, said.name, "")
        fits_names = any(said.name in index.classes_like(view.shapes) for view in views(state))
        if fits_names or any(c[0].id == known.id for view in views(state) for c in index.candidates(view.shapes)):
            raise _missing([known], index)
        return None
    for view in views(state):
        try:
            if said.library == "transformers":
                package = import_library("transformers")
                if not fits(package, said.name, said.arguments, view.shapes):
                    continue
            found = Recognition(said.library, said.name, said.arguments, view, said=True)
            with only_shapes(view.shapes):
                module, _ = create(said.library, said.name, said.arguments, index.presets)
        except Exception as error:  # a constructor of a library may raise anything on values that do not go together
            if said.name in index.classes_like(view.shapes):
                raise SpaceError(f"its {NAME} does not make a {said.name}: {type(error).__name__}: {error}") from None
            continue
        if difference(view.whole, module, shapes_of(module.state_dict()), view.prefix) is None:
            return found
    return None
