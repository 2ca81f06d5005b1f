"""Probabilities with exact zeros: sparsemax, and entmax between softmax and sparsemax (and beyond).

    p_i = [1 + (alpha - 1) (z_i - t)]_+^(1 / (alpha - 1)),   t such that they sum to 1

With ``t`` in place of the threshold ``((alpha - 1) t - 1)`` of the papers nothing cancels as alpha goes to 1, where
``t`` becomes logsumexp. It is found as a constant; the derivatives follow from the probabilities (`_with_slopes`).
"""

import math
from fractions import Fraction

from lastlayer._array import arange_like, iterate, restore, stop_gradient, take, two_floats
from lastlayer._row import exact_total, limit, multiply, prepare, subtract, total
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched
from lastlayer.transform.softmax import softmax

_STEPS = 24  # at most, of which the worst rows found took 14; where the values may be looked at the last one ends it
_CLOSER = 8  # with errors carried along: two, and a few more where many classes lie within an ulp of the threshold


@dispatched
def sparsemax(logits: Float[Array, "*batch classes"], *, axis=-1) -> Float[Array, "*batch classes"]:
    """The point of the simplex nearest to the logits: probabilities of which most are exactly 0.

        sparsemax(z)_i = max(z_i - tau, 0),   tau such that they sum to 1

    Martins & Astudillo 2016, eq. 2; the Jacobian is ``diag(s) - s s^T / |S|`` for the indicator ``s`` of the support S
    (eq. 10), and an entry exactly at the threshold is outside. Adding a constant to a row changes nothing. A class
    masked with ``-inf`` gets 0; entries of ``+inf`` share the row between them. A row with nothing left is nan with
    gradient 0; a nan stays in its row. float16 and bfloat16 are computed in float32.

    >>> sparsemax(np.array([1.5, 1.0, 0.25, -np.inf]))
    array([0.75, 0.25, 0.  , 0.  ])
    """
    return _projection(logits, 2, axis)


@dispatched
def entmax(logits: Float[Array, "*batch classes"], alpha=1.5, *, axis=-1) -> Float[Array, "*batch classes"]:
    """Probabilities between `softmax` (alpha = 1) and `sparsemax` (alpha = 2); exact zeros for every alpha above 1.

        entmax(z)_i = max((alpha - 1) z_i - tau, 0)^(1 / (alpha - 1)),   tau such that they sum to 1

    Peters, Niculae & Martins 2019, eq. 10; with ``s_i = p_i^(2 - alpha)`` on the support the Jacobian is
    ``diag(s) - s s^T / sum(s)`` (eq. 14). Derivatives are exact up to the second. Edges as in `sparsemax`. ``alpha`` is
    a finite number of at least 1, or a ValueError; the larger it is, the fewer classes are left.

    >>> entmax(np.array([1.0, 0.0, -2.0]), 1.5).round(4)
    array([0.8307, 0.1693, 0.    ])
    """
    if not isinstance(alpha, int | float):
        raise TypeError(f"entmax: alpha is a number of at least 1, not {type(alpha).__name__}. Write float(alpha).")
    if not 1 <= alpha < math.inf:
        raise ValueError(
            f"entmax: alpha is a finite number of at least 1, not {alpha!r}. 1 is softmax, 2 is sparsemax."
        )
    # beyond 2**100 the other classes are gone to the last digit, and float32 holds both alpha and 1 / alpha
    return softmax(logits, axis=axis) if alpha == 1 else _projection(logits, min(alpha, 2.0**100), axis)


def _projection(logits, alpha, axis):
    x, xp = prepare(logits, axis)
    x, _ = limit(x, xp)
    fixed = stop_gradient(x)
    largest = xp.max(fixed, axis=-1, keepdims=True)
    below, low = subtract(fixed, largest, xp)
    p = (_mild if alpha <= 2 else _sharp)(below, low, alpha, xp)
    p = xp.where(xp.any(xp.isnan(fixed), axis=-1, keepdims=True), xp.nan, p)
    p = xp.where(largest == -xp.inf, 0.0, p)  # no support, so no slope
    if fixed is not x:
        p = _with_slopes(p, x, fixed, alpha, xp)
    p = xp.where(largest == -xp.inf, xp.nan, p)
    return restore(p if axis in (-1, p.ndim - 1) else xp.moveaxis(p, -1, axis), logits)


