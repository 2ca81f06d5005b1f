"""`transform.row_stats.row_statistics`: everything that one read of a row can tell.

    d_i = x_i - m,  rest = sum over the others of exp(d_i),  logsumexp = m + log1p(rest),  p_top = 1 / (1 + rest)
    entropy = log1p(rest) - sum_i exp(d_i) d_i / (1 + rest),   top2_gap = -max over the others of d_i

The ladder of the (max, rest) is in `max_rest`. Here, beside its rung 6, `logsumexp` of loops that LLVM made vectors of:

    1  formula, NumPy: some passes over arrays of the size of the logits for each statistic
    2  sums, moment and distance in one loop; the maximum by keys as in `max_rest`, and how many are above the target
       beside it: 1.4 times as long (50,000 x 1,000), 1.25 (1,000 x 32,000)
    3  the maximum by the bare bits, which are in order where one is not negative, and in the opposite where none is:
       the least of them in a second read; ties looked for in the span of the maximum alone: 1.28 and 1.13
    4  short rows finished in vectors, and the few without a distribution after all others: 1.5 ns an entry of 10 for
       2.2, beside .95

Two cores of an Intel Xeon with AVX-512, float32, busy with other work. What lost: spans of 256 (1.3 for 1.2 times, of
32,000) and of 1,024 entries (a hundredth more, of 1,000). Of rows of 10 what comes out is as much as what goes in, and
its pages are new: 2.3 times as long, of which 1.5 is work. Beside rung 9 of `max_rest`, whose vectors are written out
(`lanes`), this work in the cache of one core takes 1.7 times as long for 1,000 classes, 1.16 for 32,000 and 1.9 for 10.
The times are printed by ``bench/rows.py``.
"""

import sys
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from lastlayer._array import dtype_name, is_torch, to_numpy
from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import DOWN, ONE, ZERO, log1p, wide
from lastlayer.kernels.cpu.lanes import fma
from lastlayer.kernels.cpu.max_rest import (
    BLOCK,
    LANES,
    SHORT,
    along,
    as_rows,
    computing,
    given,
    of_both,
    over_rows,
    term,
    together,
    turned,
)

SPAN = 512  # entries whose largest is looked for together
STRIP = 64  # entries looked at together for one of the k largest
NOTHING = -800.0  # the distance of an entry whose term is 0
LSE, ENTROPY, LOGP, MAX_PROB, TOP2_GAP = range(5)
ARGMAX, RANK = range(2)
INTEGERS = {"float32": np.int32, "float64": np.int64}


def of_pairs(signature):
    """A signature for float32 with its bits in int32, and for float64 with those in int64."""
    return [signature(types.float32, types.int32), signature(types.float64, types.int64)]


def of_part(result, *more):
    """Signatures of what is found in ``x[i, start:stop]``, the bits beside it, given numbers of its type or others."""

    def signature(f, i):
        place = types.int64, types.int64, types.int64
        return result(f, i)(given(f, 2), given(i, 2), *place, *(f if each == "f" else each for each in more))

    return of_pairs(signature)


def bits_of(x) -> Any:
    """In compiled code: the bits of a number of either type."""


def number_of(bits) -> Any:
    """In compiled code: the number whose bits they are."""


@overload(bits_of)
def _bits_of_type(x):
    if x == types.float32:
        return lambda x: np.float32(x).view(np.int32)
    return lambda x: np.float64(x).view(np.int64)


@overload(number_of)
def _number_of_type(bits):
    if bits == types.int32:
        return lambda bits: np.int32(bits).view(np.float32)
    return lambda bits: np.int64(bits).view(np.float64)


@compiled(*of_part(lambda f, i: types.UniTuple(i, 2), "f"), inner=True)
def _scan(x, bits, i, start, stop, bound):
    """The bits of the largest, where that is not negative, and how many are above a bound."""
    wide()
    part, words, integer = x[i, start:stop], bits[i, start:stop], bits.dtype.type
    most, above = words[0], integer(0)
    for j in range(len(part)):
        most = max(most, words[j])
        above = integer(above + integer(part[j] > bound))
    return most, above


@compiled(*of_part(lambda f, i: i), inner=True)
def _least(x, bits, i, start, stop):
    """The bits of the largest of negative numbers."""
    wide()
    words = bits[i, start:stop]
    least = words[0]
    for j in range(len(words)):
        least = min(least, words[j])
    return least


