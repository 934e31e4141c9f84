"""Shards from worker processes, in the order in which they are finished.

Workers are plain subprocesses that talk over pipes: nothing is forked, the user's main module is not imported again
(so a build works from a script without a main guard, a notebook or a test), and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

import torch

from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.zoo.shards import Job, Made, make_shard, plan_shards
from metanet.zoo.worker import ERROR, PROGRESS, SHARD, receive

LOST = b"L"


def make_shards(
    job: Job, numbers: Sequence[int], workers: int, progress: Callable[[int], None]
) -> Iterator[tuple[int, Made]]:
    """Yield shards with their numbers.

    Args:
        job: The recipe and where to work.
        numbers: Which of :func:`metanet.zoo.shards.plan_shards`.
        workers: Processes of one thread each; 0 works in this process. The content is the same.
        progress: Called with the number of nets trained since the last call.

    Raises:
        ZooError: A worker failed or died; the others are ended.
    """
    if workers == 0:
        yield from _here(job, numbers, progress)
    elif numbers:
        yield from _Crew(job, list(numbers), workers).run(progress)


def _here(job: Job, numbers: Sequence[int], progress: Callable[[int], None]) -> Iterator[tuple[int, Made]]:
    shards = plan_shards(job.recipe)
    for number in numbers:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums over several threads may round differently
        try:
            made = make_shard(job, shards[number], progress)
        finally:
            torch.set_num_threads(threads)
        yield number, made


class _Crew:
    def __init__(self, job: Job, numbers: list[int], workers: int) -> None:
        self._job, self._waiting, self._left = job, numbers[::-1], len(numbers)
        self._frames: queue.Queue[tuple[int, bytes, bytes]] = queue.Queue()
        self._count = min(workers, len(numbers))
        self._workers: list[subprocess.Popen[bytes]] = []
        self._errors: list[IO[bytes]] = []

    def run(self, progress: Callable[[int], None]) -> Iterator[tuple[int, Made]]:
        try:
            for number in range(self._count):
                self._start(number)
                self._tell(number, self._job.to_dict())
                self._next(number)
            while self._left:
                number, kind, content = self._frames.get()
                if kind == PROGRESS:
                    progress(int(content))
                elif kind == SHARD:
                    self._next(number)
                    self._left -= 1
                    shard, size = struct.unpack("<QQ", content[:16])
                    space = WeightSpace.from_json(content[16 : 16 + size].decode())
                    yield shard, Made(space, content[16 + size :])
                else:
                    self._fail(number, kind, content)
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        package = str(Path(__file__).resolve().parents[2])
        found = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._errors.append(tempfile.TemporaryFile())  # noqa: SIM115 - closed in _stop
        worker = subprocess.Popen(
            [sys.executable, "-m", "metanet.zoo.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors[-1],
            env={**os.environ, **threads, "PYTHONPATH": found},
            start_new_session=True,  # Ctrl-C reaches this process, which then ends them
        )
        self._workers.append(worker)
        threading.Thread(target=self._read, args=(number,), daemon=True).start()

    def _read(self, number: int) -> None:
        pipe = cast(BinaryIO | None, self._workers[number].stdout)
        try:
            while pipe is not None:
                self._frames.put((number, *receive(pipe)))
        except (EOFError, OSError, ValueError):
            self._frames.put((number, LOST, b""))

    def _tell(self, number: int, message: object) -> None:
        pipe = self._workers[number].stdin
        if pipe is not None:
            try:
                pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()
            except BrokenPipeError:
                return  # it died; its reader reports that

    def _next(self, number: int) -> None:
        if self._waiting:
            self._tell(number, self._waiting.pop())

    def _fail(self, number: int, kind: bytes, content: bytes) -> None:
        if kind == ERROR:
            told = json.loads(content)
            raise ZooError(f"A worker of the zoo build failed: {told['error']}.") from RuntimeError(told["trace"])
        code = self._workers[number].wait()
        self._errors[number].seek(0)
        said = self._errors[number].read().decode(errors="replace").strip().splitlines()[-1:]
        raise ZooError(
            f"A worker of the zoo build died (exit status {code}{', ' + said[0] if said else ''}). "
            "Finished shards are kept: start the build again, with fewer workers if memory ran out."
        )

    def _stop(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        continue
        for file in self._errors:
            file.close()
