"""`train._passes.sparse_product`: rows of a sparse matrix times a table whose rows are short and lie together.

    1  formula: SciPy's loop, one thread, a row of the table at a time
    2  four entries at a time, so that the row that is summed is read and written once for four: CLINC150, 1.8 million
       entries by 150 columns, 55 to 64 ms on one core, by 10 columns 45 to 47
    3  eight at a time, called by nobody but the loop (`inner`): 22 to 30 and 4 to 9 ms

Rows are summed in their own order, so threads change no bit. The transpose is a product of the same kind, of the matrix
by columns.
"""

from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import wide

NUMBERS = (types.float32, types.float64)
INDEX = types.Array(types.int32, 1, "C", readonly=True)
ONCE = {"contract"}  # a product and its sum are rounded once


def _line(number):
    return types.Array(number, 1, "C", readonly=True)


@compiled(*(types.void(*[_line(t)] * 8, types.UniTuple(t, 8), t[::1]) for t in NUMBERS), fastmath=ONCE, inner=True)
def _add_eight(p, q, r, s, t, u, v, w, x, out):
    wide()
    for k in range(len(out)):
        first = out[k] + p[k] * x[0] + q[k] * x[1] + r[k] * x[2] + s[k] * x[3]
        out[k] = first + (t[k] * x[4] + u[k] * x[5] + v[k] * x[6] + w[k] * x[7])


@compiled(*(types.void(_line(t), t, t[::1]) for t in NUMBERS), fastmath=ONCE, inner=True)
def _add_one(p, a, out):
    wide()
    for k in range(len(out)):
        out[k] += p[k] * a


@compiled(
    *(
        types.void(
            types.Array(t, 2, "C"),
            _line(t),
            INDEX,
            INDEX,
            types.Array(t, 2, "C", readonly=True),
        )
        for t in NUMBERS
    )
)
def _product(out, values, indices, starts, table):
    for i in range(len(out)):
        row, first, last = out[i], starts[i], starts[i + 1]
        whole = first + (last - first) // 8 * 8
        for j in range(first, whole, 8):
            at, x = indices[j : j + 8], values[j : j + 8]
            numbers = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
            p, q, r, s = table[at[0]], table[at[1]], table[at[2]], table[at[3]]
            _add_eight(p, q, r, s, table[at[4]], table[at[5]], table[at[6]], table[at[7]], numbers, row)
        for j in range(whole, last):
            _add_one(table[indices[j]], values[j], row)


def run(out, values, indices, starts, table):
    """The same sums as the formula, added to ``out``."""
    _product(out, values, indices, starts, table)
