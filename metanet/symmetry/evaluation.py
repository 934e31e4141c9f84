"""Running a network on given weights in float64, as certificates need it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metanet.errors import SpaceError
from metanet.space.exporting import Inputs, arguments
from metanet.space.unfolded import convolution
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.unchanged import same_numbers, unchanged

LOW = (torch.float32, torch.float16, torch.bfloat16)
LOW_COMPLEX = (torch.complex64, torch.complex32)
STRIDE = 1_000_003  # between the seeds of points
GAINS = (1.0, 0.7, 0.5, 0.2, 0.05)
NUDGE = 1e-10  # relative change of all weights that shows how much a network magnifies
SPREAD = 12**0.5  # of uniform numbers with deviation one
MAGNIFIED = 1e4  # output change per weight change up to which rounding in float64 stays far below any tolerance


class Evaluation:
    """A module that runs in float64 and eval mode on any weights, with random inputs and random weights to try.

    The module is neither copied nor changed: weights, and double-precision copies of its own buffers, take the places
    of its tensors for the duration of each run, and attributes are put back afterwards. Every run starts from the same
    buffers and attributes, whatever earlier ones have written.

    Args:
        module: The network.
        example_inputs: As given to :func:`metanet.trace`. Floating-point inputs are replaced by random ones.
        seed: Seed of weights and inputs.

    Raises:
        SpaceError: The module has no weights to evaluate it on (they are on the meta device, or not made yet).
    """

    def __init__(self, module: nn.Module, example_inputs: Inputs, seed: int = 0) -> None:
        self.name, self.net, self.seed, self.prefix = type(module).__name__, module, seed, ""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        buffers = dict(module.named_buffers(remove_duplicate=False))
        while isinstance(self.net, nn.DataParallel):  # runs what it wraps, which torch does not run on other weights
            self.net, self.prefix = self.net.module, f"{self.prefix}module."
        for held in (*parameters.values(), *buffers.values()):
            if is_lazy(held):
                raise SpaceError(f"cannot certify {self.name}: it has lazy parameters. Run it once, then trace it")
            if held.is_meta:
                raise SpaceError(
                    f"cannot certify {self.name}: its weights are on the meta device. Use module.to_empty(...)"
                )
        self.own = {name: doubled(t.detach()) for name, t in (*parameters.items(), *buffers.items())}
        self.written = frozenset(buffers)  # what a run may write to: buffers, and parameters that it was seen to write
        self.unseen = True
        self.examples = arguments(example_inputs)
        self.args, self.kwargs = self.inputs(seed)

    def inputs(self, seed: int) -> tuple[Any, Any]:
        """Positional and keyword arguments of a call, with random floating-point tensors."""
        generator = torch.Generator().manual_seed(seed)
        return pytree.tree_map_only(Tensor, lambda x: _random_like(x, generator), self.examples)

    def weights(self, space: WeightSpace) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Random weights fit for a certificate, and the network's outputs on them.

        Outputs must be finite and not all zero, and the network must not magnify rounding: a deep one whose signals
        grow from layer to layer turns the last digit of a sum into a difference that looks like a wrong claim. Weights
        are drawn smaller until both hold; if it magnifies at every size, where it does so least.

        Raises:
            SpaceError: The outputs are not finite or all zero at every size, or there are none.
        """
        point = self.point(space)
        return point.state, point.base

    def point(self, space: WeightSpace) -> Point:
        """Random weights and inputs fit for a certificate (:meth:`weights`), ready to be changed."""
        best: tuple[float, Point] | None = None
        outputs: list[Tensor] = []
        for gain in GAINS:
            point = self._drawn(space, self.seed, gain)
            outputs = point.base
            if not point.usable:
                continue
            magnified = point.magnified(space)
            if best is None or magnified < best[0]:
                best = magnified, point
            if magnified <= MAGNIFIED:
                break
        if best is None:
            found = "no floating-point outputs" if not outputs else "outputs that are not finite or all zero"
            raise SpaceError(f"cannot certify {self.name}: randomised weights give {found}")
        return best[1]

    def another(self, space: WeightSpace, first: Point, number: int) -> Point:
        """Other random weights and inputs, drawn as those of a first point; that point itself if these do not serve."""
        point = self._drawn(space, self.seed + STRIDE * number, first.gain)
        return point if point.usable else first

    def inputs_changed(self, first: Point) -> Point:
        """The weights of a point with other random inputs; that point itself if these do not serve."""
        given = self.inputs(self.seed + STRIDE)
        point = replace(first, given=given, base=self.outputs(first.state, given))
        return point if point.usable else first

    def _drawn(self, space: WeightSpace, seed: int, gain: float) -> Point:
        state = randomised(self.own, space, torch.Generator().manual_seed(seed), gain)
        given = self.inputs(seed)
        return Point(self, state, given, self.outputs(state, given), gain, seed)

    def outputs(self, state: Mapping[str, Tensor], given: tuple[Any, Any] | None = None) -> list[Tensor]:
        """All floating-point and complex outputs on a state dict.

        Args:
            state: Tensors by name; the module's own stand for those left out.
            given: Positional and keyword arguments instead of the random ones of this object.

        Raises:
            SpaceError: The module cannot be run so.
        """
        args, kwargs = given or (self.args, self.kwargs)
        tensors = {name: state.get(name, own) for name, own in self.own.items()}
        watched = [name for name in tensors if name not in self.written]
        fresh = tensors.keys() if self.unseen else self.written
        tensors.update({name: tensors[name].clone() for name in fresh})
        versions = {name: tensors[name]._version for name in watched}
        try:
            with unchanged(self.net), torch.no_grad(), double_precision(), same_numbers(self.seed):
                args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
                given_names = {name.removeprefix(self.prefix): t for name, t in tensors.items()}
                result = torch.func.functional_call(self.net, given_names, args, kwargs, tie_weights=False)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise SpaceError(
                f"cannot certify {self.name}: it does not run on random weights in float64, got "
                f"{type(error).__name__}: {reason}. Trace it without certify=True"
            ) from error
        self.unseen = False
        self.written |= {name for name in watched if tensors[name]._version != versions[name]}
        leaves = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        leaves = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in map(_dense, leaves)]
        return [t.double() for t in leaves if t.is_floating_point() and t.numel()]


