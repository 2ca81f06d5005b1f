"""`measure.rows.evaluation_sums` of float32 rows of 32 classes and more, where vectors run along each row.

    1  formula, NumPy, float64: some hundred passes over tables of the size of the logits
    2  the loop across rows of `evaluation_sums`, float64: 33 ns an entry
    3  float32 sums of 1,024 entries and float64 beyond: 5.3 ns an entry, of which the temperatures take 2.6, the
       exponential with what needs it .85, the first bin of every class .35
    4  this: vectors written out (`lanes`), the two largest entries by one read, rows read where they lie, a power kept
       above the subnormal by a maximum: 3.5 ns, the temperatures 1.65, the exponential with what needs it .65

(1,000 classes, one core of a two-core Xeon with AVX-512, CPU time, the last of them beside other work; with all that
Python does. A plain read takes .1 ns.)
Of 1,000 classes nearly all are in the first bin and absent: those are added up without a branch, after the few others.
Exponentials are taken from the second largest entry, where they are 1 at most, and count as 0 below 2^-60 of it:
squares of smaller ones would be subnormal, which takes a hundred times as long. Powers for the temperatures are no less
than 2^-31 before every second square: the second class has 1, beside which 2^-62 is nothing. The top class has 1 too,
taken off at the end. Squares about the mean are in float64: 1e30 squared is none of float32.
"""

import math

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.evaluation_parts import (
    BRIER,
    COLUMNS,
    CONFIDENCE,
    GAIN,
    LOG_ODDS,
    NLL,
    OCTAVE,
    ROUNDING,
    Sums,
    add,
    class_odds,
    find_cells,
    grid_cell,
    limits,
)
from lastlayer.kernels.cpu.exponential32 import C2, C3, C4, C5, C6, LN2_HIGH, LN2_LOW, LOG2E, ONE, ZERO, wide
from lastlayer.kernels.cpu.extremes import NONE, ROWS, STEP, folded, two_largest
from lastlayer.kernels.cpu.lanes import (
    fma,
    lanes,
    larger,
    load,
    load_part,
    power,
    store,
    store_part,
    total,
    where_below,
    where_same,
)
from lastlayer.kernels.cpu.mixed_in import only_read

ENTRIES = 2**17  # of a tile: its tables stay in the cache of a core
STRIP = 512  # entries summed in float32 before float64 takes over
BLOCK = 1024  # the same of powers
SCAN = 64  # entries looked at together for one outside the first bin
ROUND = np.float32(1.5 * 2**23 + 127)  # adding it rounds to an integer, which stands in the lowest bits, biased
LEAST = np.float32(-41.5)  # exp of it is 2^-60
CUT = np.float32(2.0**-31)
TAKEN = np.float32(-1.0)  # in the place of a term that has been added already
# Of each row: second - largest, exp(gap) / (1 + rest), rest, largest, target - largest
FACTS = 5
GAP, SHARE, REST, LARGEST, OWN = range(FACTS)
TERMS, FLOATS, COUNTS, TABLE = types.float32[:, ::1], types.float64[::1], types.int64[::1], types.float64[:, ::1]


@compiled(inline="always")
def _raised(shifted, r):
    """``2^n exp(r)`` for |r| <= log(2) / 2, n being what was rounded to."""
    y = fma(fma(fma(fma(C6, r, C5), r, C4), r, C3), r, C2)
    return fma(fma(y, r, ONE), r, ONE) * power(shifted)


@compiled(inline="always")
def _seen(v, own, most, second, above, same):
    """What `_first_two` looks for, one vector on."""
    most, second = two_largest(v, most, second)
    return most, second, where_below(own, v, above + ONE, above), where_same(v, own, same + ONE, same)


@compiled(inline="always")
def _first_two(x, i, own):
    """The largest entry, the next after it, which may be as large, and how many are above and as large as ``own``."""
    whole, own = x.shape[1] // STEP * STEP, lanes(own)
    most, second, above, same = lanes(NONE), lanes(NONE), lanes(ZERO), lanes(ZERO)
    for j in range(0, whole, STEP):
        most, second, above, same = _seen(load(x, (i, j)), own, most, second, above, same)
    most, second, above, same = _seen(load_part(x, (i, whole), NONE), own, most, second, above, same)
    m, next_ = folded(most, second)
    return m, next_, total(above), total(same)


@compiled(inner=True)
def _place(row, m):
    """Where ``m`` first stands."""
    wide()
    place = np.int32(len(row))
    for j in range(len(row)):
        place = min(place, np.int32(j) if row[j] == m else np.int32(len(row)))
    return place


