"""`train._passes.block_logits` and `block_gradient`: products of a block of rows with a few classes.

    1  formula: NumPy's BLAS, which packs both sides for a product whose one side is ten columns wide
    2  four rows by two classes in registers, so that a number that was read is used twice to four times
    3  backwards, eight rows at a time, so that a gradient is read and written once for eight rows

A block that fits the second cache is read from memory once for both. ``bench/multinomial.py`` prints the times.
"""

from numba import types

from lastlayer.kernels.cpu import compiled

LANES = {"reassoc", "contract", "nsz"}  # sums in several lanes
NUMBERS = (types.float32, types.float64)


def _table(number):
    return types.Array(number, 2, "C", readonly=True)


def _line(number):
    return types.Array(number, 1, "C", readonly=True)


@compiled(*(types.UniTuple(t, 8)(*[_line(t)] * 6) for t in NUMBERS), fastmath=LANES)
def _four_by_two(x0, x1, x2, x3, w, v):
    zero = w[0] - w[0]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
    for j in range(len(w)):
        a0 += x0[j] * w[j]
        a1 += x1[j] * w[j]
        a2 += x2[j] * w[j]
        a3 += x3[j] * w[j]
        b0 += x0[j] * v[j]
        b1 += x1[j] * v[j]
        b2 += x2[j] * v[j]
        b3 += x3[j] * v[j]
    return a0, a1, a2, a3, b0, b1, b2, b3


@compiled(*(types.void(_table(t), _table(t), types.Array(t, 2, "C")) for t in NUMBERS))
def _logits(x, weight, out):
    """The last rows and class are made twice where they have no neighbour."""
    n, classes = out.shape
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        for k in range(0, classes, 2):
            k1 = min(k + 1, classes - 1)
            out[i, k], out[i1, k], out[i2, k], out[i3, k], out[i, k1], out[i1, k1], out[i2, k1], out[i3, k1] = (
                _four_by_two(x[i], x[i1], x[i2], x[i3], weight[k], weight[k1])
            )


@compiled(*(types.void(*[_line(t)] * 8, types.UniTuple(t, 8), t[::1]) for t in NUMBERS), fastmath={"contract"})
def _add_eight(x0, x1, x2, x3, x4, x5, x6, x7, g, out):
    for j in range(len(out)):
        first = out[j] + x0[j] * g[0] + x1[j] * g[1] + x2[j] * g[2] + x3[j] * g[3]
        out[j] = first + x4[j] * g[4] + x5[j] * g[5] + x6[j] * g[6] + x7[j] * g[7]


@compiled(*(types.void(_table(t), _table(t), types.Array(t, 2, "C")) for t in NUMBERS))
def _gradient(slopes, x, out):
    n, classes = slopes.shape
    whole = n // 8 * 8
    for i in range(0, whole, 8):
        a = slopes[i : i + 8]
        for k in range(classes):
            g = a[0, k], a[1, k], a[2, k], a[3, k], a[4, k], a[5, k], a[6, k], a[7, k]
            _add_eight(x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7], g, out[k])
    for i in range(whole, n):
        for k in range(classes):
            for j in range(x.shape[1]):
                out[k, j] += x[i, j] * slopes[i, k]


def logits(tile, block, weight):
    """The same products as the formula, in ``tile``."""
    _logits(block, weight, tile)


def gradient(slopes, block, out):
    """The same sums as the formula, added to ``out``."""
    _gradient(slopes, block, out)
