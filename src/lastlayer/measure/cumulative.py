"""Calibration errors without bins or kernels: how far hits and probabilities drift apart along the ranking."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import OVER, count_of, entries_of, with_hits
from lastlayer.measure.curves import macro
from lastlayer.measure.metric import Metric, normal
from lastlayer.state import WeightedSum


class CalibrationTest(NamedTuple):
    """How far from calibrated, in standard errors too, and how often calibrated rows would be at least that far."""

    error: Metric
    statistic: float
    p_value: float


def ks_calibration_error(
    logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, over="top", weight=None
) -> CalibrationTest:
    """Largest gap between the sums of hits and of probabilities, over all ways to cut the ranking by confidence.

        error = max_t |D(t)|,     D(t) = mean of (hit - p) over the rows of log-odds at most t, 0 for the others

    Gupta et al. 2021. Equal log-odds are taken together, so the order of the rows does not matter. The p-value
    is that of Brownian motion, which D is for many calibrated rows: ``P(max |B| >= statistic)``, with the statistic
    the error over the standard deviation of D at its end, ``sqrt(sum p (1 - p)) / n``. Several classes with
    ``over="classwise"``: the mean error, the largest statistic, and its p-value times the number of classes. Labels of
    one row are no independent rows, so in a decision per label (multilabel, ``over="top"``) the p-value is nan.

    >>> z, y = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 1, 1])
    >>> round(float(ks_calibration_error(z, y).error), 4)
    0.3808
    """
    return _cumulative("ks_calibration_error", logits, target, over, weight, _furthest, brownian_maximum)


def kuiper_calibration_error(
    logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, over="top", weight=None
) -> CalibrationTest:
    """Largest gap between hits and probabilities over all intervals of confidence.

        error = max_t D(t) - min_t D(t),     D as in `ks_calibration_error`, and 0 before the first row

    The ECCE-R of Arrieta-Ibarra et al. 2022; it finds errors that change sign along the ranking. The p-value is that of
    the range of Brownian motion (Feller 1951). Everything else as in `ks_calibration_error`.

    >>> z, y = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 1, 1])
    >>> round(float(kuiper_calibration_error(z, y).error), 4)
    0.3808
    """
    return _cumulative("kuiper_calibration_error", logits, target, over, weight, _widest, brownian_range)


def _cumulative(function, logits, target, over, weight, extent, tail):
    one_of(function, "over", over, OVER)
    rows = with_hits(function, logits, target, weight)
    entries = entries_of(rows, over)
    n, _ = count_of(rows)
    if not entries.known:
        return CalibrationTest(Metric(np.nan, 0.0, 1.0, n), np.nan, np.nan)
    entries = entries.counted()
    columns = entries.columns() if over == "classwise" else [entries]
    tests = [_test(column, n, extent, tail) for column in columns]
    statistic, p_value = max(t.statistic for t in tests), min(t.p_value for t in tests)
    error, p_value = macro([t.error for t in tests]), min(1.0, p_value * len(tests))
    if entries.odds.shape[1] > 1 and over == "top":
        statistic = p_value = np.nan
    return CalibrationTest(error, statistic, p_value)


def _test(entries, n, extent, tail):
    share = entries.weight[:, None] / (entries.weight.sum() * entries.odds.shape[1])
    distinct, level = np.unique(entries.odds, return_inverse=True)
    level = level.reshape(entries.odds.shape)
    steps = np.bincount(level.reshape(-1), (share * entries.residuals).reshape(-1), len(distinct))
    drift = np.concatenate([[0.0], np.cumsum(steps)])
    first, last = extent(drift)
    value = float(abs(drift[last] - drift[first]))
    inside = (level >= min(first, last)) & (level < max(first, last))
    mean = WeightedSum.of(np.where(inside, entries.residuals, 0.0).mean(-1), entries.weight).value()
    scale = float(np.sqrt((share**2 * entries.spread).sum()))
    statistic = value / scale if scale > 0 else 0.0 if value == 0 else np.inf
    return CalibrationTest(normal(value, float(mean.error), n, 0.0, 1.0), statistic, tail(statistic))


def _furthest(drift):
    return 0, int(np.abs(drift).argmax())


def _widest(drift):
    return int(drift.argmin()), int(drift.argmax())


def brownian_maximum(x):
    """``P(max over [0, 1] of |B| >= x) = 4 sum_k (-1)^k P(N > (2k + 1) x)``: each k is one more reflection."""
    from scipy.special import ndtr

    k = np.arange(64)
    return 1.0 if x < 0.2 else float(4 * ((-1.0) ** k * ndtr(-(2 * k + 1) * x)).sum())  # below, it is 1 to 12 digits


def brownian_range(x):
    """``P(max B - min B >= x) = 8 sum_k (-1)^(k - 1) k P(N > k x)``."""
    from scipy.special import ndtr

    k = np.arange(1, 101)
    return 1.0 if x < 0.4 else float(8 * ((-1.0) ** (k - 1) * k * ndtr(-k * x)).sum())  # below, it is 1 to 11 digits
