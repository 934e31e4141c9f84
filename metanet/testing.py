"""Checks for metanets and layers, public: test your own with them.

Everywhere a permutation acts as ``new[i] = old[perm[i]]``. Checks run in float64 and divide by the spread (the
standard deviation over nets) of what is compared: an untrained metanet's outputs differ so little between nets that an
absolute tolerance would pass anything. Every check returns the error it measured, or raises ``AssertionError``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metanet.graph import NeuronGraph
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.move import Move, sample

TOLERANCE = 1e-9

Predictor = Callable[[NeuronGraph], Tensor]


def randomised_graph(space: WeightSpace, nets: int = 8, seed: int = 0) -> NeuronGraph:
    """Random nets of a space in float64: every tensor normal with deviation 1, running variances positive.

    Args:
        space: Their space.
        nets: How many.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    variances = {link.tensor for link in space.links if link.kind == "variance"}
    tensors = {}
    for name, shape in space.shapes.items():
        draw = torch.randn(nets, *shape, generator=generator, dtype=torch.float64)
        tensors[name] = draw.abs() + 0.1 if name in variances else draw
    return NeuronGraph(space, tensors)


def randomised_module(module: nn.Module, seed: int = 0) -> nn.Module:
    """A float64 copy in eval mode with perturbed parameters: zeros and ones of a fresh layer would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    clone = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in clone.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
            parameter.add_(0.1 * noise)
    return clone


def random_move(space: WeightSpace, seed: int = 0, axes: Sequence[str] | None = None) -> Move:
    """A permutation proven not to be the identity on any axis with two or more entries."""
    move = sample(space, seed=seed, axes=axes)
    still = [name for name, perm in move.perms.items() if torch.equal(perm, torch.arange(len(perm)))]
    if still or not move.perms:
        raise AssertionError(
            f"the permutation would show nothing: axes that stay {still}, axes that move {len(move.perms)}"
        )
    return move


def spread(predictions: Tensor) -> Tensor:
    """Standard deviation over nets, ``[B, ...] -> [...]``; it must not be zero."""
    deviation = predictions.std(0)
    if not (deviation > 0).all():
        raise AssertionError("predictions do not differ between nets, so nothing can be compared")
    return deviation


@torch.no_grad()
def assert_invariant(predict: Predictor, graph: NeuronGraph, seed: int = 0, tolerance: float = TOLERANCE) -> float:
    """Predictions stay when hidden neurons are permuted, on every axis alone and on all together.

    Args:
        predict: A metanet, or any function from graphs to ``[B, ...]``.
        graph: At least two nets, in float64.
        seed: Seed of the permutations.
        tolerance: Largest error accepted, relative to the spread over nets.

    Returns:
        The largest error found.
    """
    base = predict(graph)
    scale, worst = spread(base), 0.0
    for axes in [*([a.name] for a in graph.space.free_axes if a.size > 1), None]:
        moved = predict(graph.permute(random_move(graph.space, seed, axes)))
        error = ((moved - base).abs() / scale).max().item()
        if not error <= tolerance:
            raise AssertionError(
                f"predictions move by {error:.1e} of their spread when {axes or 'all axes'} are permuted"
            )
        worst = max(worst, error)
    return worst


@torch.no_grad()
def assert_batch_independent(predict: Predictor, graph: NeuronGraph, tolerance: float = TOLERANCE) -> float:
    """A net's prediction is the same alone, in any batch, and beside any neighbours.

    Returns:
        The largest error found, relative to the spread over nets.
    """
    base = predict(graph)
    scale, count = spread(base), graph.batch_size
    batches = [[i] for i in range(count)] + [list(range(count))[::-1], list(range(0, count, 2)), [0, 0, count - 1]]
    worst = 0.0
    for numbers in batches:
        error = ((predict(graph.select(numbers)) - base[numbers]).abs() / scale).max().item()
        if not error <= tolerance:
            raise AssertionError(f"predictions move by {error:.1e} of their spread within the batch {numbers}")
        worst = max(worst, error)
    return worst


@torch.no_grad()
def assert_sensitive(predict: Predictor, graph: NeuronGraph, seed: int = 0, threshold: float = 1e-6) -> float:
    """Permuting one tensor alone, which changes the function, moves the prediction.

    A layer that is blind to it (one that pools rows and columns separately, say) passes every invariance test and sees
    little. Only tensors whose axes occur in other tensors too are tried, each with at least one free axis.

    Returns:
        The smallest change over tensors, relative to the spread over nets.
    """
    base = predict(graph)
    scale, least = spread(base), float("inf")
    moved = random_move(graph.space, seed).apply(graph.tensors, batched=True)
    for spec in graph.space.tensors:
        others = {axis for t in graph.space.tensors if t.name != spec.name for axis in t.axes}
        if not any(graph.space.axis[a].free and a in others for a in spec.axes):
            continue
        changed = predict(NeuronGraph(graph.space, {**graph.tensors, spec.name: moved[spec.name]}))
        change = ((changed - base).abs() / scale).max().item()
        if not change > threshold:
            raise AssertionError(
                f"predictions do not see it when '{spec.name}' alone is permuted (change {change:.1e})"
            )
        least = min(least, change)
    return least


def assert_gradients(module: nn.Module, graph: NeuronGraph) -> None:
    """Every parameter of the module gets a gradient that is finite and not zero."""
    module.zero_grad()
    module(graph).square().sum().backward()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is None or not gradient.isfinite().all() or not gradient.abs().sum() > 0:
            found = "none" if gradient is None else "zero or non-finite values"
            raise AssertionError(f"parameter '{name}' gets no usable gradient (got {found})")
