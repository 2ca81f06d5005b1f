"""`transform.softmax.log_softmax` from the (max, rest) of each row; the ladder is in `max_rest`.

A second read of the row, from the cache, writes ``(x - m) - log1p(rest)``; of the largest entry that is
``-log1p(rest)`` alone, which keeps the tail. The times are printed by ``bench/rows.py``.
"""

import math

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import log1p, wide
from lastlayer.kernels.cpu.max_rest import as_rows, given, largest, of_both, over_rows, packed, parts, result, together
from lastlayer.kernels.cpu.softmax import NO_TARGET, weigh


@compiled(*of_both(lambda f: types.void(given(f, 1), f, f, f, f[::1])))
def _logarithms(x, m, normaliser, fill, out):
    wide()
    if abs(m) < np.inf:
        for j in range(len(x)):
            out[j] = (x[j] - m) - normaliser
        return
    for j in range(len(x)):
        out[j] = fill if m == -np.inf else np.nan
        if m == np.inf:
            out[j] = -normaliser if x[j] == np.inf else -np.inf


@compiled(*of_both(lambda f: types.void(given(f, 2), f[::1], types.float64[::1], f, f[:, ::1])))
def _values(x, m, rest, fill, out):
    size, following = together(x.shape[1]), largest(x, 0)
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        following = parts(x, start, stop, m, rest, following)
        for i in range(start, stop):
            _logarithms(x[i], m[i], out.dtype.type(log1p(rest[i])), fill, out[i])


@compiled(*of_both(lambda f: types.float64(given(f, 1))), fastmath={"reassoc"})
def _sum(x):
    wide()
    total = 0.0
    for j in range(len(x)):
        total += x[j]
    return total


@compiled(*of_both(lambda f: types.void(given(f, 2), types.float64[::1])))
def _sums(x, out):
    for i in range(len(x)):
        out[i] = _sum(x[i])


@compiled(
    *of_both(lambda f: types.void(given(f, 2), f[::1], types.float64[::1], given(f, 2), types.float64[::1], f[:, ::1]))
)
def _pulled(x, m, rest, gradient, total, out):
    """``g_i`` less ``p_i sum_j g_j``, which is there; of the largest entry ``g_i (1 - p_i)`` less the others' part."""
    wide()
    for i in range(len(x)):
        row, g, into = x[i], gradient[i], out[i]
        for j in range(len(row) if m[i] != -np.inf else 0):
            into[j] = g[j] - into[j]
        if abs(m[i]) < np.inf:
            top = 0
            while row[top] != m[i]:
                top += 1
            own = np.float64(g[top])
            into[top] = (own * rest[i] - (total[i] - own)) / (1.0 + rest[i])


def run(logits, axis=-1, empty="nan", kept=None):
    """The same logarithms as the formula."""
    classes = logits.shape[axis]
    if classes == 0 or empty not in ("nan", "uniform", "zero"):
        return NotImplemented
    fill = {"nan": math.nan, "uniform": -math.log(classes), "zero": -math.inf}[empty]
    x, batch = as_rows(logits, axis)
    out = result(x, x.shape)
    over_rows(lambda rows, m, rest, into, a, b: _values(rows, m, rest, fill, into), x, out, kept)
    return np.moveaxis(out.reshape(*batch, classes), -1, axis)


def backward(gradient, logits, axis=-1, empty="nan", kept=None):
    """What comes back to the logits: 0 to an empty row, whatever fills it."""
    x, batch = as_rows(logits, axis)
    g, out, known = as_rows(gradient, axis)[0], result(x, x.shape), bool(kept)

    def work(rows, m, rest, into, a, b):
        back, total = packed(g[a:b]), np.empty(b - a)
        _sums(back, total)
        weigh(rows, m, rest, known, total.astype(rows.dtype), NO_TARGET, 0.0, into)
        _pulled(rows, m, rest, back, total, into)

    over_rows(work, x, out, kept)
    return np.moveaxis(out.reshape(*batch, x.shape[1]), -1, axis)