def _mild(below, low, alpha, xp):
    """The probabilities for 1 < alpha <= 2; ``below + low`` is what each logit lies under the largest.

    ``||1 + (alpha - 1) (z - t)||`` in the norm of order 1 / (alpha - 1) is convex in ``t``, and linear where the logits
    are equal, so Newton's method from t = 0 rises to the solution and does not pass it: a row that no longer rises
    is done, whatever the others need. What is left is solved once more with every rounding error carried along, so that
    also a class just inside the support has its digits.
    """
    rate = Fraction(alpha) - 1
    a, power = float(rate), 1 / rate
    inside = (1 + a * below) + a * low > 0  # the others cannot reach the support, whatever t
    zero = xp.zeros_like(below)
    below, low = xp.where(inside, below, -2 / a), xp.where(inside, low, zero)
    t = zero[..., :1]
    enough = 1 + 8 * float(xp.finfo(below.dtype).eps)

    def rise(t, _):
        p, weight = _roughly(a * (below - t), power, xp)
        mass, slope = total(p, xp)[..., None], total(weight, xp)[..., None]
        excess = xp.expm1(a * xp.log(mass)) / a * xp.exp((1 - a) * xp.log(mass))
        higher = t + excess / slope
        rising = (mass > enough) & (higher > t)
        return xp.where(rising, higher, t), rising

    t = iterate(rise, t, _STEPS)
    distance, error = subtract(below, t, xp)
    high, rest = two_floats(rate, below)
    v, lost = multiply(distance, zero + high, xp)
    lost = lost + (distance * rest + (error + low) * a)
    correction = zero[..., :1]

    def correct(correction, step):
        p, rounded, weight = _raised(v, lost - correction * a, power, xp)
        mass, error = exact_total(p, rounded, xp)
        over = ((mass - 1) + error)[..., None]
        moving = (over > enough - 1) | (step < 2)
        return xp.where(moving, correction + over / total(weight, xp)[..., None], correction), moving

    correction = iterate(correct, correction, _CLOSER)
    return _raised(v, lost - correction * a, power, xp)[0]


def _roughly(v, power, xp):
    """``s^power`` and ``s^(power - 1)`` of ``s = [1 + v]_+``, to find the neighbourhood of the solution with."""
    inside = v > -1
    v = xp.where(inside, v, xp.zeros_like(v))
    p = (1 + v) ** int(power) if _whole(power) else xp.exp(float(power) * xp.log1p(v))
    return xp.where(inside, p, xp.zeros_like(p)), xp.where(inside, p / (1 + v), xp.zeros_like(p))


def _raised(v, low, power, xp):
    """``s^power`` of ``s = [1 + v + low]_+``, what rounding took from it (where it is known), and ``s^(power - 1)``.

    By functions that round alike at any position. PyTorch's ``pow`` does not: the end of a block, which does not fill a
    vector, is computed otherwise. And log1p only near 0: XLA's is wrong by 128 units in float64 at -0.3.
    """
    zero, high = xp.zeros_like(v), 1 + v
    error = low + ((1 - high) + v)
    s = high + error
    inside = s > 0
    rest = (high - s) + error
    s = xp.where(inside, s, xp.ones_like(s))
    if _whole(power):
        p, rounded = s, zero
        for _ in range(int(power) - 1):
            p, lost = multiply(p, s, xp)
            rounded = rounded * s + lost
        rounded = rounded + float(power) * (p / s) * rest
        p, rounded = p + rounded, (p - (p + rounded)) + rounded
    else:
        near = s > 0.75
        logarithm = xp.where(near, xp.log1p(xp.where(near, v, zero)), xp.log(s))
        whole, part = two_floats(power, v)
        exponent, lost = multiply(logarithm, zero + whole, xp)
        lost = lost + (logarithm * part + xp.where(near, low, rest) / s * whole)
        p, rounded = xp.exp(exponent) * (1 + lost), zero
    return xp.where(inside, p, zero), xp.where(inside, rounded, zero), xp.where(inside, p / s, zero)


def _whole(power):
    """Whether so few products give the power that they are quicker than a logarithm: alpha = 2, 1.5 and 1.25."""
    return power.denominator == 1 and power <= 4


