"""`transform.softmax.softmax`, and softmax times a number per row: the slope of logsumexp and of cross_entropy.

    1  formula, NumPy
    2  two passes for the (max, rest) of a row, of which the second leaves its exponentials, and a third that scales
       them while they are in the nearest cache: 25 ms (50,000 x 1,000 float32, two Intel cores; PyTorch 23)
    3  of a slope one pass, where (max, rest) were kept: 20 ms, and 12 more for the pages of a fresh result

A result of its own is NumPy's memory, which the system gives in pages of 2 MB where it can: at 200 MB the small pages
of PyTorch's cost as much as the work. The times are printed by ``bench/softmax.py``.
"""

import math

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import DOWN, ZERO, fma, wide
from lastlayer.kernels.cpu.max_rest import (
    BLOCK,
    LANES,
    SHORT,
    across,
    along,
    as_rows,
    computing,
    given,
    of_both,
    over_rows,
    packed,
    result,
    term,
    together,
    turned,
)

NO_TARGET = np.empty(0, np.int64)


@compiled(*of_both(lambda f: types.float64(given(f, 1), given(f, 1), f)), fastmath={"reassoc"}, inner=True)
def _dot(p, g, least):
    wide()
    total = ZERO
    for j in range(len(p)):
        total += p[j] * (g[j] - least)
    return total


@compiled(*of_both(lambda f: types.void(f[:, ::1], given(f, 2))))
def _pulled(p, g):
    """``p_i (g_i - sum_j p_j g_j)``, in place of p, with each g less that of the largest share: nothing cancels."""
    wide()
    for i in range(len(p)):
        k = np.argmax(p[i])
        shares, gradient, origin = p[i], g[i], g[i, k]
        if shares[k] == ZERO:  # an empty row, whatever comes back to it
            continue
        mean = 0.0
        for start in range(0, len(shares), BLOCK):
            mean += _dot(shares[start : start + BLOCK], gradient[start : start + BLOCK], origin)
        mean = shares.dtype.type(mean)
        for j in range(len(shares)):
            shares[j] = shares[j] * ((gradient[j] - origin) - mean)


@compiled("UniTuple(f8, 2)(f8)", error_model="numpy", inner=True)
def _share(rest):
    """What makes a share of a `term`, ``2^-64 / (1 + rest)``, and what it lost in rounding."""
    total = 1.0 + rest
    share = DOWN / total
    return share, (fma(-share, total, DOWN) - share * (rest - (total - 1.0))) / total


@compiled(*of_both(lambda f: types.void(f[:, ::1], types.int64, types.float64, f)), inner=True)
def _scale(terms, i, rest, weight):
    """The terms of row i as shares, times its weight."""
    wide()
    share, lost = _share(rest)
    high = terms.dtype.type(share)
    low = terms.dtype.type((share - high) + lost)
    row = terms[i]
    for j in range(len(row)):
        row[j] = fma(row[j], high, row[j] * low) * weight


@compiled(
    *of_both(lambda f: types.void(given(f, 2), types.int64, types.int64, f, f, f, f, f[:, ::1], types.int64)),
    inner=True,
)
def _shares(x, i, count, m, high, low, weight, out, o):
    """`term` times ``high + low``, which is as if that were not rounded, times the weight of the row."""
    wide()
    row, into = x[i, :count], out[o]
    for j in range(len(row)):
        t = term(row[j] - m, row[j], m)
        into[j] = fma(t, high, t * low) * weight


@compiled(
    *of_both(lambda f: types.void(given(f, 2), types.int64, f, types.float64, f, f[:, ::1], f[:, ::1])), inner=True
)
def _spread(x, i, m, rest, weight, end, out):
    """The shares of a usual row; ``end`` is two vector steps."""
    share, lost = _share(rest)
    high = out.dtype.type(share)
    low = out.dtype.type((share - high) + lost)
    whole = x.shape[1] // LANES * LANES
    for j in range(x.shape[1] - whole):
        end[0, j] = x[i, whole + j]
    _shares(x, i, whole, m, high, low, weight, out, i)
    _shares(end, 0, LANES, m, high, low, weight, end, 1)
    for j in range(x.shape[1] - whole):
        out[i, whole + j] = end[1, j]


@compiled(*of_both(lambda f: types.void(f[:, ::1], types.float64[::1], given(f, 1), f[:, ::1])), inner=True)
def _spread_across(columns, rest, weight, out):
    """The shares of short rows, whose terms lie across in ``columns``."""
    wide()
    high, low = np.empty(len(out), out.dtype), np.empty(len(out), out.dtype)
    for i in range(len(out)):
        share, lost = _share(rest[i])
        high[i] = share
        low[i] = (share - high[i]) + lost
    for k in range(len(columns)):
        terms = columns[k]
        for i in range(len(terms)):
            terms[i] = fma(terms[i], high[i], terms[i] * low[i]) * weight[i]
    for i in range(len(out)):
        row = out[i]
        for k in range(len(row)):
            row[k] = columns[k, i]


