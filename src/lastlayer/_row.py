"""The (max, rest) of each row, with no digit lost: what every softmax function here is made of.

    m = x[top],  rest = sum over the others of exp(x_i - m),  logsumexp = m + log1p(rest)

Three details keep it exact to a few units in the last place (DESIGN 1.3). The sum is anchored at the largest entry
*besides* the top one and multiplied once by ``exp(second - m)``, so that flushing of subnormals touches nothing that
matters. Differences carry their rounding error (a two-sum). And the derivative with respect to the top entry is written
twice, because one form cannot serve both: `Row.rest_from_max` has slope 1, `Row.rest_from_top` has slope -rest there.
"""

import functools
import sys
from typing import NamedTuple

import numpy as np

from lastlayer._array import (
    arange_like,
    as_array,
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
    infinite: Array  # (*batch,), +inf where `limit` replaced the row, else 0
    top: Array  # (*batch,), index of the first largest entry
    is_top: Array  # (*batch, classes)
    terms: Array  # (*batch, classes), exp(x - max), 0 at the top entry
    rest: Array  # (*batch,), the sum of `terms`
    shift: Array  # (*batch,), 0, with the slope of x[top]
    xp: Array

    def rest_from_max(self):
        """``sum(exp(x - m)) - 1`` with ``m`` held fixed: the slope in the top entry is 1."""
        return self.rest + self.xp.expm1(self.shift)

    def rest_from_top(self):
        """``sum over the others of exp(x_i - x[top])``: the slope in the top entry is ``-rest``, never ``1 - 1``."""
        return self.rest * self.xp.exp(-self.shift)


def split(x, xp):
    """Take rows apart at their largest entry."""
    x, infinite = limit(x, xp)
    top = xp.argmax(stop_gradient(x), axis=-1)
    is_top = arange_like(x, xp) == top[..., None]
    largest = take(x, top, xp)
    m = stop_gradient(largest)
    second = xp.max(xp.where(is_top, -xp.inf, stop_gradient(x)), axis=-1)
    none_left = second == -xp.inf
    anchor = xp.where(none_left, xp.zeros_like(second), second)
    difference, error = subtract(xp.where(is_top, -xp.inf, x), anchor[..., None], xp)
    gap, gap_error = subtract(anchor, m, xp)
    scale = xp.where(none_left & (m == m), xp.zeros_like(m), xp.exp(gap) * (1 + gap_error))
    terms = xp.exp(difference) * (1 + error) * scale[..., None]
    shift = xp.where(m == -xp.inf, xp.zeros_like(m), largest - m)
    return Row(x, m, infinite, top, is_top, terms, total(terms, xp), shift, xp)


def total(x, xp):
    """Sum over the classes, by an order that the other rows do not change.

    PyTorch splits the sum of a long row over its threads when it stands alone and not in a block, so there the row is
    folded in halves.
    """
    if not is_torch(x):
        return xp.sum(x, axis=-1)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        folded, odd = x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]
        x = xp.concat([folded, odd], axis=-1) if odd.shape[-1] else folded
    return x[..., 0]


def subtract(a, b, xp):
    """``a - b`` and its rounding error (Knuth's two-sum); the error is 0 where the difference is not finite."""
    difference = a - b
    high, a, b = stop_gradient(difference), stop_gradient(a), stop_gradient(b)
    part = high - a
    error = (a - (high - part)) + (-b - part)
    return difference, xp.where(xp.isfinite(high), error, xp.zeros_like(error))


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
    poisoned instead.
    """
    index = xp.astype(index, xp.int64 if xp is np or is_torch(index) else index.dtype)
    outside = (index < 0) | (index >= x.shape[-1])
    if not readable(index):
        return xp.where(outside, xp.zeros_like(index), index), xp.where(outside[..., None], xp.nan, x)
    if bool(xp.any(outside)):
        value = int(index[outside].reshape(-1)[0]) if index.ndim else int(index)
        hint = " Ignored rows are said aloud: valid=target != -100." if value == -100 else ""
        raise ValueError(f"{function}: {name} {value} is not one of the {x.shape[-1]} classes of logits.{hint}")
    return index, x
