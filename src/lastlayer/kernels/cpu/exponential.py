"""``exp`` for loops that are compiled to vector instructions, which the C library's is not."""

import numpy as np

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.lanes import fma, power, where_below

LOG2E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # the first in 32 bits: times n it is exact
ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, which then stands in the lowest bits
LEAST = -708.0  # below it exp is 0 here: it would soon be subnormal

LN2, LN2_LOST = 0.6931471805599453, 2.3190468138462996e-17
BIASED_ROUND = ROUND + 1023 + 64
DOWN = 2.0**-64
LEAST_TERM = -752.0  # below it a term is 0: 2^64 exp(-752) is the smallest that the scaling holds
# exp(r) = 1 + r + r^2 (C2 + ...) for |r| <= log(2) / 2, to 4e-18: the least largest relative error
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11 = (
    float.fromhex(c)
    for c in (
        "0x1.000000000000ap-1",
        "0x1.55555555554fap-3",
        "0x1.555555555088cp-5",
        "0x1.1111111127b9cp-7",
        "0x1.6c16c18426742p-10",
        "0x1.a01a012a69a31p-13",
        "0x1.a0199a16ccef8p-16",
        "0x1.71df253a4315cp-19",
        "0x1.28ad68b76411ap-22",
        "0x1.ad7f7af334b32p-26",
    )
)


@compiled("f8(f8)", fastmath={"contract"})
def exp(x):
    """``exp(x)`` for x <= 0 to a unit in the last place: ``2^n exp(r)`` with 13 terms of Taylor's series of exp(r)."""
    bounded = max(x, LEAST)
    shifted = bounded * LOG2E + ROUND
    n = shifted - ROUND
    r = bounded - n * LN2_HIGH - n * LN2_LOW
    p = 1 / 6227020800.0
    p = p * r + 1 / 479001600.0
    p = p * r + 1 / 39916800.0
    p = p * r + 1 / 3628800.0
    p = p * r + 1 / 362880.0
    p = p * r + 1 / 40320.0
    p = p * r + 1 / 5040.0
    p = p * r + 1 / 720.0
    p = p * r + 1 / 120.0
    p = p * r + 1 / 24.0
    p = p * r + 1 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    scaled = p * np.int64(power).view(np.float64)
    return scaled if x > LEAST else 0.0


def origin(m):
    """The largest entry itself."""
    return m


def terms(x, origin):
    """``2^64 exp(x - m)`` with m, the `origin`, for x <= m to a unit in the last place.

    What the rounding of x - m took is found again (Knuth's two-sum): at a distance of 80 it would be 32 units.
    """
    m, difference = origin, x - origin
    part = difference - x
    lost = (x - (difference - part)) - (m + part)
    shifted = fma(difference, LOG2E, BIASED_ROUND)
    n = shifted - BIASED_ROUND
    r = fma(-n, LN2, difference) + fma(-n, LN2_LOST, lost)
    y = fma(fma(fma(fma(C11, r, C10), r, C9), r, C8), r, C7)
    y = fma(fma(fma(fma(fma(y, r, C6), r, C5), r, C4), r, C3), r, C2)
    y = fma(fma(y, r, 1.0), r, 1.0)
    return where_below(difference, LEAST_TERM, 0.0, y * power(shifted))


def scale(m):
    """What a term of a row is to be multiplied by to be exp(x - m)."""
    return DOWN
