import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metanet.space.axes import (
    Dim,
    concat,
    counted,
    factors_of,
    find,
    freeze,
    leaves,
    pieces_of,
    product,
    settle,
    split_concat,
    split_product,
    unify,
)
from metanet.space.resolve import Names

REASON = "test"


def permutations(*dims: Dim) -> tuple[list[Tensor], int]:
    """A joint random permutation of several dims through their labels, and the number of free entries."""
    names = Names()
    labels = [names.label(d, "x") for d in dims]
    perms = {a.name: torch.randperm(a.size) for a in names.axes if a.free}
    found = [label.gather(perms) for label in labels]
    full = [torch.arange(d.size) if i is None else i for d, i in zip(dims, found, strict=True)]
    return full, sum(a.size for a in names.axes if a.free)


def free(dim: Dim) -> int:
    return sum(a.size for a in leaves(dim) if a.frozen is None)


def test_product_moves_like_a_reshaped_tensor():
    a, b = Dim(3), Dim(4)
    (i, j, k), count = permutations(a, b, product((a, b)))
    x = torch.randn(3, 4)
    assert count == 7
    torch.testing.assert_close(x[i][:, j].reshape(-1), x.reshape(-1)[k], rtol=0, atol=0)


def test_concat_moves_like_concatenated_tensors():
    a, b = Dim(3), Dim(4)
    (i, j, k), count = permutations(a, b, concat((a, b)))
    assert count == 7
    x, y = torch.randn(3), torch.randn(4)
    torch.testing.assert_close(torch.cat([x[i], y[j]]), torch.cat([x, y])[k], rtol=0, atol=0)


def test_trivial_parts_vanish():
    a = Dim(5)
    assert product((Dim(1), a, Dim(1))) is a
    assert concat((Dim(0), a)) is a
    assert product(()).size == 1


def test_products_unify_by_their_common_refinement():
    left, right = product((Dim(2), Dim(6))), product((Dim(4), Dim(3)))
    unify(left, right, REASON)
    assert [a.size for a in leaves(left)] == [2, 2, 3]
    assert [find(a) for a in leaves(left)] == [find(a) for a in leaves(right)]
    assert free(left) == 7


def test_products_without_a_common_refinement_freeze():
    left, right = product((Dim(2), Dim(3))), product((Dim(3), Dim(2)))
    unify(left, right, REASON)
    assert free(left) == free(right) == 0
    assert all(a.frozen for a in leaves(left))


def test_concats_unify_by_their_common_boundaries():
    left, right = concat((Dim(3), Dim(5))), concat((Dim(5), Dim(3)))
    unify(left, right, REASON)
    assert [a.size for a in leaves(left)] == [3, 2, 3]
    assert free(left) == 8


def test_a_concat_and_its_own_rotation():
    """Refining one side refines the other while it is being read."""
    a, b = Dim(3), Dim(5)
    left, right = concat((a, b)), concat((b, a))
    unify(left, right, REASON)
    (i, j), _ = permutations(left, right)
    assert torch.equal(i, j)
    assert free(left) > 0


def test_a_product_unifies_with_a_concat_through_its_outer_factor():
    heads, width = Dim(6), Dim(4)
    left, right = product((heads, width)), concat((Dim(8), Dim(16)))
    unify(left, right, REASON)
    (i, j), count = permutations(left, right)
    assert torch.equal(i, j)
    assert count == 2 + 4 + 4
    assert [a.size for a in leaves(heads)] == [2, 4]


def test_boundary_inside_a_block_freezes():
    left, right = product((Dim(3), Dim(4))), concat((Dim(5), Dim(7)))
    unify(left, right, REASON)
    assert free(left) == free(right) == 0


def test_freezing_reaches_everything_unified():
    a, b, c = Dim(4), Dim(4), product((Dim(2), Dim(2)))
    unify(a, b, REASON)
    freeze(b, "first")
    freeze(b, "second")
    unify(c, a, REASON)
    assert {atom.frozen for atom in leaves(c)} == {"first"}


def test_refinement_is_seen_by_every_holder():
    a = Dim(12)
    holder = concat((a, Dim(2)))
    outer, inner = split_product(a, (3, 4), REASON)
    assert [x.size for x in leaves(holder)] == [3, 4, 2]
    assert (outer.size, inner.size) == (3, 4)


