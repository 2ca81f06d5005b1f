"""Losses that look away from rows that are already right, or towards them: focal, asymmetric, poly.

All look at ``1 - p`` of the target: it is ``-expm1(-cross_entropy)``, which keeps its digits where p rounds to 1.
"""

import decimal
import math

from lastlayer._array import arange_like, as_array, floating, namespace, readable, stop_gradient, take, two_floats
from lastlayer._row import split, subtract
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import cost_of, finished, indexed, not_negative, per_class
from lastlayer.loss._parts import aligned, counted, excess_of_exp, weighed
from lastlayer.loss._twofold import exp_of, mass_of, plus, power, share_of, times
from lastlayer.transform.sigmoid import sigmoid, softplus


@dispatched
def focal(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    gamma: float = 2.0,
    class_weight: Float[Array, " classes"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Focal loss of a class under ``softmax(logits)``, one number per row: rows that are already right count less.

        focal = (1 - p_t)^gamma (-log p_t)

    Lin et al. 2017, eq. 4, with p_t the probability of the target; ``class_weight`` is the alpha of eq. 5. ``gamma`` is
    finite and not below 0; 0 is `cross_entropy`, bit for bit. A sure right answer costs ``rest^(1 + gamma)``, not 0. A
    masked target costs ``inf``; an empty row is nan with gradient 0; a row that is not ``valid``, or that weighs 0,
    gives 0 with gradient exactly 0, whatever it holds. Targets outside the classes as in `cross_entropy`.

    Use it when easy rows are so many that they drown the hard ones, as background does in dense detection; its minimum
    is not at the true probabilities, so calibrate what it trained.

    >>> focal(np.array([[2.0, 1.0, 0.1], [40.0, 0.0, 0.0]]), np.array([0, 0]))
    array([4.84923434e-02, 6.13411846e-52])
    """
    not_negative("focal", "gamma", gamma)
    x, target, keep, xp = indexed("focal", logits, target, valid)
    weight = None
    if class_weight is not None:
        weight = per_class("focal", "class_weight", class_weight, x, zero=True)
        weight = xp.astype(as_array(weight, like=x), x.dtype)
        weight = xp.reshape(xp.take(weight, xp.reshape(target, (-1,)), axis=0), target.shape)
        keep = weight != 0 if keep is None else keep & (weight != 0)
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
    row = split(x, xp)
    cost = cost_of(row, target)
    others = split(xp.where(arange_like(x, xp) == target[..., None], -xp.inf, row.x), xp)
    lead, low = subtract(take(row.x, target, xp), others.max, xp)
    doubt = share_of(lead, low, mass_of(others), xp)
    loss = _modulated(cost, doubt, lead - xp.log1p(others.rest_from_max()), gamma, xp)
    return finished(loss if weight is None else weight * loss, row, keep)


@dispatched
def binary_focal(
    logits: Float[Array, "*batch"],
    target: Int[Array, "*batch"] | Bool[Array, "*batch"] | Float[Array, "*batch"],
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Focal loss of a binary target under ``sigmoid(logits)``, one number per logit.

        binary_focal = alpha y q^gamma softplus(-z) + (1 - alpha) (1 - y) p^gamma softplus(z),
        p = sigmoid(z), q = sigmoid(-z)

    Lin et al. 2017, eq. 4, and eq. 5 with ``alpha``, the weight of the positive class, between 0 and 1 (None: 1 for
    both). ``gamma`` 0 without ``alpha`` is `binary_cross_entropy`. ``y`` is bool, 0/1, or a floating share that mixes
    the two costs. ``0 * inf = 0``; an entry that is not ``valid`` gives 0 with gradient exactly 0, whatever it holds.

    Use it for detection and other one-against-rest scores where nearly all entries are easy negatives.

    >>> binary_focal(np.array([0.0, 40.0, -40.0]), np.array([1, 1, 1]), alpha=0.25)
    array([4.33216988e-02, 1.91691202e-53, 1.00000000e+01])
    """
    not_negative("binary_focal", "gamma", gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"binary_focal: alpha, the weight of the positive class, is between 0 and 1, not {alpha!r}.")
    x, y, keep, xp = _labelled("binary_focal", logits, target, valid)
    right, wrong = _of_label(x, gamma, xp), _of_label(-x, gamma, xp)
    share, other = (1, 1) if alpha is None else (alpha, 1 - alpha)
    loss = weighed(share * y, right, xp) + weighed(other * (1 - y), wrong, xp)
    return counted(loss, keep, xp)


@dispatched
def asymmetric(
    logits: Float[Array, "*batch"],
    target: Int[Array, "*batch"] | Bool[Array, "*batch"] | Float[Array, "*batch"],
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Asymmetric loss (ASL) of a binary target, one number per logit: easy negatives count less, or not at all.

        asymmetric = y q^gamma_positive softplus(-z) + (1 - y) p_m^gamma_negative (-log(1 - p_m)),
        p = sigmoid(z), q = sigmoid(-z), p_m = max(p - margin, 0)

    Ridnik et al. 2021, eq. 4 to 7. A negative with ``p <= margin`` costs 0 with gradient 0; at ``p = margin`` there is
    a kink (with ``gamma_negative`` 0 only, the slope jumps). Beyond it ``p - margin`` is ``(1 - margin) p (1 -
    exp(logit(margin) - z))``, in which nothing cancels. A sure wrong positive costs at most ``-log(margin)`` and has no
    gradient: the loss takes it for a wrong label. The gammas are finite and not below 0, ``margin`` is in [0, 1).
    Targets, ``0 * inf`` and ``valid`` as in `binary_focal`; for multilabel rows sum over the labels.

    Use it for multilabel data where each row has few of many labels and some positives are unlabelled.

    >>> asymmetric(np.array([0.0, -3.0, 3.0]), np.array([1, 0, 0]))
    array([0.69314718, 0.        , 1.54539054])
    """
    not_negative("asymmetric", "gamma_positive", gamma_positive)
    not_negative("asymmetric", "gamma_negative", gamma_negative)
    if not 0 <= margin < 1:
        raise ValueError(f"asymmetric: margin is a probability, at least 0 and below 1, not {margin!r}.")
    x, y, keep, xp = _labelled("asymmetric", logits, target, valid)
    right = _of_label(x, gamma_positive, xp)
    wrong = _beyond_margin(x, gamma_negative, margin, xp) if margin else _of_label(-x, gamma_negative, xp)
    loss = weighed(y, right, xp) + weighed(1 - y, wrong, xp)
    return counted(loss, keep, xp)


@dispatched
def poly(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    epsilon: float = 1.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Poly-1 loss of a class, one number per row: cross-entropy with another weight on its first-order term.

        poly = -log p_t + epsilon (1 - p_t)

    Leng et al. 2022. ``epsilon`` is finite and above -1, where a sure right answer would teach nothing; below 0 the two
    terms cancel, to a relative rounding of ``1 / (1 + epsilon)`` units. 0 is `cross_entropy`. Special values as in
    `focal`.

    Use it as cross-entropy with one number to tune: above 0 it presses harder on rows that are nearly right.

    >>> poly(np.array([[2.0, 1.0, 0.1], [40.0, 0.0, 0.0]]), np.array([0, 0]))
    array([7.58028877e-01, 1.69934170e-17])
    """
    if not (epsilon > -1 and epsilon < math.inf):
        raise ValueError(f"poly: epsilon is a finite number above -1, not {epsilon!r}.")
    x, target, keep, xp = indexed("poly", logits, target, valid)
    row = split(x, xp)
    cost = cost_of(row, target)
    return finished(cost - epsilon * xp.expm1(-cost), row, keep)


def _labelled(function, logits, target, valid):
    """Single logits and a share of each, which entries count (None: all of them), and the namespace."""
    x = floating(logits)
    xp = namespace(x)
    y, keep = aligned(function, "target", target, "logit", x, x.dtype), None
    if valid is not None:
        keep = aligned(function, "valid", valid, "logit", x, xp.bool)
        x, y = xp.where(keep, x, xp.zeros_like(x)), xp.where(keep, y, xp.zeros_like(y))
    outside = (y < 0) | (y > 1)
    if readable(y) and bool(xp.any(outside)):
        value = float(y[outside][0] if y.ndim else y)
        raise ValueError(f"{function}: target is 0, 1 or between, not {value:g}; for -1/+1 write target > 0.")
    return x, xp.where(outside, xp.nan, y), keep, xp


def _of_label(x, gamma, xp):
    """What a label costs whose log-odds are ``x``."""
    one = xp.ones_like(x)
    return _modulated(softplus(-x), share_of(x, 0 * one, (one, 0 * one), xp), x, gamma, xp)


def _modulated(cost, doubt, odds, gamma, xp):
    """``cost * doubt^gamma``, where ``doubt`` is 1 - p as a twofold constant and ``odds`` are the log-odds of p.

    The value is a power of the exact ``doubt``: the exponential of its logarithm would lose 40 units at a logarithm of
    -40. The slope is that of ``exp(gamma log(doubt))``, because ``doubt^(gamma - 1)`` overflows where doubt is tiny.
    """
    known = xp.isfinite(odds)
    logarithm = -softplus(xp.where(known, odds, xp.zeros_like(odds)))
    change = xp.where(known, logarithm - stop_gradient(logarithm), xp.zeros_like(odds))
    return cost * power(doubt, gamma, xp) * xp.exp(gamma * change)


def _beyond_margin(x, gamma, margin, xp):
    """``p_m^gamma (-log(1 - p_m))`` with ``p_m = max(sigmoid(x) - margin, 0)`` for a margin above 0.

    The values are twofold constants; the slopes are those of the sigmoid, of which a margin takes nothing.
    """
    edge, (beyond, _) = _past(x, margin, xp)
    within = beyond <= 0
    z = xp.where(within, xp.full_like(x, edge + 1), x)
    excess, left = _excess(z, margin, xp)
    p = sigmoid(z)
    change = p - stop_gradient(p)
    y = excess[0] + change
    small = excess[0] < 0.25
    near = xp.where(small, y, xp.zeros_like(y))
    log_near = xp.log1p(-near) - excess[1] / (1 - near)
    log_left = xp.where(small, log_near, xp.log(left[0] - change) + left[1] / left[0])
    loss = -power((y, excess[1]), gamma, xp) * log_left
    return xp.where(within, xp.zeros_like(loss), loss)


def _past(x, margin, xp):
    """``logit(margin)``, and what lies between it and ``x`` as a twofold constant."""
    with decimal.localcontext(prec=50):
        p = decimal.Decimal(margin)
        edge, low = two_floats(p.ln() - (1 - p).ln(), x)
    difference, error = subtract(stop_gradient(x), xp.full_like(x, edge), xp)
    difference, error = subtract(difference, low - error, xp)
    return edge, (difference, error)


def _excess(z, margin, xp):
    """``p - margin`` and ``1 - (p - margin)`` of a logit beyond the margin, as twofold constants.

    The first is ``(1 - margin) p (1 - exp(logit(margin) - z))``, in which nothing cancels.
    """
    one = xp.ones_like(z)
    _, (beyond, low) = _past(z, margin, xp)
    near = beyond < 0.5
    d = xp.where(near, -beyond, 0 * one)
    far = exp_of(xp.where(near, -one, -beyond), -low, xp)
    high, error = subtract(-d, excess_of_exp(d, xp), xp)
    rise = plus((-far[0], -far[1]), (one, 0 * one), xp)
    rise = xp.where(near, high, rise[0]), xp.where(near, error + low * (1 - high), rise[1])
    with decimal.localcontext(prec=50):
        rest = two_floats(1 - decimal.Decimal(margin), z)
    p, q = (share_of(lead, 0 * one, (one, 0 * one), xp) for lead in (-z, z))
    excess = times(times(rise, p, xp), (one * rest[0], rest[1]), xp)
    return excess, plus(q, [one * part for part in two_floats(decimal.Decimal(margin), z)], xp)
