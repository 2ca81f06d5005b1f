"""`transform.softmax.softmax`, and softmax times a number per row: the slope of logsumexp and of cross_entropy.

    1  formula, NumPy
    2  a pass for the (max, rest) of a row, and a second for its exponentials while the row is in the cache

A result of its own is NumPy's memory, which the system gives in pages of 2 MB where it can: at 200 MB the small pages
of PyTorch's cost as much as the work. The times are printed by ``bench/softmax.py``.
"""

import math

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import DOWN, ZERO, fma, term
from lastlayer.kernels.cpu.max_rest import (
    BLOCK,
    LANES,
    ROW,
    ROWS,
    SHORT,
    across,
    along,
    as_rows,
    over_rows,
    together,
    turned,
)


@compiled(types.float64(ROW, ROW, types.float32), fastmath={"reassoc"})
def _dot(p, g, least):
    total = ZERO
    for j in range(len(p)):
        total += p[j] * (g[j] - least)
    return total


@compiled(types.void(ROWS, ROWS, types.float32[:, ::1]))
def _pulled(p, g, out):
    """``p_i (g_i - sum_j p_j g_j)`` with each g less that of the largest share, in whose sum nothing cancels."""
    for i in range(len(p)):
        k = np.argmax(p[i])
        shares, gradient, row, origin = p[i], g[i], out[i], g[i, k]
        if shares[k] == ZERO:  # an empty row, whatever comes back to it
            row[:] = ZERO
            continue
        mean = 0.0
        for start in range(0, len(shares), BLOCK):
            mean += _dot(shares[start : start + BLOCK], gradient[start : start + BLOCK], origin)
        mean = np.float32(mean)
        for j in range(len(row)):
            row[j] = shares[j] * ((gradient[j] - origin) - mean)


NO_TARGET = np.empty(0, np.int64)


@compiled(types.void(types.float32[::1], types.float64, types.float32))
def _scale(terms, rest, weight):
    """Terms as shares, times the weight of the row."""
    exact = DOWN / (1.0 + rest)
    high = np.float32(exact)
    low = np.float32(exact - high)
    for j in range(len(terms)):
        terms[j] = fma(terms[j], high, terms[j] * low) * weight


@compiled(types.void(types.float32[:, ::1], types.float64[::1], ROW, types.float32[:, ::1]))
def _scale_across(columns, rest, weight, out):
    exact = DOWN / (1.0 + rest)
    high = exact.astype(np.float32)
    low = (exact - high).astype(np.float32)
    for k in range(len(columns)):
        terms = columns[k]
        for i in range(len(terms)):
            terms[i] = fma(terms[i], high[i], terms[i] * low[i]) * weight[i]
    for i in range(len(out)):
        row = out[i]
        for k in range(len(row)):
            row[k] = columns[k, i]


@compiled(types.void(ROW, types.float32, types.float64, types.float32, types.float32, types.float32[::1]))
def _special(row, m, rest, weight, fill, out):
    """The shares of a row that is empty, infinite or nan."""
    for j in range(len(row)):
        share = np.float32(np.nan)
        if m == np.inf:
            share = np.float32(1.0 / (1.0 + rest)) if row[j] == np.inf else ZERO
        out[j] = fill if m == -np.inf else share * weight


@compiled(types.float32(types.float32, types.float32, types.float64))
def _less_one(x, m, rest):
    """``p - 1`` of the class of logit ``x``: of the largest ``-rest / (1 + rest)``, in which nothing cancels."""
    if x == m:
        return np.float32(-rest / (1.0 + rest))
    share = 0.0 if m == np.inf else term(x - m, x, m) * DOWN / (1.0 + rest)
    return np.float32(share - 1.0)


@compiled(
    types.void(
        ROWS,
        ROW,
        types.Array(types.int64, 1, "C", readonly=True),
        types.float32,
        types.float32[:, ::1],
    )
)
def _weighed(x, weight, target, fill, out):
    classes = x.shape[1]
    size = together(classes)
    m, rest = np.empty(size, np.float32), np.empty(size)
    end = np.full((2, LANES), np.float32(-np.inf))
    for start in range(0, len(x), size):
        rows, into, w = x[start : start + size], out[start : start + size], weight[start : start + size]
        count = len(rows)
        if classes < SHORT:
            columns = turned(rows)
            across(rows, columns, m[:count], rest[:count])
            _scale_across(columns, rest[:count], w, into)
        for i in range(count):
            if classes >= SHORT:
                m[i], rest[i] = along(rows[i], end, into[i])
                _scale(into[i], rest[i], w[i])
            if not abs(m[i]) < np.inf:
                _special(rows[i], m[i], rest[i], w[i], fill, into[i])
        for i in range(len(target[start : start + count])):
            k = target[start + i]
            if m[i] > -np.inf:
                into[i, k] = _less_one(rows[i, k], m[i], rest[i]) * w[i]


def weighed(logits, weight, fill, axis=-1, target=NO_TARGET, out=None):
    """Softmax of each row times its weight; ``fill`` in an empty row; one less at the target, where there is one."""
    x, batch = as_rows(logits, axis)
    weight = np.ascontiguousarray(np.broadcast_to(weight, batch), np.float32).reshape(-1)
    own = out is None
    if own:
        out = np.empty(x.shape, np.float32)
    over_rows(lambda rows, a, b: _weighed(rows, weight[a:b], target[a:b], np.float32(fill), out[a:b]), x)
    return np.moveaxis(out.reshape(*batch, x.shape[1]), -1, axis) if own else out


def run(logits, axis=-1, empty="nan", out=None):
    """The same shares as the formula."""
    classes = logits.shape[axis]
    if classes == 0 or empty not in ("nan", "uniform", "zero"):
        return NotImplemented
    fill = {"nan": math.nan, "uniform": 1 / classes, "zero": 0.0}[empty]
    last = axis in (-1, logits.ndim - 1)
    if out is not None and last and _fits(out, logits):
        weighed(logits, np.float32(1.0), fill, out=out.reshape(-1, classes))
        return out
    shares = weighed(logits, np.float32(1.0), fill, axis)
    if out is None:
        return shares
    out[...] = shares
    return out


def backward(gradient, logits, axis=-1, empty="nan"):
    """What comes back to the logits: 0 to an empty row, whatever fills it."""
    shares = weighed(logits, np.float32(1.0), 0.0, axis)
    p, batch = as_rows(shares, axis)
    g, out = as_rows(gradient, axis)[0], np.empty(p.shape, np.float32)
    over_rows(lambda rows, a, b: _pulled(rows, np.array(g[a:b], np.float32, order="C"), out[a:b]), p)
    return np.moveaxis(out.reshape(*batch, p.shape[1]), -1, axis)


def _fits(out, logits):
    """Whether rows can be written where they belong at once."""
    plain = type(out) is np.ndarray and out.dtype == np.float32 and out.dtype.isnative and out.shape == logits.shape
    return plain and out.flags.carray and not np.may_share_memory(out, logits)
