"""Construct classes of transformers from plain fields of their configuration, with inputs to trace them on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from metanet.space.recognise.construct import Misfit, construct, only_shapes

WORDS = 8  # length of the texts that nets are traced on
LARGEST = 1536  # side of an image; a configuration may ask for any


def make(package: ModuleType, kind: str, fields: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Tensor]]:
    """Construct a class and inputs that it can be traced on.

    Args:
        package: The imported library.
        kind: Name of a class of models.
        fields: Fields of its configuration that differ from the defaults, plain values.
    """
    config = configuration(package, kind, fields)
    module = construct(lambda: getattr(package, kind)(config))
    return module, inputs(module, config)


def configuration(package: ModuleType, kind: str, fields: Mapping[str, Any]) -> Any:
    """Return the configuration of a class, set to return tensors alone."""
    config = getattr(package, kind).config_class(**fields)
    for name in ("use_cache", "output_attentions", "output_hidden_states"):
        if hasattr(config, name):
            setattr(config, name, False)
    return config


def fits(package: ModuleType, kind: str, fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a class with these untrusted fields makes parameters of the shapes given, and no others.

    The module is made on the meta device and stopped at its first parameter that the state dict lacks.
    """
    config = configuration(package, kind, fields)
    try:
        with only_shapes(shapes), torch.device("meta"):
            getattr(package, kind)(config)
    except Misfit:
        return False
    return True


def inputs(module: nn.Module, config: Any) -> dict[str, Tensor]:
    """Return inputs of the shapes that a model takes, by name of the argument."""
    main = str(getattr(module, "main_input_name", "input_ids"))
    words = torch.ones(1, WORDS, dtype=torch.long)
    parts = [config, *(getattr(config, n) for n in ("vision_config", "text_config") if hasattr(config, n))]

    def field(*names: str, default: Any) -> Any:
        return next((getattr(c, n) for n in names for c in parts if getattr(c, n, None) is not None), default)

    found: dict[str, Tensor] = {}
    takes = inspect.signature(module.forward).parameters
    if main == "pixel_values" or hasattr(config, "vision_config"):
        size = field("image_size", default=224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        found["pixel_values"] = torch.zeros(
            1, field("num_channels", default=3), min(height, LARGEST), min(width, LARGEST)
        )
    if main == "input_features":
        length = 2 * field("max_source_positions", default=1500)
        found["input_features"] = torch.zeros(1, field("num_mel_bins", default=80), length)
    if main == "input_values":
        found["input_values"] = torch.zeros(1, 4000)
    if main == "input_ids" or (hasattr(config, "text_config") and "input_ids" in takes):
        found["input_ids"] = words
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        found["decoder_input_ids"] = words
    return found
