"""``exp`` in float32 for loops that are compiled to vector instructions, and a logarithm to go with it.

Every multiply-add is written out as one (`fma`), and nothing else may be fused or reordered, so that a vector of
entries and the few that are left at the end of a loop get the same bits.
"""

from typing import Any

import numpy as np
from numba.extending import intrinsic

from lastlayer.kernels.cpu import compiled

UP, DOWN = 2.0**64, 2.0**-64  # the sum of terms down to exp(-132) stays a normal number
LEAST = np.float32(-132.0)  # below it a term is 0: 2^64 exp(-132) is the smallest that the scaling holds
ZERO, ONE = np.float32(0.0), np.float32(1.0)

LOG2E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.6931471805599453)
LN2_LOW = np.float32(0.6931471805599453 - float(LN2_HIGH))
ROUND = np.float32(1.5 * 2**23 + 127 + 64)  # adding it rounds to an integer, which stands in the lowest bits, biased
# exp(r) = 1 + r + r^2 (C2 + ...) for |r| <= log(2) / 2, to 3e-9: least squares in the largest relative error
C2, C3, C4, C5, C6 = (
    np.float32(float.fromhex(c))
    for c in ("0x1.fffffcp-2", "0x1.555490p-3", "0x1.5558fcp-5", "0x1.123b74p-7", "0x1.6a2150p-10")
)
EXPONENT = np.int32(23)

LN2 = 0.6931471805599453
ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)


def _fused(context, a, b, c):
    """``a * b + c``, rounded once."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, a, a), generate


fma: Any = intrinsic(_fused)  # called without the context


@compiled("f4(f4, f4, f4)")
def term(difference, x, m):
    """``2^64 exp(x - m)`` for x <= m to a unit in the last place; ``difference`` is x - m as it rounds.

    What the rounding took is found again (Knuth's two-sum): at a distance of 80 it would be 32 units.
    """
    part = difference - x
    lost = (x - (difference - part)) - (m + part)
    shifted = fma(difference, LOG2E, ROUND)
    n = shifted - ROUND
    r = fma(-n, LN2_HIGH, difference) + fma(-n, LN2_LOW, lost)
    y = fma(fma(fma(fma(C6, r, C5), r, C4), r, C3), r, C2)
    y = fma(fma(y, r, ONE), r, ONE)
    power = np.int32(np.float32(shifted).view(np.int32) << EXPONENT)
    scaled = y * np.int32(power).view(np.float32)
    return ZERO if difference < LEAST else scaled


@compiled("f8(f8)")
def log1p(x):
    """``log(1 + x)`` for x >= 0 to 1e-12, also where 1 + x rounds to 1: what is lost there is added at the end."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    bits = np.float64(u).view(np.int64)
    n = (bits - np.int64(ROOT_HALF)) >> np.int64(52)
    f = np.int64(bits - (n << np.int64(52))).view(np.float64)
    s = (f - 1.0) / (f + 1.0)
    z = s * s
    series = 1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z / 15))))))
    return n * LN2 + (2.0 * s * series + lost / u)
