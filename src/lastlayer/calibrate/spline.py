"""A smooth rising curve of the logit: cubic between knots, a straight line beyond them, by penalised likelihood.

    loss(g) = sum_i w_i cross_entropy(y_i, g(z_i)) + smoothing / 2 * integral g''(z)^2 dz,   g' >= 0

``g`` is a sum of rising basis functions (I-splines, Ramsay 1988), so that it rises where their weights are at least 0:
a convex problem with bounds. Without curvature it is Platt's line, which is where strong smoothing ends.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lastlayer.calibrate._binary import BinaryScores, Runs
from lastlayer.calibrate._bounded_newton import Sums, minimise
from lastlayer.calibrate._certified import certified
from lastlayer.calibrate._piecewise import hermite
from lastlayer.calibrate.calibrator import Calibrator, array
from lastlayer.calibrate.one_versus_rest import OneVersusRest
from lastlayer.calibrate.platt import Platt, cross_entropies

KNOTS = 10
OUTER = 0.05  # of the information, beyond the first knot and beyond the last
SMOOTHING = tuple(10.0**k for k in range(3, -4, -1))  # beside the curvature of the likelihood


@dataclass(frozen=True, eq=False)
class Spline(Calibrator):
    """Binary logits, or margins, on a smooth curve that does not fall: cubics between knots, lines beyond.

        calibrated = the cubics with these ``values`` and ``slopes`` at the ``knots``

    Ten knots stand at quantiles of the information ``p (1 - p)`` of the rows under `Platt`, where a curve can be told
    from a line. The smoothing is that of least BIC (Schwarz 1978) with the effective number of parameters: AIC bends
    more than a thousand rows can say. It is a likelihood of log-odds, where Gupta et al. 2021 differentiate a spline of
    cumulative accuracy and may leave [0, 1]. Infinite logits stay where the outer line rises; where it is level rows
    become ties. Separable rows get `Platt` at its largest slope. Exclusive classes are calibrated one versus rest.

    >>> Spline([-1.0, 1.0], [-1.0, 1.0], [1.0, 2.0])(np.array([-3.0, 1.0, 3.0]))
    array([-3.,  1.,  5.])
    """

    method = "spline"

    knots: np.ndarray
    values: np.ndarray
    slopes: np.ndarray

    def __post_init__(self):
        knots = array("Spline: knots", self.knots, (None,))
        values, slopes = (array(f"Spline: {n}", getattr(self, n), (len(knots),)) for n in ("values", "slopes"))
        if not (len(knots) > 1 and (np.diff(knots) > 0).all() and (np.diff(values) >= 0).all() and (slopes >= 0).all()):
            raise ValueError("Spline: two knots or more that ascend, values that do not fall, slopes of at least 0.")
        for name, column in (("knots", knots), ("values", values), ("slopes", slopes)):
            object.__setattr__(self, name, column)

    def map(self, logits):
        return hermite(logits, self.knots, self.values, self.slopes)

    @classmethod
    def solve(cls, rows):
        """The curve of least penalised NLL at the smoothing of least BIC, with its certificate."""
        if rows.task == "multiclass":
            return OneVersusRest.of(rows, cls.solve)
        line = Platt.solve(rows)
        done: Any = line.certificate
        runs = Runs.of(BinaryScores.of(rows))
        knots = _knots(runs, line)
        if done.bound is not None or len(knots) < 2:
            knots = np.array([runs.z[0], max(runs.z[-1], runs.z[0] + 1)])
            fitted = cls(knots, line.slope * knots + line.intercept, np.full(2, line.slope))
            return replace(fitted, certificate=replace(done, nll_after=certified(fitted, rows).nll_after))
        basis = Basis(knots)
        best, passes = _smoothest(basis, runs, line)
        fitted = cls(knots, *basis.at_knots(best.parameters))
        certificate = certified(fitted, rows, best.converged, passes, best.gradient)
        return replace(fitted, certificate=certificate)


class Basis:
    """Cubic B-splines on knots, continued by straight lines; increments of their coefficients are the parameters.

    The first parameter is the constant, each of the others weighs a function that rises from 0.
    """

    def __init__(self, knots):
        self.knots = knots
        self.t = np.r_[[knots[0]] * 3, knots, [knots[-1]] * 3]
        self.size = len(knots) + 2

    def derivatives(self, x, order):
        """The ``order``-th derivative of each B-spline at points between the outer knots, (size, n)."""
        from scipy.interpolate import BSpline

        return BSpline(self.t, np.eye(self.size), 3)(x, nu=order).T

    def interval(self, z):
        """Between which two knots, or nearest to which, each point lies; there four B-splines are not 0."""
        return np.clip(np.searchsorted(self.knots, z, side="right") - 1, 0, len(self.knots) - 2)

    def at(self, z):
        """The four B-splines of each point's interval, (4, n)."""
        inside = np.clip(z, self.knots[0], self.knots[-1])
        four = self.interval(z) + np.arange(4)[:, None]
        values, slopes = (np.take_along_axis(self.derivatives(inside, order), four, 0) for order in (0, 1))
        return values + slopes * (z - inside)

    def line(self, slope, intercept):
        """The parameters of a straight line."""
        middle = np.array([self.t[i + 1 : i + 4].mean() for i in range(self.size)])
        return np.diff(slope * middle + intercept, prepend=0.0)

    def roughness(self):
        """The integral of products of second derivatives, which are straight between knots (Simpson is exact)."""
        left, right = self.knots[:-1], self.knots[1:]
        points = [(x, share * (right - left) / 6) for x, share in ((left, 1), ((left + right) / 2, 4), (right, 1))]
        bends = [(self.derivatives(x, 2), share) for x, share in points]
        return in_increments(sum(np.einsum("in,jn->ij", bend * share, bend) for bend, share in bends))

    def at_knots(self, parameters):
        """Values and slopes of the curve at its knots."""
        values, slopes = (np.cumsum(parameters) @ self.derivatives(self.knots, order) for order in (0, 1))
        return np.maximum.accumulate(values), np.maximum(slopes, 0.0)


