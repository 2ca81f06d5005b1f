"""Losses for classes that have an order, one number per row: of one score and its thresholds, of one logit per step."""

import numpy as np

from lastlayer._array import arange_like, as_array, floating, namespace, readable, stop_gradient, two_arrays
from lastlayer._check import one_of, shape
from lastlayer._odds import log1mexp
from lastlayer._row import prepare, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import indexed
from lastlayer.loss._parts import counted, softplus_of
from lastlayer.transform.sigmoid import softplus


@dispatched
def cumulative_link(
    score: Float[Array, "*batch"],
    target: Int[Array, "*batch"],
    thresholds: Float[Array, " steps"],
    *,
    link: str = "logit",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Negative log-likelihood of an ordered class, by where a score falls between thresholds; one number per row.

        cumulative_link = -log(sigmoid(b) - sigmoid(a)),   b = t_y - s,   a = t_{y-1} - s

    McCullagh 1980: the proportional odds model, ``P(y <= k) = sigmoid(t_k - s)``, with ``t_{-1} = -inf`` and
    ``t_{K-1} = inf``. Computed as ``softplus(-b) + softplus(a) - log(1 - exp(a - b))``, three costs that never cancel,
    so both tails are exact and so are the gradients in score and thresholds. ``thresholds`` are the K - 1 steps between
    K classes, finite and increasing; others are refused, or make every row nan where nobody may look. ``link="logit"``
    is the one there is. A score of ``inf`` costs 0 for the last class and ``inf`` for the others, ``-inf`` likewise for
    the first; a nan stays in its row. A row that is not ``valid`` gives 0 with gradient exactly 0. Half precision comes
    out in float32.

    Use it where classes are grades of one quantity, such as ages or stars, and a near miss is better than a far one.

    >>> cumulative_link(np.array([0.0, 40.0, 40.0]), np.array([1, 2, 0]), np.array([-1.0, 1.0]))
    array([7.71936833e-01, 1.15482242e-17, 4.10000000e+01])
    """
    one_of("cumulative_link", "link", link, ("logit",))
    s = floating(score)
    high, low = _thresholds(thresholds, s)
    last = high.shape[0]
    wide, target, keep, xp = indexed("cumulative_link", _repeated(s, last + 1), target, valid)
    s = wide[..., 0]
    if last == 0:
        return s * 0
    has_lower, has_upper = target > 0, target < last
    under = xp.where(has_lower, target - 1, target)
    upper = xp.where(has_upper, target, under)
    (a, a_low), (b, b_low) = ((_at(high, i, xp), _at(low, i, xp)) for i in (under, upper))
    zero = xp.zeros_like(s)
    above = xp.where(has_upper, _softplus_of_difference(s, b, -b_low, xp), zero)
    below = xp.where(has_lower, _softplus_of_difference(a, s, a_low, xp), zero)
    width = xp.where(has_lower & has_upper, (a - b) + (a_low - b_low), zero - 1)
    inner = xp.where(has_lower & has_upper, log1mexp(width, xp), zero)
    loss = (above + below) - inner
    return loss if keep is None else xp.where(keep, loss, zero)


@dispatched
def coral(
    logits: Float[Array, "*batch steps"],
    target: Int[Array, "*batch"],
    *,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of the steps up to an ordered class: one binary logit per step, summed to one number per row.

        coral = sum_k binary_cross_entropy(z_k, [target > k]),   k = 0 .. K - 2

    Cao, Mirjalili & Raschka 2020, where the K - 1 logits are one score plus a bias each. ``target`` is one of K
    classes, one more than there are logits. ``-inf`` and ``inf`` are sure answers: they cost 0 or ``inf``. A nan makes
    its row nan; a row that is not ``valid`` gives 0 with gradient exactly 0. Half precision comes out in float32.

    Use it as `cumulative_link`, where each step may have a logit of its own.

    >>> coral(np.array([[40.0, 0.0, -40.0]]), np.array([1]))
    array([0.69314718])
    """
    x, xp = prepare(logits, -1)
    wide = xp.concat([x, xp.zeros_like(x[..., :1])], axis=-1)
    wide, target, keep, xp = indexed("coral", wide, target, valid)
    x = wide[..., :-1]
    loss = total(softplus(xp.where(arange_like(x, xp) < target[..., None], -x, x)), xp)
    loss = loss + wide[..., -1]  # 0, or nan for a target that is none of the classes: XLA may lose it in softplus
    return counted(loss, keep, xp)


def _thresholds(thresholds, s):
    """The thresholds as two arrays of the library and dtype of the scores; wrong ones are refused, or all nan."""
    t = as_array(thresholds)
    t = t.astype(np.float64) if namespace(t) is np else floating(t, like=s)
    if t.ndim != 1:
        raise ValueError(f"cumulative_link: thresholds are one number per step, (classes - 1,); they are {shape(t)}.")
    xp = namespace(t)
    wrong = xp.any(~(xp.abs(t) < xp.inf)) | xp.any(~(t[1:] > t[:-1]))
    if readable(t) and bool(wrong):
        raise ValueError(
            "cumulative_link: thresholds are finite and increasing; sort them, or learn their differences."
        )
    return two_arrays(xp.where(wrong, xp.nan, t), s)


def _repeated(s, classes):
    """A row of each score, so that targets are checked against so many classes."""
    return namespace(s).broadcast_to(s[..., None], (*s.shape, classes))


def _at(array, index, xp):
    return xp.reshape(xp.take(array, xp.reshape(index, (-1,)), axis=0), index.shape)


def _softplus_of_difference(a, b, low, xp):
    """``softplus(a - b + low)``: what the difference rounds away is a relative error in the tail, so it is kept."""
    difference, error = subtract(a, b, xp)
    return softplus_of(difference, stop_gradient(error) + low, xp)
