"""Names that say that a network is no plain chain of layers, and the error that tells so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metanet.errors import SpaceError
from metanet.space.inference.options import CHAIN

if TYPE_CHECKING:
    from metanet.space.inference.layers import Layer

WAY_OUT = "Pass the module and an example input to metanet.trace, which reads the computation itself"

RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?(_reverse)?|recurrent_kernel")
REPARAMETRISED = re.compile(r"weight_(g|v|orig|u|mask)|original\d?")


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


COMPONENTS: dict[str, tuple[frozenset[str], str]] = {
    "attention": (
        words(
            "attn attention self_attn self_attention cross_attn mha multihead_attn in_proj q_proj k_proj v_proj o_proj "
            "qkv query key queries keys values query_key_value out_proj"
        ),
        "which of its dimensions are heads is not in the file",
    ),
    "an embedding": (
        words(
            "embed embedding embeddings embed_tokens wte wpe pos_embed position_embeddings token_embedding cls_token "
            "patch_embed"
        ),
        "a table of rows and a bias-free linear layer have the same shape",
    ),
    "a low-rank update": (words("lora lora_a lora_b lora_up lora_down"), "what it is added to is not in the file"),
    "a gate": (
        words("gate gate_proj up_proj down_proj se squeeze_excite squeeze excitation glu"),
        "what it multiplies is not in the file",
    ),
    "a shortcut": (
        words("shortcut skip downsample residual res resblock res_block identity"),
        "which values it adds is not in the file, except in torchvision's naming of residual networks "
        "(layer1.0.conv1, layer1.0.bn1, layer1.0.downsample.0)",
    ),
    "one of several parallel branches or heads": (
        words(
            "actor critic policy policy_net value value_net action_net pi vf qf mu logvar log_var logstd log_std "
            "branch inception head_a head_b aux aux_logits"
        ),
        "which values it reads is not in the file; to look at one part alone, take it with "
        "metanet.load(path).select('prefix')",
    ),
    "a transposed convolution": (
        words("convtranspose conv_transpose transposed_conv deconv upconv conv_t conv_transposed"),
        "[in, out] and [out, in] kernels of equal sizes look alike",
    ),
}
NUMBER = re.compile(r"(.*?)_?(\d+)")


CHAINED = ("a gate", "a shortcut", "one of several parallel branches or heads", "attention")
"""Kinds of layers that may be links of a chain nevertheless, if the user says so."""


class Unlisted(Exception):
    """A layer whose name, or whose place, does not prove that it is a link of a chain."""

    def __init__(self, layer: Layer, found: str, *alternatives: str) -> None:
        super().__init__(found)
        self.layer, self.found, self.alternatives = layer, found, alternatives

    def error(self) -> SpaceError:
        """Return the error for the user."""
        return refuse(*self.layer.main, self.found, [CHAIN, *self.alternatives])


def refuse(name: str, shape: Sequence[int], found: str, alternatives: Sequence[str]) -> SpaceError:
    """The error that says which tensor is not clear, what was found, and what it could be.

    Args:
        name: The tensor.
        shape: Its shape.
        found: What was found.
        alternatives: What it could be, or could be done instead.
    """
    return SpaceError(
        f"cannot infer the weight space: tensor '{name}' {list(shape)} {found}. Alternatives: "
        f"{'; '.join([*alternatives, WAY_OUT])}"
    )


def refuse_by_name(name: str, shape: Sequence[int], components: Sequence[str], leaf: str, chain: bool) -> None:
    """Raise if a tensor's name says that names and shapes are not enough.

    Args:
        name: The tensor.
        shape: Its shape.
        components: The path of its module.
        leaf: Its own name in the module.
        chain: Whether the user says that the layers form a chain nevertheless.

    Raises:
        SpaceError: The name is one of a recurrent, attention, embedding, gate, shortcut or parallel layer.
    """
    if RECURRENT.fullmatch(leaf):
        raise refuse(
            name, shape, "belongs to a recurrent layer", ["a recurrent layer of a kind that is not in the file"]
        )
    if REPARAMETRISED.fullmatch(leaf):
        raise refuse(
            name, shape, "is half of a reparametrised weight",
            ["remove weight norm, spectral norm or pruning from the module before saving"],
        )  # fmt: skip
    for component in (*components, leaf):
        for kind, (names, reason) in COMPONENTS.items():
            if chain and kind in CHAINED:
                continue
            if stem_and_number(component)[0] in names or component.lower() in names:
                raise refuse(
                    name, shape, f"belongs to {kind}, by its name", [*([CHAIN] if kind in CHAINED else []), reason]
                )


def stem_and_number(component: str) -> tuple[str, int]:
    """``"conv2d_1" -> ("conv2d", 1)``, ``"fc" -> ("fc", 0)``, ``"3" -> ("", 3)``."""
    found = NUMBER.fullmatch(component.lower())
    return (found[1], int(found[2])) if found else (component.lower(), 0)
