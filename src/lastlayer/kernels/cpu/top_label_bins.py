"""`measure._entries.top_label_bins` as one pass over tiles of rows that lie across, so that each loop is a vector loop.

    1  formula, NumPy, float64
    2  a loop over rows, `math.exp` an entry: a call each, which no compiler makes a vector of
    3  this: classes outside, rows inside, and an exponential of multiplications alone

The times of the formula and of this are printed by ``bench/measures.py``. A row's sum runs over its classes in their
order, so neither its neighbours nor its tile change it.
"""

import math

import numpy as np

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential import exp
from lastlayer.parallel import over_ranges

RANGE = 65536  # rows: one range of the pool, and one partial sum
ENTRIES = 2**15  # of a tile, float64: it stays in the cache of a core


@compiled("void(f8[:, ::1], i8, i8[::1], f8[::1])")
def _with_infinities(x, i, top, confidence):
    m, k = -np.inf, 0
    for j in range(len(x)):
        if x[j, i] != x[j, i]:
            confidence[i] = np.nan
            return
        if x[j, i] > m:
            m, k = x[j, i], j
    top[i], rest = k, 0.0
    for j in range(len(x)):
        if x[j, i] == m:
            rest += 1.0
        elif x[j, i] > -np.inf and m < np.inf:
            rest += math.exp(x[j, i] - m)
    confidence[i] = 1.0 / rest if m > -np.inf else np.nan


@compiled("void(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8[::1])")
def _confidences(x, top, confidence, largest, odd):
    """Top class and confidence of each column of ``x``."""
    classes, rows = x.shape
    for i in range(rows):
        largest[i], top[i], odd[i], confidence[i] = x[0, i], 0, 0.0, 0.0
    for k in range(1, classes):
        for i in range(rows):
            above = x[k, i] > largest[i]
            top[i] = k if above else top[i]
            largest[i] = x[k, i] if above else largest[i]
    for k in range(classes):
        for i in range(rows):
            d = x[k, i] - largest[i]
            odd[i] += d * 0.0
            confidence[i] += exp(d)
    for i in range(rows):
        if odd[i] != 0.0:  # nan: an entry is nan or infinite, so a difference was
            _with_infinities(x, i, top, confidence)
        else:
            confidence[i] = 1.0 / confidence[i]


@compiled("void(i8[::1], f8[::1], i8[::1], f8[::1], f8[::1], f8[:, ::1])")
def _add(top, confidence, target, weight, edges, sums):
    count = len(edges) - 1
    for i in range(len(top)):
        w, c = weight[i], confidence[i]
        if w == 0.0:
            continue
        cell, hit = count - 1, 1.0 if top[i] == target[i] else 0.0
        if c != c:
            hit = np.nan  # there is no top class
        if c < 1.0:  # not of 1, and not of a nan: near where equal bins have it
            cell = min(max(math.ceil(c * count) - 1, 0), count - 1)
            while cell > 0 and c <= edges[cell]:
                cell -= 1
            while cell < count - 1 and c > edges[cell + 1]:
                cell += 1
        gap = w * (hit - c)
        sums[cell, 0] += w
        sums[cell, 1] += w * c
        sums[cell, 2] += w * hit
        sums[cell, 3] += gap * gap


def run(logits, target, weight, edges) -> np.ndarray:
    """The same sums as the formula."""
    n, classes = logits.shape
    edges = np.array(edges, np.float64)
    size = min(max(ENTRIES // classes, 64), RANGE)

    def tiles(a, b):
        floats, top, packed = np.empty((3, size)), np.empty(size, np.int64), np.empty(classes * size)
        sums = np.zeros((len(edges) - 1, 4))
        for start in range(a, b, size):
            rows, m = slice(start, min(start + size, b)), min(start + size, b) - start
            x = packed[: classes * m].reshape(classes, m)
            x[:] = logits[rows].T
            confidence, largest, odd = (column[:m] for column in floats)
            _confidences(x, top[:m], confidence, largest, odd)
            own, counted = np.array(target[rows], np.int64), np.array(weight[rows], np.float64)
            _add(top[:m], confidence, own, counted, edges, sums)
        return sums

    return sum(over_ranges(tiles, n, RANGE), np.zeros((len(edges) - 1, 4))).T.copy()
