"""A worker process of a zoo build: ``python -m metanet.zoo.worker``, started by :mod:`metanet.zoo.crew`.

Reads JSON lines on its standard input (the job, then numbers of shards) and writes frames to its standard output:
one byte of kind, eight bytes of length, content. It writes no files. It ends when its input does, so that it never
outlives the build, however that ended.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
import traceback
from typing import BinaryIO

PROGRESS, SHARD, ERROR = b"P", b"S", b"E"


def send(pipe: BinaryIO, kind: bytes, content: bytes) -> None:
    """Write one frame."""
    pipe.write(kind + struct.pack("<Q", len(content)) + content)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[bytes, bytes]:
    """Read one frame.

    Raises:
        EOFError: The pipe ended.
    """
    head = pipe.read(9)
    size = struct.unpack("<Q", head[1:])[0] if len(head) == 9 else 0
    content = pipe.read(size)
    if len(head) < 9 or len(content) < size:
        raise EOFError
    return head[:1], content


def main() -> None:
    """Serve one build."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to the error stream, not between frames
    tasks: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    try:
        _serve(tasks, out)
    except BrokenPipeError:
        os._exit(1)
    except BaseException as error:
        text = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        send(out, ERROR, json.dumps(text).encode())


def _listen(tasks: queue.Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        tasks.put(line)
    os._exit(0)  # the build has ended or died


def _serve(tasks: queue.Queue[bytes], out: BinaryIO) -> None:
    import torch

    from metanet.zoo.shards import make_shard, parse_job, plan_shards

    torch.set_num_threads(1)
    job = parse_job(json.loads(tasks.get()))
    shards = plan_shards(job.recipe)
    while True:
        number = int(json.loads(tasks.get()))
        made = make_shard(job, shards[number], lambda n: send(out, PROGRESS, str(n).encode()))
        space = made.space.to_json().encode()
        send(out, SHARD, struct.pack("<QQ", number, len(space)) + space + made.content)


if __name__ == "__main__":
    main()
