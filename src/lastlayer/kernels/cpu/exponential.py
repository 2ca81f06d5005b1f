"""``exp`` for loops that are compiled to vector instructions, which the C library's is not."""

import numpy as np

from lastlayer.kernels.cpu import compiled

LOG2E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # the first in 32 bits: times n it is exact
ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, which then stands in the lowest bits
LEAST = -708.0  # below it exp is 0 here: it would soon be subnormal


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
