"""`linear.entries.head_entries`: what each entry of a tile costs by its sigmoid, and its slope, written in its place.

    e = exp(-|z|),   softplus(z) = max(z, 0) + log1p(e),   sigmoid(|z|) = 1 / (1 + e)

    1  formula, NumPy: some twenty passes over strips of the tile, on one thread, as two are slower: 6.2 ns an entry
    2  these loops, on all threads: targets become weights, a block of entries at a time, which stays in the nearest
       cache: 1.3 ns of one thread

Times are of an Intel Xeon with AVX-512; ``bench/heads.py`` prints those of whole losses. Targets are read where they
lie if they are bool or float32, and turned into float32 a few rows at a time otherwise. The logarithm is a polynomial:
a division would take longer than all of it.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import ONE, ZERO, wide
from lastlayer.kernels.cpu.head_rows import LANES, LEAST, Counts, Row, Rows, entry, exp, number, of_tiles
from lastlayer.kernels.cpu.lanes import fma
from lastlayer.parallel import over_ranges

BLOCK = 1024  # entries, of which there are six lines beside the tile
ENTRIES = 2**20  # of one range of the pool
CONVERTED = 2**16  # targets that are turned into float32 at a time
MOST = 8  # gamma, as a product: other powers are the formula's

# log(1 + e) = e + e^2 (A0 + A1 e + ...) for e from 0 to 1, to a unit: least squares in the largest relative error
A0, A1, A2, A3, A4, A5, A6, A7, A8 = (
    np.float32(float.fromhex(c))
    for c in (
        "-0x1.ffffccp-2",
        "0x1.554d22p-2",
        "-0x1.ff160ep-3",
        "0x1.930628p-3",
        "-0x1.398254p-3",
        "0x1.b23642p-4",
        "-0x1.d1fc32p-5",
        "0x1.4441e6p-6",
        "-0x1.a7013ep-9",
    )
)


def _read(dtype, ndim):
    return types.Array(dtype, ndim, "C", readonly=True)


Line = types.float32[::1]


@compiled("f4(f4)", inner=True)
def _log1p(e):
    high = fma(fma(fma(fma(A8, e, A7), e, A6), e, A5), e, A4)
    series = fma(fma(fma(fma(high, e, A3), e, A2), e, A1), e, A0)
    return fma(series * e, e, e)


@compiled(*(types.void(_read(t, 1), Line) for t in (types.float32, types.uint8)), inner=True)
def _copied(target, out):
    wide()
    for j in range(len(out)):
        out[j] = np.float32(target[j])


@compiled(types.void(Line, _read(types.uint8, 1)), inner=True)
def _hidden(line, keep):
    wide()
    for j in range(len(line)):
        line[j] = line[j] if keep[j] != 0 else ZERO


@compiled(types.int64(Line, Line, _read(types.float32, 1), types.float32), inner=True)
def _weighed(yes, no, weight, other):
    """Targets become what an entry weighs as a yes, and ``no`` what it weighs as a no; how many are not from 0 to 1."""
    wide()
    outside = np.int32(0)
    for j in range(len(yes)):
        y = yes[j]
        outside = np.int32(outside + np.int32((y < ZERO) | (y > ONE)))
        no[j] = (ONE - y) * other
        yes[j] = y * weight[j]
    return np.int64(outside)


@compiled(*of_tiles(lambda t: types.void(Row(t), *[Line] * 6)), inner=True, error_model="numpy")
def _sides(row, yes, no, p, q, as_yes, as_no):
    """The sigmoid p of each entry and 1 - p, and what it costs as a yes and as a no; one that weighs nothing is 0."""
    wide()
    for j in range(len(p)):
        z = number(row[j]) if (yes[j] != ZERO) | (no[j] != ZERO) else ZERO
        e = exp(-abs(z), LEAST)
        tail, large = _log1p(e), ONE / (ONE + e)
        small = e * large
        as_yes[j] = tail - z if z < ZERO else tail
        as_no[j] = tail + z if z > ZERO else tail
        p[j] = small if z < ZERO else large
        q[j] = large if z < ZERO else small


@compiled(*of_tiles(lambda t: types.float32(Row(t), *[Line] * 6, types.float32)), fastmath=LANES, inner=True)
def _plain(row, yes, no, p, q, as_yes, as_no, step):
    """The sum of the costs; the slopes are written. What weighs nothing costs nothing, even where it costs inf."""
    wide()
    total = ZERO
    for j in range(len(p)):
        missed, false = yes[j] * as_yes[j], no[j] * as_no[j]
        total += (missed if yes[j] != ZERO else ZERO) + (false if no[j] != ZERO else ZERO)
        row[j] = entry(np.float32((no[j] * p[j] - yes[j] * q[j]) * step), row)
    return total


@compiled(
    *of_tiles(lambda t: types.float32(Row(t), *[Line] * 6, types.float32, types.int64, types.float32[:, ::1])),
    fastmath=LANES,
    inner=True,
)
def _focal(row, yes, no, p, q, as_yes, as_no, step, gamma, powers):
    """The same with weights ``yes q^gamma`` and ``no p^gamma``."""
    wide()
    y, n, total, power = powers[0], powers[1], ZERO, np.float32(gamma)
    for j in range(len(p)):
        y[j], n[j] = yes[j], no[j]
    for _ in range(gamma):
        for j in range(len(p)):
            y[j] *= q[j]
            n[j] *= p[j]
    for j in range(len(p)):
        missed, false = y[j] * as_yes[j], n[j] * as_no[j]
        total += (missed if y[j] != ZERO else ZERO) + (false if n[j] != ZERO else ZERO)
        left, right = q[j] * as_no[j], p[j] * as_yes[j]
        left, right = (left if q[j] != ZERO else ZERO), (right if p[j] != ZERO else ZERO)
        row[j] = entry(np.float32((n[j] * (p[j] + power * left) - y[j] * (q[j] + power * right)) * step), row)
    return total


@compiled(
    *(
        types.int64(
            Rows(tile),
            _read(target, 2),
            Counts,
            _read(types.uint8, 2),
            types.boolean,
            Counts,
            types.int64,
            _read(types.float32, 1),
            types.float32,
            types.int64,
            Line,
            types.float64[::1],
        )
        for tile in (types.float32, types.uint16)
        for target in (types.float32, types.uint8)
    )
)
def _judged(tile, target, column, keep, always, index, start, weight, other, gamma, step, sums):
    """Sums of the rows, which have their targets in row ``index`` of a table, or one yes in ``column``."""
    n, outside, lines = tile.shape[1], 0, np.empty((8, BLOCK), np.float32)
    for i in range(len(tile)):
        sums[i] = 0.0
        for a in range(0, n, BLOCK):
            row, first, last = tile[i, a : a + BLOCK], start + a, start + min(a + BLOCK, n)
            size = len(row)
            yes, no, p, q = lines[0, :size], lines[1, :size], lines[2, :size], lines[3, :size]
            as_yes, as_no = lines[4, :size], lines[5, :size]
            if len(column):
                yes[:] = ZERO
                if first <= column[i] < last:
                    yes[column[i] - first] = ONE
            else:
                _copied(target[index[i], first:last], yes)
            if len(keep) and not always:
                _hidden(yes, keep[index[i], first:last])
            outside += _weighed(yes, no, weight[a : a + BLOCK], other)
            if len(keep):
                _hidden(no, keep[index[i], first:last])
            _sides(row, yes, no, p, q, as_yes, as_no)
            if gamma:
                sums[i] += _focal(row, yes, no, p, q, as_yes, as_no, step[i], gamma, lines[6:])
            else:
                sums[i] += _plain(row, yes, no, p, q, as_yes, as_no, step[i])
    return outside


NONE = np.empty((0, 0), np.uint8)


def _as_read(table):
    """A table as the loops read it: no copy where it is one of bool or float32, row after row."""
    bits = table.view(np.uint8) if table.dtype == np.bool_ else table
    return np.ascontiguousarray(bits, bits.dtype if bits.dtype == np.uint8 else np.float32)


def run(tile, entries, index, start, step):
    """The same sums as the formula, which says what is wrong with a target where one is."""
    gamma, classes, one = int(entries.gamma), tile.shape[1], entries.target.ndim == 1
    if gamma != entries.gamma or gamma > MOST:
        return NotImplemented
    tables = [NONE if one else entries.target, NONE if entries.keep is None else entries.keep]
    ready = all(table.flags.c_contiguous and table.dtype in (np.bool_, np.uint8, np.float32) for table in tables)
    column = entries.target[index].astype(np.int64) if one else np.empty(0, np.int64)
    weight = np.ascontiguousarray(entries.yes[start : start + classes], np.float32)
    settings = weight, np.float32(entries.no), gamma
    steps = np.zeros(len(tile), np.float32) if step is None else step.astype(np.float32)
    sums = np.empty(len(tile))

    def work(a, b):
        where, rows, first = tables, index[a:b], start
        if not ready:
            where = [table[rows, start : start + classes] if len(table) else table for table in tables]
            rows, first = np.arange(b - a), 0
        target, keep = map(_as_read, where)
        rest = *settings, steps[a:b], sums[a:b]
        return _judged(tile[a:b], target, column[a:b], keep, entries.always, rows, first, *rest)

    size = max((ENTRIES if ready else CONVERTED) // classes, 1)
    return NotImplemented if any(over_ranges(work, len(tile), size)) else sums
