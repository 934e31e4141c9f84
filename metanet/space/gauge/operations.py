"""What each operation demands of gauges.

The method ``op_NAME`` is the rule of ``aten.NAME``. It gets the axis walk's value of the result and the operation's
arguments, and returns how the result moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import fx

from metanet.space.axes import find, leaves
from metanet.space.gauge.demands import Demands, Moved, flat
from metanet.space.gauge.forms import Form, Key, combine
from metanet.space.walk import Value


class Elementwise(Demands):
    """Sums, products, powers, clamps, joins, selections, reductions."""

    def op_add(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A sum: terms move alike; a number that is added does not move."""
        items = [i if isinstance(i, Moved) else Moved(Value(()), blank=i == 0) for i in (x, y)]
        return self.keep(value, self.alike(items))

    op_sub = op_rsub = op_add

    def op_maximum(self, node: fx.Node, value: Value, x: Moved, y: Moved) -> Moved:
        """The larger of two is positively homogeneous; a common sign turns it into the smaller."""
        return self.killed(value, x, y) if self.system.modulus else self.op_add(node, value, x, y)

    op_minimum = op_maximum

    def op_mul(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A product: factors multiply."""
        return self.product(value, x, y, 1)

    def op_div(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A quotient."""
        return self.product(value, x, y, -1)

    def op_pow(self, node: fx.Node, value: Value, x: Any, exponent: Any, *rest: Any) -> Moved:
        """A power: the degree is the exponent; for signs it is its parity."""
        if (
            not isinstance(x, Moved)
            or isinstance(exponent, Moved)
            or (self.system.modulus and exponent != int(exponent))
        ):
            for item in flat((x, exponent)):
                self.kill(item)
            return Moved(value)
        return self.unary(value, x, Fraction(exponent).limit_denominator(1000))

    def op_clamp(self, node: fx.Node, value: Value, x: Moved, low: Any = None, high: Any = None) -> Moved:
        """``clamp(z, min=0)`` is a ReLU; one that is symmetric about zero is odd; others allow nothing."""
        relu = not self.system.modulus and (low, high) in ((0, None), (None, 0))
        odd = self.system.modulus and isinstance(low, int | float) and high == -low
        return self.unary(value, x, 1) if relu or odd else self.killed(value, x)

    def op_clamp_min(self, node: fx.Node, value: Value, x: Moved, low: Any) -> Moved:
        """A clamp from below."""
        return self.op_clamp(node, value, x, low)

    def op_hardtanh(self, node: fx.Node, value: Value, x: Moved, low: float = -1, high: float = 1) -> Moved:
        """A clamp from both sides."""
        return self.op_clamp(node, value, x, low, high)

    def op_prelu(self, node: fx.Node, value: Value, x: Moved, slope: Moved) -> Moved:
        """Positively homogeneous in its argument; the slope does not move."""
        self.kill(slope)
        return self.killed(value, x) if self.system.modulus else self.unary(value, x, 1)

    op__prelu_kernel = op_prelu

    def op_where(self, node: fx.Node, value: Value, condition: Any, x: Any, y: Any) -> Moved:
        """A choice: both alternatives move alike, the condition does not move."""
        self.kill(condition if isinstance(condition, Moved) else None)
        return self.op_add(node, value, x, y)

    def op_cat(self, node: fx.Node, value: Value, items: Sequence[Moved], dim: int = 0) -> Moved:
        """Joined values: keys that several of them have move alike."""
        forms: dict[Key, Form] = {}
        moving = [(i, i.atoms) for i in items if not i.blank]
        for key in dict.fromkeys(k for i in items for k in i.forms):
            shared = [i for i, atoms in moving if key <= atoms]
            forms[key] = self.alike([Moved(i.value, {key: i.forms.get(key, {})}) for i in shared]).get(key, {})
        return self.keep(value, forms)

    op_stack = op_cat

    def op_select(self, node: fx.Node, value: Value, x: Moved, dim: int, number: int) -> Moved:
        """One entry: keys with an ordered atom keep that entry's factor."""
        return self.chosen(value, x, x.value.dims[dim % len(x.value.dims)], number)

    def op_unbind(self, node: fx.Node, value: tuple[Value, ...], x: Moved, dim: int = 0) -> tuple[Moved, ...]:
        """All entries, one by one."""
        at = x.value.dims[dim % len(x.value.dims)]
        return tuple(self.chosen(v, x, at, number) for number, v in enumerate(value))

    def op_slice(
        self, node: fx.Node, value: Value, x: Moved, dim: int = 0, start: int | None = None, *rest: Any
    ) -> Moved:
        """A part of a dimension; one entry of an ordered one is that entry."""
        at = dim % len(x.value.dims)
        if value.dims[at].size == 1 and find(x.value.dims[at]) in self.ordered:
            return self.chosen(value, x, x.value.dims[at], start or 0)
        return self.unary(value, x, 1, cut=True)

    def op_split(
        self, node: fx.Node, value: tuple[Value, ...], x: Moved, sizes: Any, dim: int = 0
    ) -> tuple[Moved, ...]:
        """Consecutive parts of a dimension."""
        at = dim % len(x.value.dims)
        if all(v.dims[at].size == 1 for v in value) and find(x.value.dims[at]) in self.ordered:
            return tuple(self.chosen(v, x, x.value.dims[at], number) for number, v in enumerate(value))
        return self.unary(value, x, 1, cut=True)

    op_split_with_sizes = op_chunk = op_tensor_split = op_split

    def op_gt(self, node: fx.Node, value: Value, x: Moved, y: Any) -> Moved:
        """Comparison with zero does not see positive factors."""
        if self.system.modulus or isinstance(y, Moved) or y != 0:
            return self.killed(value, *flat((x, y)))
        return Moved(value)

    op_ge = op_lt = op_le = op_gt

    def op_full(self, node: fx.Node, value: Value, size: Any, number: Any = 0, *rest: Any) -> Moved:
        """A constant; zeros move with anything."""
        return Moved(value, blank=number == 0)

    def op_zeros(self, node: fx.Node, value: Value, *rest: Any) -> Moved:
        """Zeros."""
        return Moved(value, blank=True)

    op_zeros_like = op_new_zeros = op_zeros

    def op_constant_pad_nd(self, node: fx.Node, value: Value, x: Moved, padding: Any, number: Any = 0) -> Moved:
        """Padding with zeros moves with anything."""
        return self.unary(value, x, 1) if not number else self.killed(value, x)

    def op_mean(self, node: fx.Node, value: Value, x: Moved, *rest: Any) -> Moved:
        """A sum over neurons may not mix factors; over positions it keeps them."""
        return self.keep(value, x.forms)

    op_sum = op_nansum = op_mean

    def op_amax(self, node: fx.Node, value: Value, x: Moved, *rest: Any) -> Moved:
        """A maximum over positions is positively homogeneous."""
        return self.killed(value, x) if self.system.modulus else self.keep(value, x.forms)

    op_amin = op_amax


class Operations(Elementwise):
    """Weights, norms and attention."""

    def op_linear(self, node: fx.Node, value: Value, x: Moved, weight: Moved, bias: Moved | None = None) -> Moved:
        """``x @ weight.T + bias``."""
        result = self.contract(value, x, weight, x.value.dims[-1:], (1,))
        return self.keep(value, self.alike([result, bias])) if bias else result

    def op_mm(self, node: fx.Node, value: Value, x: Moved, y: Moved) -> Moved:
        """A matrix product; either operand may be a weight."""
        if x.sides is not None and y.sides is None:
            return self.contract(value, y, x, y.value.dims[-2:-1], (len(x.value.dims) - 1,))
        return self.contract(value, x, y, x.value.dims[-1:], (len(y.value.dims) - 2,))

    op_bmm = op_matmul = op_mm

    def op_addmm(self, node: fx.Node, value: Value, bias: Moved, x: Moved, y: Moved, *rest: Any) -> Moved:
        """``bias + x @ y``."""
        return self.keep(value, self.alike([self.op_mm(node, value, x, y), bias]))

    op_baddbmm = op_addmm

    def op_convolution(
        self, node: fx.Node, value: Value, x: Moved, weight: Moved, bias: Moved | None, stride: Any, padding: Any,
        dilation: Any, transposed: bool, *rest: Any,
    ) -> Moved:  # fmt: skip
        """A convolution: zero padding moves with anything."""
        result = self.contract(value, x, weight, x.value.dims[1:2], (0 if transposed else 1,))
        return self.keep(value, self.alike([result, bias])) if bias else result

    def op_embedding(self, node: fx.Node, value: Value, weight: Moved, *rest: Any) -> Moved:
        """Rows of a table; its vocabulary does not move."""
        return self.keep(value, weight.forms)

    def op__native_batch_norm_legit_no_training(
        self, node: fx.Node, value: Any, x: Moved, weight: Moved | None, bias: Moved | None, mean: Moved,
        variance: Moved, *rest: Any,
    ) -> Any:  # fmt: skip
        """``(x - mean) / sqrt(variance + eps) * weight + bias``; the variance moves as ``variance + eps``."""
        shifted = self.alike([x, mean])
        if variance.value.origin is not None:
            self.offsets[variance.value.origin.tensor] = float(rest[-1])
        for key, form in variance.forms.items():
            if self.system.modulus or variance.value.origin is None:
                self.system.vanish(form)
            else:
                shifted[key] = combine([(shifted.get(key, {}), 1), (form, Fraction(-1, 2))])
        return self.affine(value, shifted, weight, bias)

    def op_native_layer_norm(
        self, node: fx.Node, value: Any, x: Moved, shape: Any, weight: Any, bias: Any, *rest: Any
    ) -> Any:
        """The argument of a norm may not move (its epsilon breaks the invariance); scale and shift may."""
        self.kill(x)
        return self.affine(value, {}, weight, bias)

    def op_native_group_norm(self, node: fx.Node, value: Any, x: Moved, weight: Any, bias: Any, *rest: Any) -> Any:
        """As layer norm."""
        self.kill(x)
        return self.affine(value, {}, weight, bias)

    def op_scaled_dot_product_attention(
        self, node: fx.Node, value: Any, q: Moved, k: Moved, v: Moved, *rest: Any
    ) -> Any:
        """Scores do not move, so queries and keys move inversely; the result moves as the values do."""
        contracted = frozenset(leaves(q.value.dims[-1]))
        scored = frozenset((*leaves(q.value.dims[-2]), *leaves(k.value.dims[-2])))
        for key in dict.fromkeys((*q.forms, *k.forms)):
            self.system.vanish(combine([(q.forms.get(key, {}), 1), (k.forms.get(key, {}), 1)]))
            if not key & contracted or key & scored:
                self.system.vanish(q.forms.get(key, {}))
        for key, form in v.forms.items():
            if key & scored:  # summed over
                self.system.vanish(form)
        for item in flat(rest):
            self.kill(item)
        first = value if isinstance(value, Value) else value[0]
        result = self.keep(first, v.forms)
        return (
            result
            if isinstance(value, Value)
            else (result, *(Moved(o) if isinstance(o, Value) else None for o in value[1:]))
        )
