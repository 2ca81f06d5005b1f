"""What several losses are made of: arguments brought into line, and products where 0 * inf = 0."""

from lastlayer._array import as_array, namespace
from lastlayer._check import shape


def weighed(weight, cost, xp):
    """``weight * cost`` with ``0 * inf = 0``, in value and in gradient."""
    free = (weight == 0) & (cost == xp.inf)
    return weight * xp.where(free, xp.zeros_like(cost), cost)


def aligned(function, name, array, each, like, dtype):
    """``array`` as ``dtype`` in the library of ``like``, after checking that the two have one shape."""
    array = as_array(array, like=like)
    if tuple(array.shape) != tuple(like.shape):
        raise ValueError(f"{function}: one {name} per {each}, {shape(like)}; {name} is {shape(array)}.")
    return namespace(like).astype(array, dtype)


def excess_of_exp(d, xp):
    """``exp(d) - 1 - d`` for ``|d| <= 1/2``, by as many terms as reach the last bit of a float64 there."""
    inner = xp.ones_like(d)
    for n in range(16, 2, -1):
        inner = 1 + inner * d / n
    return d * d * 0.5 * inner


def counted(loss, keep, xp):
    """``loss``, and 0 with gradient 0 where it does not count."""
    return loss if keep is None else xp.where(keep, loss, xp.zeros_like(loss))


def softplus_of(v, low, xp):
    """``softplus(v + low)`` for a ``low`` that is rounding; it scales the exponential, as their sum could underflow."""
    zero = xp.zeros_like(v)
    above, below = xp.where(v > 0, v, zero), xp.where(v > 0, zero, v)
    over = above + (low + xp.log1p(xp.exp(-above) * (1 - low)))
    return xp.where(v > 0, over, xp.log1p(xp.exp(below) * (1 + low)))
