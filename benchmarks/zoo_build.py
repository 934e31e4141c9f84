"""Nets per second of the zoo builder and of a plain PyTorch loop over the same recipe, on one core each.

python benchmarks/zoo_build.py [--quick] [--json FILE]

Both train and evaluate the same nets of the ``digits-cnn`` recipe, with the same seeds. That they are the same is
checked in float64: after a few steps for every net, and at full length for most, because some nets of a zoo train
chaotically (a difference of 1e-16 doubles every other step), whoever trains them. Exits with 1 if they differ.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import torch
from common import options, report

from metanet.zoo.batched.blocking import blocks
from metanet.zoo.batched.evaluate import evaluate_block
from metanet.zoo.batched.train import train_block
from metanet.zoo.draws import NetPlan, plan_net
from metanet.zoo.images import Images, load_images
from metanet.zoo.loop import evaluate_net, train_net
from metanet.zoo.recipe import Recipe, load_recipe

SHORT = 5  # steps after which every net must agree
TOLERANCE = 1e-6
SPEEDUP = 3.0  # expected at least; only a full run is long enough to hold it to that


def batched(plans: Sequence[NetPlan], images: Images, size: int, dtype: torch.dtype) -> dict[int, tuple[dict, dict]]:
    """Return weights and labels of every net, trained together."""
    out = {}
    with torch.no_grad():
        for block in blocks(plans, size):
            tensors = train_block(block, images, size, dtype)
            for i, (plan, labels) in enumerate(zip(block, evaluate_block(block, tensors, images), strict=True)):
                out[plan.net] = ({name: value[i] for name, value in tensors.items()}, labels)
    return out


def looped(plans: Sequence[NetPlan], images: Images, size: int, dtype: torch.dtype) -> dict[int, tuple[dict, dict]]:
    """Return weights and labels of every net, trained one after another."""
    out = {}
    for plan in plans:
        module = train_net(plan, images, size, dtype)
        out[plan.net] = (dict(module.state_dict()), evaluate_net(plan, module, images))
    return out


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two nets' weights, relative to the largest weight."""
    scale = max(float(value.abs().max()) for value in a.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / scale


def compare(recipe: Recipe, nets: int, images: Images) -> list[float]:
    """Return the difference of every net between builder and loop, in float64."""
    plans = [plan_net(recipe, net) for net in range(nets)]
    one, other = (run(plans, images, recipe.batch_size, torch.float64) for run in (batched, looped))
    return [difference(one[plan.net][0], other[plan.net][0]) for plan in plans]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report."""
    args = options("Nets per second of the zoo builder and of a plain PyTorch loop.", argv)
    torch.set_num_threads(1)
    recipe, images = load_recipe("digits-cnn"), load_images("digits")
    nets = 12 if args.quick else 60
    recipe = recipe.with_(max_steps=30) if args.quick else recipe
    plans = [plan_net(recipe, net) for net in range(nets)]
    work = sum(plan.steps for plan in plans) * recipe.batch_size
    compare(recipe.with_(max_steps=2), 6, images)  # warm up
    rows, labels = [], []
    for name, run in (("plain PyTorch loop", looped), ("vectorised builder", batched)):
        start = time.perf_counter()
        made = run(plans, images, recipe.batch_size, torch.float32)
        seconds = time.perf_counter() - start
        labels.append([made[plan.net][1]["test_accuracy"] for plan in plans])
        rows.append(
            {"": name, "nets": nets, "seconds": seconds, "nets/s": nets / seconds, "us/image": seconds / work * 1e6}
        )
    ratio = rows[0]["seconds"] / rows[1]["seconds"]
    rows = [row | {"ratio": rows[0]["seconds"] / row["seconds"]} for row in rows]
    gaps = [abs(a - b) for a, b in zip(*labels, strict=True)]
    short = compare(recipe.with_(max_steps=SHORT), nets, images)
    full = compare(recipe, min(nets, 24), images)
    print(
        f"same nets, float64, relative difference of weights: after {SHORT} steps at most {max(short):.1e}; "
        f"at full length median {statistics.median(full):.1e}, {sum(d < TOLERANCE for d in full)} of {len(full)} "
        f"below {TOLERANCE:g}.\nfloat32 test accuracy, mean difference: {statistics.mean(gaps):.4f}"
    )
    wrong = []
    if max(short) > TOLERANCE or statistics.median(full) > TOLERANCE:
        wrong.append("builder and loop train different nets.")
    if ratio < SPEEDUP and not args.quick:
        wrong.append(f"the builder is {ratio:.1f} times as fast as the loop, expected at least {SPEEDUP:g}.")
    return report(f"Building {recipe.name}, batch size {recipe.batch_size}, one core", rows, wrong, args.json)


if __name__ == "__main__":
    sys.exit(main())