@compiled(*of_part(lambda f, i: i, "f", types.int64), inner=True)
def _equal(x, bits, i, start, stop, value, end):
    """How many of the first ``end`` are of that value."""
    wide()
    part, integer = x[i, start:stop], bits.dtype.type
    count, end = integer(0), integer(end)
    for j in range(len(part)):
        count = integer(count + integer((part[j] == value) & (integer(j) < end)))
    return count


@compiled(*of_part(lambda f, i: types.UniTuple(types.int64, 2), "f"), inner=True)
def _found(x, bits, i, start, stop, value):
    """Where that value first stands, and how often it does."""
    wide()
    part, integer = x[i, start:stop], bits.dtype.type
    none = integer(len(part))
    first, count = none, integer(0)
    for j in range(len(part)):
        first = min(first, integer(j) if part[j] == value else none)
        count = integer(count + integer(part[j] == value))
    return start + first, np.int64(count)


@compiled(*of_part(lambda f, i: types.Tuple((f, f, i)), "f"), fastmath={"reassoc", "contract"}, inner=True)
def _sums(x, bits, i, start, stop, m):
    """The sum of `term` over the entries that are not ``m``, that of the terms times the distances, and the bits of
    the least distance, which is negative."""
    wide()
    part, rest, moment = x[i, start:stop], ZERO, ZERO
    nearest, nothing = bits_of(x.dtype.type(-np.inf)), x.dtype.type(NOTHING)
    for j in range(len(part)):
        difference = part[j] - m
        t = term(difference, part[j], m)
        rest += ZERO if difference == ZERO else t
        moment += t * (difference if difference > nothing else nothing)
        nearest = min(nearest, bits_of(difference))
    return rest, moment, nearest


