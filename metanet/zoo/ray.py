"""Shards from a Ray cluster: the same shards as from worker processes, made on whichever machines it has.

Every shard is one task of one core, so that a machine that is lost costs its shards in progress only: Ray starts them
again elsewhere. Every machine needs this version of metanet, PyTorch and NumPy, which is checked, for the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.zoo.building import note_of
from metanet.zoo.shards import Job, Made, make_shard, parse_job, plan_shards

LOCAL = "local"
QUEUED = 2  # tasks a core that are submitted at once: enough to keep it busy, few enough that results fit in memory
RETRIES = 3  # per shard, when its machine or process is lost


def make_shards_on_ray(
    job: Job, numbers: Sequence[int], address: str, workers: int | None, progress: Callable[[int], None]
) -> Iterator[tuple[int, Made]]:
    """Yield shards with their numbers, in the order in which they are finished.

    Args:
        job: The recipe and where to work; a folder of images has to be there on every machine.
        numbers: Which of :func:`metanet.zoo.shards.plan_shards`.
        address: Of a cluster, as ``ray.init`` takes it; ``auto`` for the one of this machine, ``local`` for a new one
            on this machine. A connection that is open already is used, and left open.
        workers: Tasks at once; default as many as the cluster has cores (or GPUs, if the job asks for one).
        progress: Called with the number of nets of a shard when it is finished.

    Raises:
        ZooError: Ray is not installed, the cluster cannot be reached, or a task failed; the others are cancelled.
    """
    ray = _import_ray()
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, address, workers)
            stack.callback(ray.shutdown)
        kind = "CPU" if torch.device(job.device).type == "cpu" else "GPU"
        limit = QUEUED * (workers or max(1, int(ray.cluster_resources().get(kind, 1))))
        remote = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"), max_retries=RETRIES)(_task)
        waiting, running = list(numbers)[::-1], dict[Any, int]()
        nets = [len(shard.plans) for shard in plan_shards(job.recipe)]
        given, made_with = job.to_dict(), note_of(job.recipe, job.device)["made_with"]
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    number = waiting.pop()
                    running[remote.remote(given, made_with, number)] = number
                done, _ = ray.wait(list(running), num_returns=1)
                number = running.pop(done[0])
                space, content = _result(ray, done[0])
                progress(nets[number])
                yield number, Made(WeightSpace.from_json(space), content)
        finally:
            for task in running:
                ray.cancel(task, force=True)


def _task(given: dict[str, Any], made_with: dict[str, str], number: int) -> tuple[str, bytes]:
    """Make a shard; this runs on a machine of the cluster."""
    job = parse_job(given)
    here = note_of(job.recipe, job.device)["made_with"]
    if here != made_with:
        raise ZooError(f"a machine of the cluster has {here}, this one {made_with}; install the same versions")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads may round differently
    try:
        made = make_shard(job, plan_shards(job.recipe)[number], lambda _: None)
    finally:
        torch.set_num_threads(threads)
    return made.space.to_json(), made.content


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
    try:
        import ray
    except ImportError:
        raise ZooError(
            "Ray is not installed. Install it with: pip install 'torch-metanet[ray]'. Without it, leave out --ray: "
            "worker processes make the same zoo."
        ) from None
    return ray


def _connect(ray: Any, address: str, workers: int | None) -> None:
    """Open the connection to a cluster, or start one on this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"include_dashboard": False, "num_cpus": workers}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ZooError(
            f"Cannot reach the Ray cluster at '{address}': {str(error).splitlines()[0]} "
            "Accepted: local, auto, HOST:PORT or ray://HOST:PORT of a cluster that runs."
        ) from error


def _result(ray: Any, task: Any) -> tuple[str, bytes]:
    try:
        space, content = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise ZooError(f"A task of the zoo build failed: {error.cause}. Finished shards are kept.") from error
    except ray.exceptions.RayError as error:
        raise ZooError(
            f"A task of the zoo build was lost, {RETRIES + 1} times: {str(error).splitlines()[0]} "
            "Finished shards are kept: start the build again, with fewer workers if memory ran out."
        ) from error
    return space, content
