"""The (max, rest) of rows of float32 and float64, which every kernel of softmax is made of.

    m = the largest entry,  rest = sum over the others of exp(x_i - m),  logsumexp = m + log1p(rest)

    1  formula, NumPy: some thirty passes over arrays of the size of the logits
    2  a loop over each row with `math.exp`: a call an entry
    3  the maximum over integers that are in the order of the floats, which is a vector loop where one over floats is
       not; the sum in several lanes; rows shorter than `SHORT` across, a tile of `TILE` at a time: .31 ns an entry
    4  vectors of 512 bits (`wide`): .23 ns, 25 instructions for 16 entries, two a cycle
    5  the next row fetched into the second cache meanwhile: 13.3 ms for 16.0 (50,000 x 1,000)
    6  rows across by gathers, and a logarithm that does not ask whether it divides by 0: .93 ns an entry of 10 for 1.46
    7  vectors written out (`lanes`), so that a maximum is one instruction for four, and a row's end is one vector and
       not a copy of it: .27 ns for .40 at 1,000 classes and for .30 at 32,000, all in the cache
    8  the largest entry of the next row found by the loop over the exponentials of this one, which fetches that row:
       memory and ports work at once
    9  entries fetched `AHEAD` of that: 10.3 ms for 12.5 (50,000 x 1,000), 6.4 for 7.7 (1,000 x 32,000)
   10  short rows turned by shuffles, 16 x 16 at a time, their sums in registers: .72 ns an entry of 10 for .96
   11  nothing divided and no reference counted within a row (`width`, and loops where there were branches), and two
       sums that take turns: .52 ns for .91 at 64 classes, .31 for .32 at 1,000, and 3.2 units of logp for 6.1
   12  the exponential of x itself, `origin`, and one factor for the row: five instructions fewer than of x - m and what
       its rounding took; sums of conditional terms as masked additions, two vectors a turn, whose constants stay in
       registers: .21 ns for .31 at 1,000 classes, .19 for .29 at 32,000
   13  the caller computes too (`parallel`), and entries are fetched earlier, into the second cache: 8.9 ms for 12
       (50,000 x 1,000), 5.3 for 8.5 (1,000 x 32,000), each in turn with PyTorch, whose calls take 82 and 52

Two cores of an Intel Xeon with AVX-512, float32, where reading 50,000 x 1,000 takes 5.5 to 6 ms. What lost: fetching
into the first cache (17.7 ms, of whole rows) or past the caches (29.6; 18 for 7.9 of rung 13); conditional sums in
place of sums of conditional terms (not vectorised: 85 ms); the exponentials taken twice in place of scaling them where
they lie (.53 ns for .38); a function call a row, whose counts of references to arrays are atomic (.44 ns at 1,000
classes), hence `inline`; one float32 sum for 128 vectors (4.2 units on a row with a large first entry), hence `STRIP`,
or for 32 (6.1 units of logp on others).

A row's own length alone decides in which order its entries are added, so neighbours, threads and layout change no bit.
The times are printed by ``bench/softmax.py``.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from lastlayer.kernels.cpu import compiled, exponential, exponential32
from lastlayer.kernels.cpu.exponential32 import ONE, ZERO, wide
from lastlayer.kernels.cpu.halves import narrow, widened
from lastlayer.kernels.cpu.lanes import (
    BYTES,
    fetch,
    highest,
    lanes,
    larger,
    load,
    load_part,
    store,
    store_part,
    total,
    turn,
    where_other,
    where_same,
)
from lastlayer.parallel import over_ranges

SHORT = 32  # classes: below, vectors run across rows
TILE = 256  # rows of a tile that lies across: 31 classes of them are 32 kB
BLOCK = 2048  # entries summed in many lanes before float64 takes over
AHEAD = 8192  # entries that are fetched before they are read: what waits in a core for memory spans a quarter of that
STRIP = 512  # the same where there are two sums as wide as a vector: 16 roundings of float32 each
RANGE = 2**21  # entries of one range of the pool: half a millisecond; fewer where they are packed, or rows short


def of_both(signature):
    """A signature for float32 and for float64."""
    return [signature(types.float32), signature(types.float64)]


def given(dtype, ndim):
    """An array that is only read."""
    return types.Array(dtype, ndim, "C", readonly=True)


def origin(m) -> Any:
    """In compiled code: `exponential32.origin` or that of float64, by the type of ``m``."""


def term(x, origin) -> Any:
    """In compiled code: `exponential32.terms` or that of float64, by the type of ``x``."""


def scale(m) -> Any:
    """In compiled code: `exponential32.scale` or that of float64, by the type of ``m``."""


def _precise(of):
    """The module of the exponential of a number's or a vector's type."""
    return exponential32 if getattr(of, "dtype", of) == types.float32 else exponential


@overload(origin)
def _origin_of_type(m):
    return _precise(m).origin


@overload(term)
def _term_of_type(x, origin):
    return _precise(x).terms


@overload(scale)
def _scale_of_type(m):
    return _precise(m).scale


@compiled(inline="always")
def width(dtype):
    """How many numbers a vector has, as a constant, which the size that an array knows of itself is not."""
    return 8 * BYTES // np.finfo(dtype).bits


@compiled(inline="always")
def largest(x, i):
    """The largest entry of row i; where one is nan, any number."""
    step, classes = width(x.dtype), x.shape[1]
    whole = classes // step * step
    most = lanes(x.dtype.type(-np.inf))
    for j in range(0, whole, step):
        most = larger(load(x, (i, j)), most)
    return highest(larger(load_part(x, (i, whole), -np.inf), most))


@compiled(inner=True)
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


@compiled(inline="always")
def further(sum_, lost, part):
    """A sum with one more part, and what it lost by rounding (Kahan 1965)."""
    below = part - lost
    above = sum_ + below
    return above, (above - sum_) - below


@compiled(inline="always")
def settled(x, i, m, sum_, count):
    """``m`` and ``rest`` of row i from the sum of its terms and how many of its entries are ``m``."""
    top, rest = np.float64(m), sum_ * scale(m) + (count - 1.0)
    if not abs(m) < np.inf:
        top, rest = _special(x[i], m)
    elif rest != rest:
        top = np.nan
    return top, rest


@compiled(inline="always")
def settle(x, m, sums, equal, rest):
    """The same of several rows."""
    undefined = False
    for i in range(len(m)):
        rest[i] = sums[i] * scale(m[i]) + (equal[i] - 1.0)
        undefined |= not (abs(m[i]) < np.inf and rest[i] == rest[i])
    for i in range(len(m) if undefined else 0):
        if not (abs(m[i]) < np.inf and rest[i] == rest[i]):
            m[i], rest[i] = _special(x[i], m[i])
    return undefined


@compiled(inline="always")
def passed(x, i, j, most):
    """The largest entries of row i so far; what comes after them is fetched."""
    fetch(x, (i, j + AHEAD))
    return larger(load(x, (i, j)), most)


@compiled(inline="always")
def added(x, m, of, rest, other, others):
    """The terms of a vector, from `origin`; where it is not ``m`` they are added, and it is counted.

    There are two sums, which take turns: half as many roundings in each.
    """
    t = term(x, of)
    return t, other, where_other(x, m, rest + t, rest), where_other(x, m, others + ONE, others)


@compiled(inline="always")
def pairs_until(start, stop, step):
    """Where the last whole pair of vectors ends: constants of a loop over pairs stay in registers."""
    return start + (stop - start) // (2 * step) * (2 * step)


@compiled(inline="always")
def _others(x, i, start, stop, m, of, most, terms, o):
    """Of part of row i the sum of `term` over entries that are not ``m``, and how many are; ``most`` of the next row.

    The next row is read meanwhile: to read and to compute in turn would take the time of both.
    """
    step, after, kept = width(x.dtype), min(i + 1, len(x) - 1), o < len(terms)
    rest = other = others = lanes(x.dtype.type(0.0))
    whole, pairs = stop // step * step, pairs_until(start, stop, step)
    for j in range(start, pairs, 2 * step):
        most = passed(x, after, j, most)
        t, rest, other, others = added(load(x, (i, j)), m, of, rest, other, others)
        if kept:  # a function that stores would count references to arrays: 1.2 ns an entry for .3
            store(terms, (o, j), t)
        most = passed(x, after, j + step, most)
        t, rest, other, others = added(load(x, (i, j + step)), m, of, rest, other, others)
        if kept:
            store(terms, (o, j + step), t)
    for j in range(pairs, whole, step):
        most = passed(x, after, j, most)
        t, rest, other, others = added(load(x, (i, j)), m, of, rest, other, others)
        if kept:
            store(terms, (o, j), t)
    for j in range(whole, stop, step):  # once or never: after a branch, references to arrays would be counted
        most = larger(load_part(x, (after, j), -np.inf), most)
        t, rest, other, others = added(load_part(x, (i, j), -np.inf), m, of, rest, other, others)
        if kept:
            store_part(terms, (o, j), t)
    return total(rest + other), np.float64(-(-(stop - start) // step) * step) - total(others), most


@compiled(inline="always")
def onward(x, i, m, terms, o):
    """``rest`` of row i and its ``m``, which is the largest entry but for nan; and the largest of the row after it.

    The terms of the row are left in row o of ``terms``, if there is one.
    """
    classes, of, following = x.shape[1], origin(m), lanes(x.dtype.type(-np.inf))
    sum_, lost, count = 0.0, 0.0, 0.0
    for start in range(0, classes, STRIP):
        part, equal, following = _others(x, i, start, min(start + STRIP, classes), m, of, following, terms, o)
        sum_, lost = further(sum_, lost, part)
        count += equal
    top, rest = settled(x, i, m, sum_, count)
    return top, rest, highest(following)


@compiled(inline="always")
def tiled(x, start, stop):
    """Rows as columns, both filled up to whole vectors with anything."""
    step, classes = width(x.dtype), x.shape[1]
    columns = np.empty((-(-classes // step) * step, -(-(stop - start) // step) * step), x.dtype)
    for i in range(0, columns.shape[1], step):
        for k in range(0, classes, step):
            turn(x, (start + i, k), columns, (k, i))
    return columns


@compiled(inner=True)
def across(x, columns, m, rest):
    """``m`` and ``rest`` of short rows, which lie across in ``columns``; there, their terms are left."""
    wide()
    sums, equal = np.empty(len(m), x.dtype), np.empty(len(m), x.dtype)
    classes, zero = x.shape[1], lanes(x.dtype.type(0.0))
    for i in range(0, len(m), width(x.dtype)):
        most = load(columns, (0, i))
        for k in range(1, classes):
            most = larger(load(columns, (k, i)), most)
        sum_, lost, others, of = zero, zero, zero, origin(most)
        for k in range(classes):
            v = load(columns, (k, i))
            t = term(v, of)
            store(columns, (k, i), t)
            sum_, lost = further(sum_, lost, where_same(v, most, ZERO, t))  # 30 roundings would be 3 units
            others = where_same(v, most, others, others + ONE)
        store_part(m, i, most)
        store_part(sums, i, sum_)
        store_part(equal, i, x.dtype.type(classes) - others)
    settle(x, m, sums, equal, rest)


@compiled(inner=True)
def parts(x, start, stop, m, rest, following):
    """``m`` and ``rest`` of a few rows, of which ``following`` is the largest entry of the first; that of the next."""
    if x.shape[1] < SHORT:
        rows = x[start:stop]
        across(rows, tiled(x, start, stop), m[start:stop], rest[start:stop])
        return following
    nowhere = np.empty((0, 0), x.dtype)
    for i in range(start, stop):
        m[i], rest[i], following = onward(x, i, following, nowhere, 0)
    return following


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
    size = max(1, RANGE // (4 if x.shape[1] < SHORT else 1 if ready else 2) // x.shape[1])
    if kept is not None and not kept:
        kept += [np.empty(len(x), dtype), np.empty(len(x))]

    def range_(a, b):
        rows = x[a:b] if ready else packed(x[a:b])
        rows.flags.writeable = False  # one type, for which alone kernels are compiled
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
