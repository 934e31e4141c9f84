"""Running one function after another in processes of their own, forked from a parent that has imported everything."""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any

MEMORY = 14 << 30  # bytes of address space that a child may take
PATIENCE = 10  # wall seconds a CPU second: others may be using the machine


def isolated(function: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """What a function returns, computed in a forked process.

    The parent must not have run threads (torch: one thread, nothing trained).

    Args:
        function: Returns something that JSON can write.
        limit: CPU seconds after which it is killed.

    Returns:
        Its result with CPU seconds as ``cpu``; ``{"state": "refused", "reason": ..}`` if it raised,
        ``{"state": "crashed"}`` if its process died, ``{"state": "out of time"}`` if it was killed.
    """
    begin = time.perf_counter()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(function, writer, math.ceil(limit))
    os.close(writer)
    parts = []
    try:
        while True:
            left = begin + PATIENCE * limit - time.perf_counter()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                break
            part = os.read(reader, 1 << 16)
            if not part:
                break
            parts.append(part)
    finally:
        os.close(reader)
        _, status, used = os.wait4(child, 0)
    cpu = round(used.ru_utime + used.ru_stime, 3)
    if parts:
        return {**json.loads(b"".join(parts)), "cpu": cpu}
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return {"state": "out of time", "cpu": cpu}
    return {"state": "crashed", "reason": f"its process ended with status {status}", "cpu": cpu}


def _child(function: Callable[[], dict[str, Any]], writer: int, limit: int) -> None:
    """Compute, write the result and end the process without running anything of the parent's."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    try:
        found = function()
    except BaseException as error:  # whatever it is, it belongs into the table
        last = (str(error).strip().splitlines() or [""])[0]
        found = {"state": "refused", "reason": f"{type(error).__name__}: {last}"[:300]}
    with os.fdopen(writer, "wb") as out:
        out.write(json.dumps(found).encode())
    os._exit(0)
