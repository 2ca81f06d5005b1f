"""Scaling, then binning: each bin has the mean of a fitted curve, which needs fewer rows than a frequency."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lastlayer.calibrate._binary import BinaryScores, Runs
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate._piecewise import step
from lastlayer.calibrate.calibrator import Calibrator
from lastlayer.calibrate.histogram import BINS, bins_of, mass_edges
from lastlayer.calibrate.one_versus_rest import OneVersusRest
from lastlayer.calibrate.platt import Platt
from lastlayer.transform import log_sigmoid


@dataclass(frozen=True, eq=False)
class ScalingBinning(Calibrator):
    """Binary logits, or margins, in bins ``(edge, next edge]``, each with the mean probability of `Platt` in it.

        level of a bin = log sum w sigmoid(platt(z)) - log sum w sigmoid(-platt(z))   over its rows

    Its calibration error can be measured, since it takes few values, and the values vary less than frequencies (Kumar,
    Liang and Ma 2019). Bins have equal weight; curve, bins and means are from the same rows, as in the authors' code,
    where the theorem splits them in three. Both sums are taken as logarithms, so no bin is 0 or 1. Levels rise with
    the bins; rows of one bin become ties. Exclusive classes are calibrated one versus rest.

    >>> ScalingBinning([0.0], [-2.0, 2.0])(np.array([-np.inf, 0.0, 0.5, np.nan]))
    array([-2., -2.,  2., nan])
    """

    method = "scaling_binning"

    edges: np.ndarray
    levels: np.ndarray

    def __post_init__(self):
        for name, column in zip(("edges", "levels"), bins_of("ScalingBinning", self.edges, self.levels), strict=True):
            object.__setattr__(self, name, column)

    def map(self, logits):
        return step(logits, self.edges, self.levels)

    @classmethod
    def solve(cls, rows, bins=BINS):
        """``bins`` of equal weight."""
        if not (isinstance(bins, int) and bins >= 1):
            raise ValueError(f"ScalingBinning.solve: bins is an integer of at least 1, not {bins!r}.")
        if rows.task == "multiclass":
            return OneVersusRest.of(rows, lambda binary: cls.solve(binary, bins))
        platt = Platt.solve(rows)
        runs = Runs.of(BinaryScores.of(rows))
        edges = mass_edges(runs, bins)
        first = np.r_[0, np.searchsorted(runs.z, edges, side="right")]
        scaled: Any = platt.map(runs.z)
        weight = np.log(runs.hits + runs.misses)
        up, down = (np.logaddexp.reduceat(weight + log_sigmoid(side), first) for side in (scaled, -scaled))
        fitted = cls(edges, np.maximum.accumulate(up - down))
        done: Any = platt.certificate
        ending = (done.converged, done.iterations, done.gradient, done.bound)
        return replace(fitted, certificate=certified(fitted, rows, *ending))
