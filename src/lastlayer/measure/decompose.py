"""Scores taken apart: what calibration costs, what ranking wins, and what nobody could have known."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import (
    SCHEMES,
    brier_of,
    cells_of,
    count_of,
    entries_of,
    mean_of,
    nll_of,
    probs_and_onehot,
    weights_of,
    with_hits,
)
from lastlayer.measure.curves import levels_of
from lastlayer.measure.metric import Metric
from lastlayer.state import WeightedSum


class BrierDecomposition(NamedTuple):
    """``brier = reliability - resolution + uncertainty + within_bin_variance - within_bin_covariance``, to rounding."""

    reliability: float
    resolution: float
    uncertainty: float
    within_bin_variance: float
    within_bin_covariance: float

    @property
    def brier(self) -> float:
        return self.reliability - self.generalized_resolution + self.uncertainty

    @property
    def generalized_resolution(self) -> float:
        """Resolution with what the bins hide: Stephenson et al. 2008."""
        return self.resolution - self.within_bin_variance + self.within_bin_covariance


def brier_decomposition(
    logits: Float[Array, "n ..."],
    target: Int[Array, "n ..."],
    *,
    bins=15,
    scheme="width",
    debias=False,
    weight=None,
) -> BrierDecomposition:
    """The Brier score as reliability, resolution and uncertainty, exactly, by two terms for what differs within a bin.

        reliability = sum_b share_b (confidence_b - hits_b)^2     resolution = sum_b share_b (hits_b - hits)^2
        uncertainty = hits (1 - hits)
        within_bin_variance = mean of (p - confidence_b)^2
        within_bin_covariance = 2 mean of (p - confidence_b)(y - hits_b)

    Murphy 1973 and Stephenson, Coelho and Jolliffe 2008. Several classes or labels: the sum over them, each binned on
    its own, as `brier` is. ``debias=True`` takes from reliability and resolution what few rows per bin add to both
    (Ferro and Fricker 2012); the sum stays what it is, and reliability may then be below 0.

    >>> z, y = np.repeat([0.0, 2.0], 50), np.tile([0, 1], 50)
    >>> parts = brier_decomposition(z, y)
    >>> round(parts.reliability, 4), round(parts.resolution, 4), round(parts.uncertainty, 4)
    (0.0725, 0.0, 0.25)
    """
    one_of("brier_decomposition", "scheme", scheme, SCHEMES)
    if bins < 1:
        raise ValueError(f"brier_decomposition: bins is at least 1, not {bins}.")
    rows = with_hits("brier_decomposition", logits, target, weight)
    per_weight = count_of(rows)[1] if debias else None
    entries = entries_of(rows, "classwise").counted()
    cells = cells_of(entries, bins, scheme)
    parts = [
        _of_column(p, y, entries.weight, cell, bins, per_weight)
        for p, y, cell in zip(entries.probs.T, entries.hits.T, cells.T, strict=True)
    ]
    return BrierDecomposition(*(float(sum(part)) for part in zip(*parts, strict=True)))


def _of_column(p, y, w, cell, count, per_weight):
    share = w / w.sum()
    size = np.bincount(cell, share, count)
    with np.errstate(all="ignore"):
        confidence, hits = (np.where(size > 0, np.bincount(cell, share * a, count) / size, 0.0) for a in (p, y))
    base = (share * y).sum()
    reliability, resolution = (size * (confidence - hits) ** 2).sum(), (size * (hits - base) ** 2).sum()
    uncertainty = base * (1 - base)
    apart = p - confidence[cell]
    variance, covariance = (share * apart**2).sum(), 2 * (share * apart * (y - hits[cell])).sum()
    if per_weight is not None:
        rows = size * w.sum() * per_weight
        chance = (size * hits * (1 - hits) / np.where(rows > 1, rows - 1, np.inf)).sum()
        whole = uncertainty / max(rows.sum() - 1, 1.0)
        reliability, resolution, uncertainty = reliability - chance, resolution - chance + whole, uncertainty + whole
    return reliability, resolution, uncertainty, variance, covariance


class ScoreDecomposition(NamedTuple):
    """``score = miscalibration - discrimination + uncertainty``."""

    score: Metric
    miscalibration: Metric  # what a better map of the same scores saves
    discrimination: Metric  # what the scores, so mapped, save against the base rates
    uncertainty: float  # the score of the base rates

    @property
    def refinement(self) -> float:
        """The score that is left when calibration is put right."""
        return float(self.score) - float(self.miscalibration)


def score_decomposition(
    logits: Float[Array, "n ..."],
    target: Int[Array, "n ..."],
    *,
    score="nll",
    recalibrated: Float[Array, "n ..."] | None = None,
    weight=None,
) -> ScoreDecomposition:
    """What a score would be after recalibration, and so how much of it is miscalibration.

        miscalibration = score - score(recalibrated)     discrimination = score(base rates) - score(recalibrated)

    ``score`` is "nll" or "brier". Without ``recalibrated`` the map is the best increasing one of the log-odds of these
    very rows (isotonic regression, by pool adjacent violators): the CORP decomposition of Dimitriadis, Gneiting and
    Jordan 2021, for the logit of a binary task, the labels of a multilabel one, each class against the rest in the
    Brier score. Because the map has seen the rows, miscalibration is at least 0, and too large where rows are few.

    ``recalibrated`` is the logits of the same rows after a calibrator. Fitted on other rows (or cross-fitted) it gives
    an honest miscalibration, which is below 0 where the calibrator does harm; this is the only way for the nll of
    several classes. The intervals are those of paired differences, with the map held fixed.

    >>> z, y = np.repeat([-4.0, 4.0], 50), np.tile([0, 0, 1, 1, 1], 20)
    >>> parts = score_decomposition(z, y, score="brier")
    >>> round(float(parts.miscalibration), 4), round(float(parts.discrimination), 4), round(parts.uncertainty, 4)
    (0.2423, 0.0, 0.24)
    """
    one_of("score_decomposition", "score", score, ("nll", "brier"))
    rows = with_hits("score_decomposition", logits, target, weight)
    if recalibrated is None:
        if score == "nll" and rows.task == "multiclass":
            raise ValueError(
                "score_decomposition: isotonic maps of several classes give no distribution, so they have no nll; give "
                "recalibrated=, the logits of a calibrator fitted on other rows, or score='brier'."
            )
        after = _isotonic(rows, score)
    else:
        after = _losses(with_hits("score_decomposition", recalibrated, target, weight), score)
    before, base = _losses(rows, score), _of_base_rates(rows, score)
    with np.errstate(invalid="ignore"):  # inf - inf: nothing is known of the difference
        return ScoreDecomposition(
            mean_of(before, rows, low=0.0),
            mean_of(before - after, rows),
            mean_of(base - after, rows),
            float(mean_of(base, rows)),
        )


def _losses(rows, score):
    return brier_of(rows) if score == "brier" else nll_of(rows)


def _by_column(p, y, score, several):
    """The score of each entry's probability; of classes that exclude each other nll counts the true one alone."""
    if score == "brier":
        return ((p - y) ** 2).sum(-1)
    with np.errstate(divide="ignore"):
        wrong = 0.0 if several else np.where(y == 1, 0.0, -np.log1p(-np.where(y == 1, 0.0, p)))
        return (np.where(y == 1, -np.log(np.where(y == 1, p, 1.0)), 0.0) + wrong).sum(-1)


def _isotonic(rows, score):
    from scipy.optimize import isotonic_regression

    entries, w = entries_of(rows, "classwise"), weights_of(rows)
    some = w > 0
    fitted = np.full(entries.odds.shape, np.nan)
    for k, (x, y) in enumerate(zip(entries.odds[some].T, entries.hits[some].T, strict=True)):
        distinct, level = np.unique(x, return_inverse=True)
        positive, negative = levels_of(x, y, w[some])
        share = isotonic_regression(positive / (positive + negative), weights=positive + negative).x
        fitted[some, k] = np.where(np.isnan(distinct), np.nan, share)[level]
    return _by_column(fitted, entries.hits, score, several=False)


def _of_base_rates(rows, score):
    _, y = probs_and_onehot(rows)
    y = y.reshape(len(rows), -1)
    base = WeightedSum.of(y, rows.weight).value().mean
    return _by_column(np.broadcast_to(base, y.shape), y, score, several=rows.task == "multiclass")
