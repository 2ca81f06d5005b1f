"""`transform.row_stats.row_statistics`: everything that one read of a row can tell.

    d_i = x_i - m,  rest = sum over the others of exp(d_i),  logsumexp = m + log1p(rest),  p_top = 1 / (1 + rest)
    entropy = log1p(rest) - sum_i exp(d_i) d_i / (1 + rest),   top2_gap = -max over the others of d_i

The ladder of the (max, rest) is in `max_rest`. Here, in times of `logsumexp` as it was then:

    1  formula, NumPy: some passes over arrays of the size of the logits for each statistic
    2  sums, moment and distance in one loop; the maximum by keys, and how many are above the target beside it: 1.4
       times as long (50,000 x 1,000), 1.25 (1,000 x 32,000)
    3  the maximum by the bare bits; ties looked for in the span of the maximum alone: 1.28 and 1.13, and 1.70 and 1.16
       when `logsumexp` had its vectors written out
    4  all sums in the loop of `max_rest.onward`, in vectors written out and in its order, so that the normaliser has
       the bits of `logsumexp`; 1.50 and 1.21 in the cache of one core, and 1.7 for 10 classes
    5  no references counted within a row: the last vector by a loop, since what a branch uses last is counted; tiles
       of `TILE` rows of any length, whose lines are made once: 1.25 and 1.17, and 1.45 for 10 classes
    6  the exponential of rung 12 there, two vectors a turn; ties looked for in the strip of the target alone, since
       what is as large and before it is above the next lower number: 335 ns a row of 1,000 for 378, where `logsumexp`
       went from 300 to 210; 1.3 to 1.5 times and 1.1 to 1.4 of it where memory counts

Two cores of an Intel Xeon with AVX-512, float32. Where the maximum stands is looked for in its strip alone. What lost:
a branch for the last vector within the loop (1.32 for 1.24 times, of 32,000); one sum of the moments (5 units of
entropy for 3); counts added up once a row, not once a strip (345 ns); a limit for each vector, so that ties are looked
for in one alone (340); the distance masked where it was bounded (342). Of rows of 10 what comes out is as much as what
goes in, and its pages are new. The times are printed by ``bench/rows.py``.
"""

import sys

import numpy as np

from lastlayer._array import dtype_name, is_torch, to_numpy
from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import ONE, ZERO, log1p, wide
from lastlayer.kernels.cpu.lanes import (
    fma,
    highest,
    lanes,
    larger,
    load,
    load_part,
    store,
    total,
    where_below,
    where_other,
    where_same,
)
from lastlayer.kernels.cpu.max_rest import (
    SHORT,
    STRIP,
    TILE,
    added,
    as_rows,
    computing,
    further,
    largest,
    origin,
    over_rows,
    pairs_until,
    passed,
    scale,
    settle,
    settled,
    tiled,
    width,
)

SPAN = 64  # entries looked at together for one of the k largest
NOTHING = np.float32(-800.0)  # the distance of an entry whose term is 0
LSE, ENTROPY, LOGP, MAX_PROB, TOP2_GAP = range(5)
ARGMAX, RANK = range(2)
LINES = 9
OWN, TARGET, M, REST, EQUAL, MOMENT, GAP, TOP, BEFORE = range(LINES)  # of what is known of a tile


@compiled(inline="always")
def _noted(v, m, of, own, sums):
    """A vector is added to the sums: of terms and of these times the distances, two each, which take turns.

    Behind them how many entries are not ``m``, how many are above ``own``, and the largest other.
    """
    rest, other, moment, second, others, above, nearest = sums
    t, rest, other, others = added(v, m, of, rest, other, others)
    difference = v - m
    moment, second = second, fma(t, larger(difference, NOTHING), moment)
    nearest = where_other(v, m, larger(v, nearest), nearest)
    return rest, other, moment, second, others, where_below(own, v, above + ONE, above), nearest


