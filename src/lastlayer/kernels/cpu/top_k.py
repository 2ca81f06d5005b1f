"""`transform.top_k.top_k`: the rows again, but -inf for all but the k largest entries of each.

    1  formula, NumPy: two sorts of each row
    2  integers in the order of the floats, and the k-th largest of them bit by bit: to count those above a bound is a
       vector loop
    3  the row is wrapped into columns, and that is done first with the largest of each: where a column has nothing
       above the k-th of these, it has none of the k largest
    4  rows shorter than `SHORT` lie across: how many come before each entry is counted for a tile of rows at a time

It is all done on the bits. The times are printed by ``bench/rows.py``.
"""

import math

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.max_rest import SHORT, as_rows, given, over_rows, packed, result, together

STEP = 64  # keys of the longest vector step: all lengths are multiples
INTEGERS = {"float32": np.int32, "float64": np.int64}


def _both(signature):
    """Of the integers that hold the bits of either precision."""
    return [signature(integer) for integer in (types.int32, types.int64)]


@compiled(*_both(lambda integer: integer(integer[::1], integer)))
def _kth(keys, k):
    """The k-th largest key: the largest number that k of them reach, found from its highest bit down."""
    integer = keys.dtype.type
    highest = integer(8 * keys.itemsize - 1)
    found = integer(integer(1) << highest)  # the least of all: the sign bit counts down
    for place in range(8 * keys.itemsize):
        bound = integer(found + integer(integer(1) << integer(highest - integer(place))))
        reach = integer(0)
        for j in range(len(keys)):
            reach = integer(reach + integer(keys[j] >= bound))
        found = bound if reach >= k else found
    return found


@compiled(*_both(lambda integer: integer(given(integer, 1), integer, integer[::1])))
def _in_order(bits, infinity, keys):
    """The bits as integers in the order of the floats, 0 for both zeros; how many are nan."""
    integer = keys.dtype.type
    sign = integer(8 * keys.itemsize - 1)
    magnitude, undefined = integer(~integer(integer(1) << sign)), integer(0)
    for j in range(len(bits)):
        size = integer(bits[j] & magnitude)
        key = integer(bits[j] ^ integer(integer(bits[j] >> sign) & magnitude))
        keys[j] = integer(0) if size == integer(0) else key
        undefined = integer(undefined + integer(size > infinity))
    return undefined


@compiled(*_both(lambda integer: integer(integer[:, ::1], integer, integer[::1], integer[::1])))
def _bound(keys, k, largest, candidates):
    """The k-th largest key of a row that is wrapped into columns."""
    if len(keys) < 3:
        return _kth(keys.reshape(-1), k)
    largest[:] = keys[0]
    for r in range(1, len(keys)):
        part = keys[r]
        for c in range(len(part)):
            largest[c] = max(largest[c], part[c])
    least, count = _kth(largest, k), 0
    for c in range(len(largest)):
        if largest[c] >= least:
            for r in range(len(keys)):
                candidates[count] = keys[r, c]
                count += keys[r, c] >= least
    whole = (count + STEP - 1) // STEP * STEP
    candidates[count:whole] = least
    return _kth(candidates[:whole], k)


@compiled(*_both(lambda integer: types.void(given(integer, 2), *[integer] * 3, types.int64, integer[:, ::1])))
def _along(x, k, infinity, undefined, columns, out):
    """``undefined`` is the bits of a nan, ``columns`` how many each row is wrapped into."""
    integer, classes = out.dtype.type, x.shape[1]
    lowest = integer(integer(1) << integer(8 * out.itemsize - 1))
    keys = np.full(((classes + columns - 1) // columns, columns), lowest)
    largest, candidates = (np.empty(columns, out.dtype), np.empty(keys.size + STEP, out.dtype))
    order = keys.reshape(-1)[:classes]
    for i in range(len(x)):
        bits, row = x[i], out[i]
        if _in_order(bits, infinity, order):
            row[:] = undefined
            continue
        bound, kept = _bound(keys, k, largest, candidates), integer(0)
        for j in range(len(row)):
            row[j] = bits[j] if order[j] >= bound else integer(infinity | lowest)
            kept = integer(kept + integer(order[j] >= bound))
        j = len(row)
        while kept > k:  # of equals the first are kept
            j -= 1
            if order[j] == bound:
                row[j] = infinity | lowest
                kept = integer(kept - integer(1))


@compiled(*_both(lambda integer: types.void(given(integer, 2), *[integer] * 3, integer[:, ::1])))
def _across(x, k, infinity, undefined, out):
    integer, classes = out.dtype.type, x.shape[1]
    masked = integer(infinity | integer(integer(1) << integer(8 * out.itemsize - 1)))
    size = together(classes)
    keys, columns = (np.empty((size, classes), out.dtype), np.empty((classes, size), out.dtype))
    before = np.empty(size, out.dtype)
    for start in range(0, len(x), size):
        bits, into = x[start : start + size], out[start : start + size]
        part = keys[: len(bits)]
        some = _in_order(bits.reshape(-1), infinity, part.reshape(-1))
        columns[:, : len(part)] = part.T
        for c in range(classes):
            before[:] = 0
            own = columns[c]
            for d in range(classes):
                other, earlier = columns[d], integer(d < c)
                for i in range(size):
                    ahead = integer(other[i] > own[i]) | integer(earlier & integer(other[i] == own[i]))
                    before[i] = integer(before[i] + ahead)
            for i in range(len(into)):
                into[i, c] = bits[i, c] if before[i] < k else masked
        for i in range(len(into) if some else 0):
            if _in_order(bits[i], infinity, part[i]):
                into[i] = undefined


def _filter(rows, k, out):
    """The rows as they are to be."""
    integer, classes = INTEGERS[rows.dtype.name], rows.shape[1]
    infinity, undefined = np.array([np.inf, np.nan], rows.dtype).view(integer)
    bits, into, k = rows.view(integer), out.view(integer), min(k, classes)
    if classes < SHORT:
        _across(bits, integer(k), infinity, undefined, into)
        return
    columns = STEP * math.ceil(max(k, math.sqrt(k * classes)) / STEP)  # as many as there are entries in k of them
    _along(bits, integer(k), infinity, undefined, columns, into)


def run(logits, k, kept=None):
    """The same rows as the formula."""
    if type(k) is not int or k < 1 or logits.shape[-1] == 0:
        return NotImplemented
    x, _ = as_rows(logits)
    out = result(x, x.shape)
    over_rows(lambda rows, m, rest, into, a, b: _filter(rows, k, into), x, out)
    return out.reshape(logits.shape)


def backward(gradient, logits, k, kept=None):
    """What comes back to the entries that are left: nan throughout a row that holds one."""
    x, _ = as_rows(logits)
    g, out = as_rows(gradient)[0], result(x, x.shape)

    def work(rows, m, rest, into, a, b):
        _filter(rows, k, into)
        left = np.where(into > -np.inf, packed(g[a:b]), into.dtype.type(0))
        into[:] = np.where(np.isnan(into), into, left)

    over_rows(work, x, out)
    return out.reshape(logits.shape)