def test_splitting_what_cannot_be_split_freezes_it():
    a = product((Dim(3), Dim(4)))
    parts = split_product(a, (4, 3), REASON)
    assert [p.size for p in parts] == [4, 3]
    assert free(a) == 0
    assert all(p.frozen for p in parts)


def test_sizes_that_differ_freeze_both():
    a, b = Dim(3), Dim(4)
    unify(a, b, REASON)
    assert a.frozen == b.frozen == REASON


def test_empty_dims_are_split():
    assert [p.size for p in split_product(Dim(0), (0, 3), REASON)] == [0, 3]
    assert [p.size for p in split_concat(Dim(0), (0, 0), REASON)] == [0, 0]


def test_repr_shows_structure():
    assert repr(concat((product((Dim(2), Dim(3))), Dim(4, frozen="x")))) == "((2 x 3) + =4)"


def random_program(seed: int) -> list[tuple[str, Dim, list[Dim]]]:
    """Apply random operations to a pool of dims; what each one states must hold of the final labels."""
    draw = random.Random(seed)
    pool = [Dim(draw.choice((2, 3, 4, 6, 8, 12))) for _ in range(4)]
    stated: list[tuple[str, Dim, list[Dim]]] = []
    for _ in range(draw.randint(2, 10)):
        a, b = draw.choice(pool), draw.choice(pool)
        kind = draw.choice(("product", "concat", "unify", "unify", "split_product", "split_concat", "freeze"))
        if kind == "product" and a.size * b.size <= 200:
            stated.append((kind, product((a, b)), [a, b]))
        elif kind == "concat" and a.size + b.size <= 100:
            stated.append((kind, concat((a, b)), [a, b]))
        elif kind == "unify":
            b = draw.choice([d for d in pool if d.size == a.size])
            unify(a, b, REASON)
            stated.append((kind, a, [b]))
        elif kind == "split_product":
            outer = draw.choice([d for d in range(1, a.size + 1) if a.size % d == 0])
            stated.append(("product", a, split_product(a, (outer, a.size // outer), REASON)))
        elif kind == "split_concat":
            at = draw.randint(1, a.size - 1)
            stated.append(("concat", a, split_concat(a, (at, a.size - at), REASON)))
        elif kind == "freeze" and draw.random() < 0.2:
            freeze(a, REASON)
        pool += [d for _, whole, parts in stated[-1:] for d in (whole, *parts) if d not in pool and d.size > 1]
    return stated


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_labels_commute_with_reshape_and_cat(seed: int):
    """Brute force: after any sequence of operations, moving parts and joining them equals moving the whole."""
    stated = random_program(seed)
    flat = [d for _, whole, parts in stated for d in (whole, *parts)]
    torch.manual_seed(seed % 2**31)
    indices, _ = permutations(*flat)
    of = {id(d): i for d, i in zip(flat, indices, strict=True)}
    for kind, whole, parts in stated:
        x = torch.arange(whole.size)
        moved = x[of[id(whole)]]
        if kind == "product":
            rows, columns = (of[id(p)] for p in parts)
            again = x.reshape(parts[0].size, parts[1].size)[rows][:, columns].reshape(-1)
        elif kind == "concat":
            pieces = x.split([p.size for p in parts])
            again = torch.cat([piece[of[id(p)]] for piece, p in zip(pieces, parts, strict=True)])
        else:
            again = x[of[id(parts[0])]]
        assert torch.equal(moved, again), (kind, whole, parts)


def test_random_programs_leave_something_free():
    """The property above would hold if everything were frozen."""
    counts = []
    for seed in range(100):
        flat = [d for _, whole, parts in random_program(seed) for d in (whole, *parts)]
        counts.append(permutations(*flat)[1] if flat else 0)
    assert sum(c > 0 for c in counts) > 60


@pytest.mark.parametrize("sizes", [(2, 3, 4), (4, 1, 6), (12, 2)])
def test_split_and_product_are_inverse(sizes: tuple[int, ...]):
    whole = Dim(math.prod(sizes))
    parts = split_product(whole, sizes, REASON)
    again = product(parts)
    unify(whole, again, REASON)
    (i, j), count = permutations(whole, again)
    assert torch.equal(i, j)
    assert count == sum(s for s in sizes if s > 1)


def sizes(dims):
    return [d.size for d in dims]


def test_factors_and_pieces_are_those_of_nested_structure():
    a, b, c = Dim(2), Dim(3), Dim(4)
    nested = product((product((a, Dim(1))), product((b, c))))
    assert nested.size == 24
    assert factors_of(nested) == [a, b, c]
    assert factors_of(a) == [a]
    assert factors_of(Dim(1)) == []
    joined = concat((concat((a, Dim(0))), concat((b, c))))
    assert joined.size == 9
    assert pieces_of(joined) == [a, b, c]
    assert pieces_of(a) == [a]
    assert [sizes(leaves(p)) for p in pieces_of(product((concat((a, b)), c)))] == [[2, 4], [3, 4]]
    inner = product((c, concat((a, b))))
    assert pieces_of(inner) == [inner], "only an outer factor is distributed"


def test_one_entry_and_none():
    assert sizes(split_product(Dim(6), (1, 6, 1), REASON)) == [1, 6, 1]
    assert [d.frozen for d in split_product(Dim(6), (1, 6, 1), REASON)] == [None] * 3
    whole = Dim(5)
    assert split_concat(whole, (0, 5), REASON)[1] is whole
    assert sizes(split_concat(whole, (0, 5), REASON)) == [0, 5]


def test_parts_that_do_not_add_up_freeze_everything():
    for split, wanted in ((split_concat, (2, 2)), (split_concat, (3, 3)), (split_product, (5, 2))):
        whole = concat((Dim(2), Dim(3))) if split is split_concat else product((Dim(2), Dim(3)))
        parts = split(whole, wanted, REASON)
        assert sizes(parts) == list(wanted)
        assert {a.frozen for p in (whole, *parts) for a in leaves(p)} == {REASON}


def test_a_split_of_a_frozen_axis_is_frozen():
    for split, wanted in ((split_product, (2, 3)), (split_concat, (2, 4))):
        assert [d.frozen for d in split(Dim(6, frozen="first"), wanted, REASON)] == ["first"] * 2


def test_a_concatenation_is_halved_where_every_piece_can_be():
    a, b = Dim(4), Dim(6)
    outer, inner = split_product(concat((a, b)), (5, 2), REASON)
    assert (outer.size, inner.size) == (5, 2)
    assert [sizes(leaves(d)) for d in (a, b)] == [[2, 2], [3, 2]]
    assert find(list(leaves(a))[1]) is find(list(leaves(b))[1]) is find(inner)
    assert free(outer) == 5
    assert [d.frozen for d in split_product(concat((Dim(3), Dim(5))), (4, 2), REASON)] == [REASON] * 2
    small = Dim(2)
    outer, inner = split_product(concat((small, Dim(4))), (3, 2), REASON)
    assert find(inner) is find(small), "a piece as large as the inner factor is that factor"
    assert sizes(leaves(outer)) == [1, 2]


def test_a_product_is_cut_between_blocks_of_its_outer_factor():
    heads, width = Dim(5), Dim(3)
    left, right = split_concat(product((heads, width)), (6, 9), REASON)
    assert [sizes(leaves(d)) for d in (left, right)] == [[2, 3], [3, 3]]
    assert sizes(leaves(heads)) == [2, 3]
    assert find(list(leaves(left))[1]) is find(list(leaves(right))[1]) is find(width)


def test_only_single_entries_settle():
    parts = [Dim(1), Dim(1), Dim(1)]
    apart = concat(parts)
    whole = product((apart, Dim(4)))
    settle(whole)
    assert sizes(leaves(whole)) == [3, 4]
    assert [a.frozen for a in leaves(whole)] == ["its entries are taken apart", None]
    other = concat((Dim(1), Dim(2)))
    settle(other)
    assert sizes(leaves(other)) == [1, 2]
    assert free(other) == 3


def test_each_atom_is_counted_as_often_as_it_is_a_factor():
    a, b, c = Dim(2), Dim(3), Dim(4)
    assert counted([a, a, b]) == {a: 2, b: 1}
    assert counted([product((a, b)), a]) == {a: 2, b: 1}
    pieces = concat((product((a, b)), product((a, a, c))))
    assert counted([pieces]) == {a: 2, b: 1, c: 1}, "pieces are alternatives: the most of them counts"
    assert counted([pieces, a]) == {a: 3, b: 1, c: 1}
    d = Dim(2)
    unify(d, a)
    assert counted([a, d]) == {find(a): 2}
