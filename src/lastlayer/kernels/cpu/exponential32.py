"""``exp`` in float32 for loops that are compiled to vector instructions, and a logarithm to go with it.

Every multiply-add is written out as one (`fma`), and nothing else may be fused or reordered, so that a vector of
entries and the few that are left at the end of a loop get the same bits.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.lanes import fma, larger, power, where_below

DOWN = 2.0**-64  # the sum of terms down to exp(-132) stays a normal number
LEAST = np.float32(-132.0)  # below it a term is 0: 2^64 exp(-132) is the smallest that the scaling holds
NEAR = np.float32(1024.0)  # of larger ones x - m is exact for every x down to m - 132
ZERO, ONE = np.float32(0.0), np.float32(1.0)

LOG2E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.6931471805599453)
LN2_LOW = np.float32(0.6931471805599453 - float(LN2_HIGH))
NEAREST = np.float32(1.5 * 2**23)
ROUND = np.float32(1.5 * 2**23 + 127 + 64)  # adding it rounds to an integer, which stands in the lowest bits, biased
# exp(r) = 1 + r + r^2 (C2 + ...) for |r| <= log(2) / 2, to 3e-9: least squares in the largest relative error
C2, C3, C4, C5, C6 = (
    np.float32(float.fromhex(c))
    for c in ("0x1.fffffcp-2", "0x1.555490p-3", "0x1.5558fcp-5", "0x1.123b74p-7", "0x1.6a2150p-10")
)
# exp(g) = 1 + g + g^2 (D2 + ...) for |g| <= log(2) / 2, to 1.4e-12
LN2 = 0.6931471805599453
D2, D3, D4, D5, D6, D7, D8 = (
    float.fromhex(c)
    for c in (
        "0x1.0000000064519p-1",
        "0x1.555555812fc48p-3",
        "0x1.5555540cd52ebp-5",
        "0x1.11109c1887523p-7",
        "0x1.6c18e4583f8c4p-10",
        "0x1.a18fc588a675cp-13",
        "0x1.9e8a4ec5abbb2p-16",
    )
)

LN2_32_BITS, LN2_REST = 0.693147180369123816490, 1.90821492927058770002e-10  # the first times n is exact
ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)


def _wide(context):
    """Called in a function, it has LLVM use vectors of 512 bits there where there are any: it prefers 256 on Intel."""

    def generate(context, builder, signature, arguments):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # its own `add` knows a few names alone
        return context.get_dummy_value()

    return types.none(), generate


wide: Any = intrinsic(_wide)


@compiled(inline="always")
def raised(shifted, r):
    """``2^n exp(r)`` for |r| <= log(2) / 2, n being what was rounded to."""
    y = fma(fma(fma(fma(C6, r, C5), r, C4), r, C3), r, C2)
    return fma(fma(y, r, ONE), r, ONE) * power(shifted)


def origin(m):
    """What `terms` are measured from in a row whose largest entry is ``m``: c, ROUND - k, and the least that counts.

    ``c + k log(2)`` is near m, and x - c is exact for all that count: c is 0 or so large that it is (Sterbenz 1974).
    """
    c = where_below(NEAR, larger(m, -m), m, ZERO)
    k = fma(m - c, LOG2E, NEAREST) - NEAREST
    return c, ROUND - k, m + LEAST


def terms(x, origin):
    """``2^(64 - k) exp(x - c)`` to a unit in the last place, of x up to the largest entry of a row.

    Of x - m itself the rounding would be lost: at a distance of 80 it is 32 units.
    """
    c, shift, least = origin
    d = x - c
    shifted = fma(d, LOG2E, shift)
    n = shifted - shift
    r = fma(-n, LN2_LOW, fma(-n, LN2_HIGH, d))
    return where_below(x, least, ZERO, raised(shifted, r))


_origin = compiled(inner=True)(origin)


def scale(m):
    """What a term of the row is to be multiplied by to be exp(x - m), which is ``2^-64 exp(c + k log(2) - m)``."""
    c, shift, _ = _origin(m)
    g = (np.float64(c) - np.float64(m)) + np.float64(ROUND - shift) * LN2
    y = fma(fma(fma(fma(fma(D8, g, D7), g, D6), g, D5), g, D4), g, D3)
    return fma(fma(fma(y, g, D2), g, 1.0), g, 1.0) * DOWN


term = compiled()(terms)


@compiled("f4(f4)", inner=True)
def exp(x):
    """``exp(x)`` for x <= 0 to a unit in the last place."""
    return term(x, (ZERO, ROUND, LEAST)) * np.float32(DOWN)


@compiled("f8(f8)", error_model="numpy")  # a division that asks whether it is by 0 is no vector's
def log1p(x):
    """``log(1 + x)`` for x >= 0 to a unit in the last place (fdlibm's logarithm, Sun 1993).

    Where 1 + x rounds, to 1 even, what is lost there is added at the end.
    """
    u = 1.0 + x
    lost = (x - (u - 1.0)) / u
    bits = np.float64(u).view(np.int64)
    n = (bits - np.int64(ROOT_HALF)) >> np.int64(52)
    f = np.int64(bits - (n << np.int64(52))).view(np.float64) - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = z * (
        0.6666666666666735130
        + z
        * (
            0.3999999999940941908
            + z
            * (
                0.2857142874366239149
                + z
                * (
                    0.2222219843214978396
                    + z * (0.1818357216161805012 + z * (0.1531383769920937332 + z * 0.1479819860511658591))
                )
            )
        )
    )
    half = 0.5 * f * f
    return n * LN2_32_BITS - ((half - (s * (half + series) + (n * LN2_REST + lost))) - f)
