"""The (max, rest) of rows of float32 and float64, which every kernel of softmax is made of.

    m = the largest entry,  rest = sum over the others of exp(x_i - m),  logsumexp = m + log1p(rest)

    1  formula, NumPy: some thirty passes over arrays of the size of the logits
    2  a loop over each row with `math.exp`: a call an entry
    3  the maximum over integers that are in the order of the floats, which is a vector loop where one over floats is
       not; the sum in several lanes; rows shorter than `SHORT` across, a tile of `TILE` at a time: .31 ns an entry
    4  vectors of 512 bits (`wide`): .23 ns, 25 instructions for 16 entries, two a cycle
    5  the next row fetched into the second cache meanwhile: 13.3 ms for 16.0 (50,000 x 1,000)
    6  rows across by gathers, and a logarithm that does not ask whether it divides by 0: .93 ns an entry of 10 for 1.46

Two cores of an Intel Xeon with AVX-512, float32, where reading 50,000 x 1,000 takes 5.5 to 6 ms. What lost: fetching
into the first cache (17.7 ms) or past the caches (29.6); conditional sums in place of sums of conditional terms (not
vectorised: 85 ms); the exponentials taken twice in place of scaling them where they lie (.53 ns for .38).

A row's own length alone decides in which order its entries are added, so neighbours, threads and layout change no bit.
The times are printed by ``bench/softmax.py``.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from lastlayer.kernels.cpu import compiled, exponential, exponential32
from lastlayer.kernels.cpu.exponential32 import DOWN, ONE, ZERO, fetched, wide
from lastlayer.kernels.cpu.halves import narrow, widened
from lastlayer.parallel import over_ranges

SHORT = 32  # classes: below, vectors run across rows
TILE = 256  # rows of a tile that lies across: 31 classes of them are 32 kB
LANES = 64  # entries of the longest vector step; a row's end is filled up to it
LINE = 64  # bytes that memory gives at once
BLOCK = 2048  # entries summed in lanes before float64 takes over
RANGE = 2**21  # entries of one range of the pool: half a millisecond; half as many where they have to be packed

SIGN32, MAGNITUDE32, LEAST_KEY32 = np.int32(31), np.int32(2**31 - 1), np.int32(-(2**31))
SIGN64, MAGNITUDE64, LEAST_KEY64 = np.int64(63), np.int64(2**63 - 1), np.int64(-(2**63))


def of_both(signature):
    """A signature for float32 and for float64."""
    return [signature(types.float32), signature(types.float64)]


def given(dtype, ndim):
    """An array that is only read."""
    return types.Array(dtype, ndim, "C", readonly=True)


@compiled(types.float32(given(types.float32, 2), types.int64, types.int64), inner=True)
def _largest32(x, i, count):
    """The largest by the bits as an integer that is in the order of the floats, nan beyond the ends."""
    wide()
    bits, key = x[i, :count].view(np.int32), LEAST_KEY32
    for j in range(len(bits)):
        v = bits[j]
        key = max(key, np.int32(v ^ np.int32(np.int32(v >> SIGN32) & MAGNITUDE32)))
    return np.int32(key ^ np.int32(np.int32(key >> SIGN32) & MAGNITUDE32)).view(np.float32)


@compiled(types.float64(given(types.float64, 2), types.int64, types.int64), inner=True)
def _largest64(x, i, count):
    wide()
    bits, key = x[i, :count].view(np.int64), LEAST_KEY64
    for j in range(len(bits)):
        v = bits[j]
        key = max(key, v ^ ((v >> SIGN64) & MAGNITUDE64))
    return np.int64(key ^ ((key >> SIGN64) & MAGNITUDE64)).view(np.float64)


def largest(x, i, count) -> Any:
    """In compiled code: the largest of the first entries of row i, of either type; where one is nan, any number."""


def term(difference, x, m) -> Any:
    """In compiled code: `exponential32.term` or that of float64, by the type of ``x``."""


@overload(largest)
def _largest_of_type(x, i, count):
    chosen = _largest32 if x.dtype == types.float32 else _largest64
    return lambda x, i, count: chosen(x, i, count)


@overload(term)
def _term_of_type(difference, x, m):
    chosen = exponential32.term if x == types.float32 else exponential.term
    return lambda difference, x, m: chosen(difference, x, m)


@compiled(
    *of_both(
        lambda f: types.UniTuple(f, 2)(
            given(f, 2), types.int64, types.int64, types.int64, f, f[:, ::1], types.int64, types.int64
        )
    ),
    fastmath={"reassoc"},
    inner=True,
)
def _others(x, i, start, stop, m, terms, o, at):
    """The sum of `term` over the entries of part of row i that are not ``m``, and how many are; each is left."""
    wide()
    part, into, rest, equal = x[i, start:stop], terms[o, at:], ZERO, ZERO
    for j in range(len(part)):
        difference = part[j] - m
        t = term(difference, part[j], m)
        into[j] = t
        rest += ZERO if difference == ZERO else t
        equal += ONE if difference == ZERO else ZERO
    return rest, equal


@compiled(*of_both(lambda f: types.UniTuple(types.float64, 2)(given(f, 1), types.float64)), inner=True)
def _special(row, m):
    """Of a row that holds nan, or whose largest entry is infinite: entries of +inf share it."""
    for j in range(len(row)):
        if row[j] != row[j]:
            return np.nan, np.nan
    if m == -np.inf:
        return m, 0.0
    rest = -1.0
    for j in range(len(row)):
        rest += row[j] == np.inf
    return m, rest


@compiled(
    *of_both(lambda f: types.UniTuple(types.float64, 2)(given(f, 2), types.int64, f[:, ::1], f[:, ::1], types.int64)),
    inner=True,
)
def along(x, i, end, terms, o):
    """``m`` and ``rest`` of row i; its terms are left in row o of ``terms``, if that is as long.

    ``end`` is two vector steps, of which the first holds -inf. The next row is fetched meanwhile: to read and to
    compute in turn would take the time of both.
    """
    classes = x.shape[1]
    whole = classes // LANES * LANES
    for j in range(classes - whole):
        end[0, j] = x[i, whole + j]
    m = max(largest(x, i, whole), largest(end, 0, LANES)) if whole else largest(end, 0, LANES)
    if not abs(m) < np.inf:
        return _special(x[i], m)
    first, equal = _others(end, 0, 0, LANES, m, end, 1, 0)
    kept = terms.shape[1] == classes
    if kept:
        for j in range(classes - whole):
            terms[o, whole + j] = end[1, j]
    total, lost, count = np.float64(first), 0.0, np.float64(equal)
    for start in range(0, whole, BLOCK):
        stop = min(start + BLOCK, whole)
        if i + 1 < len(x):
            for j in range(start, stop, LINE // x.itemsize):
                fetched(x, i + 1, j)
        part, equal = _others(x, i, start, stop, m, terms, o, start if kept else 0)
        below = part - lost
        above = total + below
        lost = (above - total) - below
        total = above
        count += equal
    if total != total:
        return np.nan, np.nan
    return np.float64(m), total * DOWN + (count - 1.0)


@compiled(*of_both(lambda f: types.void(given(f, 2), f[:, ::1], f[::1], types.float64[::1])), inner=True)
def across(x, columns, m, rest):
    """``m`` and ``rest`` of short rows, which lie across in ``columns``; there, their terms are left."""
    wide()
    sums, lost, equal = np.zeros(len(m), x.dtype), np.zeros(len(m), x.dtype), np.zeros(len(m), x.dtype)
    m[:] = columns[0]
    for k in range(1, len(columns)):
        column = columns[k]
        for i in range(len(column)):
            m[i] = column[i] if column[i] > m[i] else m[i]
    for k in range(len(columns)):
        column = columns[k]
        for i in range(len(column)):
            difference = column[i] - m[i]
            t = term(difference, column[i], m[i])
            column[i] = t
            part = (ZERO if difference == ZERO else t) - lost[i]  # Kahan: 30 roundings would be 3 units
            total = sums[i] + part
            lost[i] = (total - sums[i]) - part
            sums[i] = total
            equal[i] += ONE if difference == ZERO else ZERO
    for i in range(len(m)):
        rest[i] = sums[i] * DOWN + (equal[i] - 1.0)
    for i in range(len(m)):
        if rest[i] != rest[i]:
            m[i], rest[i] = _special(x[i], m[i])


@compiled(*of_both(lambda f: f[:, ::1](given(f, 2))), inner=True)
def turned(x):
    """The rows of ``x`` as columns."""
    wide()
    rows, classes = x.shape
    columns, flat = np.empty((classes, rows), x.dtype), x.reshape(-1)
    for k in range(classes):
        column, entries = columns[k], flat[k:]
        for i in range(len(column)):
            column[i] = entries[i * classes]
    return columns


@compiled(*of_both(lambda f: types.void(given(f, 2), types.int64, types.int64, f[::1], types.float64[::1])), inner=True)
def parts(x, start, stop, m, rest):
    """``m`` and ``rest`` of a few rows."""
    if x.shape[1] < SHORT:
        rows = x[start:stop]
        across(rows, turned(rows), m[start:stop], rest[start:stop])
        return
    end, terms = np.full((2, LANES), x.dtype.type(-np.inf)), np.empty((1, BLOCK), x.dtype)
    for i in range(start, stop):
        m[i], rest[i] = along(x, i, end, terms, 0)


@compiled("i8(i8)", inner=True)
def together(classes):
    """How many rows are worked on at once: those of a tile, or what stays in the nearest cache."""
    return TILE if classes < SHORT else max(1, 4 * BLOCK // classes)


def computing(dtype):
    """What ``dtype`` is computed in: float16, and uint16 as the bits of bfloat16, in float32."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def packed(x):
    """``x`` in the dtype that it is computed in, one number after another."""
    return widened(x) if x.dtype.itemsize == 2 else np.array(x, computing(x.dtype), order="C")


