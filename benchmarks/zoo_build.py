"""Speed of the zoo builder against a plain PyTorch loop and torch.vmap, on one core, and the distance to the floor.

python benchmarks/zoo_build.py [--quick] [--json FILE]

All three train the same nets of a recipe, with the same seeds, at the recipe's own batch size; that they are the same
is checked in float64 after a few steps. A fourth row is the plain loop with PyTorch's own dropout, whose nets are
others: to see that the loop is not held up by drawing what the builder draws. Times are CPU seconds of one thread, the
best of at least five runs of each in turn, so that other work on the machine counts little. The floor counts
multiply-adds of all products at the rate of a large matrix product, and sines and cosines at the rate of ``torch.sin``,
both measured in this run; bytes are what a step touches once.
Exits with 1 if nets differ, or if the builder is slower than asked (full run only).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from common import options, report
from torch import Tensor

from metanet.zoo import architecture as spec
from metanet.zoo import loop
from metanet.zoo.batched.blocking import blocks, item_bytes
from metanet.zoo.batched.feeds import Feed, feed_block
from metanet.zoo.batched.optimizers import OPTIMIZERS
from metanet.zoo.batched.slots import pack, second_parts, unpack
from metanet.zoo.batched.train import train_block
from metanet.zoo.draws import NetPlan, NetStream, plan_net, training_subset
from metanet.zoo.fields import Fields, load_data
from metanet.zoo.images import Images
from metanet.zoo.initial import initial_weights
from metanet.zoo.loop import GivenDropout, train_net
from metanet.zoo.plain import SmallCNN
from metanet.zoo.recipe import load_recipe

TOGETHER = 8  # nets that torch.vmap trains at once
SHORT = 5  # steps after which all must agree
TOLERANCE = 1e-6
ROUNDS, ENOUGH = 5, 40.0  # at least so many rounds, and until so many seconds are spent on a recipe
Data = Images | Fields
Nets = dict[int, dict[str, Tensor]]
Train = Callable[[Sequence[NetPlan], Data, int, torch.dtype], Nets]


@dataclass(frozen=True)
class Case:
    """A recipe, how many of its nets for how many steps, and how much faster than the loop the builder must be."""

    recipe: str
    nets: int
    steps: int
    speedup: float


CASES = (Case("digits-cnn", 24, 60, 4.0), Case("cifar10-gs-cnn", 4, 6, 2.0), Case("mnist-inr", 16, 100, 3.0))


def built(plans: Sequence[NetPlan], data: Data, size: int, dtype: torch.dtype) -> Nets:
    """Train with the builder."""
    out: Nets = {}
    for block in blocks(plans, size):
        tensors = train_block(block, data, size, dtype)
        out |= {plan.net: {name: t[i] for name, t in tensors.items()} for i, plan in enumerate(block)}
    return out


def looped(plans: Sequence[NetPlan], data: Data, size: int, dtype: torch.dtype) -> Nets:
    """Train one after another."""
    return {plan.net: dict(train_net(plan, data, size, dtype).state_dict()) for plan in plans}


def usual(plans: Sequence[NetPlan], data: Data, size: int, dtype: torch.dtype) -> Nets:
    """Train as :func:`looped`, with dropout of PyTorch's own: other nets, by the same work."""
    assert isinstance(data, Images)
    out: Nets = {}
    for plan in plans:
        module = SmallCNN(plan.architecture, float(plan.settings["dropout"])).to(dtype)
        module.load_state_dict({name: torch.from_numpy(w).to(dtype) for name, w in initial_weights(plan).items()})
        stream = NetStream(plan, training_subset(plan, data.train), size)
        optimizer, loss = loop._optimizer(module, plan.settings), loop._classify(plan, data, dtype)
        for step in range(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            optimizer.zero_grad()
            loss(module, stream, size).backward()
            optimizer.step()
        out[plan.net] = dict(module.state_dict())
    return out


def mapped(plans: Sequence[NetPlan], data: Data, size: int, dtype: torch.dtype) -> Nets:
    """Train with torch.vmap over nets of one architecture and optimiser."""
    groups: dict[Any, list[NetPlan]] = {}
    for plan in plans:
        groups.setdefault((plan.architecture, plan.settings["optimizer"]), []).append(plan)
    out: Nets = {}
    for members in groups.values():
        for start in range(0, len(members), TOGETHER):
            out |= _mapped_group(members[start : start + TOGETHER], data, size, dtype)
    return out


def _mapped_group(plans: Sequence[NetPlan], data: Data, size: int, dtype: torch.dtype) -> Nets:
    architecture = plans[0].architecture
    params = pack(architecture, [initial_weights(plan) for plan in plans], dtype)
    settings = [plan.settings for plan in plans]
    optimizer = OPTIMIZERS[settings[0]["optimizer"]](params, settings, second_parts(architecture))
    feed, module = feed_block(plans, data, size, params), SmallCNN(architecture)
    feed.part = size
    for name in architecture.names():
        if isinstance(dict(module.named_children()).get(name), torch.nn.Dropout):
            setattr(module, name, GivenDropout())
    dropouts = [child for child in module.modules() if isinstance(child, GivenDropout)]

    def loss(row: Tensor, x: Tensor, truth: Tensor, factors: list[Tensor]) -> Tensor:
        for dropout, factor in zip(dropouts, factors, strict=True):
            dropout.factors = factor
        state = {name: t[0] for name, t in unpack(architecture, row[None]).items()}
        out = torch.func.functional_call(module, state, (x,))
        if isinstance(data, Images):
            return torch.nn.functional.cross_entropy(out, truth)
        return torch.nn.functional.mse_loss(out, truth)

    gradient = torch.func.vmap(torch.func.grad(loss))
    for start in range(0, plans[0].steps, feed.window):
        steps = range(start, min(start + feed.window, plans[0].steps))
        feed.draw(len(plans), len(steps))
        for t, step in enumerate(steps):
            x, truth, factors = _batch(feed, t, len(plans), isinstance(data, Images))
            rates = torch.tensor([[plan.rate(step)] for plan in plans], dtype=torch.float64).to(dtype)
            optimizer.step(gradient(params, x, truth, factors), rates)
    tensors = unpack(architecture, params)
    return {plan.net: {name: t[i] for name, t in tensors.items()} for i, plan in enumerate(plans)}


WAYS: dict[str, Train] = {"plain loop": looped, "torch.vmap": mapped, "builder": built}
USUAL: dict[str, Train] = {"plain loop, nn.Dropout": usual}


class _NoNetwork:
    """What a feed asks of a network."""

    input = None

    def __init__(self, k: int) -> None:
        self.grads = torch.empty(k, 0)


def _batch(feed: Feed, t: int, k: int, images: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return inputs and targets of a step, nets first and then the batch, and dropout factors likewise."""
    x, truth = feed._data(_NoNetwork(k), t, 0)  # type: ignore[arg-type]
    factors = [(kept[t, 0] * feed.factor[:, :, None]).movedim(-1, 1) for kept in feed._kept]
    return x.movedim(-1, 1), truth.argmin(dim=1) if images else truth.movedim(-1, 1), factors


def seconds(ways: dict[str, Train], plans: Sequence[NetPlan], data: Data, size: int, quick: bool) -> dict[str, float]:
    """Return CPU seconds of each way, the best of some rounds in turn, after a short one."""
    short = [replace(p, hyperparameters=p.hyperparameters | {"steps": 2}) for p in plans]
    for train in ways.values():
        train(short, data, size, torch.float32)
    best, began, rounds = dict.fromkeys(ways, float("inf")), time.process_time(), 0
    while rounds < (1 if quick else ROUNDS) or (not quick and time.process_time() - began < ENOUGH):
        for name, train in ways.items():
            start = time.process_time()
            train(plans, data, size, torch.float32)
            best[name] = min(best[name], time.process_time() - start)
        rounds += 1
    return best


def operations(architecture: spec.Architecture) -> tuple[float, float]:
    """Return floating-point operations of all products, and sines and cosines, of one item in one training step."""
    shapes, flops, sines, first = architecture.shapes(), 0.0, 0.0, True
    for layer, shape, after in zip(architecture.layers, shapes[:-1], shapes[1:], strict=True):
        if isinstance(layer, spec.Conv | spec.Linear):
            fan = shape[0] * layer.kernel**2 if isinstance(layer, spec.Conv) else prod(shape)
            flops += 2 * prod(after) * fan * (2 if first else 3)  # forward, weights, and input but for the first layer
            first = False
        elif isinstance(layer, spec.Activation) and layer.fn == "sin":
            sines += 2 * prod(after)
    return flops, sines


def rates() -> dict[str, float]:
    """Measure the core: GFLOP/s of a product, GB/s of a copy, nanoseconds a sine."""
    a, b, big = torch.randn(1024, 1024), torch.empty(1024, 1024), torch.randn(1 << 25)
    to, few = torch.empty_like(big), torch.randn(25_000) * 30
    made = torch.empty_like(few)

    def best(run: Callable[[], Any], times: int) -> float:
        found = []
        for _ in range(5):
            start = time.process_time()
            for _ in range(times):
                run()
            found.append((time.process_time() - start) / times)
        return min(found)

    return {
        "GFLOP/s": 2 * 1024**3 / best(lambda: torch.mm(a, a, out=b), 3) / 1e9,
        "GB/s": 8 * len(big) / best(lambda: to.copy_(big), 2) / 1e9,
        "ns/sine": best(lambda: torch.sin(few, out=made), 50) / len(few) * 1e9,
    }


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of two nets' weights, relative to the largest weight."""
    scale = max(float(value.abs().max()) for value in a.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / scale


def measure(case: Case, machine: dict[str, float], quick: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a case, and what is wrong."""
    recipe = load_recipe(case.recipe).with_(checkpoints=(), nets=1000)
    data, size = load_data(recipe), recipe.batch_size
    steps = 4 if quick else case.steps
    plans = [plan_net(recipe, net) for net in range(4 if quick else case.nets)]
    plans = [replace(p, hyperparameters=p.hyperparameters | {"steps": steps}) for p in plans]
    short = [replace(p, hyperparameters=p.hyperparameters | {"steps": min(SHORT, steps)}) for p in plans[:4]]
    one, *others = (train(short, data, size, torch.float64) for train in (built, looped, mapped))
    apart = max(difference(one[net], other[net]) for other in others for net in one)
    flops, sines = operations(plans[0].architecture)
    floor = (flops / machine["GFLOP/s"] * 1e-3 + sines * machine["ns/sine"] * 1e-3) * size  # microseconds a step
    rows = []
    drops = any(isinstance(layer, spec.Dropout) for layer in plans[0].architecture.layers)
    best = seconds((USUAL if drops else {}) | WAYS, plans, data, size, quick)
    found = {name: value / (len(plans) * steps) * 1e6 for name, value in best.items()}
    for name in best:
        rows.append(
            {
                "recipe": f"{case.recipe}, batch {size}",
                "": name,
                "us/step/net": found[name],
                "us/item": found[name] / size,
                "of the loop": found["plain loop"] / found[name],
                "of the floor": found[name] / floor,
                "MFLOP/step": flops * size / 1e6,
                "MB/step": item_bytes(plans[0].architecture) * size / 1e6,
            }
        )
    wrong = [f"{case.recipe}: nets differ by {apart:.1e} after {SHORT} steps."] if apart > TOLERANCE else []
    print(f"{case.recipe}: relative difference of weights, float64, {len(short[:4])} nets: at most {apart:.1e}")
    if not quick and rows[-1]["of the loop"] < case.speedup:
        wrong.append(f"{case.recipe}: {rows[-1]['of the loop']:.1f} times as fast as the loop, asked {case.speedup:g}.")
    return rows, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report."""
    args = options("Speed of the zoo builder against a plain PyTorch loop and torch.vmap.", argv)
    torch.set_num_threads(1)
    machine = rates()
    print("this core: " + ", ".join(f"{value:.3g} {unit}" for unit, value in machine.items()))
    rows, wrong = [], []
    for case in CASES:
        if args.quick and case.recipe != "digits-cnn" and not os.environ.get("METANET_IMAGES"):
            continue  # a smoke test needs no images from the network
        made, bad = measure(case, machine, args.quick)
        rows, wrong = rows + made, wrong + bad
    title = "Building zoos, one core of " + ", ".join(f"{value:.3g} {unit}" for unit, value in machine.items())
    return report(title, rows, wrong, args.json)


if __name__ == "__main__":
    sys.exit(main())
