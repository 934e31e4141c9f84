"""From a state dict without code to its weight space, by names, order and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from metanet.checkpoint.checkpoint import Checkpoint
from metanet.errors import SpaceError
from metanet.space.axes import freeze
from metanet.space.inference.chain import Chain, State, owned
from metanet.space.inference.layers import Layer, find_layers
from metanet.space.inference.order import is_lost, orders
from metanet.space.inference.refusal import refuse
from metanet.space.inference.resnet import ResidualBlock, is_residual, split
from metanet.space.resolve import resolve
from metanet.space.weight_space import WeightSpace

Step = Layer | ResidualBlock
SEVERAL = {"heads branches experts nets models": "parallel layers", "block blocks": "residual blocks"}
CHANNELS_LAST = ("keras", "keras-h5")  # formats whose flattened maps list channels innermost


def infer(
    checkpoint_or_state_dict: Checkpoint | Mapping[str, Tensor],
    activation: str | None = None,
    norm_groups: int | None = None,
    channels_last: bool | None = None,
) -> WeightSpace:
    """Infer the weight space of an MLP, a CNN or an INR from its tensors alone.

    Layers are read as a plain chain: linear and convolutional layers (grouped where the shapes leave no doubt), flatten
    between them, norm layers, PReLU. Residual networks are understood in torchvision's naming. The order is that of the
    state dict, or that of the numbers in the names if the file lost it. The first convolution is taken as ungrouped.
    Two things leave no trace in names and shapes: a skip connection that is not named as one, and a permutation before
    a flatten. The space is therefore uncertified until :func:`metanet.certify` has checked it on code.

    Args:
        checkpoint_or_state_dict: A loaded file, or tensors by name.
        activation: The nonlinearity after every hidden layer, which no state dict tells; None leaves it open.
        norm_groups: Groups of norm layers without running statistics, which no state dict tells either; 1 stands for
            layer norm and instance norm.
        channels_last: Whether the linear layer after a flatten reads maps with the channels innermost, as Keras does
            and code that permutes before flattening; by default only files and names of Keras do.

    Returns:
        The space, uncertified, with source ``"infer"``: equal to the traced one, except that strides and activations
        are unknown and the positions of a flattened map are one axis.

    Raises:
        SpaceError: Names and shapes fit no architecture, or several; the message names the tensor and the alternatives.
    """
    source = checkpoint_or_state_dict
    state = dict(source.tensors if isinstance(source, Checkpoint) else source)
    state = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    _refuse_tied(state)
    layers = find_layers(state, norm_groups, is_residual(state))
    if not any(layer.kind in ("linear", "convolution") for layer in layers):
        raise SpaceError(
            f"cannot infer a weight space: got no weight among {len(state)} tensors ({', '.join(list(state)[:4])})"
        )
    _refuse_several(layers)
    if channels_last is None:
        keras = isinstance(source, Checkpoint) and source.format in CHANNELS_LAST
        channels_last = keras or any(layer.inputs_last for layer in layers)
    chain, end = _only_chain(_candidates(list(state), layers), channels_last)
    if end.dim is not None:
        freeze(end.dim, "output")
    for draft in chain.walk.links:
        hidden = activation is not None and draft.depth < end.depth
        draft.activation = activation if hidden else None
    statistics = {layer.names[role] for layer in layers for role in ("mean", "variance") if role in layer.names}
    names = [name for name in state if name in chain.dims]
    return replace(resolve(owned(names, chain.dims, statistics), chain.walk, source="infer"), certified=False)


def _candidates(names: Sequence[str], layers: Sequence[Layer]) -> Iterator[list[Step]]:
    """Every order of computation that is possible by the names."""
    lost = is_lost(names, layers)
    if not is_residual(names):
        yield from map(list, orders(layers) if lost else [tuple(layers)])
        return
    stem, blocks, head = split(layers, not lost)
    for start in orders(stem) if lost else [tuple(stem)]:
        for finish in orders(head) if lost else [tuple(head)]:
            yield [*start, *blocks, *finish]


def _only_chain(candidates: Iterator[list[Step]], channels_last: bool) -> tuple[Chain, State]:
    """The one order whose sizes chain.

    Raises:
        SpaceError: None does (the error of the one that came furthest), or several do.
    """
    found: list[tuple[list[Step], Chain, State]] = []
    best: tuple[int, SpaceError] | None = None
    for steps in candidates:
        chain, state = Chain(channels_last), State()
        done = 0
        try:
            for done, step in enumerate(steps):  # noqa: B007 (where it stopped matters)
                state = step.run(chain, state) if isinstance(step, ResidualBlock) else chain.step(step, state)
        except SpaceError as error:
            if best is None or done > best[0]:
                best = done, error
            continue
        found.append((steps, chain, state))
        if len(found) > 1:
            raise _two_orders(found[0][0], found[1][0])
    if not found:
        raise best[1] if best else SpaceError("cannot infer a weight space: the names allow no order of layers")
    return found[0][1], found[0][2]


def _two_orders(first: Sequence[Step], second: Sequence[Step]) -> SpaceError:
    at = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a is not b)
    a, b = (step if isinstance(step, Layer) else step.body[0] for step in (first[at], second[at]))
    return refuse(
        *a.main, f"and '{b.main[0]}' {list(b.main[1])} could come in either order: the file lost its order",
        [f"'{a.main[0]}' first", f"'{b.main[0]}' first", "a state dict in the order of the code"],
    )  # fmt: skip


def _refuse_tied(state: Mapping[str, Tensor]) -> None:
    """Raise if two names share one storage: how often a layer is used is not in the file."""
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        if tensor.is_meta or tensor.numel() == 0 or not tensor.is_floating_point():
            continue
        key = tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())
        if seen.setdefault(key, name) != name:
            raise refuse(name, tensor.shape, f"shares its memory with '{seen[key]}'", ["one layer that is used twice"])


def _refuse_several(layers: Sequence[Layer]) -> None:
    """Raise on numbered heads and blocks: which values they read, and what is added to them, is not in the file."""
    for layer in layers:
        for depth, component in enumerate(layer.components[:-1]):
            known = {kind for names, kind in SEVERAL.items() if component.lower() in names.split()}
            start = layer.components[: depth + 1]
            siblings = {o.components[depth + 1] for o in layers if o.components[: depth + 1] == start != o.components}
            if known and len(siblings) > 1 and layer.components[depth + 1].isdigit():
                raise refuse(*layer.main, f"is in one of {len(siblings)} {component}", [*known, "a chain of layers"])