@dataclass(frozen=True)
class Point:
    """Weights and inputs of a network, and what it gives on them.

    Attributes:
        evaluation: Runs the network.
        state: The weights.
        given: Positional and keyword arguments.
        base: The outputs.
        gain: The size of the weights.
        seed: What they were drawn with.
    """

    evaluation: Evaluation
    state: dict[str, Tensor]
    given: tuple[Any, Any]
    base: list[Tensor]
    gain: float
    seed: int

    @property
    def usable(self) -> bool:
        """Whether there are outputs, all finite and some of them not zero."""
        return bool(self.base) and all(t.isfinite().all() for t in self.base) and any(t.any() for t in self.base)

    def change(self, state: Mapping[str, Tensor]) -> float:
        """The relative change of the outputs on other weights."""
        return relative_change(self.evaluation.outputs(state, self.given), self.base)

    def magnified(self, space: WeightSpace) -> float:
        """By how much a relative change of all weights is magnified in the outputs."""
        return self.change(_nudged(self.state, space, torch.Generator().manual_seed(self.seed))) / NUDGE


def relative_change(new: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """Return ``max |new - base| / max |base|``, the largest over several tensors; zero tensors count absolutely.

    It is infinite if any entry is not a number, or if there are other tensors than before.
    """
    if [a.shape for a in new] != [b.shape for b in base]:
        return math.inf
    found = [((a - b).abs().max() / (b.abs().max() or 1.0)).item() for a, b in zip(new, base, strict=True)]
    return max((c if c == c else math.inf for c in found), default=0.0)


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
        return (convolution if func is torch.ops.aten.convolution.default else func)(*args, **kwargs)


def _raised(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.float64 if x in LOW else torch.complex128 if x in LOW_COMPLEX else x
    return doubled(x) if x.dtype in (*LOW, *LOW_COMPLEX) else x


def doubled(tensor: Tensor) -> Tensor:
    """A tensor with floating-point and complex numbers in double precision; others as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


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
        number = torch.complex128 if tensor.is_complex() else torch.float64
        draw = torch.randn(spec.shape, generator=generator, dtype=number)
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
                new[name] = draw.to(device=tensor.device, dtype=number)
    return new


def _nudged(state: Mapping[str, Tensor], space: WeightSpace, generator: torch.Generator) -> dict[str, Tensor]:
    """Every weight multiplied by a number next to one."""
    new = dict(state)
    for spec in space.tensors:
        noise = torch.rand(spec.shape, generator=generator, dtype=torch.float64).to(state[spec.name].device)
        nudged = state[spec.name] * (1 + NUDGE * SPREAD * (noise - 0.5))
        new.update({name: nudged for name in (spec.name, *spec.aliases) if name in new})
    return new


def _random_like(x: Tensor, generator: torch.Generator) -> Tensor:
    if not (x.is_floating_point() or x.is_complex()):
        return x
    number = torch.complex128 if x.is_complex() else torch.float64
    return torch.randn(x.shape, generator=generator, dtype=number).to(x.device)
