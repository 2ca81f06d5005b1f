"""A logarithm for loops that are compiled to vector instructions, which the C library's is not."""

import numpy as np

from lastlayer.kernels.cpu import compiled

LN2 = 0.6931471805599453
ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)


@compiled("f8(f8, f8)", inner=True, error_model="numpy")
def log1p(x, inverse):
    """``log(1 + x)`` for x >= 0 to 1e-13, given ``1 / (1 + x)``; what is lost where 1 + x rounds is added at the end.

    Of ``1 + x = 2^n f`` with f from sqrt(1/2) to sqrt(2), ``log f = 2 atanh(s)``, ``s = (f - 1) / (f + 1)``.
    """
    u = 1.0 + x
    lost = x - (u - 1.0)
    bits = np.float64(u).view(np.int64)
    n = (bits - np.int64(ROOT_HALF)) >> np.int64(52)
    f = np.int64(bits - (n << np.int64(52))).view(np.float64)
    s = (f - 1.0) / (f + 1.0)
    z = s * s
    series = 1 / 13 + z * (1 / 15 + z * (1 / 17))
    series = 1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * series)))))
    return n * LN2 + (2.0 * s * series + lost * inverse)
