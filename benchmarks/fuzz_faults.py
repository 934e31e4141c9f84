"""Faults that ``fuzz.py --plant`` puts in place of ``load``, to show that each is reported as what it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any


def raise_bare() -> None:
    """Stand in for a reader that lets an error of Python through."""
    raise KeyError("planted")


def kill() -> None:
    """Stand in for a reader whose library dies."""
    os.kill(os.getpid(), signal.SIGSEGV)


def allocate() -> None:
    """Stand in for a reader that fills 1 GiB of memory."""
    bytearray(b"x") * (1 << 30)


def sleep() -> None:
    """Stand in for a reader that never ends."""
    time.sleep(1e6)


PLANTED: dict[str, Callable[[], Any]] = {"traceback": raise_bare, "crash": kill, "breach": allocate, "hang": sleep}
