"""`transform.confidence.entropy` from the (max, rest) of each row, and the mean distance of its entries from the max.

    d = sum_i p_i (m - x_i),   entropy = log1p(rest) + d,   its slope in x_i = p_i ((m - x_i) - d)

    1  formula, NumPy
    2  the exponentials of a row are left by the loop that sums its rest, and weigh the distances in a second one

Both terms are of one sign, and the rest does not underflow, so a row that is nearly sure keeps its digits. The times
are printed by ``bench/rows.py``.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import ZERO, log1p, wide
from lastlayer.kernels.cpu.max_rest import (
    BLOCK,
    SHORT,
    across,
    as_rows,
    given,
    largest,
    of_both,
    onward,
    over_rows,
    packed,
    result,
    scale,
    tiled,
    together,
)
from lastlayer.kernels.cpu.softmax import NO_TARGET, weigh


@compiled(*of_both(lambda f: f(given(f, 1), given(f, 1), f)), fastmath={"reassoc"})
def _part(x, weight, m):
    wide()
    total = ZERO
    for j in range(len(x)):
        total += ZERO if weight[j] == ZERO else weight[j] * (m - x[j])
    return total


@compiled(*of_both(lambda f: types.float64(given(f, 1), given(f, 1), f)))
def _distance(x, weight, m):
    """The sum of the distances from ``m``, each times its weight."""
    total = 0.0
    for start in range(0, len(x), BLOCK):
        total += _part(x[start : start + BLOCK], weight[start : start + BLOCK], m)
    return total


@compiled(*of_both(lambda f: types.void(given(f, 2), types.int64, types.int64, f[::1], types.float64[::1], f[::1])))
def _across(x, start, stop, m, rest, out):
    """The (max, rest) of short rows, and the sum of their distances, each times its term."""
    wide()
    columns, distance, classes = tiled(x, start, stop), out[start:stop], x.shape[1]
    terms = columns.copy()
    across(x[start:stop], terms, m[start:stop], rest[start:stop])
    distance[:] = ZERO
    for k in range(classes):
        column, weight, top = columns[k], terms[k], m[start:stop]
        for i in range(len(distance)):
            distance[i] += ZERO if weight[i] == ZERO else weight[i] * (top[i] - column[i])


@compiled(*of_both(lambda f: types.void(given(f, 2), f[::1], types.float64[::1], f[::1])), error_model="numpy")
def _values(x, m, rest, out):
    size, short = together(x.shape[1]), x.shape[1] < SHORT
    terms, following = np.empty((1, x.shape[1]), x.dtype), largest(x, 0)
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        if short:
            _across(x, start, stop, m, rest, out)
        for i in range(start, start if short else stop):
            m[i], rest[i], following = onward(x, i, following, terms, 0)
            out[i] = _distance(x[i], terms[0], m[i])
        for i in range(start, stop):
            mean = out[i] * scale(m[i]) / (1.0 + rest[i]) if abs(m[i]) < np.inf else 0.0
            out[i] = np.nan if m[i] == -np.inf else log1p(rest[i]) + mean


@compiled(*of_both(lambda f: types.void(given(f, 2), f[::1], f[::1], f[:, ::1])))
def _pulled(x, m, gradient, shares):
    """The slopes in the place of the shares: 0 of an infinite entry."""
    wide()
    for i in range(len(x)):
        row, into = x[i], shares[i]
        if not abs(m[i]) < np.inf:
            into[:] = ZERO if m[i] == m[i] else np.nan
            continue
        mean = x.dtype.type(_distance(row, into, m[i]))
        for j in range(len(row)):
            slope = into[j] * ((m[i] - row[j]) - mean) * gradient[i]
            into[j] = into[j] if into[j] == ZERO else slope


def run(logits, axis=-1, kept=None):
    """The same numbers as the formula."""
    if logits.shape[axis] == 0:
        return NotImplemented
    x, batch = as_rows(logits, axis)
    out = result(x, len(x))
    over_rows(lambda rows, m, rest, into, a, b: _values(rows, m, rest, into), x, out, kept)
    return out.reshape(batch)


def backward(gradient, logits, axis=-1, kept=None):
    """What comes back to the logits: 0 to an empty row."""
    x, batch = as_rows(logits, axis)
    g, out, known = (np.broadcast_to(gradient, batch).reshape(-1), result(x, x.shape), bool(kept))

    def work(rows, m, rest, into, a, b):
        weigh(rows, m, rest, known, np.ones(b - a, rows.dtype), NO_TARGET, 0.0, into)
        _pulled(rows, m, packed(g[a:b]), into)

    over_rows(work, x, out, kept)
    return np.moveaxis(out.reshape(*batch, x.shape[1]), -1, axis)
