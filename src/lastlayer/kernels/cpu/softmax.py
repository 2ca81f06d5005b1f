"""`transform.softmax.softmax`, and softmax times a number per row: the slope of logsumexp and of cross_entropy.

    1  formula, NumPy
    2  two passes for the (max, rest) of a row, of which the second leaves its exponentials, and a third that scales
       them while they are in the nearest cache: 25 ms (50,000 x 1,000 float32, two Intel cores; PyTorch 23)
    3  of a slope one pass, where (max, rest) were kept: 20 ms, and 12 more for the pages of a fresh result
    4  of short rows the target's share is made less where they lie across, and a tile of usual rows is not looked
       through: 9.1 ns a row of 10 for 13.2, 7.0 of 2 for 12.7 (in the cache of one core)

A result of its own is NumPy's memory, which the system gives in pages of 2 MB where it can: at 200 MB the small pages
of PyTorch's cost as much as the work. The times are printed by ``bench/softmax.py``.
"""

import math

import numpy as np

from lastlayer.kernels.cpu import compiled, only_read
from lastlayer.kernels.cpu.exponential32 import ZERO, wide
from lastlayer.kernels.cpu.lanes import fma, load, load_part, store, store_part, turn, where_same
from lastlayer.kernels.cpu.max_rest import (
    BLOCK,
    SHORT,
    across,
    as_rows,
    largest,
    onward,
    origin,
    over_rows,
    packed,
    result,
    scale,
    term,
    tiled,
    together,
    width,
)

NO_TARGET = only_read(np.empty(0), np.int64)


@compiled(fastmath={"reassoc"}, inner=True)
def _dot(p, g, least):
    wide()
    total = ZERO
    for j in range(len(p)):
        total += p[j] * (g[j] - least)
    return total


@compiled()
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


@compiled(error_model="numpy", inner=True)
def _share(m, rest, weight, double):
    """What makes a share of a `term`, ``scale / (1 + rest)``, as two numbers of the type of ``weight``.

    Beside a float32 and what it lost, it does not count what the float64 lost.
    """
    total, down = 1.0 + rest, scale(m)
    share = down / total
    high = type(weight)(share)
    lost = (fma(-share, total, down) - share * (rest - (total - 1.0))) / total if double else share - high
    return high, type(weight)(lost)


@compiled(error_model="numpy", inline="always")
def _of_largest(rest, weight):
    """``p - 1`` of the largest entry, in which nothing cancels, times the weight of the row."""
    return -rest / (1.0 + rest) * weight


@compiled(inline="always")
def _weighed(t, high, low, weight):
    """Terms times ``high + low``, which is as if that were not rounded, times the weight of the row."""
    return fma(t, high, t * low) * weight


@compiled(inline="always")
def _scale(terms, i, m, rest, weight):
    """The terms of row i as shares, times its weight."""
    step, classes = width(terms.dtype), terms.shape[1]
    high, low = _share(m, rest, weight, step == 8)
    whole = classes // step * step
    for j in range(0, whole, step):
        store(terms, (i, j), _weighed(load(terms, (i, j)), high, low, weight))
    store_part(terms, (i, whole), _weighed(load_part(terms, (i, whole), ZERO), high, low, weight))


@compiled(inline="always")
def _spread(x, i, m, rest, weight, out):
    """The shares of a usual row, times its weight."""
    step, classes, of = width(x.dtype), x.shape[1], origin(m)
    high, low = _share(m, rest, weight, step == 8)
    whole = classes // step * step
    for j in range(0, whole, step):
        store(out, (i, j), _weighed(term(load(x, (i, j)), of), high, low, weight))
    store_part(out, (i, whole), _weighed(term(load_part(x, (i, whole), -np.inf), of), high, low, weight))


@compiled(error_model="numpy", inner=True)
def _spread_across(columns, m, rest, known, weight, target, out):
    """The shares of short rows, times their weights; in ``columns`` lie their terms, or where all is known logits.

    Of logits a share at the target is one less, where there is one. How many rows are not usual.
    """
    wide()
    step, classes, n = width(out.dtype), out.shape[1], len(out)
    high, low, own, chosen = np.empty((4, n), out.dtype)
    aims, unusual = known and len(target) > 0, 0
    for i in range(n):
        high[i], low[i] = _share(m[i], rest[i], weight[i], step == 8)
        unusual += not abs(m[i]) < np.inf
    for i in range(n if aims else 0):
        own[i], chosen[i] = _of_largest(rest[i], weight[i]), target[i]
    for i in range(0, n, step):
        weights, top = load_part(weight, i, ZERO), load_part(m, i, ZERO)
        of, y, mine = origin(top), load_part(chosen, i, ZERO), load_part(own, i, ZERO)
        up, down = load_part(high, i, ZERO), load_part(low, i, ZERO)
        for k in range(classes):
            v = load(columns, (k, i))
            share = _weighed(term(v, of) if known else v, up, down, weights)
            if aims:
                less = where_same(v, top, mine, share - weights)
                share = where_same(y, out.dtype.type(k), less, share)
            store(columns, (k, i), share)
        for k in range(0, classes, step):
            turn(columns, (k, i), out, (i, k))
    return unusual


@compiled(inner=True)
def _special(row, m, rest, weight, fill, out):
    """The shares of a row that is empty, infinite or nan."""
    for j in range(len(row)):
        share = row.dtype.type(np.nan)
        if m == np.inf:
            share = row.dtype.type(1.0 / (1.0 + rest)) if row[j] == np.inf else row.dtype.type(0.0)
        out[j] = fill if m == -np.inf else share * weight


@compiled(error_model="numpy")
def weigh(x, m, rest, known, weight, target, fill, out):
    classes = x.shape[1]
    size, short = together(classes), classes < SHORT
    following = largest(x, 0) if not known else x.dtype.type(0.0)
    for start in range(0, len(x), size):
        stop, left = min(start + size, len(x)), 1
        if short:
            some, others, aim = m[start:stop], rest[start:stop], target[start:stop]
            columns = tiled(x, start, stop)
            if not known:
                across(x[start:stop], columns, some, others)
            left = _spread_across(columns, some, others, known, weight[start:stop], aim, out[start:stop])
            left += len(target) if not known else 0
        for i in range(start, stop if left else start):
            if not short and not known:
                m[i], rest[i], following = onward(x, i, following, out, i)
                _scale(out, i, m[i], rest[i], weight[i])
            special = not abs(m[i]) < np.inf
            if special:
                _special(x[i], m[i], rest[i], weight[i], fill, out[i])
            elif not short and known:
                _spread(x, i, m[i], rest[i], weight[i], out)
            if len(target) and m[i] > -np.inf and (special or not short or not known):
                k = target[i]  # of others than the largest p is no 1
                out[i, k] = _of_largest(rest[i], weight[i]) if x[i, k] == m[i] else out[i, k] - weight[i]


def weighed(logits, weight, fill, axis=-1, target=NO_TARGET, kept=None, out=None):
    """Softmax of each row times its weight; ``fill`` in an empty row; one less at the target, where there is one."""
    x, batch = as_rows(logits, axis)
    weight, known = np.broadcast_to(np.asarray(weight), batch).reshape(-1), bool(kept)
    table = result(x, x.shape) if out is None else out

    def work(rows, m, rest, into, a, b):
        own = packed(weight[a:b]).astype(rows.dtype, copy=False)
        weigh(rows, m, rest, known, own, target[a:b], fill, into)

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
