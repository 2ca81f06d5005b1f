"""`train._passes.class_pass` and `label_pass`: products, slopes and products again of rows with a few classes.

    1  formula: NumPy's BLAS, which packs both sides for a product whose one side is ten columns wide
    2  four rows by two classes in registers, so that a number that was read is used twice to four times
    3  backwards, eight rows at a time, so that a gradient is read and written once for eight rows
    4  five classes at a time in vectors that are written out: twenty sums of four rows, ten of the gradient

A block that fits the second cache is read from memory once for both. ``bench/multinomial.py`` prints the times.
"""

from numba import types

from lastlayer.kernels.cpu import class_slopes, compiled
from lastlayer.kernels.cpu.lanes import BYTES, fma, lanes, load, load_part, store, store_part, total

BLOCK = 2**17  # entries of features that stay in the second cache between the two products
NEAR = 16  # rows whose features stay in the first cache for all classes
LANES = {"reassoc", "contract", "nsz"}  # sums in several lanes


def _table(number):
    return types.Array(number, 2, "C", readonly=True)


def _line(number):
    return types.Array(number, 1, "C", readonly=True)


@compiled(inner=True, forceinline=True)
def _whole(table, i, j):
    return load(table, (i, j))


@compiled(inner=True, forceinline=True)
def _part(table, i, j):
    return load_part(table, (i, j), 0)


@compiled(inner=True, forceinline=True)
def _five(read, table, k, j):
    return read(table, k, j), read(table, k + 1, j), read(table, k + 2, j), read(table, k + 3, j), read(table, k + 4, j)


@compiled(inner=True, forceinline=True)
def _more(x, w, a):
    return fma(x, w[0], a[0]), fma(x, w[1], a[1]), fma(x, w[2], a[2]), fma(x, w[3], a[3]), fma(x, w[4], a[4])


@compiled(inner=True, forceinline=True)
def _four_by_five(read, x, rows, weight, k, j, sums):
    w = _five(read, weight, k, j)
    return (
        _more(read(x, rows[0], j), w, sums[0]),
        _more(read(x, rows[1], j), w, sums[1]),
        _more(read(x, rows[2], j), w, sums[2]),
        _more(read(x, rows[3], j), w, sums[3]),
    )


@compiled(inner=True, forceinline=True)
def _written(out, i, k, a):
    out[i, k], out[i, k + 1], out[i, k + 2] = total(a[0]), total(a[1]), total(a[2])
    out[i, k + 3], out[i, k + 4] = total(a[3]), total(a[4])


@compiled(*(types.UniTuple(t, 8)(*[_line(t)] * 6) for t in class_slopes.NUMBERS), fastmath=LANES)
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


@compiled(*(types.void(_table(t), _table(t), types.Array(t, 2, "C")) for t in class_slopes.NUMBERS))
def _logits(x, weight, out):
    """The last rows and class are made twice where they have no neighbour."""
    n, classes = out.shape
    count = BYTES // x.itemsize
    fives, whole = classes // 5 * 5, x.shape[1] // count * count
    zero = lanes(weight.dtype.type(0))
    none = zero, zero, zero, zero, zero
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        for k in range(0, fives, 5):
            sums = none, none, none, none
            for j in range(0, whole, count):
                sums = _four_by_five(_whole, x, (i, i1, i2, i3), weight, k, j, sums)
            if whole < x.shape[1]:
                sums = _four_by_five(_part, x, (i, i1, i2, i3), weight, k, whole, sums)
            _written(out, i, k, sums[0])
            _written(out, i1, k, sums[1])
            _written(out, i2, k, sums[2])
            _written(out, i3, k, sums[3])
        for k in range(fives, classes, 2):
            k1 = min(k + 1, classes - 1)
            out[i, k], out[i1, k], out[i2, k], out[i3, k], out[i, k1], out[i1, k1], out[i2, k1], out[i3, k1] = (
                _four_by_two(x[i], x[i1], x[i2], x[i3], weight[k], weight[k1])
            )


