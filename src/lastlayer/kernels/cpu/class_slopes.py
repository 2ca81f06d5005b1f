"""`train._passes.class_slopes` and `label_slopes`: a tile of logits to losses, slopes and curvatures, in its place.

    1  formula, NumPy: a dozen tables of the tile's size
    2  these loops over some rows that are turned to columns, so that vectors run across rows however few the classes

The loss is made of the distance of the target from the largest logit and of the rest, and the slope of a target that is
the largest of the rest alone: neither is ever a difference of numbers near 1.
"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential import exp as exp64
from lastlayer.kernels.cpu.exponential32 import exp as exp32

LANES = {"reassoc", "contract", "nsz"}  # sums in several lanes
ENTRIES = 2**14  # of the rows that lie across: they stay in the nearest caches
MOST = 256  # rows
NUMBERS = (types.float32, types.float64)


def _exp(x) -> Any:
    """By the dtype; a kernel that a closure gave its function would be compiled anew in each process."""


@overload(_exp)
def _exp_of(x):
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: exp64(x))


def _signature(number, target, dimensions):
    def read(of, dimensions=1):
        return types.Array(of, dimensions, "C", readonly=True)

    return types.float64(number[:, ::1], read(target, dimensions), read(number), read(number), types.float64[:, ::1])


@compiled(*(types.void(t[:, ::1], t[::1], t[::1], t[::1]) for t in NUMBERS))
def _shares(columns, largest, rest, over):
    """Logits to probabilities: the largest of each row, and the sum of what is below it, as a share of it."""
    largest[:] = columns[0]
    for k in range(1, len(columns)):
        column = columns[k]
        for i in range(len(column)):
            largest[i] = column[i] if column[i] > largest[i] else largest[i]
    rest[:] = -1.0
    for k in range(len(columns)):
        column = columns[k]
        for i in range(len(column)):
            distance = column[i] - largest[i]
            e = _exp(distance)
            column[i] = e
            rest[i] += e if distance != 0 else 0 * distance + 1
    for i in range(len(rest)):
        over[i] = 1 / (1 + rest[i])
    for k in range(len(columns)):
        column = columns[k]
        for i in range(len(column)):
            column[i] *= over[i]


@compiled(*(types.UniTuple(types.float64, 2)(t[::1], t[::1]) for t in NUMBERS), fastmath=LANES)
def _weighed(column, weight):
    """Shares of a class to slopes, but for the targets: their sum, and that of the curvatures."""
    slope, bend = weight[0] - weight[0], weight[0] - weight[0]
    for i in range(len(column)):
        share = column[i]
        wp = weight[i] * share
        slope += wp
        bend += wp * (1 - share)
        column[i] = wp
    return slope, bend


@compiled(*(_signature(t, types.int64, 1) for t in NUMBERS))
def classes(tile, target, weight, shift, sums):
    width = tile.shape[1]
    size = max(16, min(MOST, ENTRIES // width))
    room, loss = np.empty(width * size, tile.dtype), 0.0
    lines, below = np.empty((4, size), tile.dtype), np.empty(size, tile.dtype)
    for start in range(0, len(tile), size):
        rows = tile[start : start + size]
        n = len(rows)
        columns = room[: width * n].reshape(width, n)
        for i in range(n):
            for k in range(width):
                columns[k, i] = rows[i, k] + shift[k]
            below[i] = columns[target[start + i], i]
        largest, rest, over, w = lines[0, :n], lines[1, :n], lines[2, :n], lines[3, :n]
        w[:] = weight[start : start + n]
        _shares(columns, largest, rest, over)
        for k in range(width):
            slope, bend = _weighed(columns[k], w)
            sums[0, k] += slope
            sums[1, k] += bend
        for i in range(n):
            k = target[start + i]
            distance = largest[i] - below[i]
            loss += w[i] * (np.float64(distance) + math.log1p(rest[i]))
            less = -rest[i] * over[i] if distance == 0 else _exp(-distance) * over[i] - 1
            sums[0, k] += w[i] * less - columns[k, i]
            columns[k, i] = w[i] * less
        for i in range(n):
            for k in range(width):
                rows[i, k] = columns[k, i]
    return loss


@compiled(*(_signature(t, t, 2) for t in NUMBERS))
def labels(tile, target, weight, shift, sums):
    loss = 0.0
    for i in range(len(tile)):
        row, y, w = tile[i], target[i], weight[i]
        for k in range(len(row)):
            z = row[k] + shift[k]
            e = _exp(-abs(z))
            over = 1 / (1 + e)
            against = 1 - y[k]
            row[k] = w * over * (against - y[k] * e if z > 0 else against * e - y[k])
            sums[0, k] += row[k]
            sums[1, k] += w * e * over * over
            loss += w * (math.log1p(e) + (against if z > 0 else -y[k]) * z)
    return loss
