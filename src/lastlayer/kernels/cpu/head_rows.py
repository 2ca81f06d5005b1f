"""`linear.tile`'s functions of a tile of logits, one row at a time, which stays in the second cache.

    1  formula, NumPy, float64: eight tables of the tile's size
    2  loops: one read for the largest entry, one for the sums, one read and write for the slopes: .53 ns an entry for
       the sums, .73 for the slopes, .33 and .16 for first classes and ranks, each a kernel that reads the tile anew
    3  vectors of 512 bits (`wide`), an exponential that bounds nothing but its result, entries read as what they are
       in place of a copy as bits: .34 and .27
    4  sums, first classes and ranks row by row in one kernel; the row is wrapped into columns, and a column whose
       largest entry is not among the k largest of these holds none of the k first: .53 for all three
    5  a tile is taken into the sums of those before it, and slopes that are known are written, by the kernel: in Python
       that took .2 ms a tile of 512 rows, as much as the kernel; no slope is a subnormal number: where logits lie 80
       apart, loss and gradients of 512 x 256 x 16,384 take 55 ms for 400

Times are of one thread of an Intel Xeon with AVX-512, a tile of 64 x 16,384 in float32, of which .15 is reading it from
the third cache. ``bench/linear.py`` prints those of whole losses. Tiles are float32, or bfloat16 as their bits, which
are computed in float32. The largest entry is found over integers that are ordered as the floats are, since a maximum of
floats, which must mind nan, is not vectorised. Sums run in lanes over `BLOCK` entries and in float64 over blocks, so a
row's bits depend on the row alone.
"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import ONE, ZERO, term, wide
from lastlayer.kernels.cpu.lanes import fma

BLOCK = 2048
LINE, DEEP = 64, 64  # a row is wrapped into columns of as many entries, of which the largest are found first
LANES = {"reassoc", "contract"}  # sums in several lanes; nan and inf stay what they are

F = np.float32
ROUND = F(1.5 * 2**23 + 127)  # adding it rounds to an integer, which stands in the lowest bits, biased
LEAST = F(-87.33)  # below it exp is 0 here: it would be subnormal
NORMAL = np.finfo(F).smallest_normal
FAR = F(-1e18)  # its square is finite: stands for -inf where a product with 0 must be 0
SIGN = np.int32(31)
UPPER = np.int32(16)  # bfloat16 is the upper half of float32
MAGNITUDE = np.int32(0x7FFFFFFF)
INFINITY = np.int32(0x7F800000)
LOWEST_KEY = np.int32(-0x80000000)

Row, Rows, Keys, Counts = (lambda t: t[::1]), (lambda t: t[:, ::1]), types.int32[::1], types.int64[::1]


def of_tiles(signature):
    """A signature for tiles of float32 and for those of the bits of bfloat16."""
    return [signature(types.float32), signature(types.uint16)]


def number(of) -> Any:
    """In compiled code: an entry of a tile as float32."""


def entry(of, row) -> Any:
    """In compiled code: a number as an entry of a row; bfloat16 is the nearest, ties to even, and a nan stays one."""


@overload(number)
def _number_of_type(of):
    if of == types.float32:
        return lambda of: of
    return lambda of: np.int32(np.int32(of) << UPPER).view(np.float32)


@overload(entry)
def _entry_of_type(of, row):
    if row.dtype == types.float32:
        return lambda of, row: of
    return lambda of, row: _nearest(np.float32(of).view(np.int32))


@compiled("i4(i4)", inner=True)
def _nearest(bits):
    odd = np.int32(np.int32(bits >> UPPER) & np.int32(1))
    nearest = np.int32(np.int32(np.int32(bits + np.int32(0x7FFF)) + odd) >> UPPER)
    return np.int32(0x7FC0) if np.int32(bits & MAGNITUDE) > INFINITY else nearest


@compiled("i4(f4)", inner=True)
def _key(of):
    """An integer that is in the order of the numbers."""
    bits = np.float32(of).view(np.int32)
    return np.int32(bits ^ np.int32(np.int32(bits >> SIGN) & MAGNITUDE))


@compiled("f4(i4)", inner=True)
def _of_key(key):
    return np.int32(key ^ np.int32(np.int32(key >> SIGN) & MAGNITUDE)).view(np.float32)


@compiled("f4(f4, f4)", inner=True)
def exp(d, least):
    """``exp(d)`` for d <= 0 to a unit in the last place, 0 below ``least``, which is not below `LEAST`."""
    return term(d, (ZERO, ROUND, least))


@compiled(*of_tiles(lambda t: types.int32(Row(t))), inner=True)
def _largest(row):
    """The key of the largest entry."""
    wide()
    key = LOWEST_KEY
    for j in range(len(row)):
        key = max(key, _key(number(row[j])))
    return key


@compiled(*of_tiles(lambda t: types.UniTuple(types.float32, 3)(Row(t), types.float32)), fastmath=LANES, inner=True)
def _block_sums(row, m):
    """Sum of exp below the largest and of its products with the distance; how many are the largest."""
    wide()
    rest, moment, equal = ZERO, ZERO, ZERO
    for j in range(len(row)):
        d = number(row[j]) - m
        e = exp(d, LEAST)
        rest += ZERO if d == ZERO else e
        moment -= e * max(d, LEAST)
        equal += ONE if d == ZERO else ZERO
    return rest, moment, equal


@compiled(*of_tiles(lambda t: types.float64(Row(t), types.float32)), inner=True)
def _infinite(row, m):
    """How many others share a largest entry that is infinite; nan where there is a nan."""
    rest = -1.0
    for j in range(len(row)):
        v = number(row[j])
        rest += (v == m) if v == v else np.nan
    return rest


@compiled(*of_tiles(lambda t: types.UniTuple(types.float64, 3)(Row(t), types.float32)), inner=True)
def _row_parts(row, m):
    if not np.isfinite(m):
        rest = _infinite(row, m)
        return (np.nan, np.nan, np.nan) if rest != rest else (np.float64(m), rest if m > 0 else 0.0, 0.0)
    rest, moment, equal = 0.0, 0.0, 0.0
    for start in range(0, len(row), BLOCK):
        r, w, e = _block_sums(row[start : start + BLOCK], m)
        rest += r
        moment += w
        equal += e
    if rest != rest:
        return np.nan, np.nan, np.nan
    return np.float64(m), rest + (equal - 1.0), moment


@compiled(inner=True)
def _merged(m, rest, moment, other, others, part):
    """The sums of both parts of a row, each with its largest entry first."""
    if m != m or other != other:
        return np.nan, np.nan, np.nan
    if m < other:
        m, rest, moment, other, others, part = other, others, part, m, rest, moment
    if other == -np.inf:
        return m, rest, moment
    fall = 0.0 if m == other else m - other
    share = math.exp(-fall)
    more = share * (part + fall * (1.0 + others)) if share > 0.0 else 0.0
    return m, rest + share * (1.0 + others), moment + more


@compiled(*of_tiles(lambda t: types.void(Rows(t), Counts, *[types.float64[::1]] * 4)))
def _add_parts(tile, target, largest, rest, moment, at):
    for i in range(len(tile)):
        row, y = tile[i], target[i]
        found = _row_parts(row, _of_key(_largest(row)))
        largest[i], rest[i], moment[i] = _merged(largest[i], rest[i], moment[i], *found)
        if 0 <= y < len(row):
            at[i] = number(row[y])


@compiled(*of_tiles(lambda t: types.int64(Row(t), types.float32, types.boolean)), inner=True)
def _before(part, at, ties):
    """How many entries of part of a row come before a later one (``ties``) or an earlier one of logit ``at``."""
    wide()
    count = np.int32(0)
    for j in range(len(part)):
        v = number(part[j])
        count = np.int32(count + np.int32((v > at) | ((v == at) & ties)))
    return np.int64(count)


@compiled(*of_tiles(lambda t: types.int64(Row(t), types.float32, types.int64)), inner=True)
def _rank(row, at, target):
    y = min(max(target, 0), len(row))
    return _before(row[:y], at, True) + _before(row[y:], at, False)


@compiled(*of_tiles(lambda t: types.void(Row(t), Keys)), inner=True)
def _largest_of_columns(row, largest):
    """The keys of the largest entries of the columns that a row is wrapped into, `DEEP` lines of `LINE` at a time."""
    wide()
    whole = len(row) // LINE
    lines = row[: whole * LINE].reshape((whole, LINE))
    largest[:] = LOWEST_KEY
    for r in range(whole):
        line, into = lines[r], largest[r // DEEP * LINE :]
        for c in range(LINE):
            into[c] = max(into[c], _key(number(line[c])))
    line, into = row[whole * LINE :], largest[whole // DEEP * LINE :]
    for c in range(len(line)):
        into[c] = max(into[c], _key(number(line[c])))


@compiled("i4(i4[::1], i4[::1])", inner=True)
def _kth(keys, best):
    """The k-th largest key, k being as long as ``best``."""
    k = len(best)
    best[:] = LOWEST_KEY
    for j in range(len(keys)):
        key, place = keys[j], k
        while place > 0 and best[place - 1] < key:
            if place < k:
                best[place] = best[place - 1]
            place -= 1
        if place < k:
            best[place] = key
    return best[k - 1]


@compiled(*of_tiles(lambda t: types.void(Row(t), Keys, types.int32, types.float32[::1], Counts)), inner=True)
def _tops(row, largest, least, values, index):
    """The largest entries in falling order, the first of equals first, from the columns whose largest is enough."""
    k, n = len(values), len(row)
    values[:] = -np.inf
    index[:] = n
    for q in range(len(largest)):
        if largest[q] < least:
            continue
        start = q // LINE * (LINE * DEEP) + q % LINE
        for j in range(start, min(start + LINE * DEEP, n), LINE):
            v, place = number(row[j]), k
            while place > 0 and (v > values[place - 1] or (v == values[place - 1] and j < index[place - 1])):
                if place < k:
                    values[place] = values[place - 1]
                    index[place] = index[place - 1]
                place -= 1
            if place < k:
                values[place] = v
                index[place] = j


@compiled(
    *of_tiles(
        lambda t: types.void(
            Rows(t),
            types.float64[::1],
            Counts,
            types.float64[:, ::1],
            Counts,
            types.float32[:, ::1],
            types.int64[:, ::1],
        )
    )
)
def _stats(tile, at, target, parts, ranks, values, index):
    k, n = values.shape[1], tile.shape[1]
    best, largest = np.empty(k, np.int32), np.empty((n + LINE * DEEP - 1) // (LINE * DEEP) * LINE, np.int32)
    for i in range(len(tile)):
        row = tile[i]
        if k:
            _largest_of_columns(row, largest)
            least = _kth(largest, best)
            _tops(row, largest, np.int32(-1) if least == 0 else least, values[i], index[i])  # -0.0 is as large as 0.0
        m = _of_key(best[0] if k else _largest(row))
        parts[i, 0], parts[i, 1], parts[i, 2] = _row_parts(row, m)
        if len(ranks):
            ranks[i] = _rank(row, F(at[i]), target[i])


@compiled(*of_tiles(lambda t: types.UniTuple(types.float64, 2)(Row(t), types.float32)), fastmath=LANES, inner=True)
def _row_totals(row, m):
    total, count = 0.0, 0.0
    for start in range(0, len(row), BLOCK):
        part, t, c = row[start : start + BLOCK], ZERO, ZERO
        for j in range(len(part)):
            v = number(part[j])
            t += m - v if (v > -np.inf) & (v != m) else ZERO
            c += ONE if v > -np.inf else ZERO
        total += t
        count += c
    return total, count


@compiled(*of_tiles(lambda t: types.void(Rows(t), types.float64[::1], types.float64[:, ::1])))
def _totals(tile, largest, out):
    for i in range(len(tile)):
        out[i, 0], out[i, 1] = _row_totals(tile[i], F(largest[i]))


@compiled("f4(f4, f4)", inner=True)
def _least(a, b):
    """Below it ``exp(d) (a + b d)`` is no normal number, and 0 here: subnormal ones multiply 20 times as slowly."""
    most = np.float64(abs(a)) - np.float64(abs(b)) * LEAST
    return F(LEAST - math.log(most)) if 0.0 < most < 1.0 else LEAST


@compiled(*of_tiles(lambda t: types.void(Row(t), *[types.float32] * 3)), inner=True)
def _plain_slopes(row, m, a, u):
    """Those of a row without ``b`` and ``curve``."""
    wide()
    least = _least(a, ZERO)
    for j in range(len(row)):
        v = number(row[j])
        row[j] = entry(fma(exp(v - m, least), a, -u if v > -np.inf else ZERO), row)


@compiled(*of_tiles(lambda t: types.void(Row(t), *[types.float32] * 5)), fastmath={"contract"}, inner=True)
def _slopes(row, m, a, b, u, curve):
    wide()
    least = _least(a, b)
    for j in range(len(row)):
        v = number(row[j])
        d, near = v - m, max(v, FAR)
        slope = exp(d, least) * (a + b * max(d, LEAST)) - (u if v > -np.inf else ZERO)
        slope *= ONE - near * near * curve
        row[j] = entry(np.float32(ZERO if abs(slope) < NORMAL else slope), row)


@compiled(*of_tiles(lambda t: types.void(Row(t), *[types.float32] * 3)), inner=True)
def _special_slopes(row, m, a, u):
    """The row of an infinite or undefined largest entry: its limit, nothing, or nan."""
    for j in range(len(row)):
        v, slope = number(row[j]), ZERO if m == -np.inf else F(np.nan)
        if m == np.inf:
            slope = np.float32((a if v == np.inf else ZERO) - (u if v > -np.inf else ZERO))
        row[j] = entry(slope, row)


@compiled(
    *of_tiles(
        lambda t: types.void(
            Rows(t), *[types.float64[::1]] * 4, types.float64, types.int64[:, ::1], types.float64[:, ::1]
        )
    )
)
def _all_slopes(tile, largest, of_shares, of_distances, of_all, curve, index, spot):
    for i in range(len(tile)):
        m, a, b, u = F(largest[i]), F(of_shares[i]), F(of_distances[i]), F(of_all[i])
        if not np.isfinite(m):
            _special_slopes(tile[i], m, a, u)
        elif b == 0 and curve == 0:
            _plain_slopes(tile[i], m, a, u)
        else:
            _slopes(tile[i], m, a, b, u, F(curve))
        for p in range(index.shape[1]):
            j = index[i, p]
            if 0 <= j < tile.shape[1]:
                tile[i, j] = entry(F(spot[i, p]), tile[i])


@compiled(*of_tiles(lambda t: types.void(Rows(t), types.float64[::1], Counts, Counts)))
def _ranks(tile, at, target, out):
    for i in range(len(tile)):
        out[i] = _rank(tile[i], F(at[i]), target[i])


def stats(tile, k, at=None, target=None):
    """The same parts, ranks and first classes as the formula."""
    n = len(tile)
    if at is None:
        at, target, ranks = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    else:
        at, target, ranks = np.ascontiguousarray(at), np.ascontiguousarray(target), np.empty(n, np.int64)
    parts, values, index = np.empty((n, 3)), np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    _stats(tile, at, target, parts, ranks, values, index)
    return parts.T, ranks, values, index


def parts(tile, target, *columns):
    """Takes the tile into the same columns as the formula."""
    _add_parts(tile, target, *columns)


def totals(tile, largest):
    """The same two columns as the formula."""
    out = np.empty((len(tile), 2))
    _totals(tile, np.ascontiguousarray(largest), out)
    return out.T


def slopes(tile, largest, a, b, u, curve, index=None, spot=None):
    """The same slopes as the formula, in place of the tile."""
    if index is None:
        index, spot = np.empty((len(tile), 0), np.int64), np.empty((len(tile), 0))
    largest, a, b, u = (np.ascontiguousarray(column) for column in (largest, a, b, u))
    _all_slopes(tile, largest, a, b, u, float(curve), index, np.ascontiguousarray(spot, np.float64))


def ranks(tile, at, target):
    """The same numbers as the formula."""
    out = np.empty(len(tile), np.int64)
    _ranks(tile, np.ascontiguousarray(at), np.ascontiguousarray(target), out)
    return out
