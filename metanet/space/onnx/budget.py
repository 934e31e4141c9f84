"""How much memory and time the network of a file may take: files of a few bytes can ask for any amount."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from metanet.space import unfolded
from metanet.space.onnx.registry import Refused

ROOM = 2**26
"""Bytes that a file may compute while it is built, beyond four times its size."""

RUN = 2**26
"""Bytes that one run may take in double precision, beyond four times the file's size, if nobody asked for the run."""

ENTRIES = 2**31
"""Entries of one value of the network."""

WORK = 2**32
"""Multiplications and additions that a file may ask for while it is built."""

RUN_WORK = 2**32
"""Those that one run may take, beyond :data:`WORK_PER_BYTE` times the file's size, if nobody asked for the run."""

WORK_PER_BYTE = 512

VALUES = {"nonzero": 8, "masked_select": 1, "_unique2": 3, "unique_dim": 3, "unique_consecutive": 3, "index": 8}
"""Operations whose sizes depend on values, and the most entries that they give for each entry of their inputs."""


class Budget:
    """Counts what is computed while a network is built.

    Args:
        total: Bytes that may be computed.
    """

    def __init__(self, total: int) -> None:
        self.total = self.left = total
        self.work = WORK

    def measure(self, meta: bool) -> Measured:
        """What a call is to be made under: on the meta device it is only measured, else held within what is left."""
        return Measured() if meta else Measured(self.left, self.work)

    def take(self, measured: Measured) -> None:
        """Take a call on known values from what is left."""
        self.left, self.work = self.left - measured.bytes, self.work - measured.work


class TooMuch(Exception):
    """More is computed than is left; the message says what that was."""


class Measured(TorchDispatchMode):
    """Adds up what operations allocate and compute, and stops before one that goes beyond what is left.

    Args:
        limit: Bytes of all results; None for calls on the meta device, which are only measured.
        work: Additions and multiplications.

    Attributes:
        bytes: The bytes of all results so far that are no views.
        work: The additions and multiplications so far, and one for every entry of a result.
        peak: The most entries that were alive at once, with what convolutions copy.
    """

    def __init__(self, limit: int | None = None, work: int = 0) -> None:
        super().__init__()
        self.limit, self.most = limit, work
        self.bytes = self.work = self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        new = not func.is_view and not func._schema.is_mutable
        if self.limit is None or not new:
            result = func(*args, **kwargs)
            if new:
                self._count(func, args, kwargs, result)
            return result
        self._count(func, args, kwargs, _shapes(func, args, kwargs))
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        entries = sum(t.numel() for t in made)
        copied = entries
        self.bytes += sum(t.numel() * t.element_size() for t in made)
        self.work += entries
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.work += int(formula(*args, **kwargs, out_val=result))
        if func is torch.ops.aten.convolution.default:
            copied += unfolded.copied(args[0], args[1], made[0], bool(args[6]))
        self.peak = max(self.peak, self.alive + copied)
        self._hold(made)
        if self.limit is None:
            return
        if self.bytes + 8 * (copied - entries) > self.limit:
            raise TooMuch(f"{self.limit:,} bytes, which is what is left to a file of this size")
        if self.work > self.most:
            raise TooMuch(f"{self.most:,} additions and multiplications")

    def _hold(self, made: Sequence[Tensor]) -> None:
        for tensor in made:
            self.alive += tensor.numel()
            weakref.finalize(tensor, self._free, tensor.numel()).atexit = False

    def _free(self, entries: int) -> None:
        self.alive -= entries


def _shapes(func: Any, args: Any, kwargs: Any) -> Any:
    """The results of an operation on the meta device, as large as they can be where sizes depend on values."""
    alone, told = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    told = {**told, "device": torch.device("meta")} if "device" in told else told
    factor = VALUES.get(func.overloadpacket.__name__)
    try:
        return func(*alone, **told)
    except Exception:  # it depends on values, or fails: then the call itself says so
        tensors = [t for t in pytree.tree_leaves(alone) if isinstance(t, Tensor)]
        if factor is None and func not in PLAIN_NUMBERS:
            raise
        return torch.empty((factor or 0) * sum(t.numel() for t in tensors), dtype=torch.long, device="meta")


PLAIN_NUMBERS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


def check_entries(tensors: Sequence[Tensor]) -> None:
    """Refuse values that no machine could hold.

    Raises:
        Refused: One has too many entries.
    """
    for tensor in tensors:
        if tensor.numel() > ENTRIES:
            shape = "x".join(map(str, tensor.shape))
            raise Refused(f"its result has the shape {shape}, which is more than {ENTRIES:,} entries")


def run_bytes(
    steps: Sequence[tuple[Sequence[int], Sequence[int]]], sizes: dict[int, int], kept: set[int], peaks: Sequence[int]
) -> int:
    """The most bytes that are alive at once in a run.

    Args:
        steps: For each operation the numbers of the values that it reads and of those that it makes.
        sizes: Bytes of each value.
        kept: Values that are returned.
        peaks: For each operation the most bytes that it takes itself, its results included.
    """
    last = {number: at for at, (read, _) in enumerate(steps) for number in read}
    alive = most = 0
    for at, (read, made) in enumerate(steps):
        most = max(most, alive + peaks[at])
        alive += sum(sizes.get(number, 0) for number in made)
        most = max(most, alive)
        gone = {n for n in (*read, *made) if last.get(n, at) == at and n not in kept}
        alive -= sum(sizes.get(number, 0) for number in gone)
    return most
