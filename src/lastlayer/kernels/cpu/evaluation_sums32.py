"""`measure.rows.evaluation_sums` of float32 rows of 32 classes and more, where vectors run along each row.

    1  formula, NumPy, float64: some hundred passes over tables of the size of the logits
    2  the loop across rows of `evaluation_sums`, float64: 33 ns an entry
    3  this, float32 sums of 1,024 entries and float64 beyond: 4.1 ns an entry, of which the temperatures take 2.7, the
       exponential with what needs it .7, the first bin of every class .35

(1,000 classes, one core of a two-core Xeon with AVX-512, of which LLVM uses 256 bits; a plain read takes .1 ns.)
Of 1,000 classes nearly all are in the first bin and absent: those are added up without a branch, after the few others.
Exponentials are taken from the second largest entry, where they are 1 at most, and count as 0 below 2^-60 of it:
squares of smaller ones would be subnormal, which takes a hundred times as long. Powers for the temperatures are cut at
2^-31 before every second square, each after it has been added. A condition around a product kept the loop from becoming
a vector loop (4.6 ns); a selection before it does not.
"""

import math

import numpy as np

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
from lastlayer.kernels.cpu.exponential32 import (
    C2,
    C3,
    C4,
    C5,
    C6,
    EXPONENT,
    LN2_HIGH,
    LN2_LOW,
    LOG2E,
    ONE,
    ZERO,
    fma,
)

ENTRIES = 2**17  # of a tile: its three tables stay in the cache of a core
BLOCK = 1024  # entries summed in float32 before float64 takes over
SCAN = 64  # entries looked at together for one outside the first bin
BIAS = np.float32(1.5 * 2**23 + 127)  # adding it rounds to an integer, which stands in the lowest bits, biased
LEAST = np.float32(-41.5)  # exp of it is 2^-60
CUT = np.float32(2.0**-31)
SIGN, MAGNITUDE, LEAST_KEY = np.int32(31), np.int32(2**31 - 1), np.int32(-(2**31))
TAKEN = np.float32(-1.0)  # in the place of a term that has been added already
GAP, SHARE, REST, LARGEST = range(4)  # of each row: second - largest, exp(gap) / (1 + rest), rest, largest


@compiled("f4(f4)", inner=True)
def _exp(d):
    """``exp(d)`` for d <= 0; 0 below `LEAST`."""
    shifted = fma(d, LOG2E, BIAS)
    n = shifted - BIAS
    r = fma(-n, LN2_LOW, fma(-n, LN2_HIGH, d))
    y = fma(fma(fma(fma(C6, r, C5), r, C4), r, C3), r, C2)
    y = fma(fma(y, r, ONE), r, ONE)
    power = np.int32(np.float32(shifted).view(np.int32) << EXPONENT)
    scaled = y * np.int32(power).view(np.float32)
    return ZERO if d < LEAST else scaled


@compiled("f4(i4[::1])", inner=True)
def _largest(bits):
    """The largest entry, by its bits as an integer that is in the order of the floats."""
    key = LEAST_KEY
    for j in range(len(bits)):
        v = bits[j]
        key = max(key, np.int32(v ^ np.int32(np.int32(v >> SIGN) & MAGNITUDE)))
    return np.int32(key ^ np.int32(np.int32(key >> SIGN) & MAGNITUDE)).view(np.float32)


@compiled("UniTuple(i4, 2)(f4[::1], f4[::1], f4, f4, i8)", inner=True)
def _places(row, copy, m, own, y):
    """Where ``m`` first stands, and how many entries stand before entry ``y``; the row is copied on the way."""
    first, before, y = np.int32(len(row)), np.int32(0), np.int32(y)
    for j in range(len(row)):
        v, place = row[j], np.int32(j)
        copy[j] = v
        first = min(first, place if v == m else MAGNITUDE)
        before += np.int32(1) if (v > own) | ((v == own) & (place < y)) else np.int32(0)
    return first, before


