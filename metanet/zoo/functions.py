"""The functions that the nets of a zoo compute, where the zoo says what they are.

A card may hold, by digest of the weight space, the ``architecture`` of its nets as data (see
:mod:`metanet.zoo.architecture`); from it the forward function is rebuilt without running code of the zoo's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.zoo.architecture import Architecture, parse_architecture
from metanet.zoo.plain import SmallCNN
from metanet.zoo.store import ModelZoo

LARGEST = 1 << 24  # entries of an input or of what a layer computes, for one input
INPUTS = 16  # random inputs a function is compared on
ARCHITECTURES = "architectures"  # key of the card


@dataclass(frozen=True, eq=False)
class Function:
    """A forward function and inputs to compare nets on.

    Attributes:
        module: The architecture, in float64 and evaluation mode; its own weights are never used.
        inputs: Random inputs ``[INPUTS, ...]``.
    """

    module: nn.Module
    inputs: Tensor

    def outputs(self, state: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the net with these weights, which may be wider than the module's own."""
        with torch.no_grad():
            double = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
            return torch.func.functional_call(self.module, double, (self.inputs,))

    def residual(self, state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
        """``max |f' - f| / max |f|`` over the inputs."""
        base = self.outputs(state)
        return ((self.outputs(other) - base).abs().max() / base.abs().max().clamp_min(1e-300)).item()


def function_of(zoo: ModelZoo, space: WeightSpace, seed: int = 0) -> Function | None:
    """The function of a zoo's nets of one space; None if its card does not say.

    Raises:
        ZooError: The card holds an architecture that this metanet does not read, or not that of the weight space.
    """
    given = zoo.card.get(ARCHITECTURES, {}).get(space.digest)
    if given is None:
        return None
    architecture = parse_architecture(given)
    _check_architecture(zoo, space, architecture)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(INPUTS, *architecture.input, generator=generator, dtype=torch.float64)
    return Function(SmallCNN(architecture).double().eval(), inputs)


def _check_architecture(zoo: ModelZoo, space: WeightSpace, architecture: Architecture) -> None:
    """Refuse an architecture whose tensors are not those of the weight space, before memory is taken for them.

    Raises:
        ZooError: It is one.
    """
    where = f"Zoo '{zoo.name}': the architecture of {space.digest[:8]}... in its card"
    if max(map(prod, architecture.shapes())) > LARGEST:
        raise ZooError(f"{where} computes values of more than {LARGEST:,} entries. Restore the card.")
    try:
        with torch.device("meta"):
            shapes = {name: tuple(t.shape) for name, t in SmallCNN(architecture).state_dict().items()}
    except Exception as error:  # names of modules and sizes may be anything
        raise ZooError(f"{where} cannot be built (got '{' '.join(str(error).split())}'). Restore the card.") from error
    if shapes != space.shapes:
        raise ZooError(f"{where} has other tensors than that weight space. Restore the card.")
