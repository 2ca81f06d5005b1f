"""Losses that ask the target to lead by a margin, one number per row: hinges of logits, and softmax of cosines."""

import functools
import math
from fractions import Fraction

import numpy as np

from lastlayer._array import (
    arange_like,
    as_array,
    dtype_name,
    namespace,
    readable,
    stop_gradient,
    take,
    two_arrays,
    two_floats,
)
from lastlayer._check import one_of, positive
from lastlayer._row import limit, multiply, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import cost_of, finished, indexed, moved, not_negative
from lastlayer.loss._parts import counted


@dispatched
def multiclass_hinge(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    margin: float = 1.0,
    kind: str = "crammer_singer",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """What the target lacks of leading the other classes by a margin, one number per row.

        crammer_singer:  max(0, margin + max_{k != t} z_k - z_t)
        weston_watkins:  sum_{k != t} max(0, margin + z_k - z_t)

    Crammer & Singer 2001 and Weston & Watkins 1999. The gradient has kinks: it is 0 where the margin is just met, and
    of equal rivals the first one takes it all. A masked (``-inf``) class is absent, a masked target costs ``inf``,
    classes at ``+inf`` are equal and alone, an empty row is nan with gradient 0. ``margin`` is finite and not below 0.
    A row that is not ``valid`` gives 0 with gradient exactly 0. Half precision comes out in float32.

    Use it for a linear classifier that should be right by a margin and then be left alone: an SVM.

    >>> multiclass_hinge(np.array([[2.0, 1.5, 1.25], [3.0, 1.0, 0.0]]), np.array([0, 0]))
    array([0.5, 0. ])
    >>> multiclass_hinge(np.array([[2.0, 1.5, 1.25]]), np.array([0]), kind="weston_watkins")
    array([0.75])
    """
    not_negative("multiclass_hinge", "margin", margin)
    one_of("multiclass_hinge", "kind", kind, ("crammer_singer", "weston_watkins"))
    x, target, keep, xp = indexed("multiclass_hinge", logits, target, valid)
    x, _ = limit(x, xp)
    one = xp.ones_like(x)
    x = x * xp.where(xp.any(xp.isnan(x), axis=-1, keepdims=True), xp.nan, one)  # a slope is nan where the loss is
    absent = x == -xp.inf
    high, low = two_arrays(np.asarray(float(margin)), x)
    own = take(x, target, xp)[..., None]
    behind, first = subtract(xp.where(absent, xp.zeros_like(x), x), own, xp)
    lack, second = subtract(behind, -high, xp)
    lack = lack + (first + second + low)
    nothing = absent | (arange_like(x, xp) == target[..., None]) | (lack <= 0)
    lack = xp.where(nothing, xp.zeros_like(lack), lack)
    if kind == "crammer_singer":
        loss = take(lack, xp.argmax(stop_gradient(lack), axis=-1), xp)
    else:
        loss = total(lack, xp)
    loss = xp.where(xp.all(absent, axis=-1), xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


@dispatched
def am_softmax(
    cosine: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    margin: float = 0.35,
    scale: float = 30.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of scaled cosines of which the target's is lowered by a margin (AM-softmax, CosFace).

        am_softmax = cross_entropy(scale (c - margin onehot_t), target)

    Wang et al. 2018. ``cosine`` is of unit features and unit class weights, ``margin`` finite and not below 0,
    ``scale`` finite and above 0. What is rounded between the cosines and the softmax is carried along, so that the loss
    of a row that is right keeps its digits. Special values as in `cross_entropy`.

    Use it to learn features that are compared by their cosine, such as faces and voices.

    >>> am_softmax(np.array([[0.75, 0.5], [0.25, 0.5]]), np.array([0, 0]), margin=0.25, scale=16.0)
    array([0.69314718, 8.00033541])
    """
    not_negative("am_softmax", "margin", margin)
    positive("am_softmax", "scale", scale)
    x, target, keep, xp = indexed("am_softmax", cosine, target, valid)
    is_target = arange_like(x, xp) == target[..., None]
    high, low = (xp.where(is_target, -part, xp.zeros_like(x)) for part in two_arrays(np.asarray(float(margin)), x))
    row = moved(x, high, low, scale, xp)
    return finished(cost_of(row, target), row, keep)


@dispatched
def arcface(
    cosine: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of scaled cosines, the angle to the target being widened by a margin in radians (ArcFace).

        arcface = cross_entropy(scale c', target),   c'_t = cos(theta_t + margin),   c'_k = c_k for the others

    Deng et al. 2019, eq. 3. Without an arc cosine: ``c'_t = c cos(margin) - sqrt((1 - c) (1 + c)) sin(margin)``, with
    what each step rounds away carried along. Beyond ``theta_t + margin = pi``, where that would rise again,
    ``c'_t = c - margin sin(margin)`` as in the authors' code: it goes on falling, after a step down.

    At ``c_t = 1`` the slope is infinite in the cosine, though not in the angle; there (and at -1) that of the square
    root is taken as 0, so that it is finite. A cosine outside [-1, 1] by more than rounding is refused; where it cannot
    be looked at its row is nan. ``margin`` is between 0 and pi/2, ``scale`` finite and above 0. Special values as in
    `cross_entropy`.

    Use it where `am_softmax` is used; its margin is the same angle at any distance from the class.

    >>> arcface(np.array([[1.0, 0.5], [0.5, 0.25]]), np.array([0, 0]), scale=16.0).round(6)
    array([2.376000e-03, 3.648821e+00])
    """
    if not 0 <= margin <= math.pi / 2:
        raise ValueError(f"arcface: margin is an angle between 0 and pi/2 in radians, not {margin!r}.")
    positive("arcface", "scale", scale)
    x, target, keep, xp = indexed("arcface", cosine, target, valid)
    x, _ = limit(x, xp)
    x = _cosines(x, as_array(cosine), xp)
    own = take(x, target, xp)
    masked = own == -xp.inf
    wider, low = _widened(xp.where(masked, xp.zeros_like(own), own), margin, xp)
    wider, low = xp.where(masked, own, wider), xp.where(masked, xp.zeros_like(own), low)
    is_target = arange_like(x, xp) == target[..., None]
    zero = xp.zeros_like(x)
    row = moved(xp.where(is_target, wider[..., None], x), zero, xp.where(is_target, low[..., None], zero), scale, xp)
    return finished(cost_of(row, target), row, keep)


def _cosines(x, given, xp):
    """``x``; a row with a cosine outside [-1, 1] is refused, or nan where nobody may look."""
    half = dtype_name(given) in ("float16", "bfloat16")
    rounding = 16 * float(namespace(given).finfo(given.dtype).eps if half else xp.finfo(x.dtype).eps)
    outside = (xp.abs(x) > 1 + rounding) & (x != -xp.inf)
    if readable(x) and bool(xp.any(outside)):
        value = float(stop_gradient(x)[outside][0])
        raise ValueError(
            f"arcface: cosines are between -1 and 1, and one is {value:g}. They are of unit features and unit class "
            "weights, before any scale."
        )
    return xp.where(xp.any(outside, axis=-1, keepdims=True), xp.nan, x)


def _widened(c, margin, xp):
    """``cos(acos(c) + margin)``, continued beyond pi, and what rounding took from it."""
    (cos, cos_low), (sin, sin_low), (drop, drop_low) = (two_floats(exact, c) for exact in _of_angle(margin))
    one = xp.ones_like(c)
    under, first = subtract(one, c, xp)
    over, second = subtract(one, -c, xp)
    square, third = multiply(under, over, xp)
    inside = square > 0
    root = xp.sqrt(xp.where(inside, square, one))
    again, fourth = multiply(root, root, xp)
    root_low = (((square - again) - fourth) + (third + under * second + over * first)) / (2 * root)
    root, root_low = (xp.where(inside, part, xp.zeros_like(c)) for part in (root, root_low))
    along, first = multiply(c, one * cos, xp)
    across, second = multiply(root, one * sin, xp)
    wider, third = subtract(along, across, xp)
    low = (first + c * cos_low) - (second + root * sin_low + root_low * sin) + third
    beyond, lost = subtract(c, one * drop, xp)
    past = c < -cos
    return xp.where(past, beyond, wider), stop_gradient(xp.where(past, lost - drop_low, low))


@functools.cache
def _of_angle(angle):
    """``cos(a)``, ``sin(a)`` and ``a sin(a)`` by their series, to 40 digits for an angle up to pi/2."""
    a = Fraction(angle)
    terms = [a**n / math.factorial(n) * (-1) ** (n // 2) for n in range(44)]
    return sum(terms[::2]), sum(terms[1::2]), a * sum(terms[1::2])
