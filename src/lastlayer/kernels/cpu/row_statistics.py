"""`measure.rows.row_statistics` as one loop over each row.

    1  formula, NumPy, float64
    2  this loop: one exp per entry for the row, four more per entry for all 25 temperatures, the others by squaring
       (temperatures stand four to an octave, so exp(d / T) of one octave is the square of the next)

The times of both are printed by ``bench/evaluate.py``. Input of any float dtype, stride and byte order is packed tile
by tile into float64, so a row's bits do not depend on its layout or its neighbours.
"""

import math

import numpy as np

from lastlayer.kernels.cpu import compiled
from lastlayer.parallel import over_ranges

TILE = 8192  # rows: one range of the pool, and one partial curve
OCTAVE = 4  # temperatures to a factor of two


@compiled("UniTuple(f8, 2)(f8, f8)")
def _difference(a, b):
    """``a - b`` and its rounding error, of two finite numbers or of two that are +inf alike."""
    if a == b:
        return 0.0, 0.0
    d = a - b
    part = d - a
    return d, (a - (d - part)) + (-b - part)


@compiled(
    "void(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8[::1], i8[::1], f8[::1], f8[::1], i8[::1], f8[::1],"
    " f8[:, ::1], f8[:, ::1], f8[:, :, ::1], f8[::1])"
)
def _tile(x, target, weight, beta, edges, top, nll, brier, rank, log_odds, probs, odds, curve, curve_nll):
    rows, classes = x.shape
    below = np.empty(classes)
    power = np.empty(classes)
    for i in range(rows):
        k = 0
        m = x[i, 0]
        undefined = m != m
        for j in range(1, classes):
            v = x[i, j]
            undefined |= v != v
            if v > m:
                m, k = v, j
        if undefined or m == -np.inf:
            top[i], rank[i] = -1, classes
            nll[i] = brier[i] = log_odds[i] = np.nan
            for j in range(classes):
                probs[i, j] = odds[i, j] = np.nan
            continue
        k2, second = k, -np.inf
        for j in range(classes):
            if m == np.inf:  # the limit: +inf entries share the row
                below[j] = 0.0 if x[i, j] == np.inf else -np.inf
            else:
                below[j] = x[i, j] - m
            if j != k and below[j] > second:
                k2, second = j, below[j]
        t, lost = 0.0, 0.0
        for j in range(classes):
            power[j] = 0.0
            if j != k and below[j] > -np.inf:
                d, error = _difference(x[i, j], x[i, k2])
                power[j] = math.exp(d) * (1.0 + error)
                s = t + (power[j] - lost)  # Kahan: a plain running sum loses 47 units over 32,000 classes
                lost = (s - t) - (power[j] - lost)
                t = s
        scale = 0.0
        if second > -np.inf:
            d, error = _difference(x[i, k2], m)
            scale = math.exp(d) * (1.0 + error)
        rest = t * scale
        y = target[i]
        before, square = 0, 0.0
        for j in range(classes):
            e = power[j] * scale
            if j == k:
                probs[i, j] = 1.0 / (1.0 + rest)
                odds[i, j] = -second - math.log(t) if t > 0.0 else np.inf
            else:
                probs[i, j] = e / (1.0 + rest)
                odds[i, j] = below[j] - math.log1p(rest - e)
            gap = probs[i, j] - (1.0 if j == y else 0.0)
            square += gap * gap
            if x[i, j] > x[i, y] or (x[i, j] == x[i, y] and j < y):
                before += 1
        top[i], rank[i] = k, before
        nll[i] = math.log1p(rest) if y == k else math.log1p(rest) - below[y]
        brier[i], log_odds[i] = square, odds[i, k]
        w = weight[i]
        if w > 0.0:
            hit = 1.0 if y == k else 0.0
            for first in range(OCTAVE):
                for j in range(classes):
                    power[j] = 0.0 if j == k or below[j] == -np.inf else math.exp(below[j] * beta[first])
                for b in range(first, len(beta), OCTAVE):
                    s = 0.0
                    for j in range(classes):
                        s += power[j]
                        power[j] *= power[j]
                    confidence = 1.0 / (1.0 + s)
                    cell = min(max(math.ceil(confidence * (len(edges) - 1)) - 1, 0), len(edges) - 2)
                    if cell > 0 and confidence <= edges[cell]:
                        cell -= 1
                    elif cell < len(edges) - 2 and confidence > edges[cell + 1]:
                        cell += 1
                    curve[b, cell, 0] += w
                    curve[b, cell, 1] += w * confidence
                    curve[b, cell, 2] += w * hit
                    curve[b, cell, 3] += (w * (hit - confidence)) ** 2
                    curve_nll[b] += w * (math.log1p(s) if y == k else math.log1p(s) - below[y] * beta[b])


def run(logits, target, weight, temperatures, bins) -> tuple:
    """The same columns, tables and curve as the formula."""
    n, classes = logits.shape
    ascending, edges = 1.0 / temperatures[::-1], np.linspace(0.0, 1.0, bins + 1)
    top, rank = np.empty(n, np.int64), np.empty(n, np.int64)
    nll, brier, log_odds = np.empty(n), np.empty(n), np.empty(n)
    probs, odds = np.empty((n, classes)), np.empty((n, classes))

    def pack(array, dtype):  # a copy: read-only input is another type
        return np.array(array, dtype, order="C")

    def tile(a, b):
        part, part_nll = np.zeros((len(ascending), bins, 4)), np.zeros(len(ascending))
        packed = pack(logits[a:b], np.float64), pack(target[a:b], np.int64), pack(weight[a:b], np.float64)
        columns = (top[a:b], nll[a:b], brier[a:b], rank[a:b], log_odds[a:b], probs[a:b], odds[a:b])
        _tile(*packed, ascending, edges, *columns, part, part_nll)
        return part, part_nll

    curve, curve_nll = np.zeros((len(ascending), bins, 4)), np.zeros(len(ascending))
    for part, part_nll in over_ranges(tile, n, TILE):
        curve += part
        curve_nll += part_nll
    return top, nll, brier, rank, log_odds, probs, odds, curve[::-1].copy(), curve_nll[::-1].copy()
