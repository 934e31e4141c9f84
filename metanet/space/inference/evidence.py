"""Signs in a file that its layers are not what names and sizes say: shared tensors, storage that sizes do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metanet.errors import SpaceError
from metanet.space.inference.layers import Layer
from metanet.space.inference.options import CHAIN, STORED, Reading
from metanet.space.inference.refusal import refuse
from metanet.space.inference.sizes import read_size

TWICE = "one layer that is used twice"


def refuse_shared(state: Mapping[str, Tensor], metadata: Mapping[str, str], reading: Reading) -> None:
    """Raise if two tensors are one: how often a layer is used, and where, is not in the file.

    Tensors are one if they share their memory, or if safetensors' metadata says that a second name was left out when
    the file was saved, or if they are equal, entry for entry, without being constant.

    Raises:
        SpaceError: Two tensors are one.
    """
    for left_out, name in metadata.items():
        if name in state and left_out not in state and "." in left_out:
            raise refuse(name, state[name].shape, f"stands for '{left_out}' too, by the file's metadata", [TWICE])
    memory: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    values: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in state.items():
        if tensor.is_meta or tensor.numel() == 0 or not tensor.is_floating_point():
            continue
        key = tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())
        if memory.setdefault(key, name) != name:
            raise refuse(name, tensor.shape, f"shares its memory with '{memory[key]}'", [TWICE])
        if tensor.numel() > 1 and not reading.chain:
            corners = tensor[(0,) * tensor.dim()].item(), tensor[(-1,) * tensor.dim()].item()
            values.setdefault((tuple(tensor.shape), tensor.dtype, *corners), []).append(name)
    for names in values.values():
        for name in names[1:]:
            if torch.equal(state[name].double(), state[names[0]].double()) and not _is_constant(state[name]):
                raise refuse(name, state[name].shape, f"equals '{names[0]}', entry for entry", [TWICE, CHAIN])


def _is_constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor[(0,) * tensor.dim()]).all())


def refuse_unclear_storage(order: Sequence[Layer], reading: Reading, residual: bool) -> None:
    """Raise if sizes do not show whether weights are stored ``[out, in]`` or ``[in, out]``.

    Matrices that are all square may be stored either way. A square kernel may belong to a transposed convolution, above
    all in a network that ends in maps, or where its taps are even in number, as those of learned upsampling are.

    Raises:
        SpaceError: The storage is not clear, and the user did not say it.
    """
    weights = [layer for layer in order if layer.kind in ("linear", "convolution")]
    if reading.transposed is not None or len(weights) < 2:
        return
    first = weights[0]
    if (
        first.kind == "linear"
        and not first.inputs_last
        and "bias" not in first.names
        and first.size == read_size(first)
    ):
        raise refuse(
            *first.main, "comes first, is square and has no bias",
            [STORED[0], "an embedding, whose rows are looked up by number"],
        )  # fmt: skip
    matrices = [layer for layer in weights if layer.kind == "linear" and "kernel" not in layer.names["weight"]]
    if matrices and all(layer.size == read_size(layer) for layer in matrices):
        raise refuse(*matrices[0].main, "is square, as all matrices of the file are", STORED)
    for layer in weights:
        shape = layer.shapes["weight"]
        if layer.kind != "convolution" or layer.inputs_last or residual or shape[0] != shape[1]:
            continue
        taps = shape[2:]
        if max(taps) > 1 and (weights[-1].kind == "convolution" or all(size % 2 == 0 for size in taps)):
            raise refuse(
                *layer.main, "has as many inputs as outputs, so that its storage does not show",
                ["a convolution, stored [out, in, ...]: pass transposed=False (--not-transposed)",
                 "a transposed convolution, stored [in, out, ...]"],
            )  # fmt: skip


def refuse_strange(state: Mapping[str, object]) -> None:
    """Raise on entries that hold weights in a form that is not read, which would disappear without a word.

    Raises:
        SpaceError: An entry is a nested mapping or an array, or a tensor without plain entries.
    """
    for name, value in state.items():
        if isinstance(value, Mapping) or (hasattr(value, "__array__") and not isinstance(value, Tensor)):
            what = f"a nested {type(value).__name__}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise SpaceError(
                f"cannot infer the weight space: '{name}' is {what}, not a tensor. Accepted: one flat mapping from "
                "names to torch tensors; metanet.load reads files that nest them"
            )
        if isinstance(value, Tensor):
            lazy = torch.nn.parameter.is_lazy(value)
            if lazy or value.is_nested or value.layout != torch.strided or value.numel() == 0:
                shape = [] if lazy or value.is_nested else value.shape
                kind = "not initialised" if lazy else "nested" if value.is_nested else (
                    "empty" if value.numel() == 0 else f"stored as {value.layout}"
                )  # fmt: skip
                raise refuse(str(name), shape, f"is {kind}", ["a plain dense tensor: convert it before"])