@compiled(inline="always")
def _strip(x, i, start, stop, m, of, own, nearest, most):
    """The sums of `_noted` over part of row i; and ``most`` of the next row, which is read meanwhile."""
    step, after, zero = width(x.dtype), min(i + 1, len(x) - 1), lanes(x.dtype.type(0.0))
    sums, whole = (zero, zero, zero, zero, zero, zero, nearest), stop // step * step
    pairs = pairs_until(start, stop, step)
    for j in range(start, pairs, 2 * step):
        most = passed(x, after, j, most)
        sums = _noted(load(x, (i, j)), m, of, own, sums)
        most = passed(x, after, j + step, most)
        sums = _noted(load(x, (i, j + step)), m, of, own, sums)
    for j in range(pairs, whole, step):
        most = passed(x, after, j, most)
        sums = _noted(load(x, (i, j)), m, of, own, sums)
    for j in range(whole, stop, step):
        most = larger(load_part(x, (after, j), -np.inf), most)
        sums = _noted(load_part(x, (i, j), -np.inf), m, of, own, sums)
    return sums, most


@compiled(inline="always")
def _ties(x, i, start, stop, own, left):
    """How many entries of a part are of that value; ``left`` falls by 1 to 0."""
    step, count, classes = width(x.dtype), lanes(x.dtype.type(0.0)), x.shape[1]
    whole, end = classes // step * step, left[stop - start]
    for j in range(start, stop, step):
        if j < whole:
            v = load(x, (i, j))
        else:
            v = load_part(x, (i, j), -np.inf)
        count = where_same(v, own, where_below(end, load(left, j - start), count + ONE, count), count)
    return total(count)


@compiled(inline="always")
def _first(x, i, start, m, left):
    """Where the first entry of that value stands, which is from ``start`` on."""
    step, classes = width(x.dtype), x.shape[1]
    found, whole, most = lanes(x.dtype.type(0.0)), classes // step * step, ZERO
    while most == ZERO and start < classes:
        for j in range(start, min(start + STRIP, classes), step):
            if j < whole:
                v = load(x, (i, j))
            else:
                v = load_part(x, (i, j), -np.inf)
            found = where_same(v, m, larger(load(left, j - start), found), found)
        most = highest(found)
        start += STRIP
    return start - np.int64(most)


