"""`train._coordinate_model.model_descent` and `column_descent`: a coordinate at a time, each to its own minimum.

    1  formulas, NumPy: the same order of the coordinates, a vector operation for each
    2  these loops; a column of a sparse table is read twice for a coordinate that moves, once for one that does not
    3  coordinates that are at 0 or a bound, and classes none of whose move, wait until the others have come to rest
    4  the columns that still move after `PLAIN` sweeps, where they are few, are multiplied with each other once, and
       their sweeps take no rows: spam of 5,574 x 56,413 n-grams, many of them alike, took 39 to 50 ms for each of its
       last models, and takes 4 (Xeon, 2026-11)

A coordinate that moves changes the slopes of all others, so nothing here is divided among threads.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled

F8, I8 = types.float64, types.int64
NUMBERS = (types.float32, types.float64)
FLOATS, OUT, OUT2 = types.Array(F8, 1, "C", readonly=True), F8[::1], F8[:, ::1]
B1, ENDS = types.boolean, types.Array(I8, 1, "C", readonly=True)
INDEX = types.Array(types.int32, 1, "C", readonly=True)
TABLE = types.Array(F8, 2, "C", readonly=True)
PLAIN = 4  # the sweep after which few columns that still move are multiplied with each other
FEW = 200
LONG = 2000  # sweeps over those
ONCE = {"contract"}  # a product and its sum are rounded once
LANES = {"reassoc", "contract", "nsz"}  # sums in several lanes


def _values(number):
    return types.Array(number, 1, "C", readonly=True)


def _columns(number):
    """Of a sparse table by columns, and which of them."""
    return _values(number), INDEX, INDEX, INDEX


@compiled(F8(*[F8] * 5))
def _violation(at, slope, l1, low, high):
    up = slope + (l1 if at >= 0 else -l1)
    down = slope + (l1 if at > 0 else -l1)
    return max(-up if at < high else 0.0, down if at > low else 0.0, 0.0)


@compiled(F8(*[F8] * 6))
def _lowest(at, slope, curvature, l1, low, high):
    if curvature > 0:
        aim = at - slope / curvature
        least = l1 / curvature
        aim = aim - least if aim > least else (aim + least if aim < -least else 0.0)
    else:
        aim = 0.0 if l1 > 0 else at
    return min(max(aim, low), high)


@compiled(types.void(OUT, F8, FLOATS), fastmath=ONCE)
def _add(slopes, step, row):
    for i in range(len(slopes)):
        slopes[i] += step * row[i]


@compiled(F8(TABLE, OUT, OUT, FLOATS, FLOATS, FLOATS, I8, F8))
def model(hessian, slopes, at, l1, low, high, sweeps, tol):
    """What the formula does, to ``slopes`` and ``at``."""
    worst = 0.0
    for _ in range(sweeps):
        worst = 0.0
        for j in range(len(at)):
            violation = _violation(at[j], slopes[j], l1[j], low[j], high[j])
            if not violation > tol:
                continue
            worst = max(worst, violation)
            aim = _lowest(at[j], slopes[j], hessian[j, j], l1[j], low[j], high[j])
            if aim != at[j]:
                _add(slopes, aim - at[j], hessian[j])
                at[j] = aim
        if worst == 0:
            break
    return worst


@compiled(*(F8(_values(t), INDEX, I8, I8, FLOATS) for t in NUMBERS), fastmath=LANES)
def _product(values, rows, first, last, vector):
    total = 0.0
    for i in range(first, last):
        total += values[i] * vector[rows[i]]
    return total


@compiled(*(F8(_values(t), INDEX, I8, I8, FLOATS) for t in NUMBERS), fastmath=LANES)
def _square(values, rows, first, last, vector):
    total = 0.0
    for i in range(first, last):
        total += values[i] * (values[i] * vector[rows[i]])
    return total


@compiled(*(types.void(_values(t), INDEX, I8, I8, F8, FLOATS, OUT, OUT) for t in NUMBERS), fastmath=ONCE)
def _move(values, rows, first, last, step, bend, residual, along):
    for i in range(first, last):
        part = step * values[i]
        residual[rows[i]] += bend[rows[i]] * part
        along[rows[i]] += part


@compiled(F8(OUT), fastmath=LANES)
def _sum(vector):
    total = 0.0
    for i in range(len(vector)):
        total += vector[i]
    return total


@compiled(types.void(*[FLOATS] * 3, F8, *[OUT] * 4), fastmath=ONCE)
def _enter(slope, share, weight, damping, moved, mean, bend, residual):
    """The curvatures and the slopes of one output, where all have come to."""
    for i in range(len(bend)):
        pull, extra = weight[i] * share[i], damping * weight[i]
        bend[i] = pull * (1 - share[i]) + extra
        residual[i] = slope[i] + pull * (moved[i] - mean[i]) + extra * moved[i]


@compiled(types.void(FLOATS, F8, *[OUT] * 3), fastmath=ONCE)
def _leave(share, shift, along, moved, mean):
    for i in range(len(mean)):
        step = along[i] + shift
        along[i] = 0.0
        moved[i] += step
        mean[i] += share[i] * step


@compiled(*(types.void(*_columns(t), FLOATS, OUT2) for t in NUMBERS))
def _moments(values, rows, starts, active, bend, moments):
    for q in range(len(active)):
        first, last = starts[active[q]], starts[active[q] + 1]
        moments[q, 0] = _square(values, rows, first, last, bend)
        moments[q, 1] = _product(values, rows, first, last, bend)


@compiled(*(F8(*_columns(t), *[OUT] * 3, F8, F8, OUT, TABLE, F8) for t in NUMBERS))
def _settle(values, rows, starts, active, residual, bend, along, shift, total, at, penalty, tol):
    """Move few columns to the minimum of their own by their products with each other: the intercept's step."""
    count, row = len(active), np.zeros(len(bend))
    gram, slopes, mean = np.zeros((count, count)), np.zeros(count), np.zeros(count)
    here, own = np.zeros(count), np.zeros((3, count))
    for p in range(count):
        j = active[p]
        here[p], own[:, p] = at[j], penalty[1:, j]
        for i in range(starts[j], starts[j + 1]):
            row[rows[i]] = bend[rows[i]] * values[i]
            mean[p] += row[rows[i]]
        for q in range(p + 1):
            part = _product(values, rows, starts[active[q]], starts[active[q] + 1], row)
            part -= mean[p] * mean[q] / total if total > 0 else 0.0
            gram[p, q], gram[q, p] = part, part
        gram[p, p] += penalty[0, j]
        slopes[p] = _product(values, rows, starts[j], starts[j + 1], residual) + shift * mean[p] + penalty[0, j] * at[j]
        for i in range(starts[j], starts[j + 1]):
            row[rows[i]] = 0.0
    model(gram, slopes, here, own[0], own[1], own[2], LONG, tol)
    for p in range(count):
        j = active[p]
        step = here[p] - at[j]
        if step != 0:
            at[j] = here[p]
            _move(values, rows, starts[j], starts[j + 1], step, bend, residual, along)
            shift -= step * mean[p] / total if total > 0 else 0.0
    return shift


