"""`train._coordinate.model_descent` and `column_descent`: a coordinate at a time, each to its own minimum.

    1  formulas, NumPy: the same order of the coordinates, a vector operation for each
    2  these loops; a column of a sparse table is read twice for a coordinate that moves, once for one that does not

A coordinate that moves changes the slopes of all others, so nothing here is divided among threads.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled

F8, I8 = types.float64, types.int64
NUMBERS = (types.float32, types.float64)
FLOATS, OUT = types.Array(F8, 1, "C", readonly=True), F8[::1]
INDEX = types.Array(types.int32, 1, "C", readonly=True)
TABLE = types.Array(F8, 2, "C", readonly=True)
ONCE = {"contract"}  # a product and its sum are rounded once
LANES = {"reassoc", "contract", "nsz"}  # sums in several lanes


def _values(number):
    return types.Array(number, 1, "C", readonly=True)


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
        total += values[i] * values[i] * vector[rows[i]]
    return total


@compiled(*(types.void(_values(t), INDEX, I8, I8, F8, FLOATS, OUT) for t in NUMBERS), fastmath=ONCE)
def _move(values, rows, first, last, step, bend, residual):
    for i in range(first, last):
        residual[rows[i]] += bend[rows[i]] * (step * values[i])


@compiled(
    *(
        types.UniTuple(F8, 2)(
            _values(t),
            INDEX,
            INDEX,
            INDEX,
            OUT,
            FLOATS,
            F8[:, ::1],
            F8,
            F8,
            OUT,
            FLOATS,
            FLOATS,
            FLOATS,
            FLOATS,
            I8,
            F8,
        )
        for t in NUMBERS
    )
)
def _columns(values, rows, starts, active, residual, bend, moments, total, shift, at, l2, l1, low, high, sweeps, tol):
    worst, whole = 0.0, True
    square, mean, waits = moments[0], moments[1], moments[2]
    for k in range(len(active)):
        first, last = starts[active[k]], starts[active[k] + 1]
        square[k] = _square(values, rows, first, last, bend)
        mean[k] = _product(values, rows, first, last, bend)
    for _ in range(sweeps):
        worst = 0.0
        for k in range(len(active)):
            if waits[k] > 0 and not whole:
                continue
            j = active[k]
            first, last = starts[j], starts[j + 1]
            slope = _product(values, rows, first, last, residual) + shift * mean[k] + l2[j] * at[j]
            violation = _violation(at[j], slope, l1[j], low[j], high[j])
            waits[k] = 1.0 if violation == 0 and (at[j] == 0 or at[j] == low[j] or at[j] == high[j]) else 0.0
            if not violation > tol:
                continue
            worst = max(worst, violation)
            curvature = square[k] + l2[j] - (mean[k] * mean[k] / total if total > 0 else 0.0)
            aim = _lowest(at[j], slope, curvature, l1[j], low[j], high[j])
            step = aim - at[j]
            if step != 0:
                at[j] = aim
                _move(values, rows, first, last, step, bend, residual)
                shift -= step * mean[k] / total if total > 0 else 0.0
        if worst == 0 and whole:
            break
        whole = worst == 0
    return shift, worst


def columns(values, rows, starts, active, slope, bend, at, l2, l1, low, high, intercept, sweeps, tol):
    """What the formula does, to ``at``."""
    residual, moments = slope.copy(), np.zeros((3, len(active)))
    total = float(bend.sum()) if intercept else 0.0
    shift = -float(slope.sum()) / total if intercept else 0.0
    return _columns(
        values, rows, starts, active, residual, bend, moments, total, shift, at, l2, l1, low, high, sweeps, tol
    )[0]
