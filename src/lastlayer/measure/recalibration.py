"""Are the probabilities true? A test of the Brier score, and the line that would correct the log-odds."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import OVER, count_of, entries_of, one_decision_a_row, undefined, weights_of, with_hits
from lastlayer.measure._offset import best_offset
from lastlayer.measure.metric import Metric, normal
from lastlayer.transform import sigmoid, softmax


class Spiegelhalter(NamedTuple):
    """The Brier score in standard errors above what true probabilities would give, and the two-sided p-value."""

    z: float
    p_value: float


def spiegelhalter(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Spiegelhalter:
    """Spiegelhalter's test: is the Brier score what it would be if the probabilities were true?

        z = sum_i (brier_i - E_i) / sqrt(sum_i V_i),     E = 1 - sum p^2,     V = 4 sum_k p_k (p_k - sum p^2)^2

    Spiegelhalter 1986 for two classes, where it is ``sum (y - p)(1 - 2p) / sqrt(sum (1 - 2p)^2 p (1 - p))``; the same
    for more, since the Brier score is ``1 - 2 p_y + sum p^2``. z is above 0 where the model is too sure and below where
    it is not sure enough. A miss that the probabilities rule out gives ``inf``. Weights multiply each term.

    >>> z, y = np.array([4.0, 4.0, 4.0, -4.0]), np.array([1, 1, 0, 0])
    >>> round(spiegelhalter(z, y).z, 2)
    3.49
    """
    from scipy.special import ndtr

    rows = one_decision_a_row("spiegelhalter", logits, target, weight)
    x, y, w = np.asarray(rows.logits, dtype=np.float64), rows.target, weights_of(rows)
    x, y, w = x[w > 0], y[w > 0], w[w > 0]
    x = np.stack([np.zeros_like(x), x], -1) if x.ndim == 1 else x
    if undefined(x).any():
        return Spiegelhalter(np.nan, np.nan)
    p, top = softmax(x), x.argmax(-1)[:, None]
    largest = np.take_along_axis(p, top, 1)
    others = np.where(np.arange(p.shape[1]) == top, 0.0, p)
    # p_k - sum p^2 from the top one's distance, of which nothing is lost where its probability rounds to 1.
    above = largest * others.sum(-1, keepdims=True) - (others**2).sum(-1, keepdims=True)
    distance = above - np.where(np.arange(p.shape[1]) == top, 0.0, largest - p)
    excess = -2 * (w * np.take_along_axis(distance, y[:, None], 1)[:, 0]).sum()
    variance = 4 * (w[:, None] ** 2 * p * distance**2).sum()
    with np.errstate(all="ignore"):
        z = float(excess / np.sqrt(variance)) if excess != 0 else 0.0
    return Spiegelhalter(z, float(2 * ndtr(-abs(z))))


class CalibrationSlope(NamedTuple):
    """The line through the log-odds that fits the outcomes: slope 1 and intercept 0 if they are calibrated.

    ``in_the_large`` is the intercept of the best line of slope 1: by how much all log-odds are too low.
    """

    slope: Metric
    intercept: Metric
    in_the_large: Metric


def calibration_slope(
    logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, over="classwise", weight=None
) -> CalibrationSlope:
    """Slope and intercept of a logistic regression of what came true on the log-odds (Cox 1958).

        log-odds of a hit = intercept + slope * log-odds;     in_the_large: the same with slope 1

    A slope below 1 says that the model is too sure. ``over="classwise"``: the positive class of a binary task, as
    clinical reports have it; of several classes or labels each against the others, pooled (of classes
    ``in_the_large`` is then 0, as their probabilities sum to 1). ``"top"``: whether the predicted class is right,
    against its log-odds.

    The intervals are normal, with the error that holds whether or not the line does (White 1982), and with rows, not
    entries, counted as independent. Where a line separates hits from misses the slope is ``inf`` (or ``-inf``) and the
    intercept nan; where there are only hits or only misses, ``in_the_large`` is infinite. Infinite log-odds that came
    true say nothing about a line and are left out; one that did not makes everything nan.

    >>> z = np.repeat([2.0, -2.0], 50)
    >>> y = np.tile([1, 1, 1, 0, 0, 0, 0, 1], 13)[:100]
    >>> calibration_slope(z, y).slope.n
    100
    """
    one_of("calibration_slope", "over", over, OVER)
    rows = with_hits("calibration_slope", logits, target, weight)
    entries = entries_of(rows, over)
    n, _ = count_of(rows)
    entries = entries.counted()
    x, y = entries.odds, entries.hits
    w = np.broadcast_to(entries.weight[:, None], x.shape)
    if not entries.known or (np.isinf(x) & ((x > 0) != (y == 1))).any():
        unknown = Metric(np.nan, -np.inf, np.inf, n)
        return CalibrationSlope(unknown, unknown, unknown)
    finite = np.isfinite(x)
    x, w = np.where(finite, x, 0.0), np.where(finite, w, 0.0)
    large = _in_the_large(x, y, w, n)
    direction = _separated(x[finite], y[finite])
    if direction is not None:
        return CalibrationSlope(Metric(direction, -np.inf, np.inf, n), Metric(np.nan, -np.inf, np.inf, n), large)
    middle, scale = x[finite].mean(), x[finite].std()
    value, covariance = _regression(np.stack([np.ones_like(x), (x - middle) / scale], -1), y, w)
    # Back from standardised log-odds: slope = b / scale, intercept = a - b middle / scale.
    back = np.array([[1.0, -middle / scale], [0.0, 1.0 / scale]])
    value, error = back @ value, np.sqrt(np.diag(back @ covariance @ back.T))
    intercept, slope = (normal(float(v), float(e), n) for v, e in zip(value, error, strict=True))
    return CalibrationSlope(slope, intercept, large)


def _separated(x, y):
    """``inf`` or ``-inf`` where a threshold has all hits on one side; nan where no slope is defined at all."""
    hits, misses = x[y == 1], x[y == 0]
    if not len(hits) or not len(misses) or x.min() == x.max():
        return np.nan
    if hits.min() >= misses.max():
        return np.inf
    if hits.max() <= misses.min():
        return -np.inf
    return None


def _in_the_large(x, y, w, n):
    if not w.any():
        return Metric(np.nan, -np.inf, np.inf, n)
    value = best_offset(x, y, w)
    p = sigmoid(x + value)
    with np.errstate(all="ignore"):
        error = np.sqrt(((w * (y - p)).sum(-1) ** 2).sum()) / (w * p * (1 - p)).sum()
    return normal(value, float(error), n)


def _regression(design, y, w):
    """Coefficients of a logistic regression and their covariance, robust, with rows (the first axis) as clusters.

    Newton's steps, halved while the loss grows; it is convex, and its minimum is finite because nothing separates.
    """
    sign = 2 * y - 1

    def loss(b):
        return (w * np.logaddexp(0.0, -sign * (design @ b))).sum()

    b = np.zeros(design.shape[-1])
    for _ in range(100):
        p = sigmoid(design @ b)
        information = np.einsum("ij,ijk,ijl->kl", w * p * (1 - p), design, design)
        scores = np.einsum("ij,ijk->ik", w * (y - p), design)
        step = np.linalg.solve(information, scores.sum(0))
        if (np.abs(step) <= 1e-12 * (1 + np.abs(b))).all():
            break
        far = (np.abs(step) > 1e-4 * (1 + np.abs(b))).any()  # nearer, rounding decides which loss is the smaller
        while far and loss(b + step) > loss(b):
            step /= 2
        b = b + step
    bread = np.linalg.inv(information)
    return b, bread @ (scores.T @ scores) @ bread
