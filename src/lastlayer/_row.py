"""The (max, rest) of each row, with no digit lost: what every softmax function here is made of.

    m = x[top],  rest = sum over the others of exp(x_i - m),  logsumexp = m + log1p(rest)

Three details keep it exact to a few units in the last place (DESIGN 1.3). The sum is anchored at the largest entry
*besides* the top one and multiplied once by ``exp(second - m)``, so that flushing of subnormals touches nothing that
matters. Differences carry their rounding error (a two-sum). And the derivative with respect to the top entry is written
twice, because one form cannot serve both: `Row.rest_from_max` has slope 1, `Row.rest_from_top` has slope -rest there.
"""

import functools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import (
    arange_like,
    as_array,
    dtype_name,
    floating,
    is_jax,
    is_torch,
    last_axis,
    namespace,
    readable,
    stop_gradient,
    take,
)
from lastlayer._typing import Array


class Row(NamedTuple):
    """A block of rows, taken apart at its largest entry. ``max`` is a constant of the differentiation."""

    x: Array  # (*batch, classes), as `limit` gives it
    max: Array  # (*batch,), -inf for an empty row
    removed: Array  # (*batch,), what was taken off each entry: +inf where `limit` replaced the row; a constant
    top: Array  # (*batch,), index of the first largest entry
    is_top: Array  # (*batch, classes)
    weights: Array  # (*batch, classes), exp(x - second), 0 at the top entry
    scale: tuple[Array, Array]  # (*batch,), the factors of exp(second - max); the second is 1 but far from the top
    rest: Array  # (*batch,), the sum over the others of exp(x - max)
    shift: Array  # (*batch,), 0, with the slope of x[top]
    low: Array | None  # (*batch, classes), what rounding took from x; None where nothing did
    xp: Any

    def terms(self):
        """``exp(x - max)`` of each entry, 0 at the top one."""
        return self.weights * (self.scale[0] * self.scale[1])[..., None]

    def down(self, weighed):
        """A sum over `weights` as one over `terms`, also where each term is below the smallest normal number."""
        return weighed * self.scale[0] * self.scale[1]

    def rest_from_max(self):
        """``sum(exp(x - m)) - 1`` with ``m`` held fixed: the slope in the top entry is 1."""
        return self.rest + self.xp.expm1(self.shift)

    def rest_from_top(self):
        """``sum over the others of exp(x_i - x[top])``: the slope in the top entry is ``-rest``, never ``1 - 1``."""
        return self.rest * self.xp.exp(-self.shift)


def split(x, xp, low=None, removed=None):
    """Take rows apart at their largest entry.

    ``low`` is what rounding took from each entry of ``x``, ``removed`` what the caller took off the row before.
    """
    x, infinite = limit(x, xp)
    top = xp.argmax(stop_gradient(x), axis=-1)
    is_top = arange_like(x, xp) == top[..., None]
    largest = take(x, top, xp)
    m = stop_gradient(largest)
    others = xp.where(is_top, -xp.inf, stop_gradient(x))
    second = xp.max(others, axis=-1)
    none_left = second == -xp.inf
    anchor = xp.where(none_left, xp.zeros_like(second), second)
    difference, error = subtract(xp.where(is_top, -xp.inf, x), anchor[..., None], xp)
    gap, gap_error = subtract(anchor, m, xp)
    if low is not None:
        anchor_low = take(low, xp.argmax(others, axis=-1), xp)
        error, gap_error = error + (low - anchor_low[..., None]), gap_error + (anchor_low - take(low, top, xp))
    far = gap < math.log(float(xp.finfo(x.dtype).smallest_normal)) + 2
    half = exponential(xp.where(far, gap * 0.5, gap), xp)  # below the smallest normal number a sum may come above it
    first = xp.where(none_left & (m == m), xp.zeros_like(m), half * (1 + gap_error))
    scale = first, xp.where(far, half, xp.ones_like(half))
    weights = xp.exp(difference) * (1 + error)
    rest = total(weights, xp) * scale[0] * scale[1]
    shift = xp.where(m == -xp.inf, xp.zeros_like(m), largest - m)
    removed = infinite if removed is None else removed + infinite
    return Row(x, m, removed, top, is_top, weights, scale, rest, shift, low, xp)


def exponential(x, xp):
    """``exp``, by float64 on NumPy: its own is off by up to 2.5 units in float32."""
    return np.exp(x, dtype=np.float64).astype(x.dtype) if xp is np else xp.exp(x)


def merge(m1, s1, m2, s2, xp):
    """The ``(max, rest)`` of two blocks of a row as that of both: ``(m1, s1 + (1 + s2) exp(m2 - m1))``, m1 >= m2."""
    first = m1 >= m2
    high, low = xp.where(first, m1, m2), xp.where(first, m2, m1)
    above, below = xp.where(first, s1, s2), xp.where(first, s2, s1)
    gap, error = subtract(low, high, xp)
    one = xp.ones_like(high)
    scale = xp.where(
        low == high, one, exponential(gap, xp) * (one + error)
    )  # inf - inf: an entry equal to the largest counts 1
    scale = xp.where(low == -xp.inf, xp.zeros_like(scale), scale)
    undefined = xp.isnan(m1) | xp.isnan(m2)
    return xp.where(undefined, one * xp.nan, high), above + (1 + below) * scale