@compiled(inline="always")
def _row(x, i, y, m, left):
    """``m``, ``rest``, the sum of terms times distances, the gap, argmax and rank; and the largest of the next row."""
    step, classes, own, of = width(x.dtype), x.shape[1], x[i, y], origin(m)
    below = np.nextafter(own, x.dtype.type(-np.inf))
    following = nearest = lanes(x.dtype.type(-np.inf))
    sum_, lost, distance, count, before, span = 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for start in range(0, classes, STRIP):
        stop = min(start + STRIP, classes)
        least = below if stop <= y else own  # what is as large as the target and before it counts, too
        sums, following = _strip(x, i, start, stop, m, of, least, nearest, following)
        rest, other, moment, second, others, above, nearest = sums
        sum_, lost = further(sum_, lost, total(rest + other))
        distance += total(moment + second)
        span = start if count == 0.0 else span
        count += -(-(stop - start) // step) * step - total(others)
        until = min(stop, y) if y < stop or own == below else start
        before += total(above) + _ties(x, i, start, max(start, until), own, left)
    top, rest = settled(x, i, m, sum_, count)
    gap = ZERO if count > 1.0 else m - highest(nearest)
    if not abs(top) < np.inf:
        distance, gap, span = 0.0, x.dtype.type(np.inf if rest == 0.0 else 0.0), 0
    return top, rest, distance, gap, _first(x, i, span, m, left), np.int64(before), highest(following)


@compiled(inner=True)
def _across(columns, classes, places, of):
    """What `_row` says of short rows, which lie across in ``columns``, into lines of ``of``."""
    wide()
    step, zero = width(of.dtype), lanes(of.dtype.type(0.0))
    for i in range(0, columns.shape[1], step):
        y, own = load(of, (TARGET, i)), load(of, (OWN, i))
        most, top, before = load(columns, (0, i)), zero, zero
        for k in range(classes):
            v, this = load(columns, (k, i)), places[k]
            top, most = where_below(most, v, this, top), larger(v, most)
            before = where_below(own, v, before + ONE, before)
            before = where_same(v, own, where_below(this, y, before + ONE, before), before)
        rest, lost, others, moment, other, nearest = zero, zero, zero, zero, zero, lanes(of.dtype.type(-np.inf))
        start = origin(most)
        for k in range(classes):
            v = load(columns, (k, i))
            difference = v - most
            t, _, part, others = added(v, most, start, zero, zero, others)
            rest, lost = further(rest, lost, part)
            moment, other = other, fma(t, larger(difference, NOTHING), moment)  # half as many are added to each
            nearest = where_other(v, most, larger(v, nearest), nearest)
        store(of, (M, i), most)
        store(of, (REST, i), rest)
        store(of, (EQUAL, i), of.dtype.type(classes) - others)
        store(of, (MOMENT, i), moment + other)
        store(of, (GAP, i), where_below(others, of.dtype.type(classes - 1), ZERO, most - nearest))
        store(of, (TOP, i), top)
        store(of, (BEFORE, i), before)


@compiled(inner=True)
def _short(x, of, rest, moment, gap, first, rank):
    """What is left to do of short rows in plain numbers."""
    wide()
    for k in range(len(x)):
        moment[k], gap[k] = of[MOMENT, k], of[GAP, k]
        first[k], rank[k] = of[TOP, k], of[BEFORE, k]
    n = len(x)
    if settle(x, of[M, :n], of[REST, :n], of[EQUAL, :n], rest):
        for k in range(n):
            if not abs(of[M, k]) < np.inf:
                moment[k], gap[k] = 0.0, np.inf if rest[k] == 0.0 else 0.0


@compiled(error_model="numpy", inner=True)
def _finished(of, rest, moment, lse, entropy, logp, max_prob):
    """What follows from the sums, which are written over; how many rows have no distribution."""
    wide()
    bare = 0
    for k in range(len(rest)):
        share = 1.0 / (1.0 + rest[k])
        max_prob[k] = share
        moment[k] *= share * scale(of[M, k]) if abs(of[M, k]) < np.inf else 0.0
    for k in range(len(rest)):
        rest[k] = log1p(rest[k])
    for k in range(len(rest)):
        lse[k] = of[M, k] + rest[k]
        entropy[k] = rest[k] - moment[k]
    for k in range(len(rest)):
        own, m = of[OWN, k], of[M, k]
        logp[k] = (0.0 if own == m else np.float64(own) - m) - rest[k]
        bare += not m > -np.inf
    return bare


@compiled(error_model="numpy")
def values(x, target, at, floats, whole):
    """What the rows say, put into the columns from ``at`` on."""
    classes, following = x.shape[1], largest(x, 0)
    places, left = np.arange(SHORT).astype(x.dtype), np.arange(STRIP, -1, -1).astype(x.dtype)
    of, sums = np.zeros((LINES, TILE), x.dtype), np.empty((2, TILE))
    for start in range(0, len(x), TILE):
        stop = min(start + TILE, len(x))
        n, a, b = stop - start, at + start, at + stop
        rest, moment, gap = sums[0, :n], sums[1, :n], floats[TOP2_GAP, a:b]
        first, rank = whole[ARGMAX, a:b], whole[RANK, a:b]
        for k in range(n):
            y = target[start + k]
            of[OWN, k], of[TARGET, k] = x[start + k, y], y
        if classes < SHORT:
            _across(tiled(x, start, stop), classes, places, of)
            _short(x[start:stop], of, rest, moment, gap, first, rank)
        for k in range(n if classes >= SHORT else 0):
            i = start + k
            of[M, k], rest[k], moment[k], gap[k], first[k], rank[k], following = _row(x, i, target[i], following, left)
        max_prob = floats[MAX_PROB, a:b]
        entropy, logp = floats[ENTROPY, a:b], floats[LOGP, a:b]
        if _finished(of, rest, moment, floats[LSE, a:b], entropy, logp, max_prob):
            for k in range(n):
                if not of[M, k] > -np.inf:
                    entropy[k] = logp[k] = max_prob[k] = gap[k] = np.nan
                    first[k], rank[k] = -1, classes


@compiled()
def tops(x, lse, values, index):
    """The first classes of each row in falling order, the first of equals first; -1 of a row without a largest."""
    classes, k = x.shape[1], values.shape[1]
    for i in range(len(x)):
        value, where, found = values[i], index[i], 0
        if not lse[i] > -np.inf:
            value[:], where[:] = np.nan, -1
            continue
        value[:] = -np.inf
        for start in range(0, classes, SPAN):
            part, above = x[i, start : start + SPAN], 0
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
        values(rows, places[a:b], a, floats, whole)
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
