"""L-BFGS for an ordinal `Problem` of many features: values and slopes of one score and its thresholds.

Features stay as they are, sparse ones too; the variables are coefficients of standardised features (sparse: not
centred). The first guess of the inverse Hessian is a diagonal: a score has a curvature of at most 1/2, which is the sum
of those of the two steps beside it.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lastlayer._convex import minimise
from lastlayer.parallel import over_ranges, single_products
from lastlayer.train._objective import FARTHEST, Frame, ordinal_rows, shares
from lastlayer.train._problem import Certificate, Fit, Problem

RANGE = 2**13  # rows of one range of the pool
ENTRIES = 2**20  # of the features of a range, where they are dense


class Point(NamedTuple):
    """F at some parameters, as `minimise` wants it."""

    at: np.ndarray
    value: float
    gradient: np.ndarray
    scale: float
    step: Callable[[np.ndarray], np.ndarray]
    exact: bool = False


def solve(problem: Problem, start, tol, most) -> Fit:
    """The minimum, from ``start``, coefficients and thresholds, or from the shares of the classes."""
    began = time.perf_counter()
    objective = Slopes(problem)
    at = objective.inward(*(start or shares(problem)))
    with single_products():
        minimum = minimise(objective, at, tol, most, rises=bool(problem.penalty.l2.all()))
    point = minimum.point
    certificate = Certificate(
        solver="lbfgs",
        passes=minimum.passes,
        objective=float(point.value),
        gradient=float(np.abs(point.gradient).max() / point.scale),
        gap=None,
        converged=minimum.converged,
        escapes=minimum.escapes,
        seconds=time.perf_counter() - began,
    )
    return Fit(*objective.outward(point.at), certificate)


class Slopes:
    """F as a function of the coefficients of standardised features and the thresholds, one after the other."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.rows, self.width = problem.features.shape
        sparse = hasattr(problem.features, "toarray")
        self.frame = sparse_frame(problem.features) if sparse else Frame.of(problem)
        self.size = RANGE if sparse else max(min(RANGE, ENTRIES // max(self.width, 1)), 1)
        self.weight = float(problem.weight.sum())
        self.ridge = problem.penalty.l2 / np.square(self.frame.scale)
        bound = self.weight / 2
        self.guess = 1 / np.concatenate([bound + self.ridge, np.full(int(problem.target.max()), bound)])

    def inward(self, coef, intercept) -> np.ndarray:
        coef, intercept = self.frame.inward(coef, intercept, -1.0)
        return np.concatenate([coef[0], intercept])

    def outward(self, parameters):
        return self.frame.outward(parameters[None, : self.width], parameters[self.width :], -1.0)

    def __call__(self, parameters) -> Point:
        coef, thresholds = self.outward(parameters)
        if not (np.diff(thresholds) > 0).all():
            return self._point(parameters, np.inf, np.full(len(parameters), np.nan))
        work = functools.partial(self._range, coef[0], thresholds)
        loss, slope, shift = functools.reduce(_add, over_ranges(work, self.rows, self.size))
        inner = parameters[: self.width]
        pull = self.ridge * inner
        # the slopes of all scores add up to those of the thresholds, with the other sign
        slope = (slope + shift.sum() * self.frame.centre) / self.frame.scale
        return self._point(parameters, loss + float(pull @ inner) / 2, np.concatenate([slope + pull, shift]))

    def _point(self, parameters, value, gradient):
        return Point(parameters, value, gradient, self.weight, functools.partial(np.multiply, self.guess))

    def _range(self, coef, thresholds, a, b):
        """Loss, slopes of the coefficients, and of the thresholds, of some rows."""
        problem, features = self.problem, self.problem.features[a:b]
        features = features if hasattr(features, "toarray") else np.asarray(features, np.float64)
        with np.errstate(all="ignore"):  # a step too far may overflow; `minimise` shortens it
            score = features @ coef
            if problem.offset is not None:
                score = score + problem.offset[a:b]
            loss, steps, shift = ordinal_rows(score, problem.target[a:b], problem.weight[a:b], thresholds)
            return loss, features.T @ steps.slope, shift


def _add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))


def sparse_frame(features: Any) -> Frame:
    """The root of the mean square of each column, as a power of two; nothing is moved, so that zeros stay zeros."""
    squares = np.bincount(features.indices, np.square(features.data, dtype=np.float64), features.shape[1])
    power = np.round(np.log2(np.where(squares > 0, squares / features.shape[0], 1.0)) / 2)
    return Frame(np.zeros(features.shape[1]), 2.0 ** np.clip(power, -FARTHEST, FARTHEST))
