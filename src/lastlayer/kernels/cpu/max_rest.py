"""The (max, rest) of rows of float32, which every kernel of softmax is made of.

    m = the largest entry,  rest = sum over the others of exp(x_i - m),  logsumexp = m + log1p(rest)

    1  formula, NumPy: some thirty passes over arrays of the size of the logits
    2  a loop over each row with `math.exp`: a call an entry
    3  the maximum over integers that are in the order of the floats, which is a vector loop where one over floats is
       not; the sum in several lanes; rows shorter than `SHORT` across, a tile of `TILE` at a time

A row's own length alone decides in which order its entries are added, so neighbours, threads and layout change no bit.
The times are printed by ``bench/softmax.py``.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import DOWN, ONE, ZERO, term
from lastlayer.parallel import over_ranges

SHORT = 32  # classes: below, vectors run across rows
TILE = 256  # rows of a tile that lies across: 31 classes of them are 32 kB
LANES = 64  # entries of the longest vector step; a row's end is filled up to it
BLOCK = 2048  # entries summed in float32 before float64 takes over
RANGE = 2**20  # entries of one range of the pool: half a millisecond

ROW = types.Array(types.float32, 1, "C", readonly=True)
ROWS = types.Array(types.float32, 2, "C", readonly=True)
KEYS = types.Array(types.int32, 1, "C", readonly=True)

LEAST_KEY = np.int32(-(2**31))
SIGN, MAGNITUDE = np.int32(31), np.int32(2**31 - 1)


@compiled(types.int32(KEYS))
def _largest(bits):
    """The largest key: the bits of a float as an integer that is in the order of the floats, nan beyond the ends."""
    largest = LEAST_KEY
    for j in range(len(bits)):
        v = bits[j]
        largest = max(largest, np.int32(v ^ np.int32(np.int32(v >> SIGN) & MAGNITUDE)))
    return largest


@compiled(types.UniTuple(types.float32, 2)(ROW, types.float32, types.float32[::1]), fastmath={"reassoc"})
def _others(x, m, terms):
    """The sum of `term` over the entries that are not ``m``, and how many are; each is kept in ``terms``."""
    rest, equal = ZERO, ZERO
    for j in range(len(x)):
        difference = x[j] - m
        t = term(difference, x[j], m)
        terms[j] = t
        rest += ZERO if difference == ZERO else t
        equal += ONE if difference == ZERO else ZERO
    return rest, equal


@compiled(types.UniTuple(types.float64, 2)(ROW, types.float64))
def _special(row, m):
    """Of a row that holds nan, or whose largest entry is infinite: entries of +inf share it."""
    for j in range(len(row)):
        if row[j] != row[j]:
            return np.nan, np.nan
    if m == -np.inf:
        return m, 0.0
    rest = -1.0
    for j in range(len(row)):
        rest += row[j] == np.inf
    return m, rest


@compiled(types.UniTuple(types.float64, 2)(ROW, types.float32[:, ::1], types.float32[::1]))
def along(row, end, terms):
    """``m`` and ``rest`` of one row; its terms are left in ``terms``, if that is as long.

    ``end`` is two vector steps, of which the first holds -inf.
    """
    whole = len(row) // LANES * LANES
    for j in range(len(row) - whole):
        end[0, j] = row[whole + j]
    key = max(_largest(row[:whole].view(np.int32)), _largest(end[0].view(np.int32)))
    m = np.int32(key ^ np.int32(np.int32(key >> SIGN) & MAGNITUDE)).view(np.float32)
    if not abs(m) < np.inf:
        return _special(row, m)
    rest, equal = _others(end[0], m, end[1])
    total, count = np.float64(rest), np.float64(equal)
    kept = len(terms) == len(row)
    if kept:
        for j in range(len(row) - whole):
            terms[whole + j] = end[1, j]
    for start in range(0, whole, BLOCK):
        block = row[start : min(start + BLOCK, whole)]
        rest, equal = _others(block, m, terms[start:] if kept else terms)
        total += rest
        count += equal
    if total != total:
        return np.nan, np.nan
    return np.float64(m), total * DOWN + (count - 1.0)


@compiled(types.void(ROWS, types.float32[:, ::1], types.float32[::1], types.float64[::1]))
def across(x, columns, m, rest):
    """``m`` and ``rest`` of short rows, which lie across in ``columns``; there, their terms are left."""
    sums, equal = np.zeros(len(m), np.float32), np.zeros(len(m), np.float32)
    m[:] = columns[0]
    for k in range(1, len(columns)):
        column = columns[k]
        for i in range(len(column)):
            m[i] = column[i] if column[i] > m[i] else m[i]
    for k in range(len(columns)):
        column = columns[k]
        for i in range(len(column)):
            difference = column[i] - m[i]
            t = term(difference, column[i], m[i])
            column[i] = t
            sums[i] += ZERO if difference == ZERO else t
            equal[i] += ONE if difference == ZERO else ZERO
    for i in range(len(m)):
        rest[i] = sums[i] * DOWN + (equal[i] - 1.0)
    for i in range(len(m)):
        if rest[i] != rest[i]:
            m[i], rest[i] = _special(x[i], m[i])


@compiled(types.float32[:, ::1](ROWS))
def turned(x):
    """The rows of ``x`` as columns."""
    columns = np.empty((x.shape[1], len(x)), np.float32)
    for i in range(len(x)):
        row = x[i]
        for k in range(len(row)):
            columns[k, i] = row[k]
    return columns


@compiled(types.void(ROWS, types.float32[::1], types.float64[::1]))
def parts(x, m, rest):
    """``m`` and ``rest`` of a few rows."""
    if x.shape[1] < SHORT:
        across(x, turned(x), m, rest)
        return
    end, terms = np.full((2, LANES), np.float32(-np.inf)), np.empty(BLOCK, np.float32)
    for i in range(len(x)):
        m[i], rest[i] = along(x[i], end, terms)


@compiled("i8(i8)")
def together(classes):
    """How many rows are worked on at once: those of a tile, or what stays in the nearest cache."""
    return TILE if classes < SHORT else max(1, 4 * BLOCK // classes)


def over_rows(work, x):
    """``work(rows, a, b)`` for each range of ``x``, with its rows packed where they are not already."""
    ready = x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative

    def packed(a, b):
        work(x[a:b] if ready else np.array(x[a:b], np.float32, order="C"), a, b)

    for _ in over_ranges(packed, len(x), max(1, RANGE // x.shape[1])):
        pass


def as_rows(logits, axis=-1):
    """``logits`` as a table of rows, and the shape of what has one number per row."""
    x = np.moveaxis(logits, axis, -1)
    return x.reshape(-1, x.shape[-1]), x.shape[:-1]
