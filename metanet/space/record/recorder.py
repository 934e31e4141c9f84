"""From an ``nn.Module`` to a flat graph of ATen operations: one run without data, written down as it goes."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metanet.errors import MetanetError, SpaceError
from metanet.space.exporting import Inputs, Program, arguments, decompositions, evaluating, export, kept
from metanet.space.outputs import PLAIN
from metanet.space.record.outcomes import outcome
from metanet.space.record.standins import Layout, Memory, StandIn, Unrecorded, layout_of
from metanet.space.record.tape import Entry, Tape, replaced
from metanet.space.record.templates import MANY, Arguments, Template

TEMPLATES: dict[tuple[Any, ...], Template] = {}
"""What is known of operations, from all recordings so far."""


COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def capture(module: nn.Module, example_inputs: Inputs) -> Program:
    """The graph of a module in eval mode; weights are neither copied nor read, and may be on the meta device.

    The module is run once on tensors without data and its operations are recorded. What a recording cannot express
    (writing into views, higher-order operations) goes through ``torch.export``, which gives the same graph, only
    slower.

    Raises:
        SpaceError: Both failed; the message carries the reason that ``torch.export`` gave.
    """
    args, kwargs = arguments(example_inputs)
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.layout in COMPRESSED:
            raise SpaceError(
                f"{type(module).__name__} could not be traced: tensor '{name}' has layout {tensor.layout}, and torch "
                f"ends the program where it makes a stand-in of it; accepted: dense tensors (tensor.to_dense())"
            )
    if all(p.is_meta for p in module.parameters()):
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    try:
        with evaluating(module):
            return Recorder().run(module, args, kwargs)
    except Exception as error:  # whatever it was, torch.export decides whether the module can be traced
        own = isinstance(error, MetanetError) and not isinstance(error, Unrecorded)
        if own and error.__cause__ is None:  # what a node of an ONNX file raised for another reason may be torch's own
            raise
    try:
        program = export(module, args, kwargs)
        if not _is_symbolic(program):
            return program
        problem = SpaceError(
            f"{type(module).__name__} could not be traced: the sizes of its tensors depend on the values of its "
            f"inputs. Accepted: sizes that follow from the shapes of the inputs, and from whole numbers such as edges"
        )
    except SpaceError as error:
        problem = error
    if _indices(args, kwargs):
        with contextlib.suppress(Exception), evaluating(module):
            return Recorder(fixed_indices=True).run(module, args, kwargs)
    raise problem


def _indices(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an input holds whole numbers or truth values, with data."""
    return any(map(_is_index, pytree.tree_leaves((args, dict(kwargs)))))


def _is_index(leaf: Any) -> bool:
    return type(leaf) is Tensor and not leaf.is_meta and not (leaf.is_floating_point() or leaf.is_complex())


def _is_symbolic(program: Program) -> bool:
    """Whether a size in a graph is not known before the graph runs."""
    for node in program.nodes:
        for leaf in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool):
                return True
            if isinstance(leaf, Tensor) and not all(isinstance(size, int) for size in leaf.shape):
                return True
    return False