@compiled(inline="always")
def _term(v, anchor, sums, square, distance):
    """The exponential of a vector's distance to ``anchor``, 0 where it is above; three sums."""
    d = v - anchor
    part = d - v
    shifted = fma(d, LOG2E, ROUND)
    n = shifted - ROUND
    lost = (v - (d - part)) - (anchor + part)
    e = _raised(shifted, fma(-n, LN2_HIGH, d) + fma(-n, LN2_LOW, lost))
    e = where_below(ZERO, d, ZERO, where_below(d, LEAST, ZERO, e))
    return e, sums + e, fma(e, e, square), distance + d


@compiled(inline="always")
def _terms(x, i, anchor, terms):
    """Put the exponentials into ``terms``; their sum, that of their squares, and that of the distances."""
    sums, squares, distances = 0.0, 0.0, 0.0
    classes, anchors, zero = x.shape[1], lanes(anchor), lanes(ZERO)
    whole = classes // STEP * STEP
    for start in range(0, whole, STRIP):
        a, b, c = zero, zero, zero
        for j in range(start, min(start + STRIP, whole), STEP):
            e, a, b, c = _term(load(x, (i, j)), anchors, a, b, c)
            store(terms, (i, j), e)
        sums, squares, distances = sums + total(a), squares + total(b), distances + total(c)
    e, a, b, c = _term(load_part(x, (i, whole), NONE), anchors, zero, zero, zero)
    store_part(terms, (i, whole), e)
    c = load_part(x, (i, whole), anchor) - anchors
    return sums + total(a), squares + total(b), distances + total(c)


@compiled(inner=True, fastmath={"reassoc"})
def _spread(row, m, mean):
    """The sum of the squares of ``x - m - mean``."""
    wide()
    sum_ = 0.0
    for j in range(len(row)):
        gap = np.float64(row[j] - m) - mean
        sum_ += gap * gap
    return sum_


@compiled(inner=True)
def _softmaxed(row, m, mean, spread):
    """Whether the row may be the logarithms of a softmax of probabilities, whose squares sum to at most 1."""
    if spread > 1.001 or -mean > 1.0 + ROUNDING:
        return False
    for j in range(len(row)):
        if row[j] - m - mean < -ROUNDING:
            return False
    return True


@compiled(
    types.int64(ROWS, COUNTS, FLOATS, COUNTS, COUNTS, TERMS, TABLE, TABLE),
    error_model="numpy",
)
def _rows(x, target, weight, top, rank, terms, of_row, columns):
    """All columns, the terms of all but the top class, and how many rows may be the result of a second softmax."""
    softmaxed, classes = 0, x.shape[1]
    for i in range(len(x)):
        y = target[i]
        own = x[i, y]
        m, second, above, same = _first_two(x, i, own)
        top[i], rank[i] = _place(x[i], m), np.int64(above)
        for j in range(y if same > 1.0 else 0):
            rank[i] += x[i, j] == own
        anchor = second if second > -np.inf else m
        sums, square, distance = _terms(x, i, anchor, terms)
        if anchor == m and top[i] < classes:  # its own term
            terms[i, top[i]] = ZERO
            sums, square = sums - 1.0, square - 1.0
        gap = np.float64(second) - np.float64(m)
        mean = (distance + classes * (np.float64(anchor) - np.float64(m)) - 1.0) / classes
        spread = _spread(x[i], m, mean)
        softmaxed += weight[i] > 0.0 and _softmaxed(x[i], m, mean, spread)
        rest = sums * math.exp(gap) if distance == distance and abs(m) < np.inf else np.nan  # a row that has a limit
        confidence = 1.0 / (1.0 + rest)
        share = math.exp(gap) * confidence
        from_top = np.float64(own) - np.float64(m)
        nll, brier = math.log1p(rest), square * share * share
        if y == top[i]:
            brier += (rest * confidence) ** 2
        else:
            p = terms[i, y] * share
            nll -= from_top
            brier += (1.0 - p) ** 2 - p * p + confidence * confidence
        gain = brier - (spread - 2.0 * (from_top - mean) + 1.0)
        of_row[GAP, i], of_row[SHARE, i], of_row[REST, i], of_row[LARGEST, i], of_row[OWN, i] = (
            gap,
            share,
            rest,
            m,
            from_top,
        )
        columns[NLL, i], columns[BRIER, i], columns[CONFIDENCE, i] = (
            nll,
            brier,
            confidence,
        )
        columns[LOG_ODDS, i] = -gap - math.log(sums) if sums > 0.0 else np.inf
        columns[GAIN, i] = gain if abs(gain) < np.inf else 0.0
    return softmaxed


