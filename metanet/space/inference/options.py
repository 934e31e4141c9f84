"""What a user may say about a network that its names and shapes do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class InferOptions(TypedDict, total=False):
    """Keyword options of :func:`metanet.infer`, which functions that infer pass on."""

    norm_groups: int | None
    channels_last: bool | None
    chain: bool
    grouped: bool | None
    transposed: bool | None
    architecture: str | None


@dataclass(frozen=True)
class Reading:
    """The options of one inference.

    Attributes:
        norm_groups: Groups of norm layers without running statistics; None if unknown.
        channels_last: Whether a layer after convolutions reads flattened maps with the channels innermost (True) or
            outermost (False); None if it is not said.
        keras: Whether the file comes from Keras, which flattens with the channels innermost.
        chain: Whether the layers are said to form one chain, whatever their names are.
        grouped: Whether a convolution that reads some of the channels before it is said to be a grouped one.
        transposed: Whether matrices are said to be stored ``[in, out]`` (True) or ``[out, in]`` (False).
    """

    norm_groups: int | None = None
    channels_last: bool | None = None
    keras: bool = False
    chain: bool = False
    grouped: bool | None = None
    transposed: bool | None = None


CHAIN = "one chain of layers, each used once: pass chain=True (--chain)"
FLATTEN = (
    "maps flattened as PyTorch lays them out, channels outermost: pass channels_last=False (--channels-first)",
    "maps flattened with the channels innermost, as after a permute and in Keras: pass channels_last=True "
    "(--channels-last)",
)
GROUPED = "a grouped or depthwise convolution: pass grouped=True (--grouped)"
STORED = (
    "matrices stored [out, in], as torch.nn.Linear and torch.nn.Conv2d do: pass transposed=False (--not-transposed)",
    "matrices stored [in, out], as GPT-2's Conv1D does: pass transposed=True (--transposed)",
)
NORM_GROUPS = (
    "layer norm, instance norm or batch norm without statistics: pass norm_groups=1 (--norm-groups 1)",
    "group norm: pass the number of groups as norm_groups (--norm-groups)",
)
