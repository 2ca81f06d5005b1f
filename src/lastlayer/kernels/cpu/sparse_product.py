"""`train._passes.sparse_product`: rows of a sparse matrix times a table whose rows are short and lie together.

    1  formula: SciPy's loop, one thread, a row of the table at a time
    2  four entries at a time, so that the row that is summed is read and written once for four

Rows are summed in their own order, so threads change no bit. The transpose is a product of the same kind, of the matrix
by columns.
"""

from numba import types

from lastlayer.kernels.cpu import compiled

NUMBERS = (types.float32, types.float64)
INDEX = types.Array(types.int32, 1, "C", readonly=True)
ONCE = {"contract"}  # a product and its sum are rounded once


def _line(number):
    return types.Array(number, 1, "C", readonly=True)


@compiled(*(types.void(*[_line(t)] * 4, t, t, t, t, t[::1]) for t in NUMBERS), fastmath=ONCE)
def _add_four(p, q, r, s, a, b, c, d, out):
    for k in range(len(out)):
        out[k] = out[k] + p[k] * a + q[k] * b + r[k] * c + s[k] * d


@compiled(*(types.void(_line(t), t, t[::1]) for t in NUMBERS), fastmath=ONCE)
def _add_one(p, a, out):
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
        whole = first + (last - first) // 4 * 4
        for j in range(first, whole, 4):
            p, q, r, s = indices[j], indices[j + 1], indices[j + 2], indices[j + 3]
            _add_four(
                table[p], table[q], table[r], table[s], values[j], values[j + 1], values[j + 2], values[j + 3], row
            )
        for j in range(whole, last):
            _add_one(table[indices[j]], values[j], row)


def run(out, values, indices, starts, table):
    """The same sums as the formula, added to ``out``."""
    _product(out, values, indices, starts, table)