@compiled(
    "UniTuple(f4, 3)(f4[::1], f4[::1], f4[::1], f4, f4)",
    inner=True,
    fastmath={"reassoc"},
)
def _terms(row, below, terms, m, anchor):
    """Put the distances to ``anchor`` into ``below`` and their exponentials into ``terms``; three sums."""
    total, square, distance = ZERO, ZERO, ZERO
    for j in range(len(row)):
        d = below[j] - anchor
        e = _exp(d)
        below[j], terms[j] = d, e
        total += e
        square += e * e
        distance += row[j] - m
    return total, square, distance


@compiled("f8(f4[::1], f4, f8)", inner=True, fastmath={"reassoc"})
def _spread(row, m, mean):
    total = 0.0
    for j in range(len(row)):
        gap = np.float64(row[j] - m) - mean
        total += gap * gap
    return total


@compiled("b1(f4[::1], f8, f8, f8)", inner=True)
def _softmaxed(row, m, mean, spread):
    """Whether the row may be the logarithms of a softmax of probabilities, whose squares sum to at most 1."""
    if spread > 1.001 or -mean > 1.0 + ROUNDING:
        return False
    for j in range(len(row)):
        if row[j] - m - mean < -ROUNDING:
            return False
    return True


@compiled(
    "i8(f4[:, ::1], i4[:, ::1], i8[::1], f8[::1], i8[::1], i8[::1], f4[:, ::1], i4[:, ::1], f4[:, ::1], f8[:, ::1],"
    " f8[:, ::1])",
    error_model="numpy",
)
def _rows(x, bits, target, weight, top, rank, below, below_bits, terms, of_row, columns):
    """All columns, the terms of all but the top class, and how many rows may be the result of a second softmax."""
    softmaxed, classes = 0, x.shape[1]
    for i in range(len(x)):
        row, under, mine, y = x[i], below[i], terms[i], target[i]
        m, own = _largest(bits[i]), row[y]
        top[i], rank[i] = _places(row, under, m, own, y)
        if top[i] < classes:
            under[top[i]] = -np.inf
        second = _largest(below_bits[i])
        anchor = second if second > -np.inf else m
        total, square, distance = 0.0, 0.0, 0.0
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            a, b, c = _terms(row[start:stop], under[start:stop], mine[start:stop], m, anchor)
            total, square, distance = total + a, square + b, distance + c
        mean = (distance - 1.0) / classes
        spread = _spread(row, m, mean)
        softmaxed += weight[i] > 0.0 and _softmaxed(row, m, mean, spread)
        gap = np.float64(second) - np.float64(m)
        rest = total * math.exp(gap) if distance == distance else np.nan  # a nan or +inf: the row has a limit
        confidence = 1.0 / (1.0 + rest)
        share = math.exp(gap) * confidence
        from_top = np.float64(own) - np.float64(m)
        nll, brier = math.log1p(rest), square * share * share
        if y == top[i]:
            brier += (rest * confidence) ** 2
        else:
            p = mine[y] * share
            nll -= from_top
            brier += (1.0 - p) ** 2 - p * p + confidence * confidence
        gain = brier - (spread - 2.0 * (from_top - mean) + 1.0)
        of_row[GAP, i], of_row[SHARE, i], of_row[REST, i], of_row[LARGEST, i] = (
            gap,
            share,
            rest,
            m,
        )
        columns[NLL, i], columns[BRIER, i], columns[CONFIDENCE, i] = (
            nll,
            brier,
            confidence,
        )
        columns[LOG_ODDS, i] = -gap - math.log(total) if total > 0.0 else np.inf
        columns[GAIN, i] = gain if abs(gain) < np.inf else 0.0
    return softmaxed


@compiled("b1(f4[::1], f4)", inner=True)
def _some_above(terms, limit):
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


