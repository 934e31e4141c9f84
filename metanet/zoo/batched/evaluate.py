"""Measure trained nets, many at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from metanet.zoo.architecture import Architecture
from metanet.zoo.batched.blocking import item_bytes
from metanet.zoo.batched.network import Network
from metanet.zoo.batched.slots import pack
from metanet.zoo.draws import NetPlan, image_of, stream, training_classes, training_subset
from metanet.zoo.fields import Fields
from metanet.zoo.images import Images

Labels = dict[str, float | int | bool]
PART_BYTES, ITEMS = 1 << 20, 64  # touched, and images of each net, in one pass
LAST_NET = 2**31  # number of the stream that chooses the test images, beyond those of the nets


@torch.no_grad()
def evaluate_block(
    plans: Sequence[NetPlan],
    tensors: dict[str, Tensor],
    data: Images | Fields,
    measure: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
) -> list[Labels]:
    """Measure what :func:`metanet.zoo.batched.train.train_block` returned.

    Args:
        plans: The block.
        tensors: Its stacked tensors, a row a checkpoint.
        data: What the nets were trained on.
        measure: How many training and test images are measured on; all if ``None``.
        device: Where to compute.

    Returns:
        One mapping a row. Of a classifier: ``train_accuracy``, ``test_accuracy`` (fractions), ``train_loss``,
        ``test_loss`` (nats), ``generalization_gap`` (train minus test accuracy); on the images trained on, with the
        classes trained on, and on the test images. Of a net that fits an image: its number ``image``, its class
        ``image_class``, the mean squared error ``mse`` and ``psnr`` (dB). Of both: ``diverged`` (a weight or loss is
        not finite), and ``step`` (and ``epoch``) if there are checkpoints.
    """
    rows = [(plan, step) for plan in plans for step in plan.kept]
    arrays = [{name: t[i].numpy() for name, t in tensors.items()} for i in range(len(rows))]
    params = pack(plans[0].architecture, arrays, next(iter(tensors.values())).dtype).to(device)
    finite = torch.isfinite(params).all(dim=1).tolist()
    owners = [plan for plan, _ in rows]
    if isinstance(data, Images):
        measured = _classifiers(owners, params, finite, data, measure)
    else:
        measured = _fits(owners, params, finite, data)
    return [labels | _when(plan, step) for (plan, step), labels in zip(rows, measured, strict=True)]


def _when(plan: NetPlan, step: int) -> Labels:
    if not plan.checkpoints:
        return {}
    epochs = plan.hyperparameters.get("epochs")
    return {"step": step} | ({} if epochs is None else {"epoch": step * float(epochs) / plan.steps})


def measured_images(plan: NetPlan, images: Images, measure: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the training and of the test images that a net is measured on."""
    train, test = training_subset(plan, images.train), images.test
    if measure is None:
        return train, test
    order = stream(plan.seed, LAST_NET, "test_images").permutation(test)
    return train[: measure[0]], np.sort(order[: measure[1]])


def summarise(losses: Tensor, hits: Tensor, train: int, finite: bool) -> Labels:
    """Turn a net's loss and hit on images, ``[n]``, the first ``train`` of them for training, into its labels."""
    accuracy = [float(part.double().mean()) for part in (hits[:train], hits[train:])]
    loss = [float(part.double().mean()) for part in (losses[:train], losses[train:])]
    return {
        "train_accuracy": accuracy[0],
        "test_accuracy": accuracy[1],
        "train_loss": loss[0],
        "test_loss": loss[1],
        "generalization_gap": accuracy[0] - accuracy[1],
        "diverged": not (finite and all(map(math.isfinite, loss))),
    }


def summarise_fit(plan: NetPlan, mse: float, fields: Fields, finite: bool) -> Labels:
    """Turn a net's mean squared error into its labels; ``psnr = 10 log10(span^2 / mse)``."""
    image = image_of(plan, len(fields.values))
    psnr = 10 * math.log10(fields.span**2 / mse) if math.isfinite(mse) and mse > 0 else math.nan
    number = {"image": image, "image_class": int(fields.classes[image])}
    return number | {"mse": mse, "psnr": psnr, "diverged": not (finite and math.isfinite(mse))}


def _classifiers(
    plans: Sequence[NetPlan], params: Tensor, finite: list[bool], images: Images, measure: tuple[int, int] | None
) -> list[Labels]:
    chosen = [measured_images(plan, images, measure) for plan in plans]
    longest = max(len(train) for train, _ in chosen)
    where = np.stack([np.concatenate([np.resize(train, longest), test]) for train, test in chosen])
    classes = [training_classes(plan, images.classes, images.train)[w] for plan, w in zip(plans, where, strict=True)]
    truth = torch.from_numpy(np.stack(classes)).to(params.device)
    positions = torch.from_numpy(where).to(params.device)
    pixels = torch.from_numpy(images.pixels).to(params)

    def inputs(nets: slice, items: Tensor) -> Tensor:
        return pixels[positions[nets][:, items]].movedim(1, -1)

    logits = _outputs(plans[0].architecture, params, inputs, where.shape[1])
    loss = -torch.log_softmax(logits, dim=1).gather(1, truth[:, None])[:, 0].cpu()
    hit = (logits.argmax(dim=1) == truth).cpu()
    out = []
    for i, (train, _) in enumerate(chosen):
        own = torch.cat([torch.arange(len(train)), torch.arange(longest, where.shape[1])])
        out.append(summarise(loss[i, own], hit[i, own], len(train), finite[i]))
    return out


def _fits(plans: Sequence[NetPlan], params: Tensor, finite: list[bool], fields: Fields) -> list[Labels]:
    points = torch.from_numpy(fields.points).to(params).T

    def inputs(nets: slice, items: Tensor) -> Tensor:
        return points[:, items].expand(nets.stop - nets.start, -1, -1)

    values = _outputs(plans[0].architecture, params, inputs, len(fields.points))
    truth = torch.from_numpy(fields.values[[image_of(plan, len(fields.values)) for plan in plans]]).to(params)
    errors = (values - truth).double().square().mean(dim=(1, 2)).tolist()
    return [summarise_fit(plan, errors[i], fields, finite[i]) for i, plan in enumerate(plans)]


def _outputs(
    architecture: Architecture, params: Tensor, inputs: Callable[[slice, Tensor], Tensor], count: int
) -> Tensor:
    """Return the outputs of every net for ``count`` inputs of its own, ``[k, values, count]``, part by part."""
    width = min(count, ITEMS)
    room = max(1, PART_BYTES // (width * item_bytes(architecture)))
    if params.device.type != "cpu":
        room = len(params)
    out = params.new_empty(len(params), architecture.shapes()[-1][0], count)
    for first in range(0, len(params), room):
        nets = slice(first, min(first + room, len(params)))
        network = Network(architecture, params[nets], width)
        for start in range(0, count, width):
            items = torch.arange(start, start + width, device=params.device).clamp_(max=count - 1)  # repeats the last
            here = min(width, count - start)
            out[nets, :, start : start + here] = network.forward(inputs(nets, items))[:, :, :here]
    return out