@compiled(*(types.UniTuple(F8, 3)(*_columns(t), *[OUT] * 3, OUT2, F8, OUT, TABLE, B1, I8, F8) for t in NUMBERS))
def _turn(values, rows, starts, active, residual, bend, along, moments, total, at, penalty, whole, sweeps, tol):
    """Sweeps over one output: the intercept's step, the violation that the first of them met, and the steps."""
    l2, l1, low, high = penalty[0], penalty[1], penalty[2], penalty[3]
    shift = -_sum(residual) / total if total > 0 else 0.0
    met, steps = 0.0, 0.0
    for sweep in range(sweeps):
        worst = 0.0
        for q in range(len(active)):
            square, mean = moments[q, 0], moments[q, 1]
            if moments[q, 2] > 0 and not (whole and sweep == 0):
                continue
            j = active[q]
            first, last = starts[j], starts[j + 1]
            slope = _product(values, rows, first, last, residual) + shift * mean + l2[j] * at[j]
            violation = _violation(at[j], slope, l1[j], low[j], high[j])
            moments[q, 2] = 1.0 if violation == 0 and (at[j] == 0 or at[j] == low[j] or at[j] == high[j]) else 0.0
            if not violation > tol:
                continue
            worst = max(worst, violation)
            curvature = square + l2[j] - (mean * mean / total if total > 0 else 0.0)
            aim = _lowest(at[j], slope, curvature, l1[j], low[j], high[j])
            step = aim - at[j]
            if step != 0:
                at[j] = aim
                _move(values, rows, first, last, step, bend, residual, along)
                shift -= step * mean / total if total > 0 else 0.0
                steps += 1
        if sweep == 0:
            met = worst
        if worst == 0:
            break
        if sweep == PLAIN:
            index = active[moments[:, 2] == 0]
            if len(index) <= FEW:
                shift = _settle(values, rows, starts, index, residual, bend, along, shift, total, at, penalty, tol)
    return shift, met, steps


@compiled(
    *(types.void(*_columns(t), ENDS, TABLE, TABLE, FLOATS, F8, OUT2, OUT2, OUT, TABLE, B1, I8, I8, F8) for t in NUMBERS)
)
def _rounds(
    values,
    rows,
    starts,
    active,
    ends,
    slope,
    share,
    weight,
    damping,
    moved,
    at,
    shift,
    penalty,
    intercept,
    rounds,
    sweeps,
    tol,
):
    outputs, count = share.shape
    bend, residual, along, mean = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
    moments, totals, rests, whole = np.zeros((len(active), 3)), np.zeros(outputs), np.zeros(outputs), True
    for turn in range(rounds):
        worst = 0.0
        for k in range(outputs):
            if rests[k] > 0 and not whole:
                continue
            some, own = active[ends[k] : ends[k + 1]], moments[ends[k] : ends[k + 1]]
            _enter(slope[k], share[k], weight, damping, moved[k], mean, bend, residual)
            if turn == 0:
                totals[k] = _sum(bend) if intercept else 0.0
                _moments(values, rows, starts, some, bend, own)
            step, violation, steps = _turn(
                values, rows, starts, some, residual, bend, along, own, totals[k], at[k], penalty, whole, sweeps, tol
            )
            rests[k] = 1.0 if violation == 0 else 0.0
            worst = max(worst, violation)
            if step != 0 or steps > 0:
                shift[k] += step
                _leave(share[k], step, along, moved[k], mean)
        if worst == 0 and whole:
            break
        whole = worst == 0


def columns(values, rows, starts, active, ends, slope, share, weight, damping, at, shift, penalty, limits):
    """What the formula does, to ``at`` and ``shift``."""
    moved = np.zeros(slope.shape)
    _rounds(values, rows, starts, active, ends, slope, share, weight, damping, moved, at, shift, penalty, *limits)
    return moved
