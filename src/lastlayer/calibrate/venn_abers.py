"""Inductive Venn-Abers: two isotonic probabilities per row, one as if it were negative and one as if it were positive.

Isotonic regression is the slope of the greatest convex minorant of the cumulative sums, the points ``(weight, hits)``.
One stack of its corners, moved by one score at a time, gives the regression with a test row at every score: linear
after the sort (Vovk, Petej and Fedorova 2015), where refitting would be quadratic.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import restore
from lastlayer._check import DataError
from lastlayer.calibrate._binary import BinaryScores, Runs
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate._piecewise import step
from lastlayer.calibrate.calibrator import Calibrator, array
from lastlayer.calibrate.one_versus_rest import OneVersusRest


class Interval(NamedTuple):
    """The probability of the positive class if the row is negative, ``low``, and if it is positive, ``high``."""

    low: Any
    high: Any


@dataclass(frozen=True, eq=False)
class VennAbers(Calibrator):
    """Binary logits, or margins, by the isotonic regressions that have the row itself added, with either target.

        p = p1 / (1 - p0 + p1),   log-odds = log p1 - log(1 - p0)

    One of ``p0 <= p1`` is perfectly calibrated if the rows are exchangeable, whatever the model; `interval` gives both.
    Their merger minimises the largest regret in log-loss (Vovk, Petej and Fedorova 2015) and is never 0 or 1. ``p0`` is
    ``low[i]`` from ``low_edges[i]`` on, and 0 below them; ``p1`` is ``high[i]`` up to ``high_edges[i]``, and 1 above.
    Rows between two scores of the fit become ties. Infinite logits get the outer values. Exclusive classes are
    calibrated one versus rest by the merged probability.

    >>> fitted = VennAbers([0.0, 1.0], [0.0, 0.6], [0.0, 1.0], [0.4, 1.0])
    >>> fitted.interval(np.array([-1.0, 0.5]))
    Interval(low=array([0., 0.]), high=array([0.4, 1. ]))
    """

    method = "venn_abers"

    low_edges: np.ndarray
    low: np.ndarray
    high_edges: np.ndarray
    high: np.ndarray

    def __post_init__(self):
        for side in ("low", "high"):
            edges = array(f"VennAbers: {side}_edges", getattr(self, f"{side}_edges"), (None,))
            values = array(f"VennAbers: {side}", getattr(self, side), (len(edges),))
            inside = (values >= 0) & (values < 1) if side == "low" else (values > 0) & (values <= 1)
            if not (len(edges) and (np.diff(edges) > 0).all() and (np.diff(values) >= 0).all() and inside.all()):
                raise ValueError(
                    f"VennAbers: {side}_edges ascend, and {side} does not fall, within "
                    + ("[0, 1)." if side == "low" else "(0, 1].")
                )
            object.__setattr__(self, f"{side}_edges", edges)
            object.__setattr__(self, side, values)

    def map(self, logits):
        up = step(logits, self.high_edges, np.log(np.r_[self.high, 1.0]))
        down = step(logits, self.low_edges, np.log1p(-np.r_[0.0, self.low]), side="right")
        return restore(up - down, logits)

    def interval(self, logits) -> Interval:
        """The two probabilities of each logit, in the library, shape and dtype it came in; nan for nan."""
        low = step(logits, self.low_edges, np.r_[0.0, self.low], side="right")
        return Interval(low, step(logits, self.high_edges, np.r_[self.high, 1.0]))

    @classmethod
    def solve(cls, rows):
        """Both regressions at every score; targets are 0 or 1, since a row is added as one or the other."""
        if rows.target.dtype.kind == "f" and not np.isin(rows.target, (0, 1)).all():
            raise DataError(
                "Venn-Abers speaks of rows that are positive or negative; these targets are probabilities.",
                file=rows.source,
                field="target",
                fix="give the classes themselves, or use method='isotonic'.",
            )
        if rows.task == "multiclass":
            return OneVersusRest.of(rows, cls.solve)
        runs = Runs.of(BinaryScores.of(rows))
        high = added_positive(runs.hits, runs.hits + runs.misses)
        low = 1 - added_positive(runs.misses[::-1], (runs.hits + runs.misses)[::-1])[::-1]
        last, first = np.r_[np.diff(high) > 0, True], np.r_[True, np.diff(low) > 0]
        fitted = cls(runs.z[first], low[first], runs.z[last], high[last])
        return replace(fitted, certificate=certified(fitted, rows))


def added_positive(hits, weight):
    """The isotonic probability of one positive row added at each of the ascending scores."""
    steps = list(zip(weight.tolist(), hits.tolist(), strict=True))
    corners = _minorant(steps)
    moved = (-1.0, -1.0)  # where the added row's step begins, as the steps before it have passed
    slopes = []
    for w, h in steps:
        start, end = corners[-1], corners[-2]
        slopes.append((end[1] - start[1]) / (end[0] - start[0]))
        moved = moved[0] + w, moved[1] + h
        if _above(moved, start, end):
            continue
        corners.pop()
        while len(corners) > 1 and _above(corners[-1], moved, corners[-2]):
            corners.pop()
        corners.append(moved)
    return np.minimum(np.maximum.accumulate(slopes), 1.0)


def _minorant(steps):
    """The corners of the minorant with the added row first, as a stack: the leftmost on top."""
    points = [(-1.0, -1.0), (0.0, 0.0)]
    for w, h in steps:
        points.append((points[-1][0] + w, points[-1][1] + h))
    corners = []
    for point in reversed(points):
        while len(corners) > 1 and _above(corners[-1], point, corners[-2]):
            corners.pop()
        corners.append(point)
    return corners


def _above(point, left, right):
    """Whether a point is on the line from ``left`` to ``right``, or above it."""
    return (point[1] - left[1]) * (right[0] - left[0]) >= (right[1] - left[1]) * (point[0] - left[0])
