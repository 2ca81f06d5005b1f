"""``exp`` in float32 for loops that are compiled to vector instructions, and a logarithm to go with it.

Every multiply-add is written out as one (`fma`), and nothing else may be fused or reordered, so that a vector of
entries and the few that are left at the end of a loop get the same bits.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.lanes import fma, power, where_below

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

LN2_32_BITS, LN2_REST = 0.693147180369123816490, 1.90821492927058770002e-10  # the first times n is exact
ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)


def _wide(context):
    """Called in a function, it has LLVM use vectors of 512 bits there where there are any: it prefers 256 on Intel."""

    def generate(context, builder, signature, arguments):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # its own `add` knows a few names alone
        return context.get_dummy_value()

    return types.none(), generate


wide: Any = intrinsic(_wide)


def terms(difference, x, m):
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
    return where_below(difference, LEAST, ZERO, y * power(shifted))


term = compiled("f4(f4, f4, f4)")(terms)


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
