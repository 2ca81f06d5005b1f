"""`measure.signs.extremes` of float32 tables without nan or infinities, in one read of each row.

    1  formula, NumPy: 2.9 ns an entry of 1,000 columns
    2  the bits of a float as an integer in the order of the floats, whose maximum is a vector loop: .4 ns
    3  vectors written out (`lanes`), of which the next largest entry tells of ties: .3 ns (.44 beside rung 4)
    4  this: the next rows fetched meanwhile: .34 ns, and .13 where they are near already

(One core of a two-core Xeon with AVX-512.)
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled, only_read
from lastlayer.kernels.cpu.exponential32 import ONE, ZERO
from lastlayer.kernels.cpu.lanes import (
    BYTES,
    fetch,
    fma,
    highest,
    lanes,
    larger,
    load,
    load_part,
    store,
    total,
    where_below,
    where_same,
)

NONE = np.float32(-np.inf)
STEP = BYTES // 4  # entries of a vector
AHEAD = 2048  # entries, of the next rows, that come nearer: where a page ends the processor reads no further
ROWS = types.Array(types.float32, 2, "C", readonly=True)


@compiled(inline="always")
def two_largest(v, most, second):
    """The largest of each place of the vectors so far, and the next after it, which may be as large; one vector on."""
    return larger(v, most), larger(where_below(v, most, v, most), second)


@compiled(inline="always")
def folded(most, second):
    """Of all places the largest entry, and the next after it."""
    m, nothing = highest(most), lanes(NONE)
    several = total(where_same(most, lanes(m), lanes(ONE), lanes(ZERO))) > 1.0
    return m, m if several else highest(larger(where_same(most, lanes(m), nothing, most), second))


@compiled(types.boolean(ROWS, types.float32[:, ::1], types.float32[:, ::1], types.boolean[::1]))
def _table(x, of_rows, of_columns, tied):
    """Largest entries, and largest of the negatives; whether all are finite."""
    whole, odd = x.shape[1] // STEP * STEP, 0.0
    for i in range(len(x)):
        most, second, least, product = lanes(NONE), lanes(NONE), lanes(NONE), lanes(ZERO)
        for j in range(0, whole, STEP):
            fetch(x, (i, j + AHEAD))
            v = load(x, (i, j))
            most, second = two_largest(v, most, second)
            least, product = larger(-v, least), fma(v, lanes(ZERO), product)
            store(of_columns, (0, j), larger(v, load(of_columns, (0, j))))
            store(of_columns, (1, j), larger(-v, load(of_columns, (1, j))))
        for j in range(whole, x.shape[1]):
            of_columns[0, j], of_columns[1, j] = max(of_columns[0, j], x[i, j]), max(of_columns[1, j], -x[i, j])
        most, second = two_largest(load_part(x, (i, whole), NONE), most, second)
        of_rows[0, i], next_ = folded(most, second)
        of_rows[1, i] = highest(larger(-load_part(x, (i, whole), -NONE), least))
        odd += total(product)
        tied[i] = next_ == of_rows[0, i]
        for j in range(whole, x.shape[1]):
            odd += x[i, j] * ZERO
    return odd == 0.0


def run(table):
    """The same as the formula; where an entry is nan or infinite the formula has to do it."""
    packed = only_read(table, np.float32)
    rows, columns = packed.shape
    of_rows, of_columns = np.empty((2, rows), np.float32), np.full((2, columns), NONE)
    tied = np.empty(rows, bool)
    if not _table(packed, of_rows, of_columns, tied):
        return NotImplemented
    (most, least), (high, low) = (found.astype(np.float64) for found in (of_rows, of_columns))
    return most + 0.0, 0.0 - least, tied, high + 0.0, 0.0 - low
