"""Templates: what an operation is taken apart into, learnt once for arguments of the same layouts.

Networks repeat themselves: the same layer on values of the same shape. The first time, an operation is taken apart by
torch, and the outcome of every part is found; the entries that this wrote on the tape are kept as a template, which
writes them again whenever the operation meets arguments of the same layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metanet.space.record.standins import Layout, Memory, StandIn
from metanet.space.record.tape import Entry, Tape, replaced

MANY = 1 << 15  # templates kept
VALUES = (int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class Arguments:
    """What a template depends on in the arguments of a call.

    Attributes:
        key: Hashable: the layouts of tensors, which of them are the same, and all else.
        tensors: The first stand-in of every entry, in order.
    """

    def __init__(self, func: Any, args: Any, kwargs: Any, lift: Any) -> None:
        self.tensors: dict[Entry, StandIn] = {}
        self._numbers: dict[Entry, int] = {}
        self._lift = lift
        parts: list[Any] = [func, torch.get_default_dtype(), torch.is_autocast_enabled("cpu")]  # what else types follow
        self._read(args, parts)
        parts.append(...)
        for name, item in kwargs.items():
            parts.append(name)
            self._read((item,), parts)
        self.key = tuple(parts)

    def _read(self, items: Any, parts: list[Any]) -> None:
        for item in items:
            kind = type(item)
            if kind is StandIn:
                self._tensor(item, parts)
            elif kind in VALUES:
                parts.append(item)
            elif kind is tuple or kind is list or kind is torch.Size:
                parts.append("(")
                self._read(item, parts)
                parts.append(")")
            elif isinstance(item, Tensor):
                self._tensor(self._lift(item), parts)
            else:  # 1, 1.0 and True are equal, but not the same to torch
                parts += (kind, item)

    def _tensor(self, item: StandIn, parts: list[Any]) -> None:
        self.tensors.setdefault(item.entry, item)
        parts += (item.known, self._numbers.setdefault(item.entry, len(self._numbers)))


@dataclass(frozen=True)
class Slot:
    """A place of a template: an argument, or what a step yields."""

    number: int


@dataclass(frozen=True)
class Made:
    """A tensor that a template yields.

    Attributes:
        slot: What yields it.
        known: Its layout.
        memory: The argument whose memory it sees, or -1 - n for the n-th memory of its own.
    """

    slot: Slot
    known: Layout
    memory: int


@dataclass(frozen=True)
class Template:
    """What a call writes, and what it yields.

    Attributes:
        steps: Operation, arguments with slots, keyword arguments, and result of every entry.
        result: What it yields: nested, with :class:`Made` for tensors and :class:`Slot` for arguments handed back.
    """

    steps: tuple[tuple[Any, Any, Any, Any], ...]
    result: Any

    @staticmethod
    def of(tensors: Sequence[StandIn], steps: Sequence[Entry], result: Any) -> Template | None:
        """The template of a call that has been recorded; None if it used other tensors than its arguments.

        Args:
            tensors: Its arguments.
            steps: What it wrote.
            result: What it yielded.
        """
        slots = {t.entry: Slot(n) for n, t in enumerate(tensors)}
        slots |= {e: Slot(n) for n, e in enumerate(steps, start=len(slots))}
        own: list[Memory] = []

        def made(tensor: StandIn) -> Any:
            given = [n for n, t in enumerate(tensors) if t is tensor]
            if given:
                return Slot(given[0])
            sources = [n for n, t in enumerate(tensors) if t.memory is tensor.memory]
            if not sources and tensor.memory not in own:
                own.append(tensor.memory)
            memory = sources[0] if sources else -1 - own.index(tensor.memory)
            return Made(slots[tensor.entry], tensor.known, memory)

        try:
            written = [
                (e.func, *(replaced(part, Entry, slots.__getitem__) for part in (e.args, e.kwargs)), e.result)
                for e in steps
            ]
            return Template(tuple(written), replaced(result, StandIn, made))
        except KeyError:
            return None

    def replay(self, tape: Tape, given: Arguments, path: str) -> Any:
        """Write it again and yield its result."""
        tensors = list(given.tensors.values())
        entries = list(given.tensors)

        def entry(slot: Slot) -> Entry:
            return entries[slot.number]

        for func, args, kwargs, result in self.steps:
            entries.append(Entry(func, replaced(args, Slot, entry), replaced(kwargs, Slot, entry), result, path))
        tape.entries.extend(entries[len(tensors) :])
        own: dict[int, Memory] = {}

        def made(item: Made) -> StandIn:
            memory = tensors[item.memory].memory if item.memory >= 0 else own.get(item.memory)
            if memory is None:
                memory = own[item.memory] = Memory()
            return StandIn.of(item.known, memory, entry(item.slot))

        if type(self.result) is Made:
            return made(self.result)
        handed = replaced(self.result, Slot, lambda slot: tensors[slot.number])
        return replaced(handed, Made, made)
