"""`measure.signs.mixed_in` by loops: the columns of a wide table are far apart for NumPy.

    1  formula, NumPy: 300 ms for 25,000 x 1,000
    2  a loop over each row: 3.6 ns an entry, as each mixing waits for the one before it
    3  four rows at a time: 1.1 ns
    4  this: 64 rows that lie across, 64 columns at a time, so that it is a vector loop: .8 ns

(One core of a two-core Xeon with AVX-512.)
"""

import numpy as np

from lastlayer.kernels.cpu import compiled

SIGNATURE = "void({0}[:, ::1], u8[::1])"
SIDE = 64  # rows and columns of a tile
RANGE = 2**22  # entries that are packed at once


@compiled(SIGNATURE.format("f4"), SIGNATURE.format("f8"))
def _mix(table, state):
    rows, columns = table.shape
    tile = np.empty((SIDE, SIDE), table.dtype)
    for top in range(0, rows, SIDE):
        s = state[top : min(top + SIDE, rows)]
        for left in range(0, columns, SIDE):
            width = min(SIDE, columns - left)
            for i in range(len(s)):
                row = table[top + i, left : left + width]
                for j in range(len(row)):
                    tile[j, i] = row[j]
            for j in range(width):
                column = tile[j]
                for i in range(len(s)):
                    value = np.float64(column[i]) + 0.0
                    mixed = (s[i] ^ np.uint64(np.float64(value).view(np.int64))) + np.uint64(0x9E3779B97F4A7C15)
                    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                    s[i] = mixed ^ (mixed >> np.uint64(31))


def run(table, state):
    """The same hashes as the formula."""
    state = np.array(state, np.uint64, order="C")
    native = table.dtype.newbyteorder("=")
    step = max(1, RANGE // max(table.shape[1], 1))
    for start in range(0, len(table), step):
        rows = slice(start, start + step)
        copy = None if table.flags.writeable else True  # read-only input is another type
        _mix(np.array(table[rows], native, order="C", copy=copy), state[rows])
    return state
