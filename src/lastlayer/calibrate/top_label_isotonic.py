"""Isotonic regression of the predicted class alone."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lastlayer._array import arange_like, floating, namespace, restore, stop_gradient
from lastlayer._row import limit
from lastlayer.calibrate._binary import BinaryScores
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate._piecewise import interpolate
from lastlayer.calibrate.calibrator import Calibrator
from lastlayer.calibrate.isotonic import curve, rising
from lastlayer.transform import log_odds


@dataclass(frozen=True, eq=False)
class TopLabelIsotonic(Calibrator):
    """The probability that the predicted class is right, on a rising curve; the others share the rest as before.

        calibrated_top = z_top + g(log_odds_top) - log_odds_top,   the other logits stay

    One curve for all classes, fitted to whether the prediction was right, so it needs few rows however many classes
    there are: `Isotonic` with its prior, on the log-odds of the top class (Gupta and Ramdas 2022 calibrate each
    predicted class on its own). Where the prediction is right less often than the second probability says, another
    class comes out on top. A class that is alone keeps its row; an empty row stays empty.

    >>> TopLabelIsotonic([0.0, 4.0], [0.0, 2.0])(np.array([4.0, 0.0, -np.inf]))
    array([ 2.,  0., -inf])
    """

    method = "top_label_isotonic"

    knots: np.ndarray
    levels: np.ndarray

    def __post_init__(self):
        for name, column in zip(("knots", "levels"), rising("TopLabelIsotonic", self.knots, self.levels), strict=True):
            object.__setattr__(self, name, column)

    def map(self, logits):
        x: Any = floating(logits)
        xp = namespace(x)
        x, _ = limit(x, xp)
        odds: Any = log_odds(x)
        finite = xp.isfinite(odds)
        odds = xp.where(finite, odds, xp.zeros_like(odds))
        change = xp.where(finite, interpolate(odds, self.knots, self.levels) - odds, xp.zeros_like(odds))
        top = arange_like(x, xp) == xp.argmax(stop_gradient(x), axis=-1)[..., None]
        return restore(xp.where(top, x + change[..., None], x), logits)

    @classmethod
    def solve(cls, rows):
        """The blocks of least NLL of "the prediction is right"."""
        fitted = cls(*curve(BinaryScores.of(_predictions(rows))))
        return replace(fitted, certificate=certified(fitted, rows))


def _predictions(rows):
    """Binary rows: the log-odds of the predicted class, and whether it was right."""
    odds, right = [], []
    for block in rows.blocks():
        z = block.logits.astype(np.float64)
        top = z.argmax(1)
        odds.append(log_odds(z))
        right.append((block.target == top).astype(np.int64) if block.target.ndim == 1 else _share(block.target, top))
    return replace(
        rows, logits=np.concatenate(odds), target=np.concatenate(right), task="binary", classes=("wrong", "right")
    )


def _share(target, top):
    return target[np.arange(len(target)), top]