@compiled(*of_both(lambda f: types.void(given(f, 1), f, types.float64, f, f, f[::1])), inner=True)
def _special(row, m, rest, weight, fill, out):
    """The shares of a row that is empty, infinite or nan."""
    for j in range(len(row)):
        share = row.dtype.type(np.nan)
        if m == np.inf:
            share = row.dtype.type(1.0 / (1.0 + rest)) if row[j] == np.inf else row.dtype.type(0.0)
        out[j] = fill if m == -np.inf else share * weight


@compiled(*of_both(lambda f: f(f, f, types.float64)), inner=True)
def _less_one(x, m, rest):
    """``p - 1`` of the class of logit ``x``: of the largest ``-rest / (1 + rest)``, in which nothing cancels."""
    if x == m:
        return -rest / (1.0 + rest)
    share = 0.0 if m == np.inf else term(x - m, x, m) * DOWN / (1.0 + rest)
    return share - 1.0


@compiled(
    *of_both(
        lambda f: types.void(
            given(f, 2),
            f[::1],
            types.float64[::1],
            types.boolean,
            given(f, 1),
            given(types.int64, 1),
            f,
            f[:, ::1],
        )
    )
)
def weigh(x, m, rest, known, weight, target, fill, out):
    classes = x.shape[1]
    size = together(classes)
    end = np.full((2, LANES), x.dtype.type(-np.inf))
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        if classes < SHORT:
            rows = x[start:stop]
            columns = turned(rows)
            across(rows, columns, m[start:stop], rest[start:stop])
            _spread_across(columns, rest[start:stop], weight[start:stop], out[start:stop])
        for i in range(start, stop):
            if classes >= SHORT and not known:
                m[i], rest[i] = along(x, i, end, out, i)
                _scale(out, i, rest[i], weight[i])
            if not abs(m[i]) < np.inf:
                _special(x[i], m[i], rest[i], weight[i], fill, out[i])
            elif classes >= SHORT and known:
                _spread(x, i, m[i], rest[i], weight[i], end, out)
            if len(target) and m[i] > -np.inf:
                out[i, target[i]] = _less_one(x[i, target[i]], m[i], rest[i]) * weight[i]


def weighed(logits, weight, fill, axis=-1, target=NO_TARGET, kept=None, out=None):
    """Softmax of each row times its weight; ``fill`` in an empty row; one less at the target, where there is one."""
    x, batch = as_rows(logits, axis)
    weight = np.broadcast_to(packed(np.asarray(weight)), batch).astype(computing(x.dtype)).reshape(-1)
    known = bool(kept)
    table = result(x, x.shape) if out is None else out

    def work(rows, m, rest, into, a, b):
        weigh(rows, m, rest, known, weight[a:b], target[a:b], fill, into)

    over_rows(work, x, table, kept)
    return np.moveaxis(table.reshape(*batch, x.shape[1]), -1, axis) if out is None else out


def run(logits, axis=-1, empty="nan", out=None, kept=None):
    """The same shares as the formula."""
    classes = logits.shape[axis]
    if classes == 0 or empty not in ("nan", "uniform", "zero"):
        return NotImplemented
    fill = {"nan": math.nan, "uniform": 1 / classes, "zero": 0.0}[empty]
    last = axis in (-1, logits.ndim - 1)
    if out is not None and last and _fits(out, logits):
        weighed(logits, np.float32(1.0), fill, out=out.reshape(-1, classes))
        return out
    shares = weighed(logits, np.float32(1.0), fill, axis, kept=kept)
    if out is None:
        return shares
    out[...] = shares
    return out


def backward(gradient, logits, axis=-1, empty="nan", kept=None):
    """What comes back to the logits: 0 to an empty row, whatever fills it."""
    x, batch = as_rows(logits, axis)
    g, out, known = as_rows(gradient, axis)[0], result(x, x.shape), bool(kept)

    def work(rows, m, rest, into, a, b):
        weigh(rows, m, rest, known, np.ones(b - a, rows.dtype), NO_TARGET, 0.0, into)
        _pulled(into, packed(g[a:b]))

    over_rows(work, x, out, kept)
    return np.moveaxis(out.reshape(*batch, x.shape[1]), -1, axis)


def _fits(out, logits):
    """Whether rows can be written where they belong at once."""
    plain = type(out) is np.ndarray and out.dtype == logits.dtype and out.dtype.isnative and out.shape == logits.shape
    return plain and out.flags.carray and not np.may_share_memory(out, logits)