class Recorder(TorchDispatchMode):
    """Writes every ATen operation that is run under it on a tape.

    It works below autograd, where torch still sees composite operations whole: those that have a decomposition or none
    of the kept names are taken apart, and their parts are recorded.

    Args:
        fixed_indices: Whether inputs of whole numbers and truth values, such as the edges of a graph, are constants of
            the network: what is computed of them alone is computed, so that sizes may depend on their values.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare every operation the detour that keeps dynamo away: nothing is compiled during a recording."""
        return False

    def __init__(self, fixed_indices: bool = False) -> None:
        super().__init__()
        self.fixed_indices = fixed_indices
        self.tape = Tape()
        self.constants: dict[str, Tensor] = {}
        self.lifted: dict[int, tuple[Tensor, StandIn]] = {}  # by id: real tensors, and their stand-ins
        self.path: list[str] = []  # the modules being run
        self.learning = False  # whether the operations at hand are parts of one whose template is being made

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
        """Record a call.

        Raises:
            Exception: Whatever the module raises on tensors without data; ``Unrecorded`` for what no graph can hold.
        """
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # fused transformer layers have no decomposition
        try:
            with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
                state = self._state(module)
                args, kwargs = pytree.tree_map(self._user_input, (args, dict(kwargs)))
                with _paths(module, self.path), self:
                    result = torch.func.functional_call(module, state, args, dict(kwargs))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        leaves = pytree.tree_leaves(result)
        if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
            raise Unrecorded("an output is of a type that torch does not know how to look into")
        outputs = tuple(self._entry(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        graph, sources = self.tape.graph(outputs, _example)
        names = {target for _, target in sources.values()}
        return Program(graph, sources, {n: t for n, t in self.constants.items() if n in names})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation: written by its template, or taken apart and its parts learnt."""
        kwargs = kwargs or {}
        if self.fixed_indices:
            held = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if held and not any(isinstance(tensor, StandIn) for tensor in held):
                return func(*args, **kwargs)
            args = _without_masks(func, args)
        if self.learning or _way(func) in ("question", "in place"):
            return self._perform(func, args, kwargs)
        given = Arguments(func, args, kwargs, self._lift)
        try:
            template = TEMPLATES.get(given.key)
        except TypeError:  # an argument cannot be hashed
            return self._perform(func, args, kwargs)
        if template is None:
            return self._learn(func, args, kwargs, given)
        return template.replay(self.tape, given, self.path[-1] if self.path else "")

    def _learn(self, func: Any, args: Any, kwargs: Any, given: Arguments) -> Any:
        """Run an operation, and keep what it wrote as a template."""
        start, tensors = len(self.tape.entries), list(given.tensors.values())
        self.learning = True
        try:
            result = self._perform(func, args, kwargs)
        finally:
            self.learning = False
        if all(t.entry is entry for entry, t in given.tensors.items()):
            template = Template.of(tensors, self.tape.entries[start:], result)
            if len(TEMPLATES) >= MANY:
                TEMPLATES.clear()
            if template is not None:
                TEMPLATES[given.key] = template
        return result

    def _perform(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation: taken apart, rewritten without its side effect, or recorded."""
        way = _way(func)
        if way == "question":
            return func(*args, **kwargs)
        if way == "table":
            with self:
                return decompositions()[func](*args, **kwargs)
        if way == "composite":
            with self:
                apart = func.decompose(*args, **kwargs)
            if apart is not NotImplemented:
                return apart
        if func._schema.is_mutable:
            return self._in_place(func, args, kwargs)
        args, kwargs = self._lift_all(args), self._lift_all(kwargs)
        return self._write(func, args, kwargs, outcome(func, args, kwargs))

    def _in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that overwrites its first argument: that tensor stands for the new value from now on."""
        target, name = args[0], func._schema.name.partition("::")[2]
        written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
        functional = getattr(packet, func._overloadname, None)
        if functional is not None and functional._schema.arguments[0].type.kind() != "TensorType":  # pow.Scalar(2, x)
            functional = getattr(packet, f"Tensor_{func._overloadname}", None)
        moves = torch.Tag.inplace_view in func.tags
        if functional is None or len(written) != 1:
            raise Unrecorded(f"{func} overwrites an argument")
        if not isinstance(target, StandIn) or (target.memory.is_shared(target) and not moves):
            raise Unrecorded(f"{func} overwrites what other tensors see")
        if target.entry.source is not None:
            raise Unrecorded(f"{func} overwrites an input or a weight")
        with self:
            new = self._lift(functional(*args, **kwargs))
        if not moves and (new.shape != target.shape or new.dtype != target.dtype):
            raise Unrecorded(f"{func} gives another type than its argument has")
        if moves:
            target.become(new.known)
        target.entry = new.entry
        return target

    def _write(self, func: Any, args: Any, kwargs: Any, found: Any) -> Any:
        """Add an entry; each of several results is read from it by number."""
        path = self.path[-1] if self.path else ""
        args, kwargs = (replaced(a, StandIn, lambda t: t.entry) for a in (args, kwargs))
        if not isinstance(found, list):
            entry = Entry(func, args, kwargs, found[0] if isinstance(found, tuple) else found, path)
            self.tape.entries.append(entry)
            if not isinstance(found, tuple) and not isinstance(found, PLAIN):
                raise Unrecorded(f"{func} gives nested results")
            return self._made(found, entry) if isinstance(found, tuple) else found
        entry = Entry(func, args, kwargs, tuple(f[0] if f is not None else None for f in found), path)
        self.tape.entries.append(entry)
        results = []
        for number, one in enumerate(found):
            if one is not None:
                part = Entry(operator.getitem, (entry, number), {}, one[0], path)
                self.tape.entries.append(part)
                one = self._made(one, part)
            results.append(one)
        return results if func._schema.returns[0].type.kind() == "ListType" else tuple(results)

    def _made(self, found: tuple[Layout, Memory | None], entry: Entry) -> StandIn:
        """The stand-in of a result; a view shares its memory."""
        known, memory = found
        return StandIn.of(known, memory or Memory(), entry)

    def _entry(self, tensor: Tensor) -> Entry:
        """What yields a tensor."""
        return self._lift(tensor).entry

    def _lift(self, tensor: Tensor) -> StandIn:
        """The stand-in of a tensor; one that is real and no weight is a constant of the code."""
        if isinstance(tensor, StandIn):
            return tensor
        if id(tensor) not in self.lifted:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = tensor
            self.lifted[id(tensor)] = tensor, self._input(name, tensor, InputKind.CONSTANT_TENSOR, name)
        return self.lifted[id(tensor)][1]

    def _lift_all(self, items: Any) -> Any:
        """Nested arguments with stand-ins in place of real tensors."""
        if isinstance(items, Tensor):
            return self._lift(items)
        if type(items) in (tuple, list):
            return type(items)(map(self._lift_all, items))
        return {k: self._lift_all(i) for k, i in items.items()} if type(items) is dict else items

    def _state(self, module: nn.Module) -> dict[str, Tensor]:
        """Stand-ins of all parameters and buffers; of a tensor with several names, under the first."""
        kept = module.state_dict(keep_vars=True).keys()
        state: dict[str, Tensor] = {}
        for kind, tensors in (
            (InputKind.PARAMETER, module.named_parameters()),
            (InputKind.BUFFER, module.named_buffers()),
        ):
            for name, tensor in tensors:
                state[name] = made = self._input(f"p_{name.replace('.', '_')}", tensor, kind, name)
                made._is_param = kind is InputKind.PARAMETER  # what isinstance(.., nn.Parameter) looks at
                self.lifted[id(tensor)] = tensor, made  # code may hold it by another way than its attribute
                if name not in kept:
                    self.constants[name] = tensor
        return state

    def _user_input(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            if self.fixed_indices and _is_index(leaf):
                self._input("input", leaf, InputKind.USER_INPUT, None)  # an input that the graph does not read
                return leaf
            return self._input("input", leaf, InputKind.USER_INPUT, None)
        self.tape.inputs.append(Entry("input", (), {}, leaf, "", (InputKind.USER_INPUT, None)))
        return leaf

    def _input(self, name: str, tensor: Tensor, kind: InputKind, target: str | None) -> StandIn:
        """A graph input and what stands for it during the run."""
        entry = Entry(name, (), {}, layout_of(tensor, trained=tensor.requires_grad), "", (kind, target))
        self.tape.inputs.append(entry)
        return StandIn.of(entry.result, Memory(), entry)


def _without_masks(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put indices for masks whose values are known, so that the size of what they choose is known."""
    if func.name().partition(".")[0] not in ("aten::index", "aten::index_put", "aten::index_put_"):
        return args
    indices: list[Any] = []
    for index in args[1]:
        known = isinstance(index, Tensor) and not isinstance(index, StandIn) and index.dtype == torch.bool
        indices += torch.nonzero(index).unbind(1) if known else [index]
    return args[0], indices, *args[2:]


@functools.cache
def _way(func: Any) -> str:
    """How an operation is recorded."""
    if func.namespace == "prim":
        return "question"  # about a tensor
    if func not in kept() and func in decompositions():
        return "table"
    if func not in kept() and func._can_decompose():
        return "composite"
    return "in place" if func._schema.is_mutable else "plain"


def _example(result: Any) -> Any:
    """Tensors without data in place of layouts."""
    return replaced(result, Layout, lambda known: StandIn.of(known, Memory(), None))


@contextmanager
def _paths(module: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep the names of the modules being run in a list, innermost last."""
    names = {m: name for name, m in module.named_modules()}

    def enter(called: nn.Module, args: Any) -> None:
        if called in names:
            path.append(names[called])

    def leave(called: nn.Module, *call: Any) -> None:
        if called in names:
            path.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
