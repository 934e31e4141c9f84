"""An ONNX graph as an ``nn.Module``: what is run, in order, and the weights under their names in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Ref:
    """Where the network finds a tensor: the number of a computed value, or the name of a weight."""

    source: int | str


class Node(nn.Module):
    """One operation.

    Args:
        function: What computes it.
        arguments: Its arguments in order: references, and plain values.
        settings: Its keyword arguments.
        first: Number of its first result.
        width: How many results it has.
        several: Whether it gives a tuple.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[Any], settings: Mapping[str, Any], first: int,
        width: int, several: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.function, self.arguments, self.settings = function, tuple(arguments), dict(settings)
        self.first, self.width, self.several = first, width, several

    def forward(self, *tensors: Tensor) -> Any:
        """Compute, given the tensors that the references stand for, in order."""
        supply = iter(tensors)
        filled = [next(supply) if isinstance(a, Ref) else a for a in self.arguments]
        return self.function(*filled, **self.settings)


class OnnxModule(nn.Module):
    """The network of an ONNX file, run with torch.

    Weights have the names and layouts of the file, except those of recurrent layers, which are in PyTorch's pieces
    (``W.0.input``, ``R.0.state``, ... for direction 0).

    Args:
        inputs: Names of the inputs, in order.
        nodes: Names and operations, in order; results are numbered after the inputs.
        outputs: The values to return: references, or constants.
        weights: Weights by name.
    """

    def __init__(
        self, inputs: Sequence[str], nodes: Sequence[tuple[str, Node]], outputs: Sequence[Any],
        weights: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_names, self.outputs = tuple(inputs), tuple(outputs)
        self.nodes = nn.Module()
        self.places: dict[str, tuple[str, ...]] = {}
        self.order: list[str] = []
        self.places |= {name: _place(self, name, tensor) for name, tensor in weights.items()}
        self.order += [_add(self.nodes, name, node) for name, node in nodes]

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph; one output alone is returned as a tensor, several as a tuple."""
        values: dict[int | str, Any] = dict(enumerate(inputs))
        for name in self.order:
            node: Any = self.nodes._modules[name]
            tensors = [self._fetch(a, values) for a in node.arguments if isinstance(a, Ref)]
            result = node(*tensors)
            for number, tensor in enumerate(result if node.several else (result,)):
                values[node.first + number] = tensor
        results = tuple(self._fetch(o, values) if isinstance(o, Ref) else o for o in self.outputs)
        return results[0] if len(results) == 1 else results

    def _fetch(self, reference: Ref, values: Mapping[int | str, Tensor]) -> Any:
        if not isinstance(reference.source, str):
            return values[reference.source]
        module: Any = self
        *path, last = self.places[reference.source]
        for part in path:
            module = module._modules[part]
        return module._parameters[last]


def _place(root: nn.Module, name: str, tensor: Tensor) -> tuple[str, ...]:
    """Register a weight so that its key in the state dict is its name; where torch forbids that, with ``_`` added."""
    module = root
    path = []
    *parts, last = name.split(".")
    for part in parts:
        part = part or "_"
        while not isinstance(module._modules.get(part), nn.Module):
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
                break
            part += "_"
        path.append(part)
        module = module._modules[part]  # type: ignore[assignment]
    last = last or "_"
    while hasattr(module, last):
        last += "_"
    module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return (*path, last)


def _add(nodes: nn.Module, name: str, node: Node) -> str:
    key = name.replace(".", "_") or "_"
    count = 1
    while hasattr(nodes, key):
        count += 1
        key = f"{name.replace('.', '_')}_{count}"
    nodes.add_module(key, node)
    return key
