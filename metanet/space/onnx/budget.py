"""How much memory the network of a file may take: files of a few bytes can ask for any amount."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metanet.space.onnx.registry import Fixed, Refused

ROOM = 2**26
"""Bytes that a file may compute while it is built, beyond four times its size."""

RUN = 2**26
"""Bytes that one run may take in double precision, beyond four times the file's size, if nobody asked for the run."""

ENTRIES = 2**31
"""Entries of one value of the network."""

UNSEEN = 2**20
"""Entries of the inputs of an operator whose results cannot be told from shapes."""


class Budget:
    """Counts what is computed while a network is built.

    Args:
        total: Bytes that may be computed.
    """

    def __init__(self, total: int) -> None:
        self.total = self.left = total

    def check(self, function: Callable[..., Any], given: Sequence[Any], told: dict[str, Any]) -> None:
        """Find out from shapes alone how much a call on known values allocates, and take it from the budget.

        Raises:
            Refused: It is more than is left.
        """
        alone = [_meta(item) for item in given]
        with torch.device("meta"), Allocations(self.left) as allocations:  # what is made anew has no data either
            try:
                function(*alone, **told)
            except TooMuch:
                raise Refused(
                    f"it computes more from the file's constants than {self.total:,} bytes, which is what a file of "
                    f"this size may take"
                ) from None
            except Exception:  # it depends on values, or fails: the call itself says so
                entries = sum(t.numel() for t in alone if isinstance(t, Tensor))
                if entries > UNSEEN:
                    raise Refused(
                        f"it computes with the values of {entries:,} constants; {UNSEEN:,} are accepted"
                    ) from None
        self.left -= allocations.bytes


class TooMuch(Exception):
    """More is allocated than is left."""


class Allocations(TorchDispatchMode):
    """Adds up the bytes of all results of operations that are no views, on tensors without data."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.bytes = limit, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor):
                    self.bytes += tensor.numel() * tensor.element_size()
        if self.bytes > self.limit:
            raise TooMuch
        return result


def check_entries(tensors: Sequence[Tensor]) -> None:
    """Refuse values that no machine could hold.

    Raises:
        Refused: One has too many entries.
    """
    for tensor in tensors:
        if tensor.numel() > ENTRIES:
            shape = "x".join(map(str, tensor.shape))
            raise Refused(f"its result has the shape {shape}, which is more than {ENTRIES:,} entries")


def _meta(item: Any) -> Any:
    if isinstance(item, Fixed):
        return Fixed(item.tensor.to("meta"), item.numbers)
    return item.to("meta") if isinstance(item, Tensor) else item


def run_bytes(steps: Sequence[tuple[Sequence[int], Sequence[int]]], sizes: dict[int, int], kept: set[int]) -> int:
    """The most bytes that are alive at once in a run.

    Args:
        steps: For each operation the numbers of the values that it reads and of those that it makes.
        sizes: Bytes of each value.
        kept: Values that are returned.
    """
    last = {number: at for at, (read, _) in enumerate(steps) for number in read}
    alive = most = 0
    for at, (read, made) in enumerate(steps):
        alive += sum(sizes.get(number, 0) for number in made)
        most = max(most, alive)
        gone = {n for n in (*read, *made) if last.get(n, at) == at and n not in kept}
        alive -= sum(sizes.get(number, 0) for number in gone)
    return most
