"""The libraries whose architectures are recognised: whether they are installed, and how their modules are constructed.

Only names in the index of this package are ever constructed, without pretrained weights and without remote code.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from metanet.errors import SpaceError
from metanet.space.recognise import torchvision_inputs, transformers_inputs
from metanet.space.recognise.construct import construct

LIBRARIES = ("torchvision", "timm", "transformers")
Inputs = tuple[Tensor, ...] | dict[str, Tensor]


def is_installed(library: str) -> bool:
    """Return whether a library can be found, without importing it."""
    try:
        return importlib.util.find_spec(library) is not None
    except ValueError:  # a module of that name was made by hand, without a spec
        return True


@cache
def version(library: str) -> str:
    """Return the version of an installed library, or ``"of unknown version"``."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


_declared: list[torch.library.Library] = []  # definitions last as long as their library


def import_library(library: str) -> ModuleType:
    """Import one of the libraries.

    A torchvision whose compiled operations do not fit the installed torch fails to import, and timm with it. No network
    here calls these operations, so they are declared without an implementation and the import is tried again. The parts
    of transformers are imported when they are first used, so torchvision, which they import, goes first.

    Raises:
        SpaceError: It is not installed, or cannot be imported.
    """
    if library not in LIBRARIES:
        raise SpaceError(f"got the library '{library}'. Accepted: {', '.join(LIBRARIES)}")
    if library == "transformers" and is_installed("torchvision"):
        with contextlib.suppress(SpaceError):
            import_library("torchvision")
    try:
        return importlib.import_module(library)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise _broken(library, error) from None
        declare_torchvision_operations()
    except Exception as error:  # a library that does not fit its own dependencies raises anything
        raise _broken(library, error) from None
    try:
        return importlib.import_module(library)
    except Exception as error:
        raise _broken(library, error) from None


def declare_torchvision_operations() -> None:
    """Declare the compiled operations of torchvision that its Python code refers to when it is imported."""
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # the compiled operations are there
            continue
    _declared.append(declared)


def _broken(library: str, error: Exception) -> SpaceError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return SpaceError(
        f"{library} {version(library)} cannot be imported: {first}. Install a version that fits this torch"
    )


def create(
    library: str, name: str, arguments: Mapping[str, Any], presets: Mapping[str, Any]
) -> tuple[nn.Module, Inputs]:
    """Construct an architecture of the index, with its weights unfilled, and inputs to trace it with.

    Args:
        library: One of ``LIBRARIES``.
        name: Name of the architecture in the index.
        arguments: Keyword arguments of its constructor, such as ``num_classes``; fields of the configuration for
            transformers.
        presets: Configurations of transformers by name.

    Raises:
        SpaceError: The installed version does not have it, or its constructor fails.
    """
    package = import_library(library)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[library](
                package, name, arguments, presets
            )
    except Exception as error:  # constructors of other libraries raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise SpaceError(
            f"{library}:{name} cannot be constructed with the installed {library} {version(library)}: "
            f"{type(error).__name__}: {first}"
        ) from None


def _timm(package: ModuleType, name: str, arguments: Mapping[str, Any], _: Any) -> tuple[nn.Module, Inputs]:
    module = construct(lambda: package.create_model(name, pretrained=False, **arguments))
    config = package.models.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    size = arguments.get("img_size", (height, width))
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return module, (torch.zeros(1, arguments.get("in_chans", channels), height, width),)


def _torchvision(package: ModuleType, name: str, arguments: Mapping[str, Any], _: Any) -> tuple[nn.Module, Inputs]:
    models = importlib.import_module("torchvision.models")
    home = models.get_model_builder(name).__module__.split(".")
    apart = {"weights_backbone": None} if home[2] in ("detection", "segmentation") else {}
    module = construct(lambda: models.get_model(name, weights=None, **apart, **arguments))
    return torchvision_inputs.with_inputs(module, name, home[2])


def _transformers(
    package: ModuleType, name: str, arguments: Mapping[str, Any], presets: Mapping[str, Any]
) -> tuple[nn.Module, Inputs]:
    kind, _, preset = name.partition("/")
    fields = {**(presets[preset] if preset else {}), **arguments}
    return transformers_inputs.make(package, kind, fields)
