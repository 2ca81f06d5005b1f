"""`measure.rows.evaluation_sums` in one pass over tiles of rows that lie across, so that each loop is a vector loop.

    1  formula, NumPy: some hundred passes over tables of the size of the logits
    2  a loop over each row with `math.exp` and `math.log1p`, tables of the rows for NumPy to bin: 2.4 us for a row of
       10 classes, half of it in NumPy
    3  classes outside, rows inside; what is one per row and class never leaves the cache. 0.51 us for a row
    4  this: the memory of all tiles is one, bins without a look at their edges, sums in lanes, no division whose digits
       no cell tells apart, vectors of 512 bits for the temperatures: 0.43 us

(One core of a two-core Xeon with AVX-512; a plain read of the row takes 4 ns.)
Four exponentials per entry do for 25 temperatures, since they stand four to an octave and exp(d / T) of one octave is
the square of the next; the bins cost as much as the exponentials, 25 additions to four sums a row. One compiled
function over everything took 7 s to compile in place of 2.8, and small tiles made threads wait for the GIL (2 threads
as fast as one), so tiles are large and Python calls each step. float64 throughout: float32 rows of few classes gain
little, as divisions and bins cost as much as exponentials there.
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
    add_rows,
    class_odds,
    grid_cell,
    limits,
)
from lastlayer.kernels.cpu.exponential import exp
from lastlayer.kernels.cpu.exponential32 import wide

ENTRIES = 2**16  # of a tile: its tables stay in the second cache of a core, and Python is asked rarely
LARGEST, REST, INVERSE, WORK = range(4)  # of each row: the largest entry, and 1 / (1 + rest)


@compiled("UniTuple(f8, 2)(f8, f8)", inner=True)
def _difference(a, b):
    """``a - b`` and its rounding error."""
    d = a - b
    part = d - a
    return d, (a - (d - part)) + (-b - part)


@compiled("void(f8[:, ::1], i8[::1], i8[::1], i8[::1], f8[:, ::1])")
def _tops(x, target, top, rank, of_row):
    """First largest class, how many classes stand before the target, and nan in `WORK` where an entry is odd."""
    largest, own, odd = of_row[LARGEST], of_row[REST], of_row[WORK]
    for i in range(len(own)):
        own[i] = x[target[i], i]
        largest[i], top[i], odd[i], rank[i] = x[0, i], 0, 0.0, 0
    for k in range(len(x)):
        row = x[k]
        for i in range(len(row)):
            v = row[i]
            above = v > largest[i]
            top[i] = k if above else top[i]
            largest[i] = v if above else largest[i]
            odd[i] += v * 0.0
            rank[i] += (v > own[i]) | ((v == own[i]) & (k < target[i]))


@compiled("void(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1])")
def _terms(x, top, second, total, lost, terms):
    """``exp(x - second)`` of all but the top entry, ``second`` being the largest of them, and their sum."""
    for i in range(len(top)):
        second[i], total[i], lost[i] = -np.inf, 0.0, 0.0
    for k in range(len(x)):
        row = x[k]
        for i in range(len(row)):
            v = -np.inf if top[i] == k else row[i]
            second[i] = max(second[i], v)
    for k in range(len(x)):
        row, mine = x[k], terms[k]
        for i in range(len(row)):
            d, error = _difference(row[i], second[i])
            e = exp(d)
            e = e * (1.0 + error) if (e > 0.0) & (top[i] != k) else 0.0
            mine[i] = e
            s = total[i] + (e - lost[i])  # Kahan: a plain running sum loses 47 units over 32,000 classes
            lost[i] = (s - total[i]) - (e - lost[i])
            total[i] = s


@compiled(
    "void(f8[::1], f8[::1], f8[::1], f8[:, ::1], f8[:, ::1], f8[:, ::1])",
    error_model="numpy",
)
def _rest(second, total, below, terms, of_row, columns):
    """What follows from the sum; ``second`` becomes the scale of the terms, ``below`` is of the target."""
    largest, rest, inverse = of_row[LARGEST], of_row[REST], of_row[INVERSE]
    for i in range(len(total)):
        d, error = _difference(second[i], largest[i])
        second[i] = math.exp(d) * (1.0 + error) if d > -np.inf else 0.0
        rest[i] = total[i] * second[i]
        inverse[i] = 1.0 / (1.0 + rest[i])
        columns[NLL, i] = math.log1p(rest[i]) - below[i]
        columns[CONFIDENCE, i], columns[BRIER, i] = inverse[i], 0.0
        columns[LOG_ODDS, i] = -d - math.log(total[i]) if total[i] > 0.0 else np.inf
    for k in range(len(terms)):
        mine = terms[k]
        for i in range(len(mine)):
            mine[i] *= second[i]


@compiled("UniTuple(f8, 2)(f8[::1], f8[::1], f8[::1])", inner=True, fastmath={"reassoc", "nnan", "nsz"})
def _of_class(p, hit, weight):
    """The sum of ``w^2 (p - hit)``, and the largest probability of a row with weight."""
    cross, peak = 0.0, 0.0
    for i in range(len(p)):
        cross += weight[i] * weight[i] * (p[i] - hit[i])
        peak = max(peak, p[i] if weight[i] > 0.0 else 0.0)
    return cross, peak


@compiled("void(f8[:, ::1], i8[::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[:, :, ::1], f8[::1], f8[::1])")
def _classes(terms, target, top, weight, inverse, brier, edges, classwise, cross, peak):
    """Reliability of each class."""
    p, hit = np.empty(len(top)), np.empty(len(top))
    for k in range(len(terms)):
        mine = terms[k]
        for i in range(len(mine)):
            p[i] = inverse[i] if top[i] == k else mine[i] * inverse[i]
            hit[i] = 1.0 if target[i] == k else 0.0
            brier[i] += (p[i] - hit[i]) * (p[i] - hit[i])
        add_rows(p, hit, weight, edges, classwise[k])
        total, largest = _of_class(p, hit, weight)
        cross[k] += total
        peak[k] = max(peak[k], largest)


@compiled("void(f8[:, ::1], f8[:, ::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[:, :, ::1])")
def _ranked(x, terms, target, top, weight, of_row, log_odds, grids):
    """Log-odds of each class on the grid of `state.Grid`."""
    largest, rest = of_row[LARGEST], of_row[REST]
    cells = np.empty(len(top), np.int32)
    for k in range(len(x)):
        row, mine = x[k], terms[k]
        for i in range(len(row)):
            v = class_odds(row[i] - largest[i], rest[i] - mine[i])
            cells[i] = grid_cell(log_odds[i] if top[i] == k else v)
        absent, present = grids[k, 0], grids[k, 1]
        for i in range(len(row)):
            if target[i] == k:
                present[np.uint32(cells[i])] += weight[i]
            else:
                absent[np.uint32(cells[i])] += weight[i]


@compiled(
    "i8(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])",
    error_model="numpy",
)
def _undone(x, target, weight, largest, mean, least, gain):
    """Take from the Brier score in ``gain`` what it is without a second softmax; count the rows that may have one."""
    classes, found = len(x), 0
    for i in range(len(mean)):
        mean[i] = least[i] = 0.0
    for k in range(classes):
        row = x[k]
        for i in range(len(row)):
            below = row[i] - largest[i]
            mean[i] += below
            least[i] = min(least[i], below)
    for i in range(len(mean)):
        mean[i] = (mean[i] - 1.0) / classes
    for k in range(classes):
        row = x[k]
        for i in range(len(row)):
            gap = row[i] - largest[i] - mean[i] - (1.0 if target[i] == k else 0.0)
            gain[i] -= gap * gap
    for i in range(len(mean)):
        gain[i] = gain[i] if abs(gain[i]) < np.inf else 0.0
        found += (weight[i] > 0.0) & (least[i] - mean[i] >= -ROUNDING) & (-mean[i] <= 1.0 + ROUNDING)
    return found


@compiled("void(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8[:, ::1], f8[:, ::1])")
def _totals(x, top, largest, beta, power, totals):
    """Sum of the terms of all but the top class at each temperature."""
    wide()
    for first in range(OCTAVE):
        for k in range(len(x)):
            row, mine = x[k], power[k]
            for i in range(len(row)):
                e = exp((row[i] - largest[i]) * beta[first])
                mine[i] = 0.0 if top[i] == k else e
        for b in range(first, len(beta), OCTAVE):
            total = totals[b]
            for k in range(len(x)):
                mine = power[k]
                for i in range(len(mine)):
                    total[i] += mine[i]
                    mine[i] *= mine[i]


def run(logits, target, weight, *how) -> tuple:
    """The same columns and sums as the formula."""
    sums, classes = Sums(logits, *how), logits.shape[1]
    size = min(max(ENTRIES // classes, 16), max(sums.rows, 1))
    # Memory of all tiles: fresh memory for each would cost its page faults, a tenth of the time.
    heights = (classes, classes, len(sums.beta), 4, COLUMNS, 3)
    tables, places = [np.empty(height * size) for height in heights], np.empty((2, size), np.int64)
    for rows, y, w in sums.tiles(target, weight, size):
        x, terms, totals, of_row, columns, works = (
            table[: height * len(y)].reshape(height, -1) for table, height in zip(tables, heights, strict=True)
        )
        x[:], totals[:], (top, rank), (second, total, work) = logits[rows].T, 0.0, places[:, : len(y)], works
        _tops(x, y, top, rank, of_row)
        undefined = _limited(x, np.flatnonzero(of_row[WORK]), of_row[LARGEST])
        w[undefined], top[undefined] = 0.0, 0
        hit = top == y
        below = np.where(hit, 0.0, np.take_along_axis(x, y[None], 0)[0] - of_row[LARGEST])
        _terms(x, top, second, total, work, terms)
        _rest(second, total, below, terms, of_row, columns)
        _classes(
            terms,
            y,
            top,
            w,
            of_row[INVERSE],
            columns[BRIER],
            sums.class_edges,
            sums.classwise,
            sums.cross,
            sums.peak,
        )
        if len(sums.grids):
            _ranked(x, terms, y, top, w, of_row, columns[LOG_ODDS], sums.grids)
        columns[GAIN] = columns[BRIER]
        sums.softmaxed += _undone(x, y, w, of_row[LARGEST], total, work, columns[GAIN])
        _totals(x, top, of_row[LARGEST], sums.beta, terms, totals)
        sums.add_curve(totals, hit, below, w)
        sums.put(rows, top, rank, columns, undefined)
    return sums.result()


def _limited(x, odd, largest):
    """Make of the ``odd`` columns their limits; those that predict nothing are named."""
    limit, undefined, plus = limits(x[:, odd].T)
    x[:, odd] = limit.T
    largest[odd] = np.where(undefined | plus, 0.0, largest[odd])
    return odd[undefined]