@compiled("UniTuple(f4, 7)(f4[::1], f4)", inner=True, fastmath={"reassoc"})
def _powers(below, beta):
    """The sum of ``exp(beta d)`` and of its squares, one after the other."""
    a, b, c, d, e, f, g = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for j in range(len(below)):
        y = _exp(below[j] * beta)
        a += y
        y = y if y > CUT else ZERO
        y *= y
        b += y
        y *= y
        c += y
        y = y if y > CUT else ZERO
        y *= y
        d += y
        y *= y
        e += y
        y = y if y > CUT else ZERO
        y *= y
        f += y
        y *= y
        g += y
    return a, b, c, d, e, f, g


@compiled("void(f4[:, ::1], f8[::1], f8[::1], f8[:, ::1])")
def _totals(below, gap, beta, totals):
    """Sum of the terms of all but the top class at each temperature."""
    classes = below.shape[1]
    for i in range(len(below)):
        row = below[i]
        for first in range(OCTAVE):
            for start in range(0, classes, BLOCK):
                sums = _powers(row[start : min(start + BLOCK, classes)], np.float32(beta[first]))
                for step in range((len(beta) - first + OCTAVE - 1) // OCTAVE):
                    totals[first + step * OCTAVE, i] += sums[step]
        for b in range(len(beta)):
            totals[b, i] *= math.exp(gap[i] * beta[b])


@compiled("void(f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[:, :, ::1])")
def _ranked(below, terms, target, top, weight, of_row, log_odds, grids):
    """Log-odds of each class on the grid of `state.Grid`."""
    cells = np.empty(below.shape[1], np.int32)
    for i in range(len(below)):
        row, mine, gap, rest, w = (
            below[i],
            terms[i],
            of_row[GAP, i],
            of_row[REST, i],
            weight[i],
        )
        scale = math.exp(gap)
        for j in range(len(row)):
            cells[j] = grid_cell(class_odds(row[j] + gap, rest - mine[j] * scale))
        cells[top[i]] = grid_cell(log_odds[i])
        for j in range(len(row)):
            grids[j, 1 if j == target[i] else 0, np.uint32(cells[j])] += w


def run(logits, target, weight, *how) -> tuple:
    """The columns and sums of the formula, to the rounding of float32."""
    sums, classes = Sums(logits, *how), logits.shape[1]
    size = min(max(ENTRIES // classes, 16), max(sums.rows, 1))
    tables, first = np.empty((3, size, classes), np.float32), np.zeros((3, classes))
    for rows, y, w in sums.tiles(target, weight, size):
        x, below, terms = tables[:, : len(y)]
        x[:] = logits[rows]
        of_row, columns = np.empty((4, len(y))), np.empty((COLUMNS, len(y)))
        top, rank = np.empty((2, len(y)), np.int64)
        bits = x.view(np.int32), below.view(np.int32)
        softmaxed = _rows(x, bits[0], y, w, top, rank, below, bits[1], terms, of_row, columns)
        odd = np.flatnonzero(np.isnan(of_row[REST]))
        undefined = odd[:0]
        if len(odd):
            x[odd], none, _ = limits(x[odd])
            undefined = odd[none]
            w[undefined] = 0.0
            again = np.empty_like(rank)  # of the limit; the rank is that of the row
            softmaxed = _rows(x, bits[0], y, w, top, again, below, bits[1], terms, of_row, columns)
        sums.softmaxed += softmaxed
        if len(sums.grids):
            _ranked(below, terms, y, top, w, of_row, columns[LOG_ODDS], sums.grids)
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
        totals = np.zeros((len(sums.beta), len(y)))
        _totals(below, of_row[GAP], sums.beta, totals)
        own = np.take_along_axis(x, y[:, None], 1)[:, 0].astype(np.float64)
        sums.add_curve(totals, top == y, own - of_row[LARGEST], w)
        sums.put(rows, top, rank, columns, undefined)
    sums.classwise[:, 0, [0, 1, 3]] += first.T
    return sums.result()