@compiled(
    *of_pairs(
        lambda f, i: types.Tuple((f, types.float64, types.int64, types.int64))(
            given(f, 2), given(i, 2), types.int64, types.int64, f[:, ::1], i[:, ::1]
        )
    ),
    inner=True,
)
def _places(x, bits, i, y, end, end_bits):
    """The largest, how often it stands there, where first, and how many come before entry y."""
    whole, own = x.shape[1] // LANES * LANES, x[i, y]
    reached = np.nextafter(own, x.dtype.type(-np.inf))  # above it is what is no less than ``own``
    most, above = _scan(end, end_bits, 0, 0, LANES, own)
    at_end = m = number_of(_least(end, end_bits, 0, 0, LANES) if most < 0 else most)
    rank, span, last = np.int64(above), whole, whole
    if y >= whole:
        rank += _equal(end, end_bits, 0, 0, LANES, own, y - whole)
    for start in range(0, whole, SPAN):
        stop = min(start + SPAN, whole)
        most, above = _scan(x, bits, i, start, stop, reached if stop <= y else own)
        largest = number_of(_least(x, bits, i, start, stop) if most < 0 else most)
        rank += stop - start if stop <= y and own == -np.inf else np.int64(above)
        if start <= y < stop:
            rank += _equal(x, bits, i, start, y // LANES * LANES + LANES, own, y - start)
        if largest >= m:
            span = start if largest > m or span == whole else span
            m, last = largest, start
    first, count = whole, 0
    if span < whole:
        first, count = _found(x, bits, i, span, min(span + SPAN, whole), m)
    if last > span:
        count += _found(x, bits, i, span + SPAN, whole, m)[1]
    if at_end == m:
        place, more = _found(end, end_bits, 0, 0, LANES, m)
        first, count = first + (place if span == whole else 0), count + more
    return m, np.float64(count), first, rank


@compiled(
    *of_pairs(
        lambda f, i: types.Tuple((f, types.float64, types.float64, f, types.int64, types.int64))(
            given(f, 2), given(i, 2), types.int64, types.int64, f[:, ::1], i[:, ::1], f[:, ::1]
        )
    ),
    inner=True,
)
def _row(x, bits, i, y, end, end_bits, terms):
    """``m``, ``rest``, the sum of the terms times the distances, the gap, and the places of `_places`."""
    classes = x.shape[1]
    whole = classes // LANES * LANES
    for j in range(classes - whole):
        end[0, j] = x[i, whole + j]
    m, count, first, rank = _places(x, bits, i, y, end, end_bits)
    rest, moment, nearest = _sums(end, end_bits, 0, 0, LANES, m)
    total, lost, distance = np.float64(rest), 0.0, np.float64(moment)
    for start in range(0, whole, BLOCK):
        stop = min(start + BLOCK, whole)
        part, moment, near = _sums(x, bits, i, start, stop, m)
        below = part - lost
        above = total + below
        lost = (above - total) - below
        total = above
        distance += moment
        nearest = min(nearest, near)
    if total != total:  # a nan, or nothing finite
        m, rest = along(x, i, end, terms, 0)
        return m, rest, 0.0, x.dtype.type(np.inf if rest == 0.0 else 0.0), first, rank
    gap = ZERO if count > 1.0 else -number_of(nearest)
    return m, total * DOWN + (count - 1.0), distance, gap, first, rank


@compiled(
    *of_pairs(
        lambda f, i: types.int64(
            given(f, 2),
            given(i, 2),
            given(types.int64, 1),
            *[f[::1]] * 2,
            *[types.float64[::1]] * 2,
            f[::1],
            *[types.int64[::1]] * 2,
        )
    ),
    inner=True,
)
def _across(x, bits, target, own, m, rest, moment, gap, first, rank):
    """The same of short rows, which lie across; how many are not finite."""
    wide()
    rows, classes = x.shape
    columns, place, odd = turned(x), np.empty(rows, np.int32), 0
    sums, lost, equal = np.zeros(rows, x.dtype), np.zeros(rows, x.dtype), np.zeros(rows, x.dtype)
    distance, other = np.zeros(rows, x.dtype), np.zeros(rows, x.dtype)
    top, before = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    nearest, nothing = gap.view(bits.dtype), x.dtype.type(NOTHING)
    m[:], gap[:] = columns[0], -np.inf
    for i in range(rows):
        place[i] = target[i]
    for k in range(classes):
        column, this = columns[k], np.int32(k)
        for i in range(rows):
            v = column[i]
            above = v > m[i]
            m[i] = v if above else m[i]
            top[i] = this if above else top[i]
            before[i] = np.int32(before[i] + np.int32((v > own[i]) | ((v == own[i]) & (this < place[i]))))
    for k in range(classes):
        column = columns[k]
        for i in range(rows):
            difference = column[i] - m[i]
            t = term(difference, column[i], m[i])
            part = (ZERO if difference == ZERO else t) - lost[i]
            total = sums[i] + part
            lost[i] = (total - sums[i]) - part
            sums[i] = total
            equal[i] += ONE if difference == ZERO else ZERO
            distance[i] = fma(t, difference if difference > nothing else nothing, distance[i])
            nearest[i] = min(nearest[i], bits_of(difference))
        distance, other = other, distance  # half as many are added to each
    for i in range(rows):
        rest[i] = sums[i] * DOWN + (equal[i] - 1.0)
        moment[i] = np.float64(distance[i]) + other[i]
        odd += rest[i] != rest[i]
    for i in range(rows):
        gap[i] = ZERO if equal[i] > ONE else -gap[i]
        first[i], rank[i] = top[i], before[i]
    return odd


@compiled(
    *of_both(lambda f: types.int64(f[::1], f[::1], *[types.float64[::1]] * 2, *[f[::1]] * 4)),
    error_model="numpy",
    inner=True,
)
def _finished(own, m, rest, moment, lse, entropy, logp, max_prob):
    """What follows from the sums, which are written over; how many rows have no distribution."""
    wide()
    bare = 0
    for k in range(len(m)):
        share = 1.0 / (1.0 + rest[k])
        max_prob[k] = share
        moment[k] *= DOWN * share
    for k in range(len(m)):
        rest[k] = log1p(rest[k])
    for k in range(len(m)):
        lse[k] = m[k] + rest[k]
        entropy[k] = rest[k] - moment[k]
    for k in range(len(m)):
        below = np.float64(own[k]) - m[k]
        logp[k] = (0.0 if own[k] == m[k] else below) - rest[k]
        bare += not m[k] > -np.inf
    return bare


@compiled(
    *of_pairs(
        lambda f, i: types.void(
            given(f, 2), given(i, 2), given(types.int64, 1), types.int64, f[:, ::1], types.int64[:, ::1]
        )
    ),
    error_model="numpy",
)
def values(x, bits, target, at, floats, whole):
    """What the rows say, put into the columns from ``at`` on."""
    size, classes = together(x.shape[1]), x.shape[1]
    end, terms = np.full((2, LANES), x.dtype.type(-np.inf)), np.empty((1, BLOCK), x.dtype)
    end_bits, of_tile, sums = end.view(bits.dtype), np.empty((2, size), x.dtype), np.empty((2, size))
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        n, a, b = stop - start, at + start, at + stop
        own, m, rest, moment = of_tile[0, :n], of_tile[1, :n], sums[0, :n], sums[1, :n]
        lse, entropy, logp = floats[LSE, a:b], floats[ENTROPY, a:b], floats[LOGP, a:b]
        max_prob, gap = floats[MAX_PROB, a:b], floats[TOP2_GAP, a:b]
        first, rank = whole[ARGMAX, a:b], whole[RANK, a:b]
        for k in range(n):
            own[k] = x[start + k, target[start + k]]
        if classes >= SHORT:
            for k in range(n):
                i = start + k
                m[k], rest[k], moment[k], gap[k], first[k], rank[k] = _row(x, bits, i, target[i], end, end_bits, terms)
        elif _across(x[start:stop], bits, target[start:stop], own, m, rest, moment, gap, first, rank):
            for k in range(n):
                if rest[k] != rest[k]:
                    m[k], rest[k] = along(x, start + k, end, terms, 0)
                    moment[k], gap[k] = 0.0, np.inf if rest[k] == 0.0 else 0.0
        if _finished(own, m, rest, moment, lse, entropy, logp, max_prob):
            for k in range(n):
                if not m[k] > -np.inf:
                    entropy[k] = logp[k] = max_prob[k] = gap[k] = np.nan
                    first[k], rank[k] = -1, classes


@compiled(*of_both(lambda f: types.void(given(f, 2), f[::1], f[:, ::1], types.int64[:, ::1])))
def tops(x, lse, values, index):
    """The first classes of each row in falling order, the first of equals first; -1 of a row without a largest."""
    classes, k = x.shape[1], values.shape[1]
    for i in range(len(x)):
        value, where, found = values[i], index[i], 0
        if not lse[i] > -np.inf:
            value[:], where[:] = np.nan, -1
            continue
        value[:] = -np.inf
        for start in range(0, classes, STRIP):
            part, above = x[i, start : start + STRIP], 0
            for j in range(len(part)):
                above += part[j] > value[k - 1]
            for j in range(len(part) if above else 0):
                if not part[j] > value[k - 1]:
                    continue
                place = min(found, k - 1)
                while place > 0 and value[place - 1] < part[j]:
                    value[place], where[place] = value[place - 1], where[place - 1]
                    place -= 1
                value[place], where[place] = part[j], start + j
                found = min(found + 1, k)
        j = 0
        while found < k:  # masked classes follow
            if x[i, j] == -np.inf:
                where[found] = j
                found += 1
            j += 1


def _memory(logits):
    """Logits as an array of their memory, of bfloat16 as its bits."""
    if is_torch(logits) and dtype_name(logits) == "bfloat16":
        return to_numpy(logits.detach().view(sys.modules["torch"].int16)).view(np.uint16)
    array = to_numpy(logits)
    return array.view(np.uint16) if dtype_name(array) == "bfloat16" else array


def run(logits, want, target):
    """The same arrays as the formula."""
    if logits.shape[-1] == 0:
        return NotImplemented
    x, batch = as_rows(_memory(logits))
    dtype, n = computing(x.dtype), len(x)
    kinds, places = [name.partition(":") for name in want], np.zeros(n, np.int64)
    if target is not None:
        places[:] = to_numpy(target).reshape(-1)
    k = max((int(number) for _, _, number in kinds if number), default=0)
    floats, whole = np.empty((5, n), dtype), np.empty((2, n), np.int64)
    first, index = np.empty((n, k), dtype), np.empty((n, k), np.int64)

    def work(rows, m, rest, into, a, b):
        values(rows, rows.view(INTEGERS[dtype.name]), places[a:b], a, floats, whole)
        if k:
            tops(rows, into, first[a:b], index[a:b])

    over_rows(work, x, floats[LSE])
    columns = {"lse": LSE, "entropy": ENTROPY, "logp": LOGP, "max_prob": MAX_PROB, "top2_gap": TOP2_GAP}
    found = []
    for word, _, number in kinds:
        if number:
            found += [first[:, : int(number)], index[:, : int(number)]]
        else:
            found.append(floats[columns[word]] if word in columns else whole[ARGMAX if word == "argmax" else RANK])
    found = [array.reshape((*batch, *array.shape[1:])) for array in found]
    return [sys.modules["torch"].from_numpy(a) for a in found] if is_torch(logits) else [a[()] for a in found]