@compiled(
    *(types.void(*[_line(t)] * 8, types.UniTuple(t, 8), t[::1]) for t in class_slopes.NUMBERS), fastmath={"contract"}
)
def _add_eight(x0, x1, x2, x3, x4, x5, x6, x7, g, out):
    for j in range(len(out)):
        first = out[j] + x0[j] * g[0] + x1[j] * g[1] + x2[j] * g[2] + x3[j] * g[3]
        out[j] = first + x4[j] * g[4] + x5[j] * g[5] + x6[j] * g[6] + x7[j] * g[7]


@compiled(inner=True, forceinline=True)
def _of_row(slopes, i, k):
    return slopes[i, k], slopes[i, k + 1], slopes[i, k + 2], slopes[i, k + 3], slopes[i, k + 4]


@compiled(inner=True, forceinline=True)
def _kept(table, place, value):
    store(table, place, value)


@compiled(inner=True, forceinline=True)
def _kept_part(table, place, value):
    store_part(table, place, value)


@compiled(inner=True, forceinline=True)
def _put(write, out, k, j, a):
    write(out, (k, j), a[0])
    write(out, (k + 1, j), a[1])
    write(out, (k + 2, j), a[2])
    write(out, (k + 3, j), a[3])
    write(out, (k + 4, j), a[4])


@compiled(*(types.void(_table(t), _table(t), types.Array(t, 2, "C")) for t in class_slopes.NUMBERS))
def _gradient_of_fives(slopes, x, out):
    (n, classes), width, count = slopes.shape, x.shape[1], BYTES // x.itemsize
    whole = width // (2 * count) * (2 * count)
    for start in range(0, n, NEAR):
        stop = min(start + NEAR, n)
        for k in range(0, classes // 5 * 5, 5):
            for j in range(0, whole, 2 * count):
                a, b = _five(_whole, out, k, j), _five(_whole, out, k, j + count)
                for i in range(start, stop):
                    g = _of_row(slopes, i, k)
                    a, b = _more(load(x, (i, j)), g, a), _more(load(x, (i, j + count)), g, b)
                _put(_kept, out, k, j, a)
                _put(_kept, out, k, j + count, b)
            for j in range(whole, width, count):
                a = _five(_part, out, k, j)
                for i in range(start, stop):
                    a = _more(_part(x, i, j), _of_row(slopes, i, k), a)
                _put(_kept_part, out, k, j, a)


@compiled(*(types.void(_table(t), _table(t), types.Array(t, 2, "C")) for t in class_slopes.NUMBERS))
def _gradient(slopes, x, out):
    n, classes = slopes.shape
    whole, fives = n // 8 * 8, classes // 5 * 5
    _gradient_of_fives(slopes, x, out)
    for i in range(0, whole, 8):
        a = slopes[i : i + 8]
        for k in range(fives, classes):
            g = a[0, k], a[1, k], a[2, k], a[3, k], a[4, k], a[5, k], a[6, k], a[7, k]
            _add_eight(x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7], g, out[k])
    for i in range(whole, n):
        for k in range(fives, classes):
            for j in range(x.shape[1]):
                out[k, j] += x[i, j] * slopes[i, k]


@compiled(inner=True)
def _passed(slopes, tile, x, weight, offset, target, row_weight, shift, gradient, sums):
    """A block at a time; ``slopes`` is a kernel."""
    size, loss = max(BLOCK // x.shape[1] // 8 * 8, 64), 0.0
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        block, part = x[start:stop], tile[start:stop]
        _logits(block, weight, part)
        if len(offset):
            part += offset[start:stop]
        loss += slopes(part, target[start:stop], row_weight[start:stop], shift, sums)
        _gradient(part, block, gradient)
    return loss


@compiled()
def classes(tile, x, weight, offset, target, row_weight, shift, gradient, sums):
    """The same loss, slopes and sums as the formula."""
    return _passed(class_slopes.classes, tile, x, weight, offset, target, row_weight, shift, gradient, sums)


@compiled()
def labels(tile, x, weight, offset, target, row_weight, shift, gradient, sums):
    """The same loss, slopes and sums as the formula."""
    return _passed(class_slopes.labels, tile, x, weight, offset, target, row_weight, shift, gradient, sums)