def _sharp(below, low, alpha, xp):
    """The probabilities for alpha > 2, where a small one is a root of what its logit is above the threshold.

    So the threshold is kept as the smallest probability P of the support instead. With ``gap`` from its class,

        p_i = (P^(alpha - 1) + (alpha - 1) gap_i)^(1 / (alpha - 1))

    is convex in P, and Newton's method falls from P = 1 / |S| to the solution. The support is found by halving.
    """
    a = alpha - 1
    infinite = xp.full_like(below, xp.inf)
    below = xp.where(below > -1 / a, below, -2 / a)
    ordered = xp.sort(-below, axis=-1)
    first = xp.zeros_like(xp.argmax(below, axis=-1))
    last = first + (below.shape[-1] - 1)

    def halve(support, _):
        first, last = support
        middle = (first + last + 1) // 2
        gap = below + take(ordered, middle, xp)[..., None]
        held = total(_root(gap, a, xp)[1], xp) < 1
        return (xp.where(held, middle, first), xp.where(held, last, middle - 1)), first < last

    first, _ = iterate(halve, (first, last), below.shape[-1].bit_length())
    edge = -take(ordered, first, xp)[..., None]
    gap = (below - edge) + (low - xp.min(xp.where(below == edge, low, infinite), axis=-1, keepdims=True))
    support = below >= edge
    logarithm, _ = _root(xp.where(support, gap, -infinite), a, xp)
    smallest = 1 / xp.astype(first + 1, below.dtype)[..., None]

    def fall(smallest, _):
        p, slope = _above(smallest, logarithm, support, a, xp)
        lower = smallest - ((total(p, xp) - 1) / total(slope, xp))[..., None]
        falling = lower < smallest
        return xp.where(falling, lower, smallest), falling

    smallest = iterate(fall, smallest, _STEPS)
    return _above(smallest, logarithm, support, a, xp)[0]


def _root(gap, a, xp):
    """``(a gap)^(1 / a)``, its logarithm first; 0 where the gap is not above 0."""
    positive = gap > 0
    logarithm = xp.where(positive, (math.log(a) + xp.log(xp.where(positive, gap, xp.ones_like(gap)))) / a, -xp.inf)
    return logarithm, xp.exp(logarithm)


def _above(smallest, logarithm, support, a, xp):
    """``(P^a + r^a)^(1 / a)`` for r with this logarithm, and its slope in P; 0 outside the support.

    Where r is 0 it is P itself: as many equal classes as there are lose nothing to a logarithm.
    """
    own, zero = xp.log(smallest), xp.zeros_like(logarithm)
    distance = xp.where(logarithm > own, logarithm - own, own - logarithm)
    result = xp.where(logarithm > own, logarithm, own) + xp.log1p(xp.exp(-a * distance)) / a
    p = xp.where(logarithm == -xp.inf, smallest, xp.exp(result))
    return xp.where(support, p, zero), xp.where(support, xp.exp((a - 1) * (own - result)), zero)


def _with_slopes(p, x, fixed, alpha, xp):
    """``p`` as it is, with the first two derivatives it has as a function of ``x``, from its Taylor polynomial.

    With e the change of the logits and w = p^(2 - alpha), the first term is v = w (e - sum(w e) / sum(w)), the second
    (2 - alpha) / 2 (v^2 / p - w sum(v^2 / p) / sum(w)). The support is held constant. Changes are counted from that of
    the class with the largest w, whose own v is minus the sum of the others: for alpha > 2 a class near the threshold
    has a w so large that its v would cancel to nothing.
    """
    support, zero = ~(p == 0), xp.zeros_like(p)  # a nan is in it and makes the slopes of its row nan
    logarithm = xp.log(xp.where(support, p, xp.ones_like(p)))
    largest = xp.where(support, (2 - alpha) * logarithm, -xp.inf)
    anchor = xp.argmax(largest if alpha != 2 else p, axis=-1)
    is_anchor = arange_like(p, xp) == anchor[..., None]
    change = xp.where(support, x, zero) - xp.where(support, fixed, zero)
    change = change - take(change, anchor, xp)[..., None]
    share = xp.where(support, xp.exp(largest - take(largest, anchor, xp)[..., None]), zero)
    share = share / total(share, xp)[..., None]
    # ties of very many classes pass the largest number for a large alpha: a slope that is too small, not 0 * inf
    most = math.log(float(xp.finfo(p.dtype).max)) - 1
    weight = xp.exp(xp.where(support & ~is_anchor, xp.where(largest > most, most, largest), zero))
    v = weight * (change - total(share * change, xp)[..., None])
    v = xp.where(support & ~is_anchor, v, zero)
    v = xp.where(is_anchor, -total(v, xp)[..., None], v)
    if alpha == 2:
        return p + v
    bend = v * v / xp.where(p < float(xp.finfo(p.dtype).smallest_normal), xp.ones_like(p), p)
    return p + v + (1 - alpha / 2) * (bend - share * total(bend, xp)[..., None])
