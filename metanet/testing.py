"""Checks for metanets and layers, public: test your own with them.

Everywhere a permutation acts as ``new[i] = old[perm[i]]``. Checks run in float64 and divide by the spread (the
standard deviation over nets) of what is compared: an untrained metanet's outputs differ so little between nets that an
absolute tolerance would pass anything. Every check returns the error it measured, or raises ``AssertionError``.
"""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from metanet.graph import NeuronGraph
from metanet.space.labels import Label, product_label
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.move import Move, sample

TOLERANCE = 1e-9

Output = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | NeuronGraph
Predictor = Callable[[NeuronGraph], Tensor]
Layer = Callable[[NeuronGraph], Output]
"""Answers per net ``[B, ...]``, per neuron (one ``[B, N, ...]`` per node set), or per weight (tensors by name)."""


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
    """A permutation of axes, proven not to be the identity on any with two or more entries."""
    move = dataclasses.replace(sample(space, seed=seed, axes=axes), factors={})
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
def assert_gauge_invariant(
    predict: Predictor, graph: NeuronGraph, kind: str, seed: int = 0, tolerance: float = TOLERANCE
) -> float:
    """Predictions stay under the gauges of one kind that the space has.

    Neurons are rescaled (``kind="scale"``), flipped (``"sign"``), permuted within heads and groups (``"permutation"``).

    Returns:
        The error found, relative to the spread over nets.
    """
    move = sample(graph.space, seed=seed, kinds=(kind,))
    if not move.factors:
        raise AssertionError(f"the space has no gauges of kind {kind}, so the check would show nothing")
    base = predict(graph)
    error = ((predict(graph.permute(move)) - base).abs() / spread(base)).max().item()
    if not error <= tolerance:
        raise AssertionError(f"predictions move by {error:.1e} of their spread under {kind} symmetries")
    return error


@torch.no_grad()
def assert_equivariant(layer: Layer, graph: NeuronGraph, seed: int = 0, tolerance: float = TOLERANCE) -> float:
    """Answers per neuron or per weight are permuted when neurons are: ``f(g theta) = g f(theta)``.

    Args:
        layer: A function from graphs to one ``[B, N, ...]`` per node set, to tensors by name, or to a graph.
        graph: At least two nets, in float64.
        seed: Seed of the permutations.
        tolerance: Largest error accepted, relative to the largest spread over nets of each tensor.

    Returns:
        The largest error found.
    """
    base, worst = layer(graph), 0.0
    scales = _scales(_tensors(base))
    for axes in [*([a.name] for a in graph.space.free_axes if a.size > 1), None]:
        move = random_move(graph.space, seed, axes)
        found, wanted = _tensors(layer(graph.permute(move))), _tensors(_moved(base, graph, move))
        parts = zip(found, wanted, scales, strict=True)
        error = max(((a - b).abs().max() / s).item() for a, b, s in parts)
        if not error <= tolerance:
            where = axes or "all axes"
            raise AssertionError(f"answers differ by {error:.1e} of their spread when {where} are permuted")
        worst = max(worst, error)
    return worst


def _scales(answers: Sequence[Tensor]) -> list[Tensor]:
    """The largest spread over nets of each tensor; of all tensors for those that are alike for all nets."""
    scales = [t.std(0).max() for t in answers]
    if not (overall := max(scales, default=torch.zeros(()))) > 0:
        raise AssertionError("answers do not differ between nets, so nothing can be compared")
    return [s if s > TOLERANCE * overall else overall for s in scales]  # alike but for rounding


def _tensors(output: Output) -> list[Tensor]:
    if isinstance(output, NeuronGraph):
        output = output.tensors
    if isinstance(output, Mapping):
        return [output[name] for name in sorted(output)]
    return [output] if isinstance(output, Tensor) else list(output)


def _moved(output: Output, graph: NeuronGraph, move: Move) -> Output:
    if isinstance(output, NeuronGraph):
        return output.permute(move)
    if isinstance(output, Mapping):
        return move.apply(output, batched=True)
    if isinstance(output, Tensor):
        raise TypeError("answers per net are compared by assert_invariant; got a single tensor")
    return [_rows(values, node.axes, move) for values, node in zip(output, graph.layout.nodes, strict=True)]


def _rows(values: Tensor, axes: Sequence[str], move: Move) -> Tensor:
    """Permute the rows ``[B, N, ...]`` of a node set."""
    sizes = {a.name: a.size for a in move.space.axes}
    label = product_label([Label(sizes[name], "axis", name) for name in axes if name in sizes])
    index = label.gather(move.perms)
    return values if index is None else values.index_select(1, index)


