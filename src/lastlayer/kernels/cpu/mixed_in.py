"""`measure.signs.mixed_in` as one loop over each row: the columns of a wide table are far apart for NumPy.

1  formula, NumPy: 3.4 ms for 5,000 x 100, 300 ms for 25,000 x 1,000
2  this loop: 1.7 ms, 92 ms (one core of a two-core AMD EPYC)
"""

import numpy as np

from lastlayer.kernels.cpu import compiled

SIGNATURE = "void({0}[:, ::1], u8[::1])"


@compiled(SIGNATURE.format("f4"), SIGNATURE.format("f8"))
def _mix(table, state):
    rows, columns = table.shape
    for i in range(rows):
        s = state[i]
        for j in range(columns):
            value = np.float64(table[i, j]) + 0.0
            s = (s ^ np.uint64(np.float64(value).view(np.int64))) + np.uint64(0x9E3779B97F4A7C15)
            s = (s ^ (s >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            s = (s ^ (s >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            s ^= s >> np.uint64(31)
        state[i] = s


def run(table, state):
    """The same hashes as the formula."""
    state = np.array(state, np.uint64, order="C")
    native = table.dtype.newbyteorder("=")
    _mix(np.array(table, native, order="C", copy=None if table.flags.writeable else True), state)
    return state
