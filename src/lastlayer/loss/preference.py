"""Losses of preferences, from log-probabilities of whole sequences (`policy.sequence_logp`)."""

import math

from lastlayer._array import as_array, dtype_name, floating, namespace, readable, stop_gradient, two_floats
from lastlayer._check import positive
from lastlayer._row import multiply, subtract
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, softplus_of

_ROUNDING = 256  # units in the last place of 1 that a sum of logarithms may be above 0


@dispatched
def dpo(
    chosen: Float[Array, "*batch"],
    rejected: Float[Array, "*batch"],
    ref_chosen: Float[Array, "*batch"],
    ref_rejected: Float[Array, "*batch"],
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Direct preference optimisation: cross-entropy of "the chosen gained more than the rejected", one per pair.

        dpo = (1 - s) softplus(-beta h) + s softplus(beta h),   h = (chosen - ref_chosen) - (rejected - ref_rejected)

    All four are log-probabilities of sequences, sums over their tokens (Rafailov et al. 2023, eq. 7); the reference is
    a constant of the differentiation. ``label_smoothing`` s is the share of pairs taken to be labelled the wrong way
    round (conservative DPO, Mitchell 2023). What rounding takes from ``beta h`` is carried along, so log-probabilities
    of thousands keep the digits of their differences. A chosen of ``-inf`` costs ``inf``, a rejected of ``-inf`` 0
    (``inf`` with label smoothing), both together nan. A log-probability above 0 by more than rounding is refused;
    where it cannot be looked at its pair is nan. A pair that is not ``valid`` gives 0 with gradient exactly 0. Use it
    for pairs of answers when the model that wrote them is at hand as the reference.

    >>> dpo(np.array([-10.0, -10.0]), np.array([-12.0, -410.0]), np.array([-11.0, -10.0]), np.array([-11.0, -10.0]))
    array([5.98138869e-01, 4.24835426e-18])
    """
    positive("dpo", "beta", beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"dpo: label_smoothing is at least 0 and below 1/2, not {label_smoothing!r}.")
    pair, keep, xp = _logps("dpo", valid, chosen=chosen, rejected=rejected)
    reference = _reference("dpo", pair[0], keep, xp, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    gain, error = _gain(pair, reference, xp)
    gain, error = _scaled(gain, error, beta, xp)
    loss = softplus_of(-gain, -error, xp)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * softplus_of(gain, error, xp)
    return counted(loss, keep, xp)


@dispatched
def ipo(
    chosen: Float[Array, "*batch"],
    rejected: Float[Array, "*batch"],
    ref_chosen: Float[Array, "*batch"],
    ref_rejected: Float[Array, "*batch"],
    *,
    beta: float = 0.1,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Identity preference optimisation: how far the gain of the chosen is from a fixed margin, squared; one per pair.

        ipo = (h - 1 / (2 beta))^2,   h = (chosen - ref_chosen) - (rejected - ref_rejected)

    Azar et al. 2023, eq. 17, where beta is tau. A gain beyond the margin costs again, so it does not run away where
    all raters agree. An infinite gain costs ``inf``. Arguments and edges as in `dpo`. Use it where `dpo` overfits
    because each pair was judged once and with no dissent.

    >>> ipo(np.array([-10.0, -10.0]), np.array([-15.0, -12.0]), np.array([-11.0, -11.0]), np.array([-11.0, -11.0]))
    array([0., 9.])
    """
    positive("ipo", "beta", beta)
    pair, keep, xp = _logps("ipo", valid, chosen=chosen, rejected=rejected)
    reference = _reference("ipo", pair[0], keep, xp, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    gain, error = _gain(pair, reference, xp)
    gap, error = _moved(gain, error, -1 / (2 * beta), xp)
    return counted((gap + error) ** 2, keep, xp)


@dispatched
def kto(
    logp: Float[Array, "*batch"],
    reference_logp: Float[Array, "*batch"],
    desirable: Bool[Array, "*batch"] | Int[Array, "*batch"],
    kl: float | Float[Array, "..."],
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Kahneman-Tversky optimisation: what an answer known to be good or bad is worth against a reference point.

        kto = desirable_weight sigmoid(-beta (h - kl))  if desirable,  h = logp - reference_logp
            = undesirable_weight sigmoid(beta (h - kl))  if not

    One number per sequence (Ethayarajh et al. 2024, eq. 8): the weight minus the value there. ``kl`` is the reference
    point z0, an estimate of KL(policy || reference) on the batch that is not below 0: one number, or one per sequence.
    With prompts and answers of the batch mismatched it is the mean of ``logp - reference_logp``, or 0 if that is
    less. It and the reference are constants of the differentiation. Each side keeps its tail, where ``1 - sigmoid`` has
    none. Everything else as in `dpo`. Use it when answers are judged one at a time, thumbs up or down.

    >>> kto(np.array([-10.0, -10.0]), np.array([-30.0, -30.0]), np.array([True, False]), 0.0).round(4)
    array([0.1192, 0.8808])
    """
    positive("kto", "beta", beta)
    positive("kto", "desirable_weight", desirable_weight)
    positive("kto", "undesirable_weight", undesirable_weight)
    (x,), keep, xp = _logps("kto", valid, logp=logp)
    (reference,) = _reference("kto", x, keep, xp, reference_logp=reference_logp)
    good = aligned("kto", "desirable", desirable, "sequence", x, xp.bool)
    gain, error = subtract(x, reference, xp)
    gap, rounding = subtract(gain, _divergence(kl, x, keep, xp), xp)
    gap, error = _scaled(gap, error + rounding, beta, xp)
    side = xp.where(good, -xp.ones_like(gap), xp.ones_like(gap))
    weight = xp.where(good, xp.full_like(gap, desirable_weight), xp.full_like(gap, undesirable_weight))
    return counted(weight * _sigmoid_of(side * gap, side * error, xp), keep, xp)


@dispatched
def orpo(
    chosen: Float[Array, "*batch"],
    rejected: Float[Array, "*batch"],
    *,
    beta: float = 0.1,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Odds-ratio preference optimisation: the chosen is learnt, and made likelier than the rejected; one per pair.

        orpo = -chosen + beta softplus(-log(odds(chosen) / odds(rejected))),   odds(l) = exp(l) / (1 - exp(l))

    Hong et al. 2024, eq. 6 and 7, where beta is lambda. Both are *average* log-probabilities of a token
    (``sequence_logp(..., average=True)``); there is no reference. The ratio of the odds is formed from
    ``expm1(chosen) / expm1(rejected)``, so it and its gradient are exact where a probability rounds to 1, and finite
    where that of the chosen is 1. A chosen of ``-inf`` costs ``inf``, and so does a rejected of probability 1; both
    together, or both of probability 1, are nan. Everything else as in `dpo`. Use it to learn from pairs in the same
    run that learns the answers, without a second model in memory.

    >>> orpo(np.array([-0.5, -1e-20]), np.array([-0.7, -2.0]))
    array([5.49464784e-01, 1.01565176e-20])
    """
    positive("orpo", "beta", beta)
    (a, b), keep, xp = _logps("orpo", valid, chosen=chosen, rejected=rejected)
    a, b = (xp.where(logp > 0, xp.zeros_like(logp), logp) for logp in (a, b))  # within rounding
    gap, error = subtract(b, a, xp)
    further, zero, one = gap > 0, xp.zeros_like(gap), xp.ones_like(gap)
    above, below = xp.where(further, gap, zero), xp.where(further, zero, gap)
    n, m = 0.0 - xp.expm1(a), 0.0 - xp.expm1(b)  # 1 - p of each; the ratio of the odds is exp(gap) n / m
    less = xp.log1p(xp.exp(below) * (1 + error) * xp.where(further, one, n) * _inverse(xp.where(further, one, m), xp))
    n, m = xp.where(further, n, one), xp.where(further, m, one)
    more = above + _log_ratio(n, m, xp) + xp.log1p(xp.exp(-above) * m * _inverse(n, xp))
    ratio = xp.where(further, more, less)
    return counted(beta * ratio - a, keep, xp)


@dispatched
def simpo(
    chosen: Float[Array, "*batch"],
    rejected: Float[Array, "*batch"],
    chosen_length: Int[Array, "*batch"],
    rejected_length: Int[Array, "*batch"],
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Simple preference optimisation: the average log-probability of the chosen leads by a margin, one per pair.

        simpo = softplus(-(beta (chosen / chosen_length - rejected / rejected_length) - gamma))

    Meng et al. 2024, eq. 6. The log-probabilities are sums over the tokens, the lengths their numbers, 1 at least;
    there is no reference. ``gamma`` is not below 0. What rounding takes on the way is carried along. Edges as in
    `dpo`. Use it where answers are ranked by the average log-probability of their tokens, and length is not to count.

    >>> simpo(np.array([-10.0]), np.array([-30.0]), np.array([20]), np.array([20])).round(4)
    array([0.3133])
    """
    positive("simpo", "beta", beta)
    if not 0 <= gamma < math.inf:
        raise ValueError(f"simpo: gamma is a finite margin, not below 0; {gamma!r} came.")
    pair, keep, xp = _logps("simpo", valid, chosen=chosen, rejected=rejected)
    lengths = (("chosen_length", chosen_length), ("rejected_length", rejected_length))
    (a, a_low), (b, b_low) = (
        _per_token(logp, name, length, keep, xp) for logp, (name, length) in zip(pair, lengths, strict=True)
    )
    lead, error = subtract(a, b, xp)
    lead, error = _scaled(lead, error + (a_low - b_low), beta, xp)
    lead, error = _moved(lead, error, -gamma, xp)
    return counted(softplus_of(-lead, -error, xp), keep, xp)


def _logps(function, valid, **logps):
    """Log-probabilities to compute with, 0 where they do not count; which do (None: all), and the namespace."""
    (first, like), *others = logps.items()
    like = floating(like)
    xp = namespace(like)
    given = [(first, logps[first], like)]
    given += [(name, logp, aligned(function, name, logp, first, like, like.dtype)) for name, logp in others]
    keep = None if valid is None else aligned(function, "valid", valid, first, like, xp.bool)
    return [_logp(function, name, logp, array, keep, xp) for name, logp, array in given], keep, xp


def _reference(function, like, keep, xp, **logps):
    """Log-probabilities of the reference as constants beside ``like``."""
    given = [(name, logp, aligned(function, name, logp, "sequence", like, like.dtype)) for name, logp in logps.items()]
    return [stop_gradient(_logp(function, name, logp, array, keep, xp)) for name, logp, array in given]


def _logp(function, name, given, array, keep, xp):
    """Refuse a log-probability above 0 by more than the rounding of the dtype it came in, or make it nan."""
    array = array if keep is None else xp.where(keep, array, xp.zeros_like(array))
    given = as_array(given, like=array)
    exact = given if "float" in dtype_name(given) else array
    outside = array > _ROUNDING * float(namespace(exact).finfo(exact.dtype).eps)
    if readable(array) and bool(xp.any(outside)):
        value = float(array[outside][0] if array.ndim else array)
        raise ValueError(
            f"{function}: {name} are logarithms of probabilities, never above 0; one is {value:g}. A loss is the other "
            f"way round: -loss."
        )
    return xp.where(outside, xp.nan, array)


def _gain(pair, reference, xp):
    """``(chosen - ref_chosen) - (rejected - ref_rejected)`` and what rounding took from it."""
    (better, better_error), (worse, worse_error) = (
        subtract(logp, of_reference, xp) for logp, of_reference in zip(pair, reference, strict=True)
    )
    gain, error = subtract(better, worse, xp)
    return subtract(gain, (worse_error - better_error) - error, xp)


def _scaled(x, error, factor, xp):
    """``(x + error) * factor`` for a number, and what rounding took from it, the number's own included."""
    high, rest = two_floats(float(factor), x)
    product, low = multiply(x, xp.full_like(x, high), xp)
    low = low + (stop_gradient(x) * rest + error * factor)
    return product, xp.where(xp.isfinite(low), low, xp.zeros_like(low))


def _moved(x, error, number, xp):
    """``(x + error) + number`` and what rounding took from it, the number's own included."""
    high, rest = two_floats(float(number), x)
    moved, rounding = subtract(x, xp.full_like(x, -high), xp)
    return moved, error + rounding + rest


def _per_token(logp, name, length, keep, xp):
    """``logp / length`` and what rounding took from it; a length below 1 is refused, or nan."""
    length = aligned("simpo", name, length, "sequence", logp, logp.dtype)
    length = length if keep is None else xp.where(keep, length, xp.ones_like(length))
    short = ~(length >= 1)
    if readable(length) and bool(xp.any(short)):
        value = float(length[short][0] if length.ndim else length)
        raise ValueError(f"simpo: {name} counts the tokens of a sequence, 1 at least; one is {value:g}.")
    length = xp.where(short, xp.nan, length)
    quotient = logp / length
    product, error = multiply(stop_gradient(quotient), length, xp)
    low = ((stop_gradient(logp) - product) - error) / length
    return quotient, xp.where(xp.isfinite(low), low, xp.zeros_like(low))


def _divergence(kl, x, keep, xp):
    """The reference point of KTO as a constant of the shape of ``x``."""
    kl = as_array(kl, like=x)
    kl = xp.astype(stop_gradient(kl), x.dtype)
    kl = xp.broadcast_to(kl, tuple(x.shape)) if kl.ndim == 0 else aligned("kto", "kl", kl, "sequence", x, x.dtype)
    kl = kl if keep is None else xp.where(keep, kl, xp.zeros_like(kl))
    below = kl < 0
    if readable(kl) and bool(xp.any(below)):
        value = float(kl[below][0] if kl.ndim else kl)
        raise ValueError(f"kto: kl is a divergence, not below 0; {value:g} came. An estimate is cut off: max(kl, 0).")
    return xp.where(below, xp.nan, kl)


def _log_ratio(a, b, xp):
    """``log(a / b)``, with the slopes of the two logarithms: those of a quotient overflow where b is tiny."""
    apart = xp.log(a) - xp.log(b)
    lost = stop_gradient(xp.log(a / b) - apart)
    return apart + xp.where(xp.isfinite(lost), lost, xp.zeros_like(lost))


def _inverse(x, xp):
    """``1 / x``, whose slope as a quotient would pass through ``1 / x^2`` (JAX), which overflows where x is tiny."""
    log = xp.log(x)
    return stop_gradient(1 / x) * xp.exp(stop_gradient(log) - log)


def _sigmoid_of(x, error, xp):
    """``sigmoid(x + error)``, where the error is what rounding took from x."""
    negative = x < 0
    small = xp.exp(xp.where(negative, x, -x)) * (1 + xp.where(negative, error, -error))
    return xp.where(negative, small, xp.ones_like(x)) / (1 + small)
