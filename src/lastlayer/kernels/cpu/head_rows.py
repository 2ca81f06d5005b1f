"""`linear.tile`'s functions of a tile of logits, one row at a time, which stays in the second cache.

    1  formula, NumPy, float64: eight tables of the tile's size
    2  these loops: one read for the largest entry, one for the sums, one read and write for the slopes

``bench/linear.py`` prints the times of both. Tiles are float32, or bfloat16 as their bits, which are computed in
float32. The largest entry is found over integers that are ordered as the floats are, since a maximum of floats, which
must mind nan, is not vectorised. Sums run in lanes over `BLOCK` entries and in float64 over blocks, so a row's bits
depend on the row alone.
"""

import numpy as np

from lastlayer.kernels.cpu import compiled

BLOCK = 2048
STRIP = 64  # entries with one largest
LANES = {"reassoc", "contract", "nsz", "arcp"}  # sums in several lanes; nan and inf stay what they are

F = np.float32
ZERO, ONE = F(0), F(1)
LOG2_E, LN2_HIGH, LN2_LOW = F(1.4426950408889634), F(0.693359375), F(-2.12194440e-4)  # the high part in 9 bits: exact
C0, C1, C2, C3, C4, C5 = (  # (e^f - 1 - f) / f^2 up to half of log 2, to a unit in the last place (Cephes, expf)
    F(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
LEAST = F(-87.0)  # below it exp is 0 here: it would soon be subnormal
FAR = F(-1e18)  # its square is finite: stands for -inf where a product with 0 must be 0
SIGN = np.int32(31)
MAGNITUDE = np.int32(0x7FFFFFFF)
LOWEST_KEY = np.int32(-0x80000000)


@compiled("f4(f4)", fastmath={"contract"})
def _exp(d):
    """``exp(d)`` for d <= 0 to a unit in the last place, 0 below `LEAST`."""
    bounded = max(d, LEAST)
    q = np.rint(bounded * LOG2_E)
    f = (bounded - q * LN2_HIGH) - q * LN2_LOW
    y = ((((C0 * f + C1) * f + C2) * f + C3) * f + C4) * f + C5
    y = y * (f * f) + f + ONE
    power = (np.int32(q) + np.int32(127)) << np.int32(23)
    scaled = y * np.int32(power).view(np.float32)
    return scaled if d >= LEAST else ZERO


@compiled("f4(i4)")
def _of_key(key):
    return np.int32(key ^ np.int32(np.int32(key >> SIGN) & MAGNITUDE)).view(np.float32)


@compiled("UniTuple(f4, 4)(f4[::1], f4)", fastmath=LANES)
def _block_sums(x, m):
    """Sum of exp below the largest and of its products with the distance; how many are the largest, how many below."""
    rest, moment, equal, below = ZERO, ZERO, ZERO, ZERO
    for j in range(len(x)):
        v = x[j]
        d = v - m
        e = _exp(d) if v < m else ZERO
        rest += e
        moment -= e * max(d, LEAST) if v < m else ZERO
        equal += ONE if v == m else ZERO
        below += ONE if v < m else ZERO
    return rest, moment, equal, below


@compiled("UniTuple(f8, 3)(f4[::1], f4)")
def _row_parts(x, m):
    rest, moment, equal, below = 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(x), BLOCK):
        r, w, e, b = _block_sums(x[start : start + BLOCK], m)
        rest += r
        moment += w
        equal += e
        below += b
    if equal + below != len(x):  # a nan is neither
        return np.nan, np.nan, np.nan
    if m == -np.inf:
        return -np.inf, 0.0, 0.0
    return np.float64(m), rest + (equal - 1.0), moment


@compiled("void(f4[::1], f4, f4, f4, f4, f4)", fastmath={"contract"})
def _slopes(x, m, a, b, u, curve):
    for j in range(len(x)):
        v = x[j]
        d = v - m
        near = max(v, FAR)
        slope = _exp(d) * (a + b * max(d, LEAST)) - (u if v > -np.inf else ZERO)
        x[j] = slope * (ONE - near * near * curve)


@compiled("i4(i4, i4)")
def _rounded(bits, shift):
    """The bits of a float32 in the dtype of the tile: bfloat16 is the nearest, ties to even; a nan stays one."""
    odd = np.int32(np.int32(bits >> shift) & np.int32(1))
    nearest = np.int32(np.int32(np.int32(bits + np.int32(0x7FFF)) + odd) >> shift)
    undefined = np.int32(bits & MAGNITUDE) > np.int32(0x7F800000)
    half = np.int32(0x7FC0) if undefined else nearest
    return bits if shift == 0 else half


@compiled("void(u2[::1], i4, f4, f4, f4)", "void(i4[::1], i4, f4, f4, f4)", fastmath={"contract"})
def _plain_slopes(row, shift, m, a, u):
    """Those of a row without ``b`` and ``curve``, in one pass."""
    for j in range(len(row)):
        v = np.int32(np.int32(row[j]) << shift).view(np.float32)
        slope = np.float32(_exp(v - m) * a - (u if v > -np.inf else ZERO))
        row[j] = _rounded(slope.view(np.int32), shift)


@compiled("void(f4[::1], f4, f4, f4)")
def _special_slopes(x, m, a, u):
    """The row of an infinite or undefined largest entry: its limit, nothing, or nan."""
    for j in range(len(x)):
        if m == np.inf:
            share = a if x[j] == np.inf else ZERO
            x[j] = share - (u if x[j] > -np.inf else ZERO)
        else:
            x[j] = ZERO if m == -np.inf else F(np.nan)


@compiled("UniTuple(f8, 2)(f4[::1], f4)", fastmath=LANES)
def _row_totals(x, m):
    total, count = 0.0, 0.0
    for start in range(0, len(x), BLOCK):
        t, c = ZERO, ZERO
        for j in range(start, min(start + BLOCK, len(x))):
            v = x[j]
            t += m - v if (v > -np.inf) & (v != m) else ZERO
            c += ONE if v > -np.inf else ZERO
        total += t
        count += c
    return total, count


@compiled("i4(u2[:, ::1], i8, i4, i4[::1])", "i4(i4[:, ::1], i8, i4, i4[::1])")
def _load(tile, i, shift, bits):
    """A row as the bits of float32, bfloat16 being its upper half; gives the key of its largest entry."""
    key = LOWEST_KEY
    for j in range(len(bits)):
        v = np.int32(np.int32(tile[i, j]) << shift)
        bits[j] = v
        key = max(key, np.int32(v ^ np.int32(np.int32(v >> SIGN) & MAGNITUDE)))
    return key


@compiled("void(i4[::1], u2[:, ::1], i8, i4)", "void(i4[::1], i4[:, ::1], i8, i4)")
def _store(bits, tile, i, shift):
    """A row in the dtype of the tile."""
    for j in range(len(bits)):
        tile[i, j] = _rounded(bits[j], shift)


@compiled("void(u2[:, ::1], i4, f8[:, ::1])", "void(i4[:, ::1], i4, f8[:, ::1])")
def _parts(tile, shift, out):
    bits = np.empty(tile.shape[1], np.int32)
    x = bits.view(np.float32)
    for i in range(len(tile)):
        m = _of_key(_load(tile, i, shift, bits))
        out[i, 0], out[i, 1], out[i, 2] = _row_parts(x, m)


@compiled("void(u2[:, ::1], i4, f8[::1], f8[:, ::1])", "void(i4[:, ::1], i4, f8[::1], f8[:, ::1])")
def _totals(tile, shift, largest, out):
    bits = np.empty(tile.shape[1], np.int32)
    x = bits.view(np.float32)
    for i in range(len(tile)):
        _load(tile, i, shift, bits)
        out[i, 0], out[i, 1] = _row_totals(x, F(largest[i]))


@compiled("void(u2[:, ::1], i4, f8[:, ::1], f8)", "void(i4[:, ::1], i4, f8[:, ::1], f8)")
def _all_slopes(tile, shift, lines, curve):
    bits = np.empty(tile.shape[1], np.int32)
    x = bits.view(np.float32)
    for i in range(len(tile)):
        m, a, b, u = F(lines[i, 0]), F(lines[i, 1]), F(lines[i, 2]), F(lines[i, 3])
        if np.isfinite(m) and b == 0 and curve == 0:
            _plain_slopes(tile[i], shift, m, a, u)
            continue
        _load(tile, i, shift, bits)
        if np.isfinite(m):
            _slopes(x, m, a, b, u, F(curve))
        else:
            _special_slopes(x, m, a, u)
        _store(bits, tile, i, shift)


@compiled("i8(u2[::1], i4, f4, b1)", "i8(i4[::1], i4, f4, b1)")
def _before(part, shift, at, ties):
    """How many entries of part of a row come before a later one (``ties``) or an earlier one of logit ``at``."""
    count = np.int32(0)
    for j in range(len(part)):
        v = np.int32(np.int32(part[j]) << shift).view(np.float32)
        count = np.int32(count + np.int32((v > at) | ((v == at) & ties)))
    return np.int64(count)


@compiled("void(u2[:, ::1], i4, f8[::1], i8[::1], i8[::1])", "void(i4[:, ::1], i4, f8[::1], i8[::1], i8[::1])")
def _ranks(tile, shift, at, target, out):
    for i in range(len(tile)):
        y = min(max(target[i], 0), tile.shape[1])
        out[i] = _before(tile[i, :y], shift, F(at[i]), True) + _before(tile[i, y:], shift, F(at[i]), False)


@compiled("i4(u2[::1], i4)", "i4(i4[::1], i4)")
def _largest_key(part, shift):
    key = LOWEST_KEY
    for j in range(len(part)):
        v = np.int32(np.int32(part[j]) << shift)
        key = max(key, np.int32(v ^ np.int32(np.int32(v >> SIGN) & MAGNITUDE)))
    return key


@compiled(
    "void(u2[::1], i4, i4[::1], f4[::1], i8[::1])",
    "void(i4[::1], i4, i4[::1], f4[::1], i8[::1])",
)
def _row_top(row, shift, strips, values, index):
    """The largest entries in falling order, the first of equals first: they lie in the k strips of the largest."""
    k, n = len(values), len(row)
    values[:] = -np.inf
    index[:] = n
    best = np.full(k, LOWEST_KEY, np.int32)
    for s in range(len(strips)):
        key = strips[s] = _largest_key(row[s * STRIP : (s + 1) * STRIP], shift)
        place = k
        while place > 0 and best[place - 1] < key:
            if place < k:
                best[place] = best[place - 1]
            place -= 1
        if place < k:
            best[place] = key
    for s in range(len(strips)):
        if strips[s] < best[k - 1]:
            continue
        for j in range(s * STRIP, min((s + 1) * STRIP, n)):
            v = np.int32(np.int32(row[j]) << shift).view(np.float32)
            if index[k - 1] < n and not v > values[k - 1]:
                continue
            place = k - 1
            while place > 0 and (index[place - 1] == n or values[place - 1] < v):
                values[place] = values[place - 1]
                index[place] = index[place - 1]
                place -= 1
            values[place] = v
            index[place] = j


@compiled("void(u2[:, ::1], i4, f4[:, ::1], i8[:, ::1])", "void(i4[:, ::1], i4, f4[:, ::1], i8[:, ::1])")
def _tops(tile, shift, values, index):
    strips = np.empty((tile.shape[1] + STRIP - 1) // STRIP, np.int32)
    for i in range(len(tile)):
        _row_top(tile[i], shift, strips, values[i], index[i])


def _bits(tile):
    """A tile as integers, and how far they stand from those of float32."""
    return (tile, np.int32(16)) if tile.itemsize == 2 else (tile.view(np.int32), np.int32(0))


def parts(tile):
    """The same three columns as the formula."""
    out = np.empty((len(tile), 3))
    _parts(*_bits(tile), out)
    return out.T


def totals(tile, largest):
    """The same two columns as the formula."""
    out = np.empty((len(tile), 2))
    _totals(*_bits(tile), np.ascontiguousarray(largest), out)
    return out.T


def slopes(tile, largest, a, b, u, curve):
    """The same slopes as the formula, in place of the tile."""
    _all_slopes(*_bits(tile), np.stack([largest, a, b, u], axis=1), float(curve))


def ranks(tile, at, target):
    """The same numbers as the formula."""
    out = np.empty(len(tile), np.int64)
    _ranks(*_bits(tile), np.ascontiguousarray(at), np.ascontiguousarray(target), out)
    return out


def tops(tile, k):
    """The same values and classes as the formula."""
    values, index = np.empty((len(tile), k), np.float32), np.empty((len(tile), k), np.int64)
    _tops(*_bits(tile), values, index)
    return values, index
