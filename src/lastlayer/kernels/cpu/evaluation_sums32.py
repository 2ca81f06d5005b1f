"""`measure.rows.evaluation_sums` of float32 rows of 32 classes and more, where vectors run along each row.

    1  formula, NumPy, float64: some hundred passes over tables of the size of the logits
    2  the loop across rows of `evaluation_sums`, float64: 33 ns an entry
    3  float32 sums of 1,024 entries and float64 beyond: 5.3 ns an entry, of which the temperatures take 2.6, the
       exponential with what needs it .85, the first bin of every class .35
    4  vectors written out (`lanes`), the two largest entries by one read, rows read where they lie, a power kept above
       the subnormal by a maximum: 3.5 ns, the temperatures 1.65, the exponential with what needs it .65
    5  this: one call for all tiles of a block, the next rows fetched meanwhile, powers by one multiply-add each, the
       first bin four rows at a time, the few others gathered before they are added: 2.8 ns, the temperatures 1.1, the
       rows themselves .7 (.97 without fetching), the first bin .28 (.36), the others .12 (.41)

(1,000 classes, one core of a two-core Xeon with AVX-512, CPU time; with all that Python does. Rung 4 took 4.4 ns beside
rung 5. A plain read takes .1 ns.)
Of 1,000 classes nearly all are in the first bin and absent: those are added up without a branch, after the few others.
Exponentials are taken from the second largest entry, where they are 1 at most, and count as 0 below 2^-60 of it:
squares of smaller ones would be subnormal, which takes a hundred times as long. Squares for the temperatures have 2^-62
added before they are rounded, for the same reason: the second class has 1, beside which that is nothing. The top class
has 1 too, taken off at the end. Squares about the mean are in float64: 1e30 squared is none of float32.
Each call that Python makes waits until the other thread lets go of the interpreter: with six of them for each tile two
threads took 3.9 ns an entry, with one for all tiles 3.1.
"""

