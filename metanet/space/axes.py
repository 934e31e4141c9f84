"""Axis inference: which dimensions of which tensors must be permuted together.

Every dimension of every value in a traced network carries a :class:`Dim`. A dim is an atom (an axis), a *product* of
dims (``C x H x W`` after a flatten, ``heads x head_dim``) or a *concatenation* of dims (DenseNet features). Atoms live
in a union-find forest, and three operations are all that rules may do: **unify** two dims, **refine** one, **freeze**
one. Structure is shared by reference, so refining an atom refines it wherever it stands. Everything that cannot be
represented is frozen: the answer then claims fewer symmetries, never a false one.

Sizes are counted in entries. A dim of size 1 carries no permutation, so it is dropped from products and never unified.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


class Dim:
    """The label of one dimension during inference (mutable; :mod:`metanet.space.labels` holds the final form).

    Attributes:
        size: Number of entries.
        form: ``"atom"``, ``"product"`` (outer factor first) or ``"concat"``.
        parts: Factors or pieces; empty for an atom.
        frozen: Why this atom may not be permuted, or None while it is free.
    """

    __slots__ = ("form", "frozen", "parent", "parts", "size")

    def __init__(self, size: int, frozen: str | None = None) -> None:
        self.size = int(size)
        self.form = "atom"
        self.parts: list[Dim] = []
        self.frozen = frozen
        self.parent: Dim | None = None

    def __repr__(self) -> str:
        node = find(self)
        if node.form == "atom":
            return f"{'=' if node.frozen else ''}{node.size}"
        return "(" + (" x " if node.form == "product" else " + ").join(map(repr, node.parts)) + ")"


def find(dim: Dim) -> Dim:
    """The representative of a dim, with path halving."""
    while dim.parent is not None:
        if dim.parent.parent is not None:
            dim.parent = dim.parent.parent
        dim = dim.parent
    return dim


def leaves(dim: Dim) -> Iterator[Dim]:
    """The atoms below a dim, outer first."""
    node = find(dim)
    if node.form == "atom":
        yield node
    else:
        for part in node.parts:
            yield from leaves(part)


def counted(dims: Sequence[Dim]) -> dict[Dim, int]:
    """How many factors of dims each atom is; pieces of a concatenation are alternatives."""
    counts: dict[Dim, int] = {}
    for dim in dims:
        node = find(dim)
        if node.form == "atom":
            counts[node] = counts.get(node, 0) + 1
        elif node.form == "product":
            for atom, count in counted(node.parts).items():
                counts[atom] = counts.get(atom, 0) + count
        else:
            most: dict[Dim, int] = {}
            for part in node.parts:
                for atom, count in counted((part,)).items():
                    most[atom] = max(most.get(atom, 0), count)
            for atom, count in most.items():
                counts[atom] = counts.get(atom, 0) + count
    return counts


def freeze(dim: Dim, reason: str) -> None:
    """Forbid every permutation of a dim; the first reason is kept."""
    for atom in leaves(dim):
        if atom.frozen is None:
            atom.frozen = reason


def product(dims: Sequence[Dim]) -> Dim:
    """The row-major product of dims, outer factor first, flattened; size-1 factors vanish."""
    factors = [f for d in dims for f in factors_of(d)]
    return _compose("product", factors, math.prod(d.size for d in dims))


def concat(dims: Sequence[Dim]) -> Dim:
    """The concatenation of dims, flattened; empty pieces vanish."""
    pieces = [p for d in dims if d.size for p in pieces_of(d)]
    return _compose("concat", pieces, sum(d.size for d in dims))


def factors_of(dim: Dim) -> list[Dim]:
    """Factors of a dim, outer first, without those of size 1 (a dim that is no product is its own factor)."""
    node = find(dim)
    if node.form == "product":
        return [f for part in node.parts for f in factors_of(part)]
    return [node] if node.size != 1 else []


def pieces_of(dim: Dim) -> list[Dim]:
    """Pieces of a dim; a product whose outer factor is a concatenation is distributed over it."""
    node = find(dim)
    if node.form == "concat":
        return [p for part in node.parts for p in pieces_of(part)]
    if node.form == "product":
        outer = pieces_of(node.parts[0])
        if len(outer) > 1:
            return [product([piece, *node.parts[1:]]) for piece in outer]
    return [node]


def split_product(dim: Dim, sizes: Sequence[int], reason: str) -> list[Dim]:
    """Refine a dim into factors of the given sizes, outer first.

    Args:
        dim: The dim to refine; its size is the product of ``sizes``.
        sizes: Sizes of the factors wanted.
        reason: What to record if the refinement cannot be represented and the dim is frozen instead.

    Returns:
        One dim per size; size-1 factors are fresh trivial atoms. Frozen fresh atoms if the dim had to be frozen.
    """
    if dim.size == 0:
        return [Dim(s, frozen=reason) for s in sizes]
    wanted = [s for s in sizes if s != 1]
    found = _split_factors(factors_of(dim), wanted)
    if found is None:
        freeze(dim, reason)
        return [Dim(s, frozen=reason) for s in sizes]
    supply = iter(found)
    return [next(supply) if s != 1 else Dim(1) for s in sizes]


def split_concat(dim: Dim, sizes: Sequence[int], reason: str) -> list[Dim]:
    """Refine a dim into consecutive pieces of the given sizes; frozen fresh atoms if that is impossible."""
    found = _split_pieces(pieces_of(dim), list(sizes))
    if found is None:
        freeze(dim, reason)
        return [Dim(s, frozen=reason) for s in sizes]
    return found


def unify(a: Dim, b: Dim, reason: str = "dimensions of unlike structure were added") -> None:
    """State that two dims of equal size index the same things.

    Two products unify by the common refinement of their factors, two concatenations by that of their boundaries, a
    product and a concatenation by refining the product's outer factor. What cannot be refined is frozen.
    """
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        freeze(a, reason)
        freeze(b, reason)
    elif a.form == "atom" or b.form == "atom":
        _absorb(a, b)
    elif not (_unify_by(a, b, factors_of, _split_factors) or _unify_by(a, b, pieces_of, _split_pieces)):
        freeze(a, reason)
        freeze(b, reason)


def settle(dim: Dim) -> None:
    """Turn what was taken apart into single entries (the 3 of a fused qkv) back into one ordered atom, in place."""
    node = find(dim)
    if node.form == "concat" and all(p.size == 1 for p in leaves(node)):
        node.form, node.parts, node.frozen = "atom", [], "its entries are taken apart"
    for part in node.parts:
        settle(part)


def _compose(form: str, parts: list[Dim], size: int) -> Dim:
    if len(parts) == 1:
        return parts[0]
    dim = Dim(size)
    if parts:
        dim.form, dim.parts = form, parts
    return dim


def _absorb(a: Dim, b: Dim) -> None:
    """Point an atom at the other dim; a frozen atom freezes what it becomes."""
    if a.form != "atom":
        a, b = b, a
    a.parent = b
    if a.frozen is not None:
        freeze(b, a.frozen)


def _refine(atom: Dim, form: str, parts: list[Dim]) -> None:
    """Give an atom structure, in place, so that every holder of it sees the refinement."""
    for part in parts:
        part.frozen = part.frozen or atom.frozen
    atom.form, atom.parts = form, parts


def _unify_by(a: Dim, b: Dim, parts_of, split) -> bool:  # type: ignore[no-untyped-def]
    """Unify two structured dims part by part after common refinement; False if it has no common refinement."""
    left, right = parts_of(a), parts_of(b)
    if len(left) == 1 and len(right) == 1:
        return False
    sizes = _common(left, right, split is _split_factors)
    if sizes is None:
        return False
    left, right = split(left, sizes), split(right, sizes)
    if left is None or right is None:
        return False
    for x, y in zip(left, right, strict=True):
        unify(x, y)
    return True


def _common(left: list[Dim], right: list[Dim], multiply: bool) -> list[int] | None:
    """Part sizes of the coarsest common refinement of two partitions of the same extent."""

    def cuts(parts: list[Dim]) -> list[int]:
        out: list[int] = []
        total = 1 if multiply else 0
        for part in reversed(parts) if multiply else parts:
            total = total * part.size if multiply else total + part.size
            out.append(total)
        return out

    marks = sorted(set(cuts(left)) | set(cuts(right)))
    before, sizes = 1 if multiply else 0, []
    for mark in marks:
        if multiply and mark % before:
            return None
        sizes.append(mark // before if multiply else mark - before)
        before = mark
    return sizes[::-1] if multiply else sizes


def _split_factors(factors: list[Dim], sizes: list[int]) -> list[Dim] | None:
    """Regroup factors (outer first) to the sizes wanted, refining atoms; None if sizes do not divide."""
    stack = list(factors)
    out: list[Dim] = []
    for size in reversed(sizes):  # inner first
        taken: list[Dim] = []
        need = size
        while need > 1:
            if not stack:
                return None
            factor, *outer = reversed(factors_of(stack.pop()))  # refined since it was listed, if it is shared
            stack.extend(reversed(outer))
            if need % factor.size == 0:
                need //= factor.size
            elif factor.size % need == 0:
                halves = _halve(factor, factor.size // need, need)
                if halves is None:
                    return None
                stack.extend(factors_of(halves[0]))
                factor, need = halves[1], 1
            else:
                return None
            taken.insert(0, factor)
        out.insert(0, product(taken))
    return out if not stack else None


def _halve(factor: Dim, outer: int, inner: int) -> tuple[Dim, Dim] | None:
    """Refine one factor (an atom or a concatenation) into ``outer x inner``."""
    node = find(factor)
    if node.form == "atom":
        parts = [Dim(outer), Dim(inner)]
        _refine(node, "product", parts)
        return parts[0], parts[1]
    pieces = pieces_of(node)
    if any(piece.size % inner for piece in pieces):
        return None
    pairs = [_split_factors(factors_of(piece), [piece.size // inner, inner]) for piece in pieces if piece.size != inner]
    if any(pair is None for pair in pairs):
        return None
    split = iter(pairs)
    outers, inners = [], []
    for piece in pieces:
        pair = next(split) if piece.size != inner else [Dim(1), piece]
        outers.append(pair[0])  # type: ignore[index]
        inners.append(pair[1])  # type: ignore[index]
    for other in inners[1:]:
        unify(inners[0], other)
    return concat(outers), inners[0]


def _split_pieces(pieces: list[Dim], sizes: list[int]) -> list[Dim] | None:
    """Regroup consecutive pieces to the sizes wanted, refining atoms and outer factors; None if impossible."""
    stack, out = list(reversed(pieces)), []
    for size in sizes:
        taken: list[Dim] = []
        need = size
        while need > 0:
            if not stack:
                return None
            piece, *later = pieces_of(stack.pop())  # refined since it was listed, if it is shared
            stack.extend(reversed(later))
            if piece.size > need:
                halves = _cut(piece, need)
                if halves is None:
                    return None
                stack.append(halves[1])
                piece = halves[0]
            need -= piece.size
            taken.append(piece)
        out.append(concat(taken) if taken else Dim(0))
    return out if not stack else None


def _cut(piece: Dim, at: int) -> tuple[Dim, Dim] | None:
    """Refine one piece (an atom, or a product through its outer factor, which is no concatenation) at a boundary."""
    node = find(piece)
    if node.form == "atom":
        parts = [Dim(at), Dim(node.size - at)]
        _refine(node, "concat", parts)
        return parts[0], parts[1]
    outer, *inner = node.parts
    width = math.prod(d.size for d in inner)
    if at % width:
        return None
    halves = _split_pieces(pieces_of(outer), [at // width, outer.size - at // width])
    return None if halves is None else (product([halves[0], *inner]), product([halves[1], *inner]))
