"""Construct classes of transformers from plain fields of their configuration, with inputs to trace them on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from metanet.space.recognise.construct import construct

WORDS = 8  # length of the texts that nets are traced on


def make(package: ModuleType, kind: str, fields: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Tensor]]:
    """Construct a class and inputs that it can be traced on.

    Args:
        package: The imported library.
        kind: Name of a class of models.
        fields: Fields of its configuration that differ from the defaults, plain values.
    """
    cls = getattr(package, kind)
    config = cls.config_class(**fields)
    for name in ("use_cache", "output_attentions", "output_hidden_states"):
        if hasattr(config, name):
            setattr(config, name, False)
    module = construct(lambda: cls(config))
    return module, inputs(module, config)


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
        found["pixel_values"] = torch.zeros(1, field("num_channels", default=3), height, width)
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