@torch.no_grad()
def assert_batch_independent(layer: Layer, graph: NeuronGraph, tolerance: float = TOLERANCE) -> float:
    """A net's prediction is the same alone, in any batch, and beside any neighbours.

    Returns:
        The largest error found, relative to the spread over nets.
    """
    base, count, worst = _tensors(layer(graph)), graph.batch_size, 0.0
    scales = [spread(base[0])] if len(base) == 1 else _scales(base)
    batches = [[i] for i in range(count)] + [list(range(count))[::-1], list(range(0, count, 2)), [0, 0, count - 1]]
    for numbers in batches:
        parts = zip(_tensors(layer(graph.select(numbers))), base, scales, strict=True)
        error = max(((a - b[numbers]).abs() / s).max().item() for a, b, s in parts)
        if not error <= tolerance:
            raise AssertionError(f"predictions move by {error:.1e} of their spread within the batch {numbers}")
        worst = max(worst, error)
    return worst


@torch.no_grad()
def assert_sensitive(predict: Predictor, graph: NeuronGraph, seed: int = 0, threshold: float = 1e-6) -> float:
    """Permuting one tensor alone, or one dimension of it, which changes the function, moves the prediction.

    A layer that is blind to it (one that pools rows and columns separately, say) passes every invariance test and sees
    little. Only tensors whose axes occur in other tensors too are tried, each with at least one free axis.

    Returns:
        The smallest change, relative to the spread over nets.
    """
    base = predict(graph)
    scale, least = spread(base), float("inf")
    for name, where, moved in _uncoupled(graph, random_move(graph.space, seed)):
        changed = predict(NeuronGraph(graph.space, {**graph.tensors, name: moved}))
        change = ((changed - base).abs() / scale).max().item()
        if not change > threshold:
            what = f"'{name}'{where} alone is permuted"
            raise AssertionError(f"predictions do not see it when {what} (change {change:.1e})")
        least = min(least, change)
    return least


def _uncoupled(graph: NeuronGraph, move: Move) -> Iterator[tuple[str, str, Tensor]]:
    """Each tensor that shares a free axis with others, permuted as a whole and in each of its dimensions alone."""
    space = graph.space
    whole = move.apply(graph.tensors, batched=True)
    for spec in space.tensors:
        others = {axis for t in space.tensors if t.name != spec.name for axis in t.axes}
        if not any(space.axis[a].free and a in others for a in spec.axes):
            continue
        yield spec.name, "", whole[spec.name]
        indices = [label.gather(move.perms) for label in spec.labels]
        moving = [d for d, index in enumerate(indices) if index is not None]
        for dim in moving if len(moving) > 1 else []:
            index = indices[dim]
            if index is not None and others.intersection(spec.labels[dim].axes):
                yield spec.name, f", dimension {dim},", graph.tensors[spec.name].index_select(dim + 1, index)


def assert_gradients(module: nn.Module, graph: NeuronGraph) -> None:
    """Every parameter of the module gets a gradient that is finite and not zero."""
    module.zero_grad()
    torch.stack([t.square().sum() for t in _tensors(module(graph))]).sum().backward()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is None or not gradient.isfinite().all() or not gradient.abs().sum() > 0:
            found = "none" if gradient is None else "zero or non-finite values"
            raise AssertionError(f"parameter '{name}' gets no usable gradient (got {found})")


@torch.no_grad()
def assert_reloads(first: nn.Module, second: nn.Module, graph: NeuronGraph) -> None:
    """A module gives another module's exact answers after loading its saved state, and gave others before.

    Args:
        first: The module to save.
        second: One of the same configuration with other parameters.
        graph: Nets to answer on.
    """
    wanted, before = _tensors(first.eval()(graph)), _tensors(second.eval()(graph))
    if all(torch.equal(a, b) for a, b in zip(wanted, before, strict=True)):
        raise AssertionError("both modules give the same answers before loading, so the check would show nothing")
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    if not all(torch.equal(a, b) for a, b in zip(wanted, _tensors(second(graph)), strict=True)):
        raise AssertionError("the reloaded module gives other answers: its state dict does not hold all of it")


def assert_same_function(
    fast: Layer, slow: Layer, parameters: Sequence[nn.Parameter], graph: NeuronGraph, tolerance: float = TOLERANCE
) -> float:
    """Two implementations with the same parameters agree, in values and in the gradients of all parameters.

    Returns:
        The largest error found, relative to the largest entry of each value or gradient.
    """
    results = []
    for layer in (fast, slow):
        values = _tensors(layer(graph))
        loss = torch.stack([v.square().sum() for v in values]).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        results.append([*values, *filled])
    floor = 1e-9 * max(t.abs().max().item() for t in results[1])
    pairs = zip(*results, strict=True)
    error = max(((a - b).abs().max() / b.abs().max().clamp_min(floor)).item() for a, b in pairs)
    if not error <= tolerance:
        raise AssertionError(f"the two implementations differ by {error:.1e} of the largest value or gradient")
    return error
