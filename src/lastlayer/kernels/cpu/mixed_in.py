"""`measure.signs.mixed_in` by loops: the columns of a wide table are far apart for NumPy.

    1  formula, NumPy: 300 ms for 25,000 x 1,000
    2  a loop over each row: 3.6 ns an entry, as each mixing waits for the one before it
    3  four rows at a time: 1.1 ns
    4  64 rows that lie across, 64 columns at a time, so that it is a vector loop: .8 ns (1.4 beside rung 5)
    5  turned by shuffles (`lanes`), vectors of 512 bits: .6 ns (.9 where the rows come from memory)
    6  this: the next rows fetched meanwhile: .47 ns, from memory too

(One core of a two-core Xeon with AVX-512.)
"""

import numpy as np

from lastlayer.kernels.cpu import compiled, only_read
from lastlayer.kernels.cpu.exponential32 import wide
from lastlayer.kernels.cpu.lanes import BYTES, fetch, turn

SIDE = 64  # rows and columns of a tile
RANGE = 2**22  # entries that are packed at once


@compiled(inner=True)
def _column(column, state):
    wide()
    for i in range(len(state)):
        value = np.float64(column[i]) + 0.0
        mixed = (state[i] ^ np.uint64(np.float64(value).view(np.int64))) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state[i] = mixed ^ (mixed >> np.uint64(31))


@compiled()
def _mix(table, state):
    rows, columns = table.shape
    step, tile = BYTES // table.itemsize, np.empty((SIDE, SIDE), table.dtype)
    for top in range(0, rows, SIDE):
        s = state[top : min(top + SIDE, rows)]
        for left in range(0, columns, SIDE):
            for i in range(0, len(s), step):
                for j in range(0, SIDE, step):
                    turn(table, (top + i, left + j), tile, (j, i))
            for j in range(min(SIDE, columns - left)):
                for c in range(0, SIDE, step):  # of the rows after these, as many as are mixed in here
                    fetch(table, (top + SIDE, (left + j) * SIDE + c))
                _column(tile[j], s)


def run(table, state):
    """The same hashes as the formula."""
    state = np.array(state, np.uint64, order="C")
    native = table.dtype.newbyteorder("=")
    step = max(1, RANGE // max(table.shape[1], 1))
    for start in range(0, len(table), step):
        rows = slice(start, start + step)
        _mix(only_read(table[rows], native), state[rows])
    return state
