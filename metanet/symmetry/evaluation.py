"""Running a network on given weights in float64, as certificates need it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metanet.errors import SpaceError
from metanet.space.exporting import Inputs, arguments, evaluating
from metanet.space.weight_space import WeightSpace

LOW = (torch.float32, torch.float16, torch.bfloat16)
GAINS = (1.0, 0.7, 0.5, 0.2, 0.05)
NUDGE = 1e-10  # relative change of all weights that shows how much a network magnifies
MAGNIFIED = 1e4  # output change per weight change up to which rounding in float64 stays far below any tolerance


class Evaluation:
    """A copy of a module in float64 and eval mode, random inputs, and random weights fit for certificates.

    Args:
        module: The network; it is copied, not changed.
        example_inputs: As given to :func:`metanet.trace`. Floating-point inputs are replaced by random ones.
        seed: Seed of weights and inputs.

    Raises:
        SpaceError: The module has no weights to evaluate it on (they are on the meta device).
    """

    def __init__(self, module: nn.Module, example_inputs: Inputs, seed: int = 0) -> None:
        self.name = type(module).__name__
        if any(t.is_meta for t in module.state_dict().values()):
            raise SpaceError(
                f"cannot certify {self.name}: its weights are on the meta device. Use module.to_empty(...)"
            )
        self.seed = seed
        self.net = copy.deepcopy(module).double()
        generator = torch.Generator().manual_seed(seed)
        self.args, self.kwargs = pytree.tree_map_only(
            Tensor, lambda x: _random_like(x, generator), arguments(example_inputs)
        )

    def weights(self, space: WeightSpace) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Random weights fit for a certificate, and the network's outputs on them.

        Outputs must be finite and not all zero, and the network must not magnify rounding: a deep one whose signals
        grow from layer to layer turns the last digit of a sum into a difference that looks like a wrong claim. Weights
        are drawn smaller until both hold; if it magnifies at every size, where it does so least.

        Raises:
            SpaceError: The outputs are not finite or all zero at every size, or there are none.
        """
        best: tuple[float, dict[str, Tensor], list[Tensor]] | None = None
        for gain in GAINS:
            generator = torch.Generator().manual_seed(self.seed)
            state = randomised(self.net.state_dict(), space, generator, gain)
            outputs = self.outputs(state)
            if not (outputs and all(t.isfinite().all() for t in outputs) and any(t.any() for t in outputs)):
                continue
            change = relative_change(self.outputs(_nudged(state, space, generator)), outputs)
            magnified = change / NUDGE if change == change else float("inf")
            if best is None or magnified < best[0]:
                best = magnified, state, outputs
            if magnified <= MAGNIFIED:
                break
        if best is None:
            found = "no floating-point outputs" if not outputs else "outputs that are not finite or all zero"
            raise SpaceError(f"cannot certify {self.name}: randomised weights give {found}")
        return best[1], best[2]

    def outputs(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """All floating-point and complex outputs on a state dict."""
        with evaluating(self.net), torch.no_grad(), double_precision(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            result = torch.func.functional_call(self.net, dict(state), self.args, self.kwargs, tie_weights=False)
        leaves = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        leaves = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in leaves]
        return [t.double() for t in leaves if t.is_floating_point() and t.numel()]


def relative_change(new: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """``max |new - base| / max |base|``, the largest over several tensors; those that are all zero count absolutely."""
    return max(((a - b).abs().max() / (b.abs().max() or 1.0)).item() for a, b in zip(new, base, strict=True))


@contextmanager
def double_precision() -> Iterator[None]:
    """Compute in float64 whatever precision the code asks for, so that errors measure the function and not rounding."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(default)


class _Double(TorchDispatchMode):
    """Raises every lower floating-point type that an operation is asked for, or meets in a constant, to float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:  # what is written to must stay the tensor it is
            return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map_only((Tensor, torch.dtype), _raised, (args, kwargs or {}))
        return func(*args, **kwargs)


def _raised(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.float64 if x in LOW else x
    return x.double() if x.dtype in LOW else x


def randomised(
    state: Mapping[str, Tensor], space: WeightSpace, generator: torch.Generator, gain: float = 1.0
) -> dict[str, Tensor]:
    """Random values for every tensor that a space governs, of a size that keeps signals finite.

    Weights are normal with variance ``2 gain^2 / fan_in``, scales and variances uniform in [0.5, 1.5], biases and means
    normal with deviation 0.3. Everything else is passed through.
    """
    roles: dict[str, str] = {}
    for link in space.links:
        roles.setdefault(link.tensor, link.kind)
    new = dict(state)
    for spec in space.tensors:
        tensor = state[spec.name]
        draw = torch.randn(spec.shape, generator=generator, dtype=torch.float64)
        role = roles.get(spec.name, "bias" if len(spec.shape) < 2 else "linear")
        if role in ("scale", "variance") or "var" in spec.name.rpartition(".")[2]:
            draw = 0.5 + torch.rand(spec.shape, generator=generator, dtype=torch.float64)
        elif role in ("bias", "mean"):
            draw = 0.3 * draw
        else:
            fan_in = max(tensor[0].numel(), 1) if tensor.ndim else 1
            draw = draw * gain * (2.0 / fan_in) ** 0.5
        for name in (spec.name, *spec.aliases):
            if name in new:
                new[name] = draw.to(tensor.device)
    return new


def _nudged(state: Mapping[str, Tensor], space: WeightSpace, generator: torch.Generator) -> dict[str, Tensor]:
    """Every weight multiplied by a number next to one."""
    new = dict(state)
    for spec in space.tensors:
        noise = torch.randn(spec.shape, generator=generator, dtype=torch.float64).to(state[spec.name].device)
        nudged = state[spec.name] * (1 + NUDGE * noise)
        new.update({name: nudged for name in (spec.name, *spec.aliases) if name in new})
    return new


def _random_like(x: Tensor, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point():
        return x
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
