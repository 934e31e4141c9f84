"""Predictions of a trained metanet for checkpoint files and neuron graphs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metanet.checkpoint import Checkpoint, load
from metanet.errors import CheckpointError, ConfigError, SpaceError
from metanet.graph import NeuronGraph
from metanet.graph.build import SPACE_KEY
from metanet.graph.coverage import warn_of_unplaced
from metanet.graph.match import Match, activations, matches
from metanet.space import WeightSpace
from metanet.space.infer import infer
from metanet.space.inference.options import InferOptions
from metanet.tasks import PropertyTask
from metanet.tasks.restore import load_task

PathLike = str | os.PathLike[str]
BATCH = 64  # nets at once


@dataclass(frozen=True)
class Prediction:
    """What a metanet says about one net.

    Attributes:
        source: The file, or ``graph 0, net 3`` for a neuron graph.
        value: The prediction, in the unit of the target; of a classifier, the likeliest class. None if there is none,
            for the reason that ``note`` gives.
        target: What is predicted.
        space: What the net's tensors were read as.
        trained_on: Whether the metanet was trained on nets of this space.
        note: How the space was found.
        deviation: Standard deviation of the prediction, where the metanet was trained to give one.
        probability: Of the class, from a classifier.
    """

    source: str
    value: Any
    target: str
    space: WeightSpace
    trained_on: bool
    note: str
    deviation: float | None = None
    probability: float | None = None


def predict(
    run: PathLike | PropertyTask,
    nets: Sequence[PathLike | NeuronGraph],
    *,
    space: WeightSpace | None = None,
    activation: str | None = None,
    any_architecture: bool = False,
    options: InferOptions | None = None,
    trust: bool = False,
) -> list[Prediction]:
    """Predict with a trained metanet.

    Computed in float64, so that a net's prediction does not depend on the others.

    Args:
        run: Run folder, ``.ckpt`` file, or the task itself.
        nets: Checkpoint files, and neuron graphs of any number of nets.
        space: What the tensors of all files mean. By default the space that a file carries (files that metanet
            exported), or the one of the run's spaces whose names and shapes fit.
        activation: Nonlinearity of the nets, which a state dict does not tell.
        any_architecture: Read architectures that the metanet was not trained on; their space is inferred if need be.
        options: What inference needs to be told of them: options of :func:`metanet.infer`.
        trust: Import the metanet's class by name if the run names one that is not metanet's own.

    Returns:
        One prediction per file and per net of a graph, in order.

    Raises:
        MetanetError: A file cannot be read, its architecture is ambiguous or not one that the metanet was trained on,
            or there is a prediction for no net, as their weights are not finite.
    """
    task = run if isinstance(run, PropertyTask) else load_run(run, trust)
    reader = _Reader(task, space, activation, any_architecture, options)
    rows: list[tuple[str, str, NeuronGraph]] = []
    for number, item in enumerate(nets):
        if isinstance(item, NeuronGraph):
            names = [f"graph {number}, net {i}" for i in range(item.batch_size)]
            reader.admit(item.space, f"graph {number}")
            rows.extend((name, "", item.select(slice(i, i + 1))) for i, name in enumerate(names))
        else:
            rows.append((str(item), *reader.read(Path(item))))
    for name, space_read in {graph.space.digest: (name, graph.space) for name, _, graph in reversed(rows)}.values():
        warn_of_unplaced(space_read, f"{name} and all of its architecture")
    reasons = [_not_finite(graph) for _, _, graph in rows]
    good = [i for i, reason in enumerate(reasons) if not reason]
    values: list[dict[str, Any]] = [{"value": None} for _ in rows]
    for i, said in zip(good, _values(task, [rows[i][2] for i in good]), strict=True):
        if all(math.isfinite(v) for v in said.values() if isinstance(v, float)):
            values[i] = said
        else:
            reasons[i] = "the metanet overflows on its weights"
    if rows and all(reasons):
        raise CheckpointError(f"{rows[0][0]}: {reasons[0]}; no prediction.")
    rows = [(name, reason or note, graph) for (name, note, graph), reason in zip(rows, reasons, strict=True)]
    known = reader.known
    return [
        Prediction(
            name, target=task.target, space=graph.space, trained_on=graph.space.digest in known, note=note, **said
        )
        for (name, note, graph), said in zip(rows, values, strict=True)
    ]


def _not_finite(graph: NeuronGraph) -> str:
    bad = [key for key, tensor in graph.tensors.items() if not tensor.isfinite().all()]
    return f"'{bad[0]}' has values that are not finite (got inf or nan)" if bad else ""


def load_run(run: PathLike, trust: bool = False) -> PropertyTask:
    """Load the best checkpoint of a run folder, or a ``.ckpt`` file; nothing that it names is imported or called.

    Args:
        run: The folder or the file.
        trust: Import the metanet's class by name if the run names one that is not metanet's own.

    Raises:
        CheckpointError: There is none, it is damaged or no run of metanet's, or it names a class from elsewhere.
    """
    path = Path(run)
    if path.is_dir():
        if not (path / "checkpoints" / "best.ckpt").is_file():
            raise CheckpointError(
                f"{path} is no run folder: it holds no checkpoints/best.ckpt. Give a folder that "
                "`python train.py fit` wrote, or a .ckpt file."
            )
        path = path / "checkpoints" / "best.ckpt"
    return load_task(path, trust)


class _Reader:
    """Decides what the tensors of a file mean."""

    def __init__(
        self,
        task: PropertyTask,
        space: WeightSpace | None,
        activation: str | None,
        any_architecture: bool,
        options: InferOptions | None,
    ) -> None:
        self.trained, self.space, self.activation = task.spaces, space, activation
        self.any_architecture, self.options = any_architecture, options or {}
        self.known = {s.digest for s in task.spaces}

    def read(self, path: Path) -> tuple[str, NeuronGraph]:
        checkpoint = load(path)
        note, match = self._find(checkpoint)
        self.admit(match.space, str(path))
        stem = match.prefix
        state = {name: checkpoint.tensors[stem + name] for name in match.space.tensor}
        return note, NeuronGraph.from_state_dicts(match.space, [state])

    def admit(self, space: WeightSpace, where: str) -> None:
        """Refuse a space that the metanet was not trained on, unless any is wanted."""
        if space.digest not in self.known and not self.any_architecture:
            raise SpaceError(self._foreign(where, _describe(space)))

    def _find(self, checkpoint: Checkpoint) -> tuple[str, Match]:
        text = checkpoint.metadata.get(SPACE_KEY)
        given = self.space
        if given is None and text is not None:
            given = WeightSpace.from_json(text)
            if self.activation is not None and activations(given) != self.activation:
                raise ConfigError(
                    f"{checkpoint.path} says that its activation is '{activations(given)}'; got --activation "
                    f"{self.activation}. Leave the option out."
                )
        if given is not None:
            found = matches(checkpoint.tensors, [given])
            if not found:
                raise SpaceError(f"{checkpoint.path}: its tensors do not fit the space given ({_describe(given)}).")
            return "space given" if text is None or self.space is not None else "space in the file", found[0]
        return self._by_names(checkpoint)

    def _by_names(self, checkpoint: Checkpoint) -> tuple[str, Match]:
        fitting = matches(checkpoint.tensors, self.trained)
        found = [m for m in fitting if self.activation in (None, activations(m.space))]
        if len(found) == 1:
            stem = found[0].prefix
            return "names and shapes fit" + (f", below '{stem}'" if stem else ""), found[0]
        if found:
            names = sorted({activations(m.space) or "none" for m in found})
            choose = (
                f"--activation {' or --activation '.join(names)}, or --space FILE" if len(names) > 1 else "--space FILE"
            )
            fits = "; ".join(_describe(m.space) + (f" below '{m.prefix}'" if m.prefix else "") for m in found)
            raise SpaceError(
                f"{checkpoint.path} fits {len(found)} architectures that this metanet reads, which a state dict cannot "
                f"tell apart: {fits}. Choose with {choose}."
            )
        if fitting:
            names = sorted({activations(m.space) or "none" for m in fitting})
            raise ConfigError(
                f"{checkpoint.path} fits architectures with the activation {', '.join(names)}; got --activation "
                f"{self.activation}."
            )
        if not self.any_architecture:
            shapes = [f"{name}{list(t.shape)}" for name, t in checkpoint.tensors.items()]
            raise SpaceError(self._foreign(str(checkpoint.path), f"{len(shapes)} tensors: {_shorten(shapes)}"))
        try:
            space = infer(checkpoint, self.activation, **self.options)
            known = f"recognised as {space.source}" if ":" in space.source else "space inferred from names and shapes"
            return known, Match(space, "")
        except SpaceError as error:
            raise SpaceError(f"{checkpoint.path}: {error}") from None

    def _foreign(self, where: str, got: str) -> str:
        reads = "; ".join(_describe(space) for space in self.trained) or "none"
        return (
            f"{where} has an architecture that this metanet was not trained on: got {got}. It was trained on: {reads}. "
            "Pass --any-architecture (any_architecture=True) to predict all the same."
        )


@contextmanager
def double_precision(task: PropertyTask) -> Iterator[None]:
    """A task in float64, evaluation mode and without gradients, so that predictions do not depend on the batch."""
    dtypes = {name: t.dtype for name, t in task.state_dict(keep_vars=True).items()}
    training = task.training
    try:
        task.double().eval()
        with torch.no_grad():
            yield
    finally:
        task.train(training)
        for name, tensor in task.state_dict(keep_vars=True).items():
            tensor.data = tensor.data.to(dtypes[name])


def _values(task: PropertyTask, graphs: Sequence[NeuronGraph]) -> list[dict[str, Any]]:
    """What the task says about each net, in float64, batches of one space at a time."""
    values: list[dict[str, Any]] = [{}] * len(graphs)
    spaces = list(dict.fromkeys(graph.space for graph in graphs))
    like = next(task.parameters())
    with double_precision(task):
        for space in spaces:
            where = [i for i, graph in enumerate(graphs) if graph.space == space]
            for start in range(0, len(where), BATCH):
                part = where[start : start + BATCH]
                stacked = {n: torch.cat([graphs[i].tensors[n] for i in part]).to(like) for n in space.tensor}
                for i, said in zip(part, task.describe(NeuronGraph(space, stacked)), strict=True):
                    values[i] = said
    return values


def _describe(space: WeightSpace) -> str:
    shapes = [f"{name}{list(shape)}" for name, shape in space.shapes.items()]
    return f"{activations(space) or 'no known activation'} net of {space.parameters:,} parameters ({_shorten(shapes)})"


def _shorten(items: Sequence[str], limit: int = 3) -> str:
    return ", ".join(items) if len(items) <= limit else f"{', '.join(items[: limit - 1])}, ..., {items[-1]}"
