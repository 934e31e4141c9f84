"""The closed list of modules that a run's checkpoint may name, and making one from its description.

A description is what a configuration says: ``{"class_path": name, "init_args": {argument: value}}``, where a value is
plain data or again a description. Names are looked up in ``MODULES``; nothing is imported by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

import metanet.models as models
from metanet.errors import ConfigError
from metanet.models.base import Metanet, PooledMetanet
from metanet.models.probegen import Layers

LAYERS = (
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AvgPool1d", "AvgPool2d", "AvgPool3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Bilinear", "CELU", "Conv1d",
    "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Dropout", "Dropout1d", "Dropout2d",
    "ELU", "Embedding", "Flatten", "GELU", "GLU", "GroupNorm", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity",
    "InstanceNorm1d", "InstanceNorm2d", "LayerNorm", "LeakyReLU", "Linear", "LogSigmoid", "LogSoftmax", "MaxPool1d",
    "MaxPool2d", "MaxPool3d", "Mish", "PReLU", "PixelShuffle", "RMSNorm", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid",
    "Softmax", "Softplus", "Softsign", "Tanh", "Unflatten", "Upsample", "ZeroPad2d",
)  # fmt: skip
"""Layers of ``torch.nn`` of which a configuration may build the networks that a metanet runs."""
DESCRIPTION = {"class_path", "init_args"}


def _own() -> dict[str, type[nn.Module]]:
    kinds = [kind for name in models.__all__ if issubclass(kind := getattr(models, name), nn.Module)]
    found = {f"{kind.__module__}.{kind.__name__}": kind for kind in (*kinds, Layers)}
    found |= {f"metanet.models.{kind.__name__}": kind for kind in kinds}
    return {name: kind for name, kind in found.items() if kind not in (Metanet, PooledMetanet)}


MODULES: dict[str, type[nn.Module]] = _own() | {f"torch.nn.{name}": getattr(nn, name) for name in LAYERS}
METANETS = tuple(n for n in models.__all__ if issubclass(MODULES.get(f"metanet.models.{n}", nn.Module), Metanet))


def check_module(where: str, given: Any) -> None:
    """Refuse a description of a module that is not closed.

    Raises:
        ConfigError: It is no description, names a class outside ``MODULES`` or an argument that its class does not
            have, or a value is no plain data.
    """
    if not isinstance(given, Mapping) or not {"class_path"} <= set(given) <= DESCRIPTION:
        raise ConfigError(f"{where}: got {_short(given)}. Accepted: a mapping of class_path and init_args.")
    name, arguments = given["class_path"], given.get("init_args") or {}
    if not isinstance(name, str) or name not in MODULES:
        raise ConfigError(
            f"{where} names the class {_short(name)}, which is not one of metanet's. Accepted: {', '.join(METANETS)} "
            "of metanet.models, and common layers of torch.nn inside them."
        )
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}.init_args: got {_short(arguments)}. Accepted: a mapping.")
    known = inspect.signature(MODULES[name]).parameters
    for key, value in arguments.items():
        if key not in known:
            raise ConfigError(f"{where}: {name} has no argument {_short(key)}. Accepted: {', '.join(known)}.")
        _check_value(f"{where}.{key}", value)


def make_module(where: str, given: Mapping[str, Any]) -> nn.Module:
    """Make a module from its description.

    Raises:
        ConfigError: The description is not closed (:func:`check_module`), or the class refuses its arguments.
    """
    check_module(where, given)
    return _made(where, given)


def make_metanet(where: str, given: Mapping[str, Any]) -> Metanet:
    """Make a metanet from its description; errors as :func:`make_module`.

    Raises:
        ConfigError: It is another module.
    """
    made = make_module(where, given)
    if not isinstance(made, Metanet):
        raise ConfigError(f"{where}: got {given['class_path']}, which is no metanet. Accepted: {', '.join(METANETS)}.")
    return made


def _made(where: str, given: Mapping[str, Any]) -> nn.Module:
    name, arguments = given["class_path"], given.get("init_args") or {}
    try:
        return MODULES[name](**{key: _value(f"{where}.{key}", value) for key, value in arguments.items()})
    except ConfigError:
        raise
    except Exception as error:  # an argument of the wrong type fails in whatever way its class uses it
        raise ConfigError(f"{where}: {name} refuses its arguments (got {type(error).__name__}: {error}).") from error


def _check_value(where: str, value: Any) -> None:
    if isinstance(value, Mapping):
        if "class_path" in value:
            return check_module(where, value)
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{where}: got the key {_short(key)}. Accepted: texts.")
            _check_value(f"{where}.{key}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_value(f"{where}[{number}]", inner)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ConfigError(f"{where}: got {_short(value)}. Accepted: numbers, texts, lists and mappings of them.")
    return None


def _value(where: str, value: Any) -> Any:
    """The argument that a checked value describes."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            return _made(where, value)
        return {key: _value(f"{where}.{key}", inner) for key, inner in value.items()}
    return [_value(where, inner) for inner in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | type(None)) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
