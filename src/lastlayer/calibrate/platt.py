"""Platt scaling: one slope and one intercept for binary logits, by maximum likelihood and never by probabilities.

loss(a, b) = sum_i w_i [ y_i softplus(-(a z_i + b)) + (1 - y_i) softplus(a z_i + b) ]
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lastlayer._array import floating, restore
from lastlayer._check import positive
from lastlayer.calibrate._binary import BinaryScores
from lastlayer.calibrate._bounded_newton import Sums, minimise
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate.calibrator import Calibrator
from lastlayer.transform import logit

SLOPES = (1e-4, 1e4)  # those looked at, times the standard deviation of the scores


@dataclass(frozen=True, eq=False)
class Platt(Calibrator):
    """Binary logits, or margins, on a line: a slope above 0 and an intercept.

        calibrated = slope * logits + intercept

    The order of the rows stays, and ``-inf`` and ``+inf`` stay. Multilabel logits share one pair. Platt 1999, with
    the targets as they are: his smoothed ones, (n + 1) / (n + 2), are a prior, and only separable rows need one. For
    those the slope is at its bound, said in the certificate, and the intercept puts 1/2 midway between the classes.

    >>> Platt(0.5, 1.0)(np.array([-2.0, 4.0, np.inf]))
    array([ 0.,  3., inf])
    """

    method = "platt"

    slope: float
    intercept: float

    def __post_init__(self):
        positive("Platt", "slope", self.slope)
        if not np.isfinite(self.intercept):
            raise ValueError(f"Platt: intercept is a finite number, not {self.intercept!r}.")

    def map(self, logits):
        z: Any = floating(logits)
        return restore(z * self.slope + self.intercept, logits)

    @classmethod
    def solve(cls, rows):
        """Slope and intercept of least NLL, with their certificate."""
        entries = BinaryScores.of(rows)
        steepest = separated(entries)
        if steepest is not None:
            fitted = cls(*steepest)
            bound = f"slope <= {fitted.slope:g}"
            return replace(fitted, certificate=certified(fitted, rows, converged=False, bound=bound))
        mean, spread = entries.spread()
        features = np.stack([(entries.z - mean) / spread, np.ones(len(entries.z))])
        # From a level line every row has curvature; from a steep one most have none, and Newton's step is lost.
        start = (float(entries.level()), base_rate(entries))
        best = minimise(logistic(features, entries), start, np.array([SLOPES[0], -np.inf]))
        slope = float(best.parameters[0] / spread)
        fitted = cls(slope, float(best.parameters[1] - slope * mean))
        bound = f"slope >= {slope:g}" if best.held[0] else None
        certificate = certified(fitted, rows, best.converged and bound is None, best.passes, best.gradient, bound)
        return replace(fitted, certificate=certificate)

    @classmethod
    def free_parameters(cls, classes):
        return 2


def base_rate(entries):
    """The log-odds of a positive."""
    hits, misses = ((entries.weight * part).sum() for part in (entries.target, 1 - entries.target))
    return float(np.log(hits) - np.log(misses))


def separated(entries):
    """Slope and intercept at the largest slope, where a threshold separates the classes; None where none does.

    The line is 0 midway between the nearest scores of the two. Where both classes are at the threshold itself it has
    their log-odds there, the limit of the likelihood.
    """
    ends = entries.separation()
    if ends is None:
        return None
    threshold, slope = ends[0] + (ends[1] - ends[0]) / 2, SLOPES[1] / entries.spread()[1]
    here = entries.z == threshold
    share = np.average(entries.target[here], weights=entries.weight[here]) if here.any() else 0.5
    return slope, float(logit(share) - slope * threshold)


def logistic(features, entries):
    """``sums(theta)`` for a binary logit that is linear in ``features``, of shape (m, n)."""
    weight = entries.weight

    def sums(theta):
        with np.errstate(all="ignore"):
            loss, up, down, curvature = cross_entropies((theta[:, None] * features).sum(0), entries.target)
            gradient = (weight * (up - down) * features).sum(1)
            size = (weight * (up + down) * np.abs(features)).sum(1)
            # Not a matrix product: BLAS has threads of its own, and its sum depends on their number.
            squares = np.einsum("in,jn->ij", features * (weight * curvature), features)
        return Sums(float((weight * loss).sum()), gradient, size, squares)

    return sums


def cross_entropies(eta, target):
    """Per binary logit: the loss, ``(1 - y) p`` and ``y (1 - p)``, whose difference is its slope, and ``p (1 - p)``.

    Never ``p - y`` nor ``1 - p``, which cancel in the tails.
    """
    small = np.exp(-np.abs(eta))
    large = 1 / (1 + small)
    least = small * large
    up, down = np.where(eta > 0, large, least), np.where(eta > 0, least, large)
    loss = np.log1p(small) + target * np.maximum(-eta, 0.0) + (1 - target) * np.maximum(eta, 0.0)
    return loss, (1 - target) * up, target * down, large * least
