"""Twofold numbers: a pair of arrays, the second what rounding took from the first.

A power of one keeps its digits, where a power of a single number multiplies its rounding error by the exponent: the
focal losses weigh by ``(1 - p)^gamma`` and are exact to 4 units through these, and to 11 without.
"""

import decimal
import math

from lastlayer._array import stop_gradient, two_floats
from lastlayer._row import exact_total, exponential, halves, multiply, subtract
from lastlayer.loss._parts import excess_of_exp


def plus(a, b, xp):
    """The sum of two twofold numbers; a constant comes second, or XLA adds it up with the same one of `subtract`."""
    high, error = subtract(a[0], -b[0], xp)
    return high, error + (a[1] + b[1])


def times(a, b, xp):
    """The product of two twofold numbers."""
    high, error = multiply(a[0], b[0], xp)
    return high, error + (a[0] * b[1] + a[1] * b[0])


def over(a, b, xp):
    """The quotient of two twofold numbers."""
    high = a[0] / b[0]
    back, error = multiply(high, b[0], xp)
    return high, (((a[0] - back) - error) + (a[1] - high * b[1])) / b[0]


def power(base, exponent, xp):
    """``base^exponent`` of a twofold number between 0 and 1, by products and roots, as a single one.

    The power of PyTorch has other bits for other layouts, that of XLA loses 40 units at 1e-20; here the logarithm is
    multiplied by less than 1/32.
    """
    one = xp.ones_like(base[0])
    whole, part = int(exponent), exponent - int(exponent)
    result, square, root = (one, 0 * one), base, base
    while whole:
        result = times(result, square, xp) if whole % 2 else result
        square, whole = times(square, square, xp), whole // 2
    for _ in range(5):
        root, part = _root(root, xp), 2 * part
        result, part = (times(result, root, xp), part - 1) if part >= 1 else (result, part)
    high = result[0] + result[1]
    return high * xp.exp(part / 32 * xp.log(base[0])) if part else high


def _root(a, xp):
    """The square root of a twofold number."""
    high = xp.sqrt(a[0])
    back, error = multiply(high, high, xp)
    some = xp.where(high > 0, high, xp.ones_like(high))
    return high, (((a[0] - back) - error) + a[1]) / (2 * some)


def exp_of(v, low, xp):
    """``exp(v + low)`` as a twofold constant, for v not above 0 and a ``low`` that is rounding.

    It is ``2^n exp(r)`` with r within 0.35 of 0; the power of 2 is an exponential, rounded to half its bits.
    """
    v, low = stop_gradient(v), stop_gradient(low)
    deep = v < math.log(float(xp.finfo(v.dtype).smallest_normal))
    v = xp.where(deep, xp.zeros_like(v), v)
    with decimal.localcontext(prec=50):
        log_2, log_2_low = two_floats(decimal.Decimal(2).ln(), v)
    n = xp.round(v / log_2)
    part, error = multiply(n, xp.full_like(v, log_2), xp)
    r, lost = subtract(v, part, xp)
    low = low + ((lost - error) - n * log_2_low)
    more = excess_of_exp(r, xp)
    high, lost = subtract(r, -xp.ones_like(r), xp)
    high, rest = subtract(high, -(more + (lost + low * (high + more))), xp)
    scale = xp.where(deep, xp.zeros_like(v), halves(xp.exp(n * log_2))[0])
    return scale * high, scale * rest


def mass_of(row):
    """The sum over a row of ``exp(x - max)``, as a twofold constant; 0 for an empty one."""
    xp = row.xp
    anchor = xp.where(row.max == -xp.inf, xp.zeros_like(row.max), row.max)
    difference, error = subtract(stop_gradient(row.x), anchor[..., None], xp)
    weights = exponential(difference, xp)
    return exact_total(weights, weights * error, xp)


def share_of(lead, low, mass, xp):
    """``mass / (mass + exp(lead + low))`` as a twofold constant, 1 - p of what leads the others by so much."""
    ahead = lead > 0
    small = exp_of(xp.where(ahead, -lead, lead), xp.where(ahead, -low, low), xp)
    product = times(mass, small, xp)
    above = [xp.where(ahead, part, whole) for part, whole in zip(product, mass, strict=True)]
    below = [xp.where(ahead, whole, part) for part, whole in zip(small, (1, 0), strict=True)]
    return over(above, plus(above, below, xp), xp)
