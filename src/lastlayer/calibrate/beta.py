"""Beta calibration of binary logits: the two tails of the probability have a slope each."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lastlayer._array import floating, namespace, restore
from lastlayer.calibrate._binary import BinaryScores
from lastlayer.calibrate._bounded_newton import minimise
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate.calibrator import Calibrator
from lastlayer.calibrate.one_versus_rest import OneVersusRest
from lastlayer.calibrate.platt import base_rate, logistic, separated
from lastlayer.transform import log_sigmoid


@dataclass(frozen=True, eq=False)
class Beta(Calibrator):
    """Binary logits bent at 0: slope ``b`` for large logits, ``a`` for very negative ones.

        calibrated = a log p - b log(1 - p) + c,   log p = log_sigmoid(z),  log(1 - p) = log_sigmoid(-z)

    Kull, Silva Filho and Flach 2017, with ``a, b >= 0``. No probability is formed, so none is clipped. The order
    of the rows stays; where ``a`` or ``b`` is 0 all that lies far out on its side becomes one value. With ``a = b`` it
    is `Platt`, which separable rows get, at its largest slope. Multilabel logits share one triple; exclusive classes
    have one each, one versus rest.

    >>> Beta(0.5, 1.0, 0.0)(np.array([-20.0, 20.0])).round(3)
    array([-10.,  20.])
    """

    method = "beta"

    a: float
    b: float
    c: float

    def __post_init__(self):
        if not (0 <= self.a < np.inf and 0 <= self.b < np.inf and np.isfinite(self.c)):
            raise ValueError(f"Beta: a and b are finite and at least 0, c is finite; not {self.a}, {self.b}, {self.c}.")

    def map(self, logits):
        z: Any = floating(logits)
        xp = namespace(z)
        calibrated = xp.where(xp.isnan(z), z, xp.full_like(z, self.c))
        if self.a:
            calibrated = calibrated + self.a * log_sigmoid(z)
        if self.b:
            calibrated = calibrated - self.b * log_sigmoid(-z)
        return restore(calibrated, logits)

    @classmethod
    def solve(cls, rows):
        """The three parameters of least NLL, with their certificate."""
        if rows.task == "multiclass":
            return OneVersusRest.of(rows, cls.solve)
        entries = BinaryScores.of(rows)
        steepest = separated(entries)
        if steepest is not None:
            fitted = cls(steepest[0], *steepest)
            bound = f"a <= {fitted.a:g}"
            return replace(fitted, certificate=certified(fitted, rows, converged=False, bound=bound))
        tails = np.stack([log_sigmoid(entries.z), -log_sigmoid(-entries.z)])
        mean = (entries.weight * tails).sum(1) / entries.weight.sum()
        size = np.abs(tails).max(1)  # above 0: log_sigmoid is, of finite numbers within 745 of 0
        size = np.where(size > 0, size, 1.0)
        features = np.concatenate([(tails - mean[:, None]) / size[:, None], np.ones((1, len(entries.z)))])
        lower = np.array([0.0, 0.0, -np.inf])
        start = np.r_[size * entries.level(), base_rate(entries)]
        best = minimise(logistic(features, entries), start, lower)
        a, b = best.parameters[:2] / size
        fitted = cls(float(a), float(b), float(best.parameters[2] - a * mean[0] - b * mean[1]))
        bound = next((f"{name} >= 0" for name, held in zip("ab", best.held, strict=False) if held), None)
        certificate = certified(fitted, rows, best.converged, best.passes, best.gradient, bound)
        return replace(fitted, certificate=certificate)

    @classmethod
    def free_parameters(cls, classes):
        return 3 if classes == 2 else 3 * classes
