"""Links of tensors for which no rule recorded one, from the operations at which they met data.

A rule sees what a weight does only where the weight arrives as it is. Where it was computed (a product of two
parameters, a merged ``[heads, d_model, d_head]``, a row chosen by a router) or where the operation is none that links
(a concatenation, a distance), the dims tell the same: what the tensor shares with the result is written, the rest is
read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from metanet.space.axes import Dim, leaves, product
from metanet.space.values import SELECTIONS, LinkDraft, Use
from metanet.space.walk import Walk

SCALES = ("aten.mul", "aten.div", "aten.prelu", "aten._prelu_kernel", "aten.pow", "aten.sqrt", "aten.exp")
Atoms = set[Dim]


def drafts_of_uses(tensors: Mapping[str, Sequence[Dim]], walk: Walk) -> Iterator[LinkDraft]:
    """One link for every tensor that was used and has none, in order of depth.

    Args:
        tensors: Dims of every tensor of the space.
        walk: The finished walk.
    """
    found = []
    for name, uses in walk.uses.items():
        if name not in walk.linked and name in tensors:
            drafts = [d for use in uses if (d := _draft(name, tensors[name], use)) is not None]
            if drafts:
                found.append(max(drafts, key=lambda d: (bool(d.source_dims and d.target_dims), d.kind != "linear")))
    yield from sorted(found, key=lambda d: d.depth)


def _draft(name: str, dims: Sequence[Dim], use: Use) -> LinkDraft | None:
    """The link that one use makes: what stays in the result is the target, what is summed over the source.

    None for a factor between two others in a product of parameters: neither side of it meets data.
    """
    given, others = _atoms(use.result), _atoms(use.others)
    wide = [i for i, d in enumerate(dims) if d.size != 1]
    nodes = [i for i in wide if any(map(_is_node, leaves(dims[i])))]
    written = [i for i in nodes if _nodes(dims[i]) & given]
    read = [i for i in nodes if i not in written]
    if read and not written:  # a factor of a product of parameters: it writes what only they share
        written = [i for i in read if not _nodes(dims[i]) & others]
        read = [i for i in read if i not in written]
        if len(written) > 1 and not read:
            return None
    chosen = [i for i in wide if i not in nodes]
    if not read and written and chosen and use.name in SELECTIONS:
        return _weight(name, "embedding", dims, written, chosen, [], use)
    if not read:
        kind = "scale" if use.name in SCALES else "bias"
        target = product([dims[i] for i in written])
        return LinkDraft(name, kind, None, target, (), tuple(written), use.depth, (), use.module)  # type: ignore[arg-type]
    both = [i for i in written if _nodes(dims[i]) & others]  # one matrix for each entry, of data that has them too
    return _weight(name, "linear", dims, written, read, both, use)


def _weight(
    name: str, kind: str, dims: Sequence[Dim], written: list[int], read: list[int], both: list[int], use: Use
) -> LinkDraft:
    source, target = product([dims[i] for i in sorted((*both, *read))]), product([dims[i] for i in written])
    depth, module = use.depth + 1, use.module
    return LinkDraft(name, kind, source, target, tuple(read), tuple(written), depth, (), module)  # type: ignore[arg-type]


def _atoms(dims: Sequence[Dim]) -> Atoms:
    return {atom for dim in dims for atom in leaves(dim) if atom.size != 1}


def _nodes(dim: Dim) -> Atoms:
    return {atom for atom in leaves(dim) if atom.size != 1 and _is_node(atom)}


def _is_node(atom: Dim) -> bool:
    """Whether entries of an axis are neurons, inputs or outputs rather than positions."""
    return atom.size != 1 and atom.frozen in (None, "input", "output")
