"""float16, and bfloat16 as its bits in uint16, as the float32 that they are computed in, and back.

    1  ``x.astype(np.float32)``: float16 takes NumPy 1.6 ns an entry, bfloat16 from outside (ml_dtypes) as long
    2  integers of 32 bits in vectors, written out here

Both ways are exact or rounded to the nearest, ties to even; subnormal numbers keep their digits, and a nan stays one.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import wide

U = np.uint32
UPPER = U(16)  # bfloat16 is the upper half of float32
SIGN, MAGNITUDE, INFINITY = U(0x8000), U(0x7FFFFFFF), U(0x7F800000)
SHIFT, BIAS = U(13), U(112 << 23)  # from the bits of float16 to those of float32
LEAST_NORMAL, SMALLEST = np.float32(2.0**-14), U(113 << 23)  # of float16, and its bits in float32
HALF, OF_HALF = np.float32(0.5), U(126 << 23)  # its last place is that of the subnormal numbers of float16


@compiled(types.void(types.Array(types.uint16, 1, "C", readonly=True), types.boolean, types.uint32[::1]))
def _widened(bits, brain, out):
    wide()
    if brain:
        for j in range(len(bits)):
            out[j] = U(U(bits[j]) << UPPER)
        return
    for j in range(len(bits)):
        h = U(bits[j])
        v = U(U(h & U(0x7FFF)) << SHIFT)
        normal = U(v + (U(BIAS + BIAS) if h & U(0x7C00) == U(0x7C00) else BIAS))
        below = np.float32(np.uint32(v + SMALLEST).view(np.float32) - LEAST_NORMAL).view(np.uint32)
        out[j] = U((normal if h & U(0x7C00) else below) | U(U(h & SIGN) << UPPER))


@compiled(types.void(types.Array(types.uint32, 1, "C", readonly=True), types.boolean, types.uint16[::1]))
def _narrowed(x, brain, out):
    wide()
    if brain:
        for j in range(len(x)):
            v = x[j]
            rounded = U(U(U(v + U(0x7FFF)) + U(U(v >> UPPER) & U(1))) >> UPPER)
            out[j] = U(0x7FC0) if U(v & MAGNITUDE) > INFINITY else rounded
        return
    for j in range(len(x)):
        v = U(x[j] & MAGNITUDE)
        normal = U(U(U(U(v - BIAS) + U(0xFFF)) + U(U(v >> SHIFT) & U(1))) >> SHIFT)
        below = U(np.float32(np.uint32(v).view(np.float32) + HALF).view(np.uint32) - OF_HALF)
        beyond = U(0x7E00) if v > INFINITY else U(0x7C00)
        finite = below if v < SMALLEST else normal
        out[j] = U((beyond if v >= U(143 << 23) else finite) | U(U(x[j] >> UPPER) & SIGN))


def widened(x):
    """``x``, of any layout and byte order, as float32."""
    bits = np.ascontiguousarray(x, x.dtype.newbyteorder("=")).view(np.uint16)
    out = np.empty(x.shape, np.float32)
    _widened(bits.reshape(-1), x.dtype.kind == "u", out.reshape(-1).view(np.uint32))
    return out


def narrow(x, out):
    """float32 numbers, put into ``out`` as what that is of; both lie one after another."""
    _narrowed(x.reshape(-1).view(np.uint32), out.dtype.kind == "u", out.reshape(-1).view(np.uint16))
