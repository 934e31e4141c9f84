"""Making a traced space sound: what a certificate refutes is found in the graph and frozen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from metanet.space.calls import instances, is_read, operation_name
from metanet.space.exporting import Inputs
from metanet.space.labels import Label
from metanet.space.resolve import Names
from metanet.space.trace import Traced
from metanet.space.walk import Value
from metanet.space.weight_space import Opaque, WeightSpace
from metanet.symmetry.certify import TOLERANCE as MOVED
from metanet.symmetry.certify import Certificate, measure
from metanet.symmetry.evaluation import Evaluation, double_precision, doubled, relative_change
from metanet.symmetry.move import shuffles

ROUNDS = 8
TOLERANCE = 1e-7  # of single values inside the network, relative; a wrong rule moves them by more than 1e-3


def certified_space(graph: Traced, module: nn.Module, example_inputs: Inputs) -> WeightSpace:
    """The largest sound space that tracing and freezing gives.

    While the certificate fails, the first operation whose result does not move as its rule says is distrusted: it is
    treated as not understood. If no operation explains the failure, the axes that failed are frozen themselves.
    """
    evaluation = Evaluation(module, example_inputs)
    distrusted: frozenset[str] = frozenset()
    for _ in range(ROUNDS):
        certificate = ungauged(measure(evaluation, graph.space(distrusted), per_axis=False), evaluation)
        if certificate.ok:
            return certificate.space
        culprit = refuted(graph, evaluation, distrusted)
        if culprit is None:
            break
        distrusted |= {culprit.name}
    space, failed = certificate.space, {a.axis for a in certificate.failed}
    for names in (failed, {a.name for a in space.free_axes}):
        space = frozen(space, names)
        certificate = measure(evaluation, space, per_axis=False)
        if certificate.ok:
            break
    return certificate.space


def ungauged(certificate: Certificate, evaluation: Evaluation) -> Certificate:
    """The certificate without the gauges that it refutes; without all of a kind if they fail only together."""
    if not certificate.joint_error <= MOVED or all(g.error <= MOVED for g in certificate.gauges):
        return certificate
    space = certificate.space
    wrong = {n for g in certificate.gauges for n in g.failed}
    kinds = {g.kind for g in certificate.gauges if not g.error <= MOVED and not g.failed}
    kept = tuple(g for n, g in enumerate(space.gauges) if n not in wrong and g.kind not in kinds)
    listed = Opaque("certificate", "", f"{len(space.gauges) - len(kept)} gauges failed their certificate")
    space = replace(space, gauges=kept, opaque=(*space.opaque, listed))
    return measure(evaluation, space, per_axis=False)


def frozen(space: WeightSpace, names: Collection[str]) -> WeightSpace:
    """A space without the symmetries of the axes named; each is listed as opaque."""
    reason = "its certificate failed"
    axes = tuple(replace(a, kind="fixed", reason=reason) if a.name in names else a for a in space.axes)
    listed = tuple(Opaque("certificate", a.name, f"axis '{a.name}': {reason}") for a in space.axes if a.name in names)
    gauges = tuple(g for g in space.gauges if not set(g.axes) & set(names))
    return replace(space, axes=axes, opaque=(*space.opaque, *listed), gauges=gauges)


def refuted(graph: Traced, evaluation: Evaluation, distrusted: frozenset[str] = frozenset()) -> fx.Node | None:
    """The first operation of a traced graph whose result does not move as its labels say, or None.

    The graph is run on weights and on permuted weights side by side; every value inside the network must be permuted
    exactly as its dims say.
    """
    walk, _ = graph.walk(distrusted)
    space = graph.space(distrusted)
    state, _ = evaluation.weights(space)
    names = Names()
    labels = {n: [names.labels(v) for v in instances(_read(n, value), Value)] for n, value in walk.values.items()}
    perms = shuffles([a for a in names.axes if a.free], evaluation.seed)
    base = _inputs(graph, evaluation, state)
    if base is None:
        return None
    left, right = graph.program.interpreter(), graph.program.interpreter()
    with torch.no_grad(), double_precision(), torch.random.fork_rng():
        for node in graph.program.nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                left.env[node] = base[node]
                other = base[node].clone() if isinstance(base[node], Tensor) else base[node]
                right.env[node] = _moved(other, labels[node][0], perms)
                continue
            for side in (left, right):
                torch.manual_seed(evaluation.seed)
                side.env[node] = side.run_node(node)
                if "empty" in operation_name(node):  # whatever memory held
                    side.env[node].zero_()
            pair = (_read(node, left.env[node]), _read(node, right.env[node]))
            if not _agree(*pair, labels.get(node, []), perms):
                return node
    return None


def _read(node: fx.Node, result: Any) -> Any:
    """A result without those of its parts that nothing reads: rules need not know what they are."""
    several = isinstance(result, tuple | list)
    return [part for number, part in enumerate(result) if is_read(node, number)] if several else result


def _agree(left: Any, right: Any, labels: list[list[Label]], perms: dict[str, Tensor]) -> bool:
    """Whether the tensors of one result, moved, equal those of the other."""
    pairs = zip(instances(left, Tensor), instances(right, Tensor), labels, strict=False)
    for a, b, label in pairs:
        if (a.is_floating_point() or a.is_complex()) and a.numel() and tuple(a.shape) == tuple(n.size for n in label):
            expected = _moved(a, label, perms)
            finite = expected.isfinite()
            if not torch.equal(finite, b.isfinite()):
                return False
            if not relative_change([b.where(finite, 0)], [expected.where(finite, 0)]) <= TOLERANCE:
                return False
    return True


def _moved(tensor: Any, labels: list[Label], perms: dict[str, Tensor]) -> Any:
    for dim, label in enumerate(labels):
        index = label.gather(perms)
        if index is not None:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _inputs(graph: Traced, evaluation: Evaluation, state: dict[str, Tensor]) -> dict[fx.Node, Any] | None:
    """What every placeholder holds; None if the call's arguments do not match them."""
    supply = iter(pytree.tree_leaves((evaluation.args, evaluation.kwargs)))
    found: dict[fx.Node, Any] = {}
    for node, (kind, target) in graph.program.sources.items():
        if kind is InputKind.USER_INPUT:
            value = next(supply, None)
        else:
            value = state.get(target or "", graph.program.constants.get(target or ""))
        example = node.meta.get("val")
        if isinstance(example, Tensor) and not (isinstance(value, Tensor) and value.shape == example.shape):
            return None
        found[node] = doubled(value).clone() if isinstance(value, Tensor) else value  # what a run may write to
    return found