@compiled("b1(f4[::1], f4)", inner=True)
def _some_above(terms, limit):
    wide()
    count = np.int32(0)
    for j in range(len(terms)):
        count += np.int32(1) if terms[j] > limit else np.int32(0)
    return count > 0


@compiled(
    "void(i8, f8, f8, f8, f8[::1], f8[:, :, ::1], f8[::1], f8[::1], f8[::1], i4[::1])",
    inner=True,
)
def _one(k, w, p, hit, edges, classwise, cross, peak, one, cells):
    one[0] = p
    find_cells(one, edges, cells)
    add(classwise[k, np.uint32(cells[0])], w, p, hit)
    cross[k] += w * w * (p - hit)
    peak[k] = max(peak[k], p)


@compiled(
    "void(f4[:, ::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[:, :, ::1], f8[::1], f8[::1])",
    error_model="numpy",
)
def _outstanding(terms, target, top, weight, of_row, edges, classwise, cross, peak):
    """Add the top class, the target, and every class above the first bin of each row."""
    one, cells = np.empty(1), np.empty(1, np.int32)
    for i in range(len(terms)):
        mine, w, y, k, share = terms[i], weight[i], target[i], top[i], of_row[SHARE, i]
        if w == 0.0:
            continue
        _one(
            k,
            w,
            1.0 / (1.0 + of_row[REST, i]),
            1.0 if y == k else 0.0,
            edges,
            classwise,
            cross,
            peak,
            one,
            cells,
        )
        if y != k:
            _one(y, w, mine[y] * share, 1.0, edges, classwise, cross, peak, one, cells)
        mine[k] = mine[y] = TAKEN
        if share <= edges[1]:
            continue
        limit = np.float32(edges[1] / share * (1.0 - 1e-6))
        for start in range(0, len(mine), SCAN):
            part = mine[start : min(start + SCAN, len(mine))]
            if _some_above(part, limit):
                for j in range(len(part)):
                    p = part[j] * share
                    if p > edges[1]:
                        _one(
                            start + j,
                            w,
                            p,
                            0.0,
                            edges,
                            classwise,
                            cross,
                            peak,
                            one,
                            cells,
                        )
                        part[j] = TAKEN


@compiled(
    "void(f4[::1], f4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])",
    inner=True,
)
def _two_rows(a, b, shares, weights, count, total, square, cross, peak):
    wide()
    share_a, share_b, w_a, w_b = shares[0], shares[1], weights[0], weights[1]
    for j in range(len(a)):
        p, q = np.float64(a[j]), np.float64(b[j])
        v, w = w_a if p >= 0.0 else 0.0, w_b if q >= 0.0 else 0.0
        p, q = p * share_a, q * share_b
        vp, wq = v * p, w * q
        count[j] += v + w
        total[j] += vp + wq
        square[j] += vp * vp + wq * wq
        cross[j] += v * vp + w * wq
        largest = max(q, p)
        peak[j] = max(peak[j], largest)


@compiled("void(f4[:, ::1], f8[::1], f8[::1], f8[:, ::1], f8[::1], f8[::1])")
def _first_bin(terms, share, weight, sums, cross, peak):
    """Add what is left: absent classes of the first bin. The last of an odd number counts once."""
    count, total, square = sums[0], sums[1], sums[2]
    shares, weights = np.zeros(2), np.zeros(2)
    for i in range(0, len(terms), 2):
        last = i + 1 == len(terms)
        j = i if last else i + 1
        weights[0], weights[1] = weight[i], 0.0 if last else weight[j]
        shares[0], shares[1] = (
            share[i] if weight[i] > 0.0 else 0.0,
            share[j] if weights[1] > 0.0 else 0.0,
        )
        _two_rows(terms[i], terms[j], shares, weights, count, total, square, cross, peak)


@compiled(inline="always")
def _below(x, i, anchor, below):
    """The distances of a row to ``anchor``, 0 where they are above, filled up to whole vectors with -inf."""
    zero, whole = lanes(ZERO), x.shape[1] // STEP * STEP
    for j in range(0, whole, STEP):
        d = load(x, (i, j)) - anchor
        store(below, j, where_below(d, zero, d, zero))
    if whole < x.shape[1]:
        d = load_part(x, (i, whole), NONE) - anchor
        store(below, whole, where_below(d, zero, d, zero))


