"""From an ``nn.Module`` to a flat graph of ATen operations: one run without data, written down as it goes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metanet.space.exporting import Inputs, Program, arguments, decompositions, evaluating, export, kept

PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
"""What a module may return beside tensors."""


class Unrecorded(Exception):
    """Something that a recording cannot express; ``torch.export`` may."""


def capture(module: nn.Module, example_inputs: Inputs) -> Program:
    """The graph of a module in eval mode; weights are neither copied nor read, and may be on the meta device.

    The module is run once on fake tensors and its operations are recorded. What a recording cannot express (writing
    into views, higher-order operations) goes through ``torch.export``, which gives the same graph, only slower.

    Raises:
        SpaceError: Both failed; the message carries the reason that ``torch.export`` gave.
    """
    args, kwargs = arguments(example_inputs)
    if all(p.is_meta for p in module.parameters()):
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    try:
        with evaluating(module):
            return Recorder().run(module, args, kwargs)
    except Exception:  # whatever it was, torch.export decides whether the module can be traced
        return export(module, args, kwargs)


class Recorder(TorchDispatchMode):
    """Writes every ATen operation that is run under it into a graph.

    It works below autograd, where torch still sees composite operations whole: those that have a decomposition or none
    of the kept names are taken apart, and their parts are recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.sources: dict[fx.Node, tuple[InputKind, str | None]] = {}
        self.constants: dict[str, Tensor] = {}
        self.lifted: dict[int, tuple[Tensor, Tensor]] = {}  # by id: real tensors, and their fakes
        self.views: set[int] = set()  # storages that more than one tensor sees
        self.path: list[str] = []  # the modules being run
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.table, self.kept = decompositions(), kept()

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
        """Record a call.

        Raises:
            Exception: Whatever the module raises on tensors without data; ``Unrecorded`` for what no graph can hold.
        """
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # fused transformer layers have no decomposition
        try:
            with self.fake, torch.inference_mode(), torch.compiler.set_stance("force_eager"):
                state = self._state(module)
                args, kwargs = pytree.tree_map(self._user_input, (args, dict(kwargs)))
                with _paths(module, self.path), self:
                    result = torch.func.functional_call(module, state, args, dict(kwargs))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        leaves = pytree.tree_leaves(result)
        if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
            raise Unrecorded("an output is of a type that torch does not know how to look into")
        self.graph.output(tuple(self._node(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        for node in reversed(self.graph.nodes):
            if node.op == "call_function" and not node.users:
                self.graph.erase_node(node)
        return Program(self.graph, self.sources, self.constants)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation: taken apart, rewritten without its side effect, or recorded."""
        kwargs = kwargs or {}
        if func.namespace == "prim":  # questions about a tensor
            return func(*args, **kwargs)
        if func not in self.kept:
            with self:
                apart = self._taken_apart(func, args, kwargs)
            if apart is not NotImplemented:
                return apart
        if func._schema.is_mutable:
            return self._in_place(func, args, kwargs)
        call = pytree.tree_map_only(Tensor, self._fake, (args, kwargs))
        result = func(*call[0], **call[1])
        self._write(func, call, result)
        return result

    def _taken_apart(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation's decomposition, if it has one."""
        if func in self.table:
            return self.table[func](*args, **kwargs)
        return func.decompose(*args, **kwargs) if func._can_decompose() else NotImplemented

    def _in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that overwrites its first argument: that tensor stands for the new value from now on."""
        target, name = args[0], func._schema.name.partition("::")[2]
        written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
        functional = getattr(packet, func._overloadname, None)
        moves = torch.Tag.inplace_view in func.tags
        if functional is None or len(written) != 1:
            raise Unrecorded(f"{func} overwrites an argument")
        if not isinstance(target, FakeTensor) or (_storage(target) in self.views and not moves):
            raise Unrecorded(f"{func} overwrites what other tensors see")
        if self._node(target).op != "call_function":
            raise Unrecorded(f"{func} overwrites an input or a weight")
        if moves:  # the tensor is about to get another shape: keep what it was
            self._node(target).meta["val"] = torch.ops.aten.alias.default(target)
        with self:
            new = functional(*args, **kwargs)
        if not moves and (new.shape != target.shape or new.dtype != target.dtype):
            raise Unrecorded(f"{func} gives another type than its argument has")
        func(*pytree.tree_map_only(Tensor, self._fake, args), **pytree.tree_map_only(Tensor, self._fake, kwargs))
        target.recorded = self._node(new)  # type: ignore[attr-defined]
        return target

    def _write(self, func: Any, call: tuple[Any, Any], result: Any) -> None:
        """Add a node; each of several results is read from it by number."""
        args, kwargs = pytree.tree_map_only(Tensor, self._node, call)
        node = self.graph.call_function(func, args, kwargs)
        path = self.path[-1] if self.path else ""
        node.meta = {"val": result, "nn_module_stack": {path: (path, "")}}
        seen = {_storage(t) for t in pytree.tree_leaves(call) if isinstance(t, Tensor)}
        several = isinstance(result, tuple | list)
        for number, tensor in enumerate(result if several else (result,)):
            if not isinstance(tensor, Tensor):
                if tensor is not None and (several or not isinstance(tensor, PLAIN)):
                    raise Unrecorded(f"{func} gives nested results")
                continue
            tensor.recorded = node  # type: ignore[attr-defined]
            if several:
                tensor.recorded = self.graph.call_function(operator.getitem, (node, number))  # type: ignore[attr-defined]
                tensor.recorded.meta = {**node.meta, "val": tensor}  # type: ignore[attr-defined]
            (self.views.add if _storage(tensor) in seen else self.views.discard)(_storage(tensor))

    def _node(self, tensor: Tensor) -> fx.Node:
        """The node that yields a tensor.

        Raises:
            Unrecorded: It was made where the recorder could not see.
        """
        found = getattr(self._fake(tensor), "recorded", None)
        if not isinstance(found, fx.Node) or found.graph is not self.graph:
            raise Unrecorded("a tensor was made by no recorded operation")
        return found

    def _fake(self, tensor: Tensor) -> Tensor:
        """The fake of a tensor; one that is real and no weight is a constant of the code."""
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self.lifted:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = tensor
            self.lifted[id(tensor)] = tensor, self._placeholder(name, tensor, InputKind.CONSTANT_TENSOR, name)
        return self.lifted[id(tensor)][1]

    def _state(self, module: nn.Module) -> dict[str, Tensor]:
        """Fakes of all parameters and buffers; of a tensor with several names, under the first."""
        kept = module.state_dict(keep_vars=True).keys()
        state = {}
        for kind, tensors in (
            (InputKind.PARAMETER, module.named_parameters()),
            (InputKind.BUFFER, module.named_buffers()),
        ):
            for name, tensor in tensors:
                state[name] = self._placeholder(f"p_{name.replace('.', '_')}", tensor, kind, name)
                self.lifted[id(tensor)] = tensor, state[name]  # code may hold it by another way than its attribute
                if name not in kept:
                    self.constants[name] = tensor
        return state

    def _user_input(self, leaf: Any) -> Any:
        return self._placeholder("input", leaf, InputKind.USER_INPUT, None)

    def _placeholder(self, name: str, value: Any, kind: InputKind, target: str | None) -> Any:
        """A graph input and what stands for it during the run; graph inputs come before everything else."""
        first = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
        with self.graph.inserting_before(first) if first is not None else ExitStack():
            node = self.graph.placeholder(name)
        stand_in = self.fake.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value
        node.meta = {"val": stand_in}
        self.sources[node] = kind, target
        if isinstance(value, Tensor):
            setattr(stand_in, "recorded", node)  # noqa: B010  # fake tensors do not declare it
        return stand_in


def _storage(tensor: Tensor) -> int:
    """What identifies the memory of a tensor."""
    return tensor.untyped_storage()._cdata


@contextmanager
def _paths(module: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep the names of the modules being run in a list, innermost last."""

    def leave(*call: Any) -> None:
        path.pop()

    handles = []
    for name, child in module.named_modules():
        handles.append(child.register_forward_pre_hook(lambda m, args, name=name: path.append(name)))
        handles.append(child.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