def over_rows(work, x, out, kept=None):
    """``work(rows, m, rest, into, a, b)`` for each range of ``x``: what it leaves in ``into`` gets into ``out``.

    Rows that are not ready to compute with are packed, a range at a time, and what they give is narrowed again. A list
    as ``kept`` has the (max, rest) of all rows, or is empty and receives them; without one they are forgotten.
    """
    dtype = computing(x.dtype)
    ready = x.dtype == dtype and x.dtype.isnative and x.flags.c_contiguous and x.flags.aligned
    size = max(1, (RANGE if ready else RANGE // 2) // x.shape[1])
    if kept is not None and not kept:
        kept += [np.empty(len(x), dtype), np.empty(len(x))]

    def range_(a, b):
        rows = x[a:b] if ready else packed(x[a:b])
        m, rest = (of_all[a:b] for of_all in kept) if kept else (np.empty(b - a, dtype), np.empty(b - a))
        into = out[a:b] if out.dtype == dtype else np.empty(out[a:b].shape, dtype)
        work(rows, m, rest, into, a, b)
        if out.dtype != dtype:
            narrow(into, out[a:b])

    for _ in over_ranges(range_, len(x), size):
        pass


def as_rows(logits, axis=-1):
    """``logits`` as a table of rows, and the shape of what has one number per row."""
    x = np.moveaxis(logits, axis, -1)
    return x.reshape(-1, x.shape[-1]), x.shape[:-1]


def result(x, shape):
    """An empty array for what comes out in the dtype of ``x``."""
    return np.empty(shape, x.dtype.newbyteorder("="))