@compiled(types.void(types.float32[::1], types.float64, FLOATS), inner=True)
def _powers(below, beta, sums):
    """Add to ``sums`` the sum of ``exp(beta d)``, and of its squares one after the other."""
    a = b = c = d = e = f = g = lanes(ZERO)
    cut, scale, least = lanes(CUT), lanes(np.float32(beta * LOG2E)), lanes(np.float32(LEAST / beta))
    for j in range(0, len(below), STEP):
        v = larger(load(below, j), least)
        shifted = fma(v, scale, ROUND)
        y = _raised(shifted, fma(v, scale, ROUND - shifted) * LN2_HIGH)
        high = larger(y, cut)
        y2 = high * high
        y4 = y2 * y2
        high = larger(y4, cut)
        y8 = high * high
        y16 = y8 * y8
        high = larger(y16, cut)
        y32 = high * high
        a, b, c, d, e, f, g = a + y, b + y2, c + y4, d + y8, e + y16, f + y32, fma(y32, y32, g)
    for k, part in enumerate((a, b, c, d, e, f, g)):
        sums[k] += total(part)


@compiled(types.void(ROWS, TABLE, FLOATS, TABLE))
def _totals(x, of_row, beta, totals):
    """Sum of the terms of all but the top class at each temperature."""
    sums, below = np.empty(7), np.empty(-(-x.shape[1] // STEP) * STEP, np.float32)
    for i in range(len(x)):
        gap, m = of_row[GAP, i], of_row[LARGEST, i]
        _below(x, i, lanes(np.float32(m + gap if gap > -np.inf else m)), below)
        for first in range(OCTAVE):
            sums[:] = -1.0  # of the top class
            for start in range(0, len(below), BLOCK):
                _powers(below[start : start + BLOCK], beta[first], sums)
            for b in range(first, len(beta), OCTAVE):
                totals[b, i] = sums[b // OCTAVE] * math.exp(gap * beta[b])


@compiled(types.void(ROWS, TERMS, COUNTS, COUNTS, FLOATS, TABLE, FLOATS, types.float64[:, :, ::1]))
def _ranked(x, terms, target, top, weight, of_row, log_odds, grids):
    """Log-odds of each class on the grid of `state.Grid`."""
    cells = np.empty(x.shape[1], np.int32)
    for i in range(len(x)):
        row, mine, m, rest, w = x[i], terms[i], np.float32(of_row[LARGEST, i]), of_row[REST, i], weight[i]
        scale = math.exp(of_row[GAP, i])
        for j in range(len(row)):
            cells[j] = grid_cell(class_odds(np.float64(row[j]) - m, rest - mine[j] * scale))
        cells[top[i]] = grid_cell(log_odds[i])
        for j in range(len(row)):
            grids[j, 1 if j == target[i] else 0, np.uint32(cells[j])] += w


def run(logits, target, weight, *how) -> tuple:
    """The columns and sums of the formula, to the rounding of float32."""
    sums, classes = Sums(logits, *how), logits.shape[1]
    size = min(max(ENTRIES // classes, 16), max(sums.rows, 1))
    terms_of_all, first = np.empty((size, classes), np.float32), np.zeros((3, classes))
    for rows, y, w in sums.tiles(target, weight, size):
        x, terms = only_read(logits[rows], np.float32), terms_of_all[: len(y)]
        of_row, columns = np.empty((FACTS, len(y))), np.empty((COLUMNS, len(y)))
        top, rank = np.empty((2, len(y)), np.int64)
        softmaxed = _rows(x, y, w, top, rank, terms, of_row, columns)
        odd = np.flatnonzero(np.isnan(of_row[REST]))
        undefined = odd[:0]
        if len(odd):
            limit = x.copy()
            limit[odd], none, _ = limits(x[odd])
            x, undefined = only_read(limit, np.float32), odd[none]
            w[undefined] = 0.0
            again = np.empty_like(rank)  # of the limit; the rank is that of the row
            softmaxed = _rows(x, y, w, top, again, terms, of_row, columns)
        sums.softmaxed += softmaxed
        if len(sums.grids):
            _ranked(x, terms, y, top, w, of_row, columns[LOG_ODDS], sums.grids)
        _outstanding(
            terms,
            y,
            top,
            w,
            of_row,
            sums.class_edges,
            sums.classwise,
            sums.cross,
            sums.peak,
        )
        _first_bin(terms, of_row[SHARE], w, first, sums.cross, sums.peak)
        totals = np.empty((len(sums.beta), len(y)))
        _totals(x, of_row, sums.beta, totals)
        sums.add_curve(totals, top == y, of_row[OWN], w)
        sums.put(rows, top, rank, columns, undefined)
    sums.classwise[:, 0, [0, 1, 3]] += first.T
    return sums.result()
