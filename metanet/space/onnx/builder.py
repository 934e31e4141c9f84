"""From the nodes of an ONNX graph to the operations of a network.

Every node is run once: on the values themselves where they do not depend on the network's input, otherwise on the meta
device, for shapes. Shapes, axes and indices thereby become plain numbers, whatever arithmetic the file uses to get
them, and branches and loops are resolved. What remains is a list of operations on tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metanet.errors import CheckpointError, MetanetError, SpaceError
from metanet.space.onnx import operators  # noqa: F401  (importing the package registers the operators)
from metanet.space.onnx.budget import Budget, Measured, TooMuch, check_entries
from metanet.space.onnx.file import OnnxFile, attributes_of, label_of
from metanet.space.onnx.legacy import aligned
from metanet.space.onnx.module import Node, Ref, first_line
from metanet.space.onnx.registry import Operator, Refused, lookup, settings
from metanet.space.onnx.schema import check
from metanet.space.onnx.values import Given, Value, bind, examples, is_data, numbers_for_operands, weight

Scope = dict[str, Given]
NODES = 100_000
"""Nodes that are built, those of loops once for each iteration."""


class Builder:
    """Collects the operations and weights of a network.

    Args:
        file: The file.
        inputs: Example inputs by name, on the meta device.
        memory: Bytes that may be computed from the file's constants.
    """

    def __init__(self, file: OnnxFile, inputs: Mapping[str, Tensor], memory: int) -> None:
        self.file = file
        self.budget = Budget(memory)
        self.built = 0
        self.lost: dict[str, str] = {}  # names of outputs that are not computed, and the nodes that should
        self.label = ""  # of the node that is being built
        self.read: dict[int, tuple[Any, Value]] = {}  # constants of the file by identity, with what keeps them alive
        self.sizes: dict[int, int] = {}  # bytes of each computed value in double precision
        self.count = len(inputs)
        self.nodes: list[tuple[str, Node]] = []
        self.weights: dict[str, Tensor] = {}
        self.joined: dict[
            Ref | None, tuple[Value | None, bool]
        ] = {}  # states of recurrent layers, and whether they are transposed
        self.scope: Scope = {"": None}
        self.scope |= {name: Value(x, Ref(number)) for number, (name, x) in enumerate(inputs.items())}

    def graph(self, graph: Any, scope: Scope, where: str) -> list[Given]:
        """Build a graph or subgraph, and return its outputs.

        Raises:
            SpaceError: A node cannot be built; the message names it.
        """
        scope = dict(scope)
        for tensor in graph.initializer:
            scope[tensor.name] = self.constant(tensor.name, where, tensor)
        if graph.sparse_initializer:
            raise SpaceError(f"{self.file.path}: its graph has sparse initialisers. Export them dense")
        for index, node in enumerate(graph.node):
            inside = f"{where}{'.' if where else ''}{node.name or f'{node.op_type}_{index}'}"
            self.label = label_of(node, index)
            made = dict(zip(node.output, self._guarded(node, index, scope, where, inside), strict=False))
            scope |= {name: value for name, value in made.items() if value is not None}
            self.lost |= {name: label_of(node, index) for name in node.output if name and name not in scope}
        return [scope.get(output.name) for output in graph.output]

    def find(self, scope: Scope, name: str) -> Given:
        """The value of that name; None for an input that is left out.

        Raises:
            Refused: There is none.
        """
        if name in scope:
            return scope[name]
        raise Refused(f"its input '{name}' {self.why_lost(name)}")

    def why_lost(self, name: str) -> str:
        """Why there is no value of that name."""
        if name in self.lost:
            return f"is an output of node {self.lost[name]} that metanet does not compute"
        return "is computed nowhere: the graph is damaged"

    def _guarded(self, node: Any, index: int, scope: Scope, where: str, inside: str) -> Sequence[Given]:
        """Build one node; whatever goes wrong becomes an error that names file, node and operator."""
        start = f"{self.file.path}: cannot build node {label_of(node, index)}"
        try:
            return self.node(node, scope, where, inside)
        except Refused as reason:
            raise SpaceError(
                f"{start}: {reason}. Export the network without it, or trace its PyTorch module instead"
            ) from None
        except CheckpointError as error:
            raise error if str(self.file.path) in str(error) else CheckpointError(f"{start}: {error}") from None
        except MetanetError:
            raise
        except Exception as error:  # damaged files lead anywhere; the cause stays attached
            raise SpaceError(
                f"{start}: {type(error).__name__}: {first_line(error)}. The file is damaged: export it again"
            ) from error

    def constant(self, name: str, where: str, proto: Any) -> Value:
        """A tensor of the file: a weight if it holds floating-point numbers. In a loop it is the same in every turn.

        Raises:
            CheckpointError: It is damaged.
        """
        if id(proto) not in self.read:
            try:
                tensor = self.file.tensor(proto)
            except CheckpointError as error:
                raise CheckpointError(f"{self.file.path}: {error}") from None
            self.read[id(proto)] = proto, self._weight(name, where, tensor)
        return self.read[id(proto)][1]

    def _weight(self, name: str, where: str, tensor: Tensor) -> Value:
        if not is_data(tensor):
            return Value(tensor)
        key = f"{where}.{name}" if name in self.weights and where else name
        while key in self.weights:
            key += "'"
        self.weights[key] = tensor
        return weight(key, tensor)

    def node(self, node: Any, scope: Scope, where: str, inside: str) -> Sequence[Given]:
        """Build one node: what it yields."""
        from metanet.space.onnx.control import CONTROL

        self.built += 1
        if self.built > NODES:
            raise Refused(f"it is one of more than {NODES:,} nodes, loops written out")
        check(node, self.file.opset)
        if node.op_type == "Constant" and not node.domain:
            return [self._constant_node(node, where)]
        found = attributes_of(node, self.file)
        inputs = [self.find(scope, name) for name in node.input]
        if self.file.opset < 11 and not node.domain:
            inputs = aligned(self, node.op_type, inputs, found)
        control = CONTROL.get(node.op_type) if not node.domain else None
        if control is not None:
            return control(self, found, inputs, scope, inside)
        operator = lookup(node.domain, node.op_type)
        if operator is None:
            body = self.file.body(node, [None if v is None else v.example for v in inputs])
            scope = {"": None, **dict(zip(body.inputs, [*inputs, *[None] * len(body.inputs)], strict=False))}
            return self.graph(body.graph, scope, inside)
        outputs = list(node.output)
        while len(outputs) > 1 and not outputs[-1]:
            outputs.pop()
        return self.call(operator, inputs, found, node.name or f"{node.op_type}_{len(self.nodes)}", outputs)

    def call(
        self, operator: Operator, inputs: Sequence[Given], found: dict[str, Any], name: str, outputs: Sequence[str]
    ) -> list[Given]:
        """Run an operator on what is known, and write it down if anything remains to be run.

        Raises:
            Refused: It cannot be run without the values of the network's input, or at all.
        """
        if operator.unpack is not None:
            inputs = self._unpacked(operator, inputs, outputs)
        bound = bind(operator, inputs, found)
        values = [v for v in bound if isinstance(v, Value)]
        live, meta = any(v.ref is not None for v in values), not all(v.known for v in values)
        if live:
            bound = numbers_for_operands(operator, bound)
        given = examples(bound, meta)
        told = settings(operator, found, self.file.opset, len(outputs))
        measured = self.budget.measure(meta)
        results = _run(operator, given, told, measured)
        if not meta:
            self.budget.take(measured)
        several = isinstance(results, tuple | list)
        tensors = list(results) if several else [results]
        check_entries(tensors)
        if not live:
            return [Value(t) for t in tensors]
        if not meta and operator.materialise:
            return [self._own(outputs[i], t) for i, t in enumerate(tensors)]
        rejoined = self._rejoined(operator, bound, tensors)
        if rejoined is not None:
            return rejoined
        same = [next((v for v, g in zip(bound, given, strict=True) if g is t), None) for t in tensors]
        if all(v is not None for v in same):
            return same
        first, self.count = self.count, self.count + len(tensors)
        arguments = [(v.ref or v.example) if isinstance(v, Value) else v for v in bound]
        made_by = Node(operator.function, arguments, told, first, len(tensors), several, self.label)
        made_by.bytes, made_by.work = 8 * measured.peak, measured.work
        self.nodes.append((name, made_by))
        self.sizes |= {first + i: 8 * t.numel() for i, t in enumerate(tensors)}
        refs = [None if not t.is_meta and (meta or not is_data(t)) else Ref(first + i) for i, t in enumerate(tensors)]
        made: list[Given] = [Value(t, ref) for t, ref in zip(tensors, refs, strict=True)]
        self._remember(operator, found, bound, made)
        return made

    def _rejoined(self, operator: Operator, bound: Sequence[Any], tensors: Sequence[Tensor]) -> list[Given] | None:
        """The states of both directions side by side, where a file transposes and reshapes ONNX's layout to that.

        In between, directions are a dimension, along which the neurons of one could not be told from the other's.
        """
        whole, turned = self.joined.get(_ref(bound), (None, False))
        again = turned and operator.function.__name__ == "reshape"
        return [whole] if again and whole is not None and tensors[0].shape == whole.example.shape else None

    def _remember(
        self, operator: Operator, found: Mapping[str, Any], bound: Sequence[Any], made: Sequence[Any]
    ) -> None:
        """Note down where states of both directions stand apart, as they come and transposed."""
        whole, turned = self.joined.get(_ref(bound), (None, False))
        if operator.unpack is not None and found.get("direction") == "bidirectional" and not found.get("layout"):
            self.joined[made[0].ref] = made[-1], False
        elif whole is not None and not turned and list(found.get("perm", ())) == [0, 2, 1, 3]:
            self.joined[made[0].ref] = whole, True

    def _constant_node(self, node: Any, where: str) -> Value:
        if len(node.attribute) != 1:
            raise Refused(f"it has {len(node.attribute)} values; a constant has one")
        (attribute,) = node.attribute
        if attribute.name == "value":
            return self.constant(node.output[0], where, attribute.t)
        if attribute.name not in ("value_float", "value_floats", "value_int", "value_ints"):
            raise Refused(f"it holds a constant of the kind '{attribute.name}'")
        value = attributes_of(node, self.file)[attribute.name]
        return Value(torch.tensor(value, dtype=torch.float32 if "float" in attribute.name else torch.long))

    def _own(self, name: str, tensor: Tensor) -> Value:
        """A new weight: what a function of weights alone gives."""
        while name in self.weights:
            name += "'"
        self.weights[name] = tensor
        return weight(name, tensor)

    def _unpacked(self, operator: Operator, inputs: Sequence[Given], outputs: Sequence[str]) -> list[Given]:
        """The inputs of a recurrent layer with its weights in PyTorch's pieces, after lengths and states."""
        kind = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}[operator.function.__name__]
        pieces = operator.unpack(kind, [None if v is None else v.example for v in inputs])  # type: ignore[misc]
        rest = [*inputs, *[None] * 8]
        states = [None if _zero(s) else s for s in (rest[5:7] if kind == "LSTM" else rest[5:6])]
        found = []
        for position, suffix, tensor in pieces:
            named = rest[position]
            base = (named and named.weight) or f"{outputs[0]}.{'xWRB'[position]}"
            self.weights[f"{base}.{suffix}"] = tensor
            found.append(Value(tensor, Ref(f"{base}.{suffix}"), f"{base}.{suffix}"))
        return [inputs[0], rest[4], *states, *found]


def _zero(state: Given) -> bool:
    """Whether a state is zero from the start: then it is no weight."""
    return state is not None and state.known and not state.example.any()


def _ref(bound: Sequence[Any]) -> Ref | None:
    return bound[0].ref if bound and isinstance(bound[0], Value) else None


def _run(operator: Operator, given: Sequence[Any], told: dict[str, Any], measured: Measured) -> Any:
    try:
        with torch.no_grad(), measured:
            return operator.function(*given, **told)
    except Refused:
        raise
    except TooMuch as what:
        raise Refused(f"it computes more from the file's constants than {what}") from None
    except Exception as error:  # torch raises many unrelated types
        reason = first_line(error)
        shapes = [list(g.shape) for g in given if isinstance(g, Tensor)]
        if any(isinstance(g, Tensor) and g.is_meta for g in given) and "meta" in reason.lower():
            raise Refused("its result depends on the values that the network is given, not on their shapes") from None
        raise Refused(f"on inputs of the shapes {shapes} it fails ({reason})") from None
