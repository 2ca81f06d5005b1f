"""Histogram binning of binary logits: a number of bins, each with the frequency of its rows."""

from dataclasses import dataclass, replace

import numpy as np

from lastlayer._check import one_of
from lastlayer.calibrate._binary import BinaryScores, Runs
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate._piecewise import step
from lastlayer.calibrate.calibrator import Calibrator, array
from lastlayer.calibrate.one_versus_rest import OneVersusRest
from lastlayer.transform import logit

BINS = 15


@dataclass(frozen=True, eq=False)
class Histogram(Calibrator):
    """Binary logits, or margins, in bins ``(edge, next edge]``; every logit of a bin becomes the bin's log-odds.

        probability of a bin = (h + 1/2) / (n + 1)   for n rows of which h are positive

    The half row on each side (Krichevsky and Trofimov 1981) keeps the likelihood finite; a bin without rows is 1/2.
    The outer bins have no end. Rows of one bin become ties, and a later bin may be lower than an earlier one. Exclusive
    classes are calibrated one versus rest. Zadrozny and Elkan 2001.

    >>> Histogram([0.0], [-2.0, 2.0])(np.array([-np.inf, 0.0, 0.5, np.nan]))
    array([-2., -2.,  2., nan])
    """

    method = "histogram"

    edges: np.ndarray
    levels: np.ndarray

    def __post_init__(self):
        for name, column in zip(("edges", "levels"), bins_of("Histogram", self.edges, self.levels), strict=True):
            object.__setattr__(self, name, column)

    def map(self, logits):
        return step(logits, self.edges, self.levels)

    @classmethod
    def solve(cls, rows, bins=BINS, spacing="mass"):
        """``spacing="mass"``: bins of equal weight; ``"width"``: of equal width in probability, as of logits."""
        one_of("Histogram.solve", "spacing", spacing, ("mass", "width"))
        if not (isinstance(bins, int) and bins >= 1):
            raise ValueError(f"Histogram.solve: bins is an integer of at least 1, not {bins!r}.")
        if rows.task == "multiclass":
            return OneVersusRest.of(rows, lambda binary: cls.solve(binary, bins, spacing))
        runs = Runs.of(BinaryScores.of(rows))
        edges = logit(np.arange(1, bins) / bins) if spacing == "width" else mass_edges(runs, bins)
        cell = np.searchsorted(edges, runs.z)
        hits, misses = (np.bincount(cell, part, len(edges) + 1) for part in (runs.hits, runs.misses))
        fitted = cls(edges, np.log(hits + 0.5) - np.log(misses + 0.5))
        return replace(fitted, certificate=certified(fitted, rows))


def bins_of(name, edges, levels):
    """The columns of a histogram as arrays: edges that ascend, one level more."""
    edges = array(f"{name}: edges", edges, (None,))
    levels = array(f"{name}: levels", levels, (len(edges) + 1,))
    if not ((np.diff(edges) > 0).all() and np.isfinite(edges).all() and np.isfinite(levels).all()):
        raise ValueError(f"{name}: edges ascend, and neither they nor levels are nan.")
    return edges, levels


def mass_edges(runs, bins):
    """The last score of each bin but the last, with as equal a weight in each as scores that repeat allow."""
    mass = np.cumsum(runs.hits + runs.misses)
    last = np.searchsorted(mass, mass[-1] * (np.arange(1, bins) / bins))
    last = np.unique(last)
    return runs.z[last[last < len(runs.z) - 1]]
