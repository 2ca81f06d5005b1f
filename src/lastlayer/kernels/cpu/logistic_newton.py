"""`train._objective.logistic_newton` as one pass: margin, loss, slope and curvature of a block that stays in the cache.

    1  formula, NumPy: the block is read from memory a dozen times, X' diag(h) X by BLAS
    2  these loops: read once; a block lies across, feature by feature, so that every loop runs along rows

The triangle of the curvature is made of 4 x 2 of its entries at a time, eight sums over the rows of the block that
share their six columns: 1,000,000 x 30 in float64 take two cores 50 to 70 ms, which is what BLAS takes for X'X alone;
the formula takes 3.4 times as long at 64 features, and 2.2 times at 400. What is done to a block does not depend on how
it lay in memory, so layouts give the same bits.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential import exp

ROWS = 256  # of a block: 31 columns of them are 64 kB
APART = ROWS + 8  # columns 2 kB apart would share a few sets of the cache, and throw each other out
DEEP, WIDE = 4, 2  # entries of the curvature made together
LANES = {"reassoc", "contract", "nsz"}  # sums in several lanes; nan and inf stay what they are

FLOATS = types.Array(types.float64, 1, "C", readonly=True)
VECTOR, TABLE = types.float64[::1], types.float64[:, ::1]


def flat(dtype):
    return types.Array(dtype, 1, "C", readonly=True)


@compiled("f8(f8)", fastmath={"contract"})
def _log1p(e):
    """``log1p(e)`` for 0 <= e <= 1 as ``2 atanh(e / (2 + e))``, by 17 terms of its series: s^2 is at most 1/9."""
    s = e / (2.0 + e)
    q = s * s
    p = 1 / 33.0
    p = p * q + 1 / 31.0
    p = p * q + 1 / 29.0
    p = p * q + 1 / 27.0
    p = p * q + 1 / 25.0
    p = p * q + 1 / 23.0
    p = p * q + 1 / 21.0
    p = p * q + 1 / 19.0
    p = p * q + 1 / 17.0
    p = p * q + 1 / 15.0
    p = p * q + 1 / 13.0
    p = p * q + 1 / 11.0
    p = p * q + 1 / 9.0
    p = p * q + 1 / 7.0
    p = p * q + 1 / 5.0
    p = p * q + 1 / 3.0
    return 2.0 * s * (1.0 + q * p)


@compiled(
    *(
        types.void(flat(t), types.int64, types.int64, types.int64, FLOATS, FLOATS, TABLE, types.int64)
        for t in (types.float32, types.float64)
    )
)
def _load(x, start, down, across, centre, inverse, columns, rows):
    """The standardised features of so many rows, across; ``down`` and ``across`` are steps between rows and columns."""
    features = len(centre)
    if down == 1:
        for j in range(features):
            column = x[start + j * across : start + j * across + rows]
            for i in range(rows):
                columns[j, i] = (np.float64(column[i]) - centre[j]) * inverse[j]
    elif across == 1:
        for i in range(rows):
            row = x[start + i * down : start + i * down + features]
            for j in range(features):
                columns[j, i] = (np.float64(row[j]) - centre[j]) * inverse[j]
    else:
        for i in range(rows):
            for j in range(features):
                columns[j, i] = (np.float64(x[start + i * down + j * across]) - centre[j]) * inverse[j]


@compiled(types.UniTuple(types.float64, 2)(TABLE, FLOATS, FLOATS, FLOATS, FLOATS, TABLE, types.int64), fastmath=LANES)
def _slopes(columns, parameters, target, weight, offset, work, rows):
    """Loss of a block and the squared norm of its largest row; the slope and curvature of each row, into ``work``."""
    z, slope, bend, norm = work[0], work[1], work[2], work[3]
    for i in range(rows):
        z[i] = offset[i]
        norm[i] = 0.0
    fours = len(parameters) // DEEP * DEEP
    for j in range(0, fours, DEEP):
        a, b, c, d = parameters[j], parameters[j + 1], parameters[j + 2], parameters[j + 3]
        p, q, s, t = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
        for i in range(rows):
            z[i] += (a * p[i] + b * q[i]) + (c * s[i] + d * t[i])
            norm[i] += (p[i] * p[i] + q[i] * q[i]) + (s[i] * s[i] + t[i] * t[i])
    for j in range(fours, len(parameters)):
        b, column = parameters[j], columns[j]
        for i in range(rows):
            z[i] += b * column[i]
            norm[i] += column[i] * column[i]
    loss, largest = 0.0, 0.0
    for i in range(rows):
        v, y, w = z[i], target[i], weight[i]
        e = exp(-abs(v))
        over = 1.0 / (1.0 + e)
        rest = 1.0 - y
        loss += w * (_log1p(e) + (rest * v if v > 0 else -y * v))
        slope[i] = w * over * ((rest - y * e) if v > 0 else (rest * e - y))
        bend[i] = w * e * over * over
        largest = max(largest, norm[i])
    return loss, largest


@compiled(types.void(TABLE, TABLE, VECTOR, TABLE, TABLE, types.int64, types.int64), fastmath=LANES)
def _sums(columns, work, gradient, curvature, scaled, parameters, rows):
    """Add a block to the gradient and to the lower triangle of the curvature, with what fills its last tiles up."""
    slope, bend = work[1], work[2]
    for j in range(parameters):
        column, total = columns[j], 0.0
        for i in range(rows):
            total += slope[i] * column[i]
        gradient[j] += total
    a, b, c, d = scaled[0], scaled[1], scaled[2], scaled[3]
    for j in range(0, parameters, DEEP):
        for k in range(DEEP):
            column = columns[min(j + k, parameters - 1)]
            for i in range(rows):
                scaled[k, i] = bend[i] * column[i]
        for k in range(0, j + DEEP, WIDE):
            u, v = columns[min(k, parameters - 1)], columns[min(k + 1, parameters - 1)]
            au, bu, cu, du = 0.0, 0.0, 0.0, 0.0
            av, bv, cv, dv = 0.0, 0.0, 0.0, 0.0
            for i in range(rows):
                au += a[i] * u[i]
                bu += b[i] * u[i]
                cu += c[i] * u[i]
                du += d[i] * u[i]
                av += a[i] * v[i]
                bv += b[i] * v[i]
                cv += c[i] * v[i]
                dv += d[i] * v[i]
            curvature[j, k] += au
            curvature[j + 1, k] += bu
            curvature[j + 2, k] += cu
            curvature[j + 3, k] += du
            curvature[j, k + 1] += av
            curvature[j + 1, k + 1] += bv
            curvature[j + 2, k + 1] += cv
            curvature[j + 3, k + 1] += dv


@compiled(
    *(
        types.UniTuple(types.float64, 2)(
            flat(t), types.UniTuple(types.int64, 2), FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, VECTOR, TABLE
        )
        for t in (types.float32, types.float64)
    )
)
def _pass(x, steps, centre, inverse, target, weight, offset, parameters, gradient, curvature):
    columns, work, scaled = np.ones((len(parameters), APART)), np.empty((4, APART)), np.empty((DEEP, APART))
    loss, largest = 0.0, 0.0
    for a in range(0, len(target), ROWS):
        b = min(a + ROWS, len(target))
        _load(x, a * steps[0], steps[0], steps[1], centre, inverse, columns, b - a)
        part, norm = _slopes(columns, parameters, target[a:b], weight[a:b], offset[a:b], work, b - a)
        loss += part
        largest = max(largest, norm)
        _sums(columns, work, gradient, curvature, scaled, len(parameters), b - a)
    return loss, largest


def _memory(features):
    """The numbers of a table as one line, and its steps from row to row and from column to column."""
    size, (rows, width) = features.itemsize, features.shape
    plain = features.flags.aligned and features.dtype.isnative
    if not plain or min(features.strides) <= 0 or any(step % size for step in features.strides):
        features = np.array(features, features.dtype.newbyteorder("="), order="C")
    down, across = (step // size for step in features.strides)
    line = np.lib.stride_tricks.as_strided(
        features, ((rows - 1) * down + (width - 1) * across + 1,), (size,), writeable=False
    )
    return line, (down, across)


def run(features, target, weight, offset, parameters, centre, scale) -> tuple:
    """The same sums as the formula."""
    line, steps = _memory(features)
    size = len(parameters) + DEEP
    gradient, curvature = np.zeros(len(parameters)), np.zeros((size, size))
    target, weight, offset, parameters = (
        np.ascontiguousarray(v, np.float64) for v in (target, weight, offset, parameters)
    )
    loss, largest = _pass(line, steps, centre, 1 / scale, target, weight, offset, parameters, gradient, curvature)
    lower = np.tril(curvature[:-DEEP, :-DEEP])
    return loss, gradient, lower + np.tril(lower, -1).T, largest