def total(x, xp):
    """Sum over the classes, by an order that the other rows do not change.

    PyTorch splits the sum of a long row over its threads when it stands alone and not in a block, and XLA adds one
    class after the other (10 units of 1,000 classes in float32), so there the row is folded in halves. NumPy's order
    follows the layout in memory, so there it is made one.
    """
    if not (is_torch(x) or is_jax(x)):
        return xp.sum(np.ascontiguousarray(x) if xp is np else x, axis=-1)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        folded, odd = x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]
        x = xp.concat([folded, odd], axis=-1) if odd.shape[-1] else folded
    return x[..., 0]


def exact_total(x, error, xp):
    """The sum of ``x + error`` by class as two numbers: folded in halves, with what each addition rounds away."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        folded, lost = subtract(x[..., :half], -x[..., half : 2 * half], xp)
        lost = lost + (error[..., :half] + error[..., half : 2 * half])
        x, error = (xp.concat([part, y[..., 2 * half :]], axis=-1) for part, y in ((folded, x), (lost, error)))
    return x[..., 0], error[..., 0]


def subtract(a, b, xp):
    """``a - b`` and its rounding error (Knuth's two-sum); the error is 0 where the difference is not finite."""
    difference = a - b
    high, a, b = stop_gradient(difference), stop_gradient(a), stop_gradient(b)
    part = high - a
    error = (a - (high - part)) + (-b - part)
    return difference, xp.where(xp.isfinite(high), error, xp.zeros_like(error))


def multiply(a, b, xp):
    """``a * b`` and its rounding error (Dekker's product of halves); the error is 0 where the halves overflow."""
    product = a * b
    high, a, b = stop_gradient(product), stop_gradient(a), stop_gradient(b)
    a1, a2 = halves(a)
    b1, b2 = halves(b)
    error = ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2
    return product, xp.where(xp.isfinite(error), error, xp.zeros_like(error))


def halves(x):
    """``x`` as the sum of two numbers of half as many bits, whose products are exact (Veltkamp)."""
    t = x * (4097.0 if dtype_name(x) == "float32" else 134217729.0)
    high = t - (t - x)
    return high, x - high


def limit(x, xp):
    """Rows that hold +inf as the finite row with the same limit: 0 at each +inf, -inf elsewhere; slope 1 throughout.

    Also returns, per row, what was taken off: +inf there, 0 in every other row.
    """
    if is_torch(x):
        x, infinite = _torch_limit().apply(x)
        return x, infinite
    if is_jax(x):
        return _jax_limit()(x)
    return _limit(x, xp)


def _limit(x, xp):
    zero = xp.zeros_like(x)
    infinite = x == xp.inf
    row = xp.any(infinite, axis=-1) & ~xp.any(xp.isnan(x), axis=-1)
    limited = xp.where(row[..., None], xp.where(infinite, zero, zero - xp.inf), x)
    return limited, xp.where(row, zero[..., 0] + xp.inf, zero[..., 0])


@functools.cache
def _torch_limit():
    torch = sys.modules["torch"]

    class Limit(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return _limit(x, namespace(x))

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx, gradient, _):
            return gradient

        @staticmethod
        def jvp(ctx, tangent):
            return tangent.clone(), None

    return Limit


@functools.cache
def _jax_limit():
    jax = sys.modules["jax"]
    jnp = jax.numpy
    function = jax.custom_jvp(lambda x: _limit(x, jnp))
    function.defjvp(
        lambda primals, tangents: (function(primals[0]), (tangents[0], jnp.zeros_like(tangents[0][..., 0])))
    )
    return function


def prepare(logits, axis):
    """``logits`` as an array to compute with, classes last, and its namespace."""
    x = floating(as_array(logits))
    if x.ndim == 0:
        raise ValueError("logits have a last axis of classes; this is a single number.")
    if x.shape[axis] == 0:
        raise ValueError("logits have no classes: the last axis is empty.")
    xp = namespace(x)
    return last_axis(x, axis, xp), xp


def class_index(function, name, index, x, xp):
    """``index`` to gather with, and ``x``: an index outside the classes is refused, or makes its row nan.

    A negative index would silently count from the end. Where the values may not be looked at (`readable`) the row is
    poisoned instead. An index may also name several classes of each row, ``(*batch, k)``.
    """
    index = xp.astype(index, xp.int64 if xp is np or is_torch(index) else index.dtype)
    outside = (index < 0) | (index >= x.shape[-1])
    if not readable(index):
        bad = outside[..., None] if index.ndim < x.ndim else xp.any(outside, axis=-1, keepdims=True)
        return xp.where(outside, xp.zeros_like(index), index), xp.where(bad, xp.nan, x)
    if bool(xp.any(outside)):
        value = int(index[outside].reshape(-1)[0]) if index.ndim else int(index)
        hint = " Ignored rows are said aloud: valid=target != -100." if value == -100 else ""
        raise ValueError(f"{function}: {name} {value} is not one of the {x.shape[-1]} classes of logits.{hint}")
    return index, x
