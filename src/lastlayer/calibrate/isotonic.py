"""Isotonic regression of binary logits: any rising curve, flat in blocks, by scikit-learn's solver."""

from dataclasses import dataclass, replace

import numpy as np

from lastlayer.calibrate._binary import BinaryScores, Runs
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate._piecewise import interpolate
from lastlayer.calibrate.calibrator import Calibrator, array
from lastlayer.calibrate.one_versus_rest import OneVersusRest


@dataclass(frozen=True, eq=False)
class Isotonic(Calibrator):
    """Binary logits, or margins, on a rising curve: level on each block of the fit, straight between two blocks.

        loss(g) = sum_i w_i cross_entropy(y_i, g(z_i)) over all g that do not fall, and two rows of prior

    The prior keeps the likelihood finite: one more row below all others and one above, each half positive. Where it
    joins a block of n rows with h positives, that block's probability is (h + 1/2) / (n + 1), and it takes in
    neighbours as far as the curve would fall otherwise; all other blocks have their frequency. ``knots`` are the ends
    of the blocks, ``levels`` their log-odds; beyond the outer knots the curve is level, so infinite logits become
    finite ones. Rows of one block become ties: ranking measures may fall. Scores are ranked as logits, so rows whose
    probability rounds to 1 are told apart. Exclusive classes are calibrated one versus rest.

    Zadrozny and Elkan 2002, in log-odds.

    >>> Isotonic([-1.0, 1.0], [-2.0, 2.0])(np.array([-np.inf, 0.0, 0.5, np.nan]))
    array([-2.,  0.,  1., nan])
    """

    method = "isotonic"

    knots: np.ndarray
    levels: np.ndarray

    def __post_init__(self):
        for name, column in zip(("knots", "levels"), rising("Isotonic", self.knots, self.levels), strict=True):
            object.__setattr__(self, name, column)

    def map(self, logits):
        return interpolate(logits, self.knots, self.levels)

    @classmethod
    def solve(cls, rows):
        """The blocks of least NLL."""
        if rows.task == "multiclass":
            return OneVersusRest.of(rows, cls.solve)
        fitted = cls(*curve(BinaryScores.of(rows)))
        return replace(fitted, certificate=certified(fitted, rows))


def rising(name, knots, levels):
    """The columns of a curve as arrays: knots that ascend, levels that do not fall."""
    knots = array(f"{name}: knots", knots, (None,))
    levels = array(f"{name}: levels", levels, (len(knots),))
    numbers = len(knots) > 0 and not np.isnan([knots, levels]).any()
    if not (numbers and (np.diff(knots) > 0).all() and (np.diff(levels) >= 0).all()):
        raise ValueError(f"{name}: knots ascend, levels do not fall, and neither is empty or nan.")
    return knots, levels


def curve(entries):
    """The ends of the blocks and their log-odds."""
    from sklearn.isotonic import isotonic_regression

    runs = Runs.of(entries)
    hits, misses = (np.r_[0.5, part, 0.5] for part in (runs.hits, runs.misses))
    rate = isotonic_regression(hits / (hits + misses), sample_weight=hits + misses)
    first = np.flatnonzero(np.r_[True, np.diff(rate) > 0])
    levels = np.log(np.add.reduceat(hits, first)) - np.log(np.add.reduceat(misses, first))
    begin, end = np.maximum(first - 1, 0), np.minimum(np.r_[first[1:], len(rate)] - 1, len(runs.z)) - 1
    real = begin <= end  # a block of nothing but prior stands at no score
    knots, levels = np.stack([runs.z[begin[real]], runs.z[end[real]]], 1).reshape(-1), np.repeat(levels[real], 2)
    once = np.r_[True, np.diff(knots) > 0]
    return knots[once], np.maximum.accumulate(levels[once])
