"""From a state dict without code to its weight space, by names, order and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from metanet.checkpoint.checkpoint import Checkpoint
from metanet.errors import SpaceError
from metanet.space.axes import freeze
from metanet.space.inference.chain import Chain, State, owned
from metanet.space.inference.evidence import refuse_shared, refuse_strange, refuse_unclear_storage
from metanet.space.inference.layers import Layer, find_layers
from metanet.space.inference.naming import flattens
from metanet.space.inference.options import CHAIN, Reading
from metanet.space.inference.order import find_order, is_lost
from metanet.space.inference.refusal import refuse
from metanet.space.inference.resnet import ResidualBlock, is_residual, is_resnext, split
from metanet.space.recognise import UNKNOWN, recognise
from metanet.space.resolve import resolve
from metanet.space.weight_space import WeightSpace

Step = Layer | ResidualBlock
SEVERAL = {"heads branches experts nets models": "parallel layers", "block blocks": "residual blocks"}
KERAS = ("keras", "keras-h5")  # formats whose flattened maps list channels innermost


def infer(
    checkpoint_or_state_dict: Checkpoint | Mapping[str, Tensor],
    activation: str | None = None,
    norm_groups: int | None = None,
    channels_last: bool | None = None,
    *,
    chain: bool = False,
    grouped: bool | None = None,
    transposed: bool | None = None,
    architecture: str | None = None,
) -> WeightSpace:
    """Derive the weight space of a network without code from its tensors: recognise it, or infer a chain.

    Names and shapes of the architectures in the index of :mod:`metanet.space.recognise` are known: of torchvision,
    of timm (928 of 1,371) and some published sizes of transformers; 181 classes of transformers are built as the
    ``config.json`` beside a file says. The space of such a network is traced on the library's own module, without
    weights; it is not an inferred one. Everything below is about other networks: an MLP, a CNN or an
    INR whose space is inferred.

    Layers are read as a plain chain: linear and convolutional layers, flatten between them, norm layers, PReLU. Names
    or sizes must prove it. Names that denote chains by convention are the numbers of a Sequential, ``layers.0``,
    ``conv1``, ``bn1``, ``fc1``, ``features`` before ``classifier`` and a few like them
    (:mod:`metanet.space.inference.naming` lists them); they tell the order, too. Under other names the sizes of all
    values must differ, so that no two can be added, joined or read by one layer. Residual networks are understood in
    torchvision's naming. Whatever else the same names and shapes could mean is refused with the alternatives, unless an
    option chooses. The space is uncertified until :func:`metanet.certify` has checked it on code.

    No file tells some things that code may do under the names of a chain: use a numbered layer of equal input and
    output twice, add a skip connection around it, or shuffle channels between layers that have no parameters. Where
    code may do so, trace the module (:func:`metanet.trace`).

    Args:
        checkpoint_or_state_dict: A loaded file, or tensors by name.
        activation: The nonlinearity after every hidden layer, which no state dict tells; None leaves it open.
        norm_groups: Groups of norm layers without running statistics, which no state dict tells either; 1 stands for
            layer norm and instance norm.
        channels_last: Whether a layer after convolutions reads flattened maps with the channels innermost (True), as
            Keras does and code that permutes before flattening, or outermost (False). By default files and names of
            Keras mean the former, others the latter, where the number of positions is that of a square map; else it is
            asked.
        chain: Whether the layers are one chain, each used once, whatever their names are: in the order of the names
            where those tell one, else in that of the mapping or file, or if a safetensors file lost it, in the only
            order that fits the sizes.
        grouped: Whether a convolution that reads some of the channels before it is a grouped or depthwise one (True);
            by default it is asked.
        transposed: Whether matrices named ``weight`` are stored ``[in, out]`` (True) or ``[out, in]`` (False); by
            default the latter, and asked where all matrices are square.
        architecture: The architecture where several have these names and shapes, such as ``"timm:resnet50"`` or
            ``"transformers:BertModel"``, or the path of a ``config.json``; ``"unknown"`` to infer without recognition.

    Returns:
        The space, uncertified. Its source is the name of the recognised architecture (``"timm:resnet50"``), followed by
        what is taken as published because no shape tells it (``"timm:vit_tiny_patch16_224, with its published number
        of heads"``) unless ``architecture`` or a ``config.json`` says it; or ``"infer"``: then it is equal to the
        traced one, except that strides and activations are unknown and the positions of a flattened map are one axis.

    Raises:
        SpaceError: Names and shapes fit no architecture, or several; the message names the tensor, the alternatives and
            the options that choose. Or the architecture is known, and its library is not installed.
    """
    source = checkpoint_or_state_dict
    given = dict(source.tensors if isinstance(source, Checkpoint) else source)
    refuse_strange(given)
    if architecture != UNKNOWN and (found := recognise(source, architecture)) is not None:
        return found.space
    state = {name: tensor for name, tensor in given.items() if isinstance(tensor, Tensor)}
    file_format, metadata = (source.format, source.metadata) if isinstance(source, Checkpoint) else ("", {})
    reading = Reading(norm_groups, channels_last, file_format in KERAS, chain, grouped, transposed)
    refuse_shared(state, metadata, reading)
    residual = is_residual(state)
    layers = find_layers(state, reading, residual)
    if not any(layer.kind in ("linear", "convolution") for layer in layers):
        raise SpaceError(
            f"cannot infer a weight space: got no weight among {len(state)} tensors ({', '.join(list(state)[:4])})"
        )
    if not chain:
        _refuse_several(layers)
    reading = replace(reading, keras=reading.keras or any(layer.inputs_last for layer in layers))
    lost = is_lost(state, layers, file_format, chain)
    visited, end = _residual(layers, reading, lost) if residual else _chain(layers, reading, lost)
    if end.dim is not None:
        freeze(end.dim, "output")
    for draft in visited.walk.links:
        hidden = activation is not None and draft.depth < end.depth
        draft.activation = activation if hidden else None
    statistics = {layer.names[role] for layer in layers for role in ("mean", "variance") if role in layer.names}
    names = [name for name in state if name in visited.dims]
    return replace(resolve(owned(names, visited.dims, statistics), visited.walk, source="infer"), certified=False)


def _chain(layers: Sequence[Layer], reading: Reading, lost: bool) -> tuple[Chain, State]:
    order, problem = find_order(layers, reading, lost)
    visited = Chain(reading, flattens(order))
    end = visited.run(order, State())  # first: that layers do not fit together says more than that a name is unknown
    if problem is not None:
        raise problem.error()
    refuse_unclear_storage(order, reading, residual=False)
    return visited, end


def _residual(layers: Sequence[Layer], reading: Reading, lost: bool) -> tuple[Chain, State]:
    stem, blocks, head = split(layers, {} if lost else {layer.path: at for at, layer in enumerate(layers)})
    if reading.grouped is None and is_resnext(blocks):
        reading = replace(reading, grouped=True)
    visited, state = Chain(reading, flattens=True), State()
    steps: list[Step] = [*stem, *blocks, *head]
    for step in steps:
        state = step.run(visited, state) if isinstance(step, ResidualBlock) else visited.step(step, state)
    refuse_unclear_storage([*stem, *(layer for block in blocks for layer in block.body), *head], reading, residual=True)
    return visited, state


def _refuse_several(layers: Sequence[Layer]) -> None:
    """Raise on numbered heads and blocks: which values they read, and what is added to them, is not in the file."""
    for layer in layers:
        for depth, component in enumerate(layer.components[:-1]):
            known = {kind for names, kind in SEVERAL.items() if component.lower() in names.split()}
            start = layer.components[: depth + 1]
            siblings = {o.components[depth + 1] for o in layers if o.components[: depth + 1] == start != o.components}
            if known and len(siblings) > 1 and layer.components[depth + 1].isdigit():
                raise refuse(*layer.main, f"is in one of {len(siblings)} {component}", [*known, CHAIN])
