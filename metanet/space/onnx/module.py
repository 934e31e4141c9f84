"""An ONNX graph as an ``nn.Module``: what is run, in order, and the weights under their names in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from metanet.errors import MetanetError, SpaceError
from metanet.space.onnx.budget import RUN, RUN_WORK


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
        label: Name and operator of the node in the file, for messages.

    Attributes:
        bytes: The most that it takes in double precision on the example inputs, its results included.
        work: Its additions and multiplications there.
    """

    bytes = 0
    work = 0

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[Any], settings: Mapping[str, Any], first: int,
        width: int, several: bool, label: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.label = label
        self.function, self.arguments, self.settings = function, tuple(arguments), dict(settings)
        self.first, self.width, self.several = first, width, several

    def forward(self, *tensors: Tensor) -> Any:
        """Compute, given the tensors that the references stand for, in order.

        Raises:
            SpaceError: The operation fails on these values; the message names node and operator.
        """
        supply = iter(tensors)
        filled = [next(supply) if isinstance(a, Ref) else a for a in self.arguments]
        try:
            return self.function(*filled, **self.settings)
        except MetanetError:
            raise
        except Exception as error:  # torch raises many unrelated types
            shapes = [list(t.shape) for t in tensors]
            raise SpaceError(
                f"node {self.label} of the ONNX file fails on inputs of the shapes {shapes}: {first_line(error)}"
            ) from error

    @property
    def read(self) -> set[int]:
        """Numbers of the values that it reads."""
        return {a.source for a in self.arguments if isinstance(a, Ref) and isinstance(a.source, int)}

    @property
    def made(self) -> range:
        """Numbers of its results."""
        return range(self.first, self.first + self.width)


class OnnxModule(nn.Module):
    """The network of an ONNX file, run with torch.

    Weights have the names and layouts of the file, except those of recurrent layers, which are in PyTorch's pieces
    (``W.0.input``, ``R.0.state``, ... for direction 0).

    Args:
        inputs: Names of the inputs, in order.
        nodes: Names and operations, in order; results are numbered after the inputs.
        outputs: The values to return: references, or constants.
        weights: Weights by name.

    Attributes:
        label: The file that it was built from, for messages.
        run_bytes: About the most memory that one run on the example inputs takes in double precision.
        run_limit: What a run that nobody asked for may take.
        run_work: Additions and multiplications of one run on the example inputs.
        work_limit: Those that a run that nobody asked for may take.
    """

    label = "an ONNX file"
    run_bytes = 0
    run_limit = RUN
    run_work = 0
    work_limit = RUN_WORK

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
        returned = {o.source for o in self.outputs if isinstance(o, Ref)}
        last = {number: at for at, (_, node) in enumerate(nodes) for number in (*node.made, *node.read)}
        self.spent: list[list[int]] = [[] for _ in nodes]
        for number, at in last.items():
            if number not in returned:
                self.spent[at].append(number)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph; one output alone is returned as a tensor, several as a tuple."""
        values: dict[int | str, Any] = dict(enumerate(inputs))
        for name, spent in zip(self.order, self.spent, strict=True):
            node: Any = self.nodes._modules[name]
            tensors = [self._fetch(a, values) for a in node.arguments if isinstance(a, Ref)]
            result = node(*tensors)
            for number, tensor in enumerate(result if node.several else (result,)):
                values[node.first + number] = tensor
            for number in spent:  # so that memory is that of what is still needed
                del values[number]
        results = tuple(self._fetch(o, values) if isinstance(o, Ref) else o for o in self.outputs)
        return results[0] if len(results) == 1 else results

    def check_run(self) -> None:
        """Compare the memory and the operations of a run with what a file of this size may ask for.

        Raises:
            SpaceError: One of them is more.
        """
        if self.run_bytes > self.run_limit:
            raise SpaceError(
                f"{self.label}: a run takes about {self.run_bytes:,} bytes in double precision, more than "
                f"{self.run_limit:,}, so it is not certified. Give smaller inputs"
            )
        if self.run_work > self.work_limit:
            raise SpaceError(
                f"{self.label}: a run takes about {self.run_work:,} additions and multiplications, more than "
                f"{self.work_limit:,}, so it is not certified. Give smaller inputs"
            )

    def _fetch(self, reference: Ref, values: Mapping[int | str, Tensor]) -> Any:
        if not isinstance(reference.source, str):
            return values[reference.source]
        module: Any = self
        *path, last = self.places[reference.source]
        for part in path:
            module = module._modules[part]
        return module._parameters[last]


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


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