def in_increments(slopes):
    """Slopes, or products of them, in the coefficients as those in their increments."""
    for axis in range(slopes.ndim):
        slopes = np.flip(np.flip(slopes, axis).cumsum(axis), axis)
    return slopes


def _knots(runs, line):
    """Quantiles of the information of the rows, each at a score of its own."""
    with np.errstate(under="ignore"):
        *_, information = cross_entropies(line.map(runs.z), 0.0)
    information = np.cumsum((runs.hits + runs.misses) * information)
    shares = np.linspace(OUTER, 1 - OUTER, KNOTS) * information[-1]
    return np.unique(runs.z[np.searchsorted(information, shares)])


def _likelihood(basis, runs):
    """``sums(parameters)``: each row touches four B-splines, so a pass takes ten sums of products."""
    weight = runs.hits + runs.misses
    target, interval, four = runs.hits / weight, basis.interval(runs.z), basis.at(runs.z)
    pairs = [(r, s) for r in range(4) for s in range(4)]

    def by_spline(column):
        return np.array([np.bincount(interval + r, column * four[r], basis.size) for r in range(4)]).sum(0)

    def sums(parameters):
        coefficients = np.cumsum(parameters)
        with np.errstate(all="ignore"):
            eta = sum(coefficients[interval + r] * four[r] for r in range(4))
            loss, up, down, curvature = cross_entropies(eta, target)
            gradient, size = by_spline(weight * (up - down)), np.abs(by_spline(weight * (up + down)))
            squares = np.zeros((basis.size, basis.size))
            for r, s in pairs:
                if r <= s:
                    products = np.bincount(interval, weight * curvature * four[r] * four[s], basis.size - 3)
                    for a, b in {(r, s), (s, r)}:
                        squares[np.arange(len(products)) + a, np.arange(len(products)) + b] += products
        loss = float((weight * loss).sum())
        return Sums(loss, in_increments(gradient), in_increments(size), in_increments(squares))

    return sums


def _smoothest(basis, runs, line):
    """The fit of least BIC, from the strongest smoothing down, each starting at the one before; and all passes."""
    likelihood, total = _likelihood(basis, runs), (runs.hits + runs.misses).sum()
    start, roughness = basis.line(line.slope, line.intercept), basis.roughness()
    lower = np.r_[-np.inf, np.zeros(basis.size - 1)]
    unit = np.trace(likelihood(start).curvature) / np.trace(roughness)
    tried = []
    for smoothing in SMOOTHING:
        penalty = smoothing * unit * roughness

        def penalised(theta, penalty=penalty):
            sums, pull = likelihood(theta), penalty @ theta
            size = sums.size + np.abs(penalty) @ np.abs(theta)
            return Sums(sums.loss + theta @ pull / 2, sums.gradient + pull, size, sums.curvature + penalty)

        fit = minimise(penalised, start, lower)
        start = fit.parameters
        sums, free = likelihood(start), start > lower
        curvature = sums.curvature[np.ix_(free, free)]
        effective = np.trace(np.linalg.lstsq(curvature + penalty[np.ix_(free, free)], curvature, rcond=None)[0])
        tried.append((2 * sums.loss + np.log(total) * effective, fit))
    return min(tried, key=lambda each: each[0])[1], sum(fit.passes for _, fit in tried)