import math

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled, only_read
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
    cell,
    class_odds,
    grid_cell,
    limits,
)
from lastlayer.kernels.cpu.exponential32 import LN2_HIGH, LN2_LOW, LOG2E, ONE, ZERO, raised, wide
from lastlayer.kernels.cpu.extremes import AHEAD, NONE, ROWS, STEP, folded, two_largest
from lastlayer.kernels.cpu.lanes import (
    fetch,
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

ENTRIES = 2**17  # of a tile: its tables stay in the cache of a core
STRIP = 512  # entries summed in float32 before float64 takes over
BLOCK = 1024  # the same of powers
SCAN = 64  # entries looked at together for one outside the first bin
ROUND = np.float32(1.5 * 2**23 + 127)  # adding it rounds to an integer, which stands in the lowest bits, biased
LEAST = np.float32(-41.5)  # exp of it is 2^-60
FAR = np.float32(-84.0)  # exp of it is 2^-121, no subnormal number yet
TINY = np.float32(2.0**-62)
# 2^f = 1 + f (P1 + ...) for |f| <= 1/2, to 1e-7: least squares in the largest relative error
P1, P2, P3, P4, P5 = (
    np.float32(float.fromhex(c))
    for c in ("0x1.62e42ap-1", "0x1.ebf9bcp-3", "0x1.c6b752p-5", "0x1.3cea88p-7", "0x1.5bba14p-10")
)
TAKEN = np.float32(-1.0)  # in the place of a term that has been added already
# Of each row: second - largest, exp(gap) / (1 + rest), rest, largest, target - largest
FACTS = 5
GAP, SHARE, REST, LARGEST, OWN = range(FACTS)
TERMS, FLOATS, COUNTS = types.float32[:, ::1], types.float64[::1], types.int64[::1]
OF_ROWS, OF_CLASSES, CELLS = types.float64[:, :], types.float64[:, ::1], types.float64[:, :, ::1]


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
    e = raised(shifted, fma(-n, LN2_HIGH, d) + fma(-n, LN2_LOW, lost))
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
            fetch(x, (i, j + AHEAD))
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
    if not (spread <= 1.001 and -mean <= 1.0 + ROUNDING):
        return False
    for j in range(len(row)):
        if row[j] - m - mean < -ROUNDING:
            return False
    return True


@compiled(
    types.int64(ROWS, COUNTS, FLOATS, COUNTS, COUNTS, TERMS, OF_ROWS, OF_ROWS),
    inner=True,
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
        rest = sums * math.exp(gap) if sums == sums and abs(m) < np.inf else np.nan  # a row that has a limit
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


@compiled(inline="always")
def _some_above(terms, limit):
    """Whether a term is above ``limit``, found without a branch."""
    count = np.int32(0)
    for j in range(len(terms)):
        count += np.int32(1) if terms[j] > limit else np.int32(0)
    return count > 0


@compiled(inline="always")
def _above(terms, share, least, found, count):
    """Append to ``count`` indices those of terms whose probability is above ``least``; how many there are then."""
    limit = np.float32(least / share * (1.0 - 1e-6))
    for start in range(0, len(terms), SCAN):
        stop = min(start + SCAN, len(terms))
        if _some_above(terms[start:stop], limit):
            for j in range(start, stop):
                if terms[j] * share > least:
                    found[count] = j
                    count += 1
    return count


@compiled(
    types.void(TERMS, COUNTS, COUNTS, FLOATS, OF_ROWS, FLOATS, CELLS, FLOATS, FLOATS), inner=True, error_model="numpy"
)
def _outstanding(terms, target, top, weight, of_row, edges, classwise, cross, peak):
    """Add the top class, the target, and every class above the first bin of each row."""
    wide()
    found, bins, step = np.empty(terms.shape[1], np.int64), len(edges) - 1.0, edges[1]
    for i in range(len(terms)):
        mine, w, y, share = terms[i], weight[i], target[i], of_row[SHARE, i]
        if w == 0.0:
            continue
        found[0], found[1] = top[i], y
        p, own = 1.0 / (1.0 + of_row[REST, i]), mine[y]
        mine[top[i]] = mine[y] = TAKEN
        count = 2 if y != top[i] else 1
        if share > step:
            count = _above(mine, share, step, found, count)
        for n in range(count):
            j = found[n]
            if n > 0:
                p = (own if j == y else mine[j]) * share
                mine[j] = TAKEN
            hit = 1.0 if j == y else 0.0
            add(classwise[j, np.uint32(cell(p, bins, step))], w, p, hit)
            cross[j] += w * w * (p - hit)
            peak[j] = max(peak[j], p)


@compiled(inline="always")
def _four_rows(a, b, c, d, share, weight, count, total, square, cross, peak):
    """Add what is left of four rows of terms."""
    u, v, w, z = weight[0], weight[1], weight[2], weight[3]
    for j in range(len(a)):
        p, q, r, s = a[j] * share[0], b[j] * share[1], c[j] * share[2], d[j] * share[3]
        count[j] += ((u if a[j] >= ZERO else 0.0) + (v if b[j] >= ZERO else 0.0)) + (
            (w if c[j] >= ZERO else 0.0) + (z if d[j] >= ZERO else 0.0)
        )
        p, q, r, s = max(p, 0.0), max(q, 0.0), max(r, 0.0), max(s, 0.0)
        up, vq, wr, zs = u * p, v * q, w * r, z * s
        total[j] += (up + vq) + (wr + zs)
        square[j] += fma(up, up, vq * vq) + fma(wr, wr, zs * zs)
        cross[j] += fma(u, up, v * vq) + fma(w, wr, z * zs)
        peak[j] = max(peak[j], max(max(p, q), max(r, s)))


@compiled(types.void(TERMS, OF_ROWS, FLOATS, OF_CLASSES, FLOATS, FLOATS), inner=True)
def _first_bin(terms, of_row, weight, sums, cross, peak):
    """Add what is left: absent classes of the first bin, four rows at a time; one of weight 0 counts as none."""
    wide()
    count, total, square = sums[0], sums[1], sums[2]
    shares, weights = np.zeros(4), np.zeros(4)
    last = len(terms) - 1
    for i in range(0, len(terms), 4):
        for k in range(4):
            weights[k] = weight[i + k] if i + k <= last else 0.0
            shares[k] = of_row[SHARE, i + k] if weights[k] > 0.0 else 0.0
        a, b, c, d = terms[i], terms[min(i + 1, last)], terms[min(i + 2, last)], terms[min(i + 3, last)]
        _four_rows(a, b, c, d, shares, weights, count, total, square, cross, peak)


@compiled(inline="always")
def _distances(v, anchor, far):
    """The distances to ``anchor``, 0 where they are above and ``far`` where they are farther."""
    d = larger(v - anchor, far)
    return where_below(d, ZERO, d, ZERO)


@compiled(inline="always")
def _below(x, i, anchor, far, below):
    """The `_distances` of a row, filled up to whole vectors as if by -inf."""
    whole = x.shape[1] // STEP * STEP
    for j in range(0, whole, STEP):
        store(below, j, _distances(load(x, (i, j)), anchor, far))
    if whole < x.shape[1]:
        store(below, whole, _distances(load_part(x, (i, whole), NONE), anchor, far))


@compiled(inline="always")
def _powers(below, beta, sums):
    """Add to ``sums``, six or seven of them, the sum of ``exp(beta d)``, and of its squares one after the other."""
    a = b = c = d = e = f = g = lanes(ZERO)
    scale, tiny, seventh = lanes(np.float32(beta * LOG2E)), lanes(TINY), len(sums) > 6
    for j in range(0, len(below), STEP):
        v = load(below, j)
        shifted = fma(v, scale, ROUND)
        r = fma(v, scale, ROUND - shifted)
        y = fma(fma(fma(fma(lanes(P5), r, P4), r, P3), r, P2), r, P1)
        y = fma(y, r, ONE) * power(shifted)
        y2 = fma(y, y, tiny)
        y4 = fma(y2, y2, tiny)
        y8 = fma(y4, y4, tiny)
        y16 = fma(y8, y8, tiny)
        a, b, c, d, e, f = a + y, b + y2, c + y4, d + y8, e + y16, fma(y16, y16, f)
        if seventh:
            y32 = fma(y16, y16, tiny)
            g = fma(y32, y32, g)
    for k, part in enumerate((a, b, c, d, e, f)):
        sums[k] += total(part)
    if seventh:
        sums[6] += total(g)


@compiled(types.void(ROWS, OF_ROWS, FLOATS, OF_ROWS), inner=True)
def _totals(x, of_row, beta, totals):
    """Sum of the terms of all but the top class at each temperature."""
    below, sums_of_all = np.empty(-(-x.shape[1] // STEP) * STEP, np.float32), np.empty(-(-len(beta) // OCTAVE))
    far = np.float32(FAR / beta[min(OCTAVE, len(beta)) - 1])
    for i in range(len(x)):
        gap, m = of_row[GAP, i], of_row[LARGEST, i]
        _below(x, i, lanes(np.float32(m + gap if gap > -np.inf else m)), lanes(far), below)
        for first in range(OCTAVE):
            sums = sums_of_all[: -(-(len(beta) - first) // OCTAVE)]
            sums[:] = -1.0  # of the top class
            for start in range(0, len(below), BLOCK):
                _powers(below[start : start + BLOCK], beta[first], sums)
            for k in range(len(sums)):
                b = first + k * OCTAVE
                totals[b, i] = sums[k] * math.exp(gap * beta[b])


@compiled(types.void(ROWS, TERMS, COUNTS, COUNTS, FLOATS, OF_ROWS, OF_ROWS, CELLS), inner=True)
def _ranked(x, terms, target, top, weight, of_row, columns, grids):
    """Log-odds of each class on the grid of `state.Grid`."""
    cells = np.empty(x.shape[1], np.int32)
    for i in range(len(x)):
        row, mine, m, rest, w = x[i], terms[i], np.float32(of_row[LARGEST, i]), of_row[REST, i], weight[i]
        scale = math.exp(of_row[GAP, i])
        for j in range(len(row)):
            cells[j] = grid_cell(class_odds(np.float64(row[j]) - m, rest - mine[j] * scale))
        cells[top[i]] = grid_cell(columns[LOG_ODDS, i])
        for j in range(len(row)):
            grids[j, 1 if j == target[i] else 0, np.uint32(cells[j])] += w


@compiled(
    types.UniTuple(types.int64, 2)(
        *(ROWS, COUNTS, FLOATS, COUNTS, COUNTS, OF_ROWS, OF_ROWS, OF_ROWS),
        *(TERMS, FLOATS, FLOATS, CELLS, OF_CLASSES, FLOATS, FLOATS, CELLS),
    )
)
def _tiles(
    x, target, weight, top, rank, of_row, columns, totals, terms, beta, edges, classwise, first, cross, peak, grids
):
    """Tiles of as many rows as ``terms`` has, up to one with a row that has a limit: how many rows, and `_rows`."""
    softmaxed, size = 0, len(terms)
    for a in range(0, len(x), size):
        b = min(a + size, len(x))
        rows, e, y, w, most, facts = x[a:b], terms[: b - a], target[a:b], weight[a:b], top[a:b], of_row[:, a:b]
        found = _rows(rows, y, w, most, rank[a:b], e, facts, columns[:, a:b])
        for i in range(len(rows)):
            if facts[REST, i] != facts[REST, i]:
                return a, softmaxed
        softmaxed += found
        if len(grids):
            _ranked(rows, e, y, most, w, facts, columns[:, a:b], grids)
        _outstanding(e, y, most, w, facts, edges, classwise, cross, peak)
        _first_bin(e, facts, w, first, cross, peak)
        _totals(rows, facts, beta, totals[:, a:b])
    return len(x), softmaxed


def run(logits, target, weight, *how) -> tuple:
    """The columns and sums of the formula, to the rounding of float32."""
    sums, (rows, classes) = Sums(logits, *how), logits.shape
    x, y, w = only_read(logits, np.float32), np.array(target, np.int64), np.array(weight, np.float64)
    top, rank = np.empty((2, rows), np.int64)
    of_row, columns, totals = (np.empty((count, rows)) for count in (FACTS, COLUMNS, len(sums.beta)))
    size, first = min(max(ENTRIES // classes, 16), max(rows, 1)), np.zeros((3, classes))
    of_rows = y, w, top, rank, of_row, columns, totals
    of_all = [np.empty((size, classes), np.float32), sums.beta, sums.class_edges]
    of_all += [sums.classwise, first, sums.cross, sums.peak, sums.grids]

    def added(table, here):
        done, softmaxed = _tiles(table, *[each[..., here] for each in of_rows] + of_all)
        sums.softmaxed += softmaxed
        return done

    done, undefined = 0, np.zeros(rows, bool)
    while done < rows:
        done += added(x[done:], slice(done, None))
        if done < rows:  # the limits of the next tile are rows like any other; ranks are those of the rows
            tile = slice(done, done + size)
            limit, undefined[tile], _ = limits(x[tile])
            w[undefined], ranks = 0.0, rank[tile].copy()
            done += added(only_read(limit, np.float32), tile)
            rank[tile] = ranks
    sums.add_curve(totals, top == y, of_row[OWN], w)
    sums.classwise[:, 0, [0, 1, 3]] += first.T
    sums.put(slice(None), top, rank, columns, undefined)
    return sums.result()
