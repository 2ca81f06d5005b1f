"""L-BFGS for a smooth `Problem` of many parameters, in variables that are whitened by a bound on its curvature.

The Hessian of class k is close to ``c_k X'X + diag(l2)``, ``c_k`` being the mean of p (1 - p) and X centred; Böhning
(1992) has 1/2 for all of them, which is a bound and needs three times the passes. One factor of ``c X'X + diag(l2)``, c
the mean over the classes, serves them all, its diagonal being made that of each class: ``X'X`` is summed once, over
some of the rows, and the factor made anew when c has moved. Where the features are sparse, or too many, the diagonal
stands for the whole. Only the variables change: the objective and its minimum are those that were asked for.
"""

import importlib
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from lastlayer.parallel import over_ranges, single_products
from lastlayer.train._passes import FEW, Rows, Sums
from lastlayer.train._problem import Certificate, Fit, Problem
from lastlayer.transform.softmax import logsumexp

WIDE = 2048  # features: a factor of more costs more than the passes that it saves
ROWS_EACH = 20  # rows that X'X is taken from, for each feature
LEAST_ROWS = 2**14
BLOCK = 2**18  # entries of a block of features
MEMORY = 5, 30  # pairs of steps, at least and at most; where many are cheap, tails of bad problems need them
ROOM = 5 * 2**19  # parameters in all the pairs beyond the least
MOVED = 1.2  # the factor by which the mean curvature changes before its own factor does
SHRUNK = 0.01, 0.1, 1.0  # of the second moments: what is added to those of standardised features, for a start
TOLD = 1024  # rows that say how long a start is
LONGEST = 4.0
UNLIKE = 1e4  # how many times smaller than the mean a class's curvature is taken to be, at most
RIDGE = 1e-9  # of the diagonal: makes a factor of columns that depend on each other
PASSES = 1000
TRIES = 20
FALL, BEND = 1e-4, 0.9  # what a step must bring: a share of the fall its slope promises, and a slope less steep
ROUNDING = {"float32": 1e-6, "float64": 1e-12}  # of the value: what a sum over rows may be off
FLOOR = {"float32": 1e-10, "float64": 1e-20}  # of the value: a fall to come that such a sum cannot tell
FADED = 1e-10  # of the scale of the gradient: less is none
SMALL = 1e-3  # of the value: a fall to come that is no more is not that towards a minimum at infinity


class Point(NamedTuple):
    """F at some parameters."""

    at: np.ndarray
    value: float
    gradient: np.ndarray
    bend: np.ndarray


class Moments(NamedTuple):
    """Of the features: their mean, their deviation, and their correlations where they are few and dense."""

    centre: np.ndarray
    deviation: np.ndarray
    correlation: np.ndarray | None


def solve(problem: Problem, start=None, tol=1e-6, most=PASSES) -> Fit:
    """The minimum of F, in about ``most`` passes; ``start`` is (coef, intercept).

    ``tol`` bounds the gradient of the mean loss by each standardised feature.
    """
    began = time.perf_counter()
    with single_products():
        return descended(Function(problem), start, tol, most, began)


def descended(function, start, tol, most, began) -> Fit:
    """The minimum of a `Function`, from ``start`` as in `solve`."""
    here, passes = begun(function, start)
    here, passes, converged, faded = _descend(function, here, passes, tol, most)
    return ended("whitened", function, here, passes, converged, faded, time.perf_counter() - began)


def ended(solver, function, here, passes, converged, faded, seconds) -> Fit:
    """The fit that ends at ``here``, with its certificate."""
    coef, intercept = function.outward(here.at)
    certificate = Certificate(
        solver=solver,
        passes=passes,
        objective=here.value,
        gradient=function.relative(here.gradient),
        gap=function.gap(here),
        converged=converged,
        escapes=faded and not converged and not function.bounded,
        seconds=seconds,
    )
    return Fit(coef, intercept, certificate)


class Function:
    """F of parameters ``(features + 1, outputs)`` in the gauge of `_passes`, and what is known of its curvature."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.moments = moments(problem)
        self.rows = Rows(problem, self.moments.centre)
        self.l2 = problem.penalty.l2.astype(np.float64)
        self.bounded = bool((self.l2 > 0).all())  # below along every line, but for the intercepts
        self._curvature = None

    def __call__(self, table) -> Point:
        sums: Sums = self.rows.sums(table)
        pull = table[:-1] * self.l2[:, None].astype(table.dtype)
        value = sums.loss + float(np.einsum("jk,jk->j", pull, table[:-1]).sum(dtype=np.float64)) / 2
        sums.gradient[:-1] += pull
        return Point(table, value, sums.gradient, sums.bend)

    def step(self, point: Point):
        """The inverse of the whitening curvature at ``point``, as a function of a gradient."""
        bend = np.maximum(point.bend, max(point.bend.mean() / UNLIKE, np.finfo(self.rows.dtype).tiny))
        mean = float(bend.mean())
        if self._curvature is None or max(self._curvature.mean / mean, mean / self._curvature.mean) > MOVED:
            self._curvature = Curvature(self.moments, self.l2, self.rows.total, mean)
        return self._curvature.solver(bend * self.rows.total, self.rows.dtype)

    def relative(self, gradient):
        """The largest entry of the gradient of the mean loss by standardised features."""
        deviation = np.where(self.moments.deviation > 0, self.moments.deviation, 1.0)
        inner = (np.abs(gradient[:-1]).max(1) / deviation).max(initial=0.0)
        return float(max(inner, np.abs(gradient[-1]).max()) / self.rows.total)

    def gap(self, point) -> float | None:
        """F is strongly convex in the coefficients where all of them are penalised: what its gradient leaves to fall.

        What the intercepts leave is their Newton decrement, of second order in a gradient that is 0 but for rounding.
        """
        if not self.bounded:
            return None
        inner = (np.square(point.gradient[:-1], dtype=np.float64).sum(1) / self.l2).sum()
        if not self.problem.intercept:
            return float(inner / 2)
        bend = self.rows.total * np.maximum(point.bend, np.finfo(np.float32).tiny)
        return float(inner + (np.square(point.gradient[-1], dtype=np.float64) / bend).sum()) / 2

    def inward(self, start):
        """The table of coefficients and intercepts; without a start, the logits of the shares and no slope."""
        table = np.zeros((self.rows.width + 1, self.rows.outputs))
        if start is not None:
            table[:-1] = start[0].T
            table[-1] = start[1] + self.moments.centre @ table[:-1]
        elif self.problem.intercept:
            table[-1] = prior(self.problem)
        return table.astype(self.rows.dtype)

    def outward(self, table):
        """Coefficients and intercepts in float64; those of classes sum to 0, where the penalty is least."""
        table = table.astype(np.float64)
        if self.problem.family == "multinomial":
            table -= table.mean(1, keepdims=True)
        intercept = table[-1] - self.moments.centre @ table[:-1]
        return np.ascontiguousarray(table[:-1].T), intercept if self.problem.intercept else np.zeros(len(intercept))


class Curvature:
    """``c total S + diag(l2)`` with S the second moments of centred features, factored; and ``c total``."""

    def __init__(self, moments: Moments, l2, total, mean):
        from scipy.linalg import cho_factor

        self.mean, self.l2 = mean, l2
        self._square = np.square(moments.deviation)
        diagonal = self._diagonal(np.array([mean * total]), np.float64)[:, 0]
        self._factor = None
        if moments.correlation is not None:
            scale = np.sqrt(mean * total) * moments.deviation / np.sqrt(diagonal)
            matrix = moments.correlation * np.multiply.outer(scale, scale)
            matrix[np.diag_indices(len(l2))] += l2 / diagonal + RIDGE
            still = scale == 0
            matrix[still, still] = 1.0
            self._factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)

    def solver(self, bend, dtype):
        """For outputs of the curvatures ``bend``, the sums of w p (1 - p), whose diagonals are their own."""
        from scipy.linalg import cho_solve

        scale = self._diagonal(bend, dtype)
        if self._factor is None:
            np.divide(1, scale, out=scale)
            last = (1 / bend).astype(dtype)
            return lambda gradient: np.concatenate([gradient[:-1] * scale, gradient[-1:] * last])
        np.divide(1, np.sqrt(scale, out=scale), out=scale)

        def solve(gradient):
            out = np.empty_like(gradient)
            inner = cho_solve(self._factor, gradient[:-1] * scale, overwrite_b=True, check_finite=False)
            np.multiply(inner, scale, out=out[:-1], casting="same_kind")
            np.divide(gradient[-1], bend, out=out[-1], casting="same_kind")
            return out

        return solve

    def _diagonal(self, bend, dtype):
        """``bend deviation^2 + l2``, of each output a column, and 1 where that is 0."""
        diagonal = np.multiply.outer(self._square.astype(dtype), bend.astype(dtype))
        diagonal += self.l2[:, None].astype(dtype)
        diagonal[diagonal == 0] = 1
        return diagonal


def moments(problem: Problem) -> Moments:
    """From some rows, spread evenly: any other centre and deviation leave the minimum where it is."""
    if hasattr(problem.features, "tocsc"):
        return _sparse_moments(problem)
    rows, width = problem.features.shape
    every = max(rows // max(ROWS_EACH * width, LEAST_ROWS), 1)
    features, weight = problem.features[::every], problem.weight[::every]
    dtype, size = features.dtype, max(BLOCK // width, 1)

    def first(a, b):
        block = features[a:b].astype(np.float64)
        return weight[a:b] @ block, np.abs(block).max(0)

    sums, largest = zip(*over_ranges(first, len(weight), size), strict=True)
    total, largest = max(weight.sum(), np.finfo(np.float64).tiny), np.max(largest, axis=0)
    largest[largest == 0] = 1.0
    centre = sum(sums) / total if problem.intercept else np.zeros(width)

    def second(a, b):
        block = ((features[a:b] - centre) / largest * np.sqrt(weight[a:b, None])).astype(dtype)
        return block.T @ block if width <= WIDE else np.square(block, dtype=np.float64).sum(0)

    square = np.zeros((width, width) if width <= WIDE else width)
    for part in over_ranges(second, len(weight), size):
        square += part
    deviation = np.sqrt((np.diag(square) if width <= WIDE else square) / total)
    deviation[deviation <= 4 * np.finfo(dtype).eps] = 0.0  # the rounding of equal numbers
    if width > WIDE:
        return Moments(centre, deviation * largest, None)
    over = np.divide(1.0, deviation, out=np.zeros(width), where=deviation > 0)
    return Moments(centre, deviation * largest, square / total * np.multiply.outer(over, over))


def _sparse_moments(problem):
    matrix, weight = problem.features, problem.weight
    values = matrix.data.astype(np.float64)
    each = np.repeat(weight, np.diff(matrix.indptr)) / max(weight.sum(), np.finfo(np.float64).tiny)
    mean, square = (
        np.bincount(matrix.indices, each * power, minlength=matrix.shape[1]) for power in (values, np.square(values))
    )
    centre = mean if problem.intercept else np.zeros_like(mean)
    return Moments(centre, np.sqrt(np.maximum(square - np.square(centre), 0.0)), None)


def prior(problem: Problem):
    """The logits of the shares of the outputs, none of which is taken to be 0 or 1."""
    weight = problem.weight / max(problem.weight.sum(), np.finfo(np.float64).tiny)
    least = 0.5 / len(weight)
    if problem.family == "multinomial":
        logits = np.log(np.bincount(problem.target, weight, problem.outputs) + least)
        return logits - logits.mean()
    share = weight @ problem.target.reshape(len(weight), -1)
    return np.log(share + least) - np.log(1 - share + least)


def begun(function, start):
    """The first point, and the passes it took: where ``start`` is, or discriminants lead, or no slope and the shares.

    Discriminants of many classes of dense features were worth 25 passes; of ten classes of pixels, or of text, none.
    """
    here = function(function.inward(start))
    crowd = function.problem.family == "multinomial" and function.rows.outputs > FEW
    if start is not None or not crowd or function.moments.correlation is None:
        return here, 1
    there = function(_discriminants(function, here))
    return (there if there.value < here.value / 2 else here), 2


def _discriminants(function, here):
    """The best of a few linear discriminants (shrunk second moments), made so long as some rows say.

    At equal shares the gradient of a class is its curvature times how far its mean is from that of the others.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize_scalar

    problem, moments = function.problem, function.moments
    every = max(len(problem.target) // TOLD, 1)
    rows, target, weight = (array[::every] for array in (problem.features, problem.target, problem.weight))
    weight = weight * (function.rows.total / max(weight.sum(), np.finfo(np.float64).tiny))
    deviation = np.where(moments.deviation > 0, moments.deviation, 1.0)[:, None]
    away, shift = -here.gradient[:-1] / (here.bend * function.rows.total), here.at[-1]
    found = []
    for ridge in SHRUNK:
        factor = cho_factor(moments.correlation + ridge * np.eye(len(deviation)), check_finite=False)
        coef = cho_solve(factor, away / deviation, check_finite=False) / deviation
        last = (coef * away).sum(0) / -2
        z = rows @ coef.astype(rows.dtype) + (last - moments.centre @ coef).astype(rows.dtype)
        own, pull = z[np.arange(len(z)), target], np.square(coef).sum(1) @ function.l2 / 2

        def value(length, z=z, own=own, pull=pull):
            length = z.dtype.type(length)
            losses = logsumexp(length * z + shift) - length * own - shift[target]
            return float(weight @ losses + np.square(length, dtype=np.float64) * pull)

        best: Any = minimize_scalar(value, bounds=(0, LONGEST), method="bounded", options={"xatol": 0.01})
        found.append((best.fun, best.x, coef, last))
    _, length, coef, last = min(found, key=lambda each: each[0])
    return np.vstack([length * coef, length * last + shift]).astype(here.at.dtype)


def _descend(function, here, passes, tol, most):
    """The last point, the passes it took, whether it is a minimum, and whether its gradient is none."""
    pairs = deque(maxlen=min(max(ROOM // here.at.size, MEMORY[0]), MEMORY[1]))
    while True:
        step = _two_loops(here.gradient, pairs, function.step(here))
        slope = dot(here.gradient, step)
        converged, faded, ended = finished(function, here, slope, tol)
        if ended or passes >= most:
            return here, passes, converged, faded
        there, tried = ahead(function, here, step, slope)
        passes += tried
        if there is None:  # rounding hides every fall: nothing is left to gain
            return here, passes, converged, faded
        pairs.append((step, there.gradient - here.gradient))
        here = there


def finished(function, here, slope, tol):
    """Whether it is a minimum, whether the gradient is none, and whether either ends it.

    ``slope`` is that along the step which would come next, whose fall is half of it.
    """
    relative, fall = function.relative(here.gradient), -slope / abs(here.value) if here.value else 0.0
    flat, faded = relative <= tol or fall <= FLOOR[here.at.dtype.name], relative <= FADED
    converged = flat and (function.bounded or fall <= SMALL)
    return converged, faded, converged or faded


def ahead(function, here, step, slope):
    """The first point along ``step``, which is made as long, that brings enough; and how many were looked at."""
    rounding = ROUNDING[step.dtype.name] * abs(here.value)
    length = 1.0
    for tried in range(1, TRIES + 1):
        there = function(here.at + step)
        rise = dot(there.gradient, step) / length
        if np.isfinite(there.value) and np.isfinite(rise):
            fallen = there.value <= here.value + FALL * length * slope and rise <= -BEND * slope
            level = there.value <= here.value + rounding and abs(rise) <= abs(slope) / 2
            if fallen or level:
                return there, tried
            guess = slope / (slope - rise) if rise > 0 else 0.5  # where the slope is 0, if it is a straight line
        else:
            guess = 0.1
        shorter = min(max(guess, 0.1), 0.7)
        step *= shorter
        length *= shorter
    return None, TRIES


def _two_loops(gradient, pairs, solve):
    """The step of L-BFGS (Nocedal and Wright 2006, algorithm 7.4) from an inverse curvature, which it scales."""
    vector, weights = -gradient, []
    used = [(s, y, 1 / dot(s, y)) for s, y in pairs if dot(s, y) > 0]
    for s, y, rho in reversed(used):
        weights.append(rho * dot(s, vector))
        _add(vector, -weights[-1], y)
    vector = solve(vector)
    if used:
        s, y, rho = used[-1]
        vector *= vector.dtype.type(1 / (rho * dot(y, solve(y))))
    for (s, y, rho), weight in zip(used, reversed(weights), strict=True):
        _add(vector, weight - rho * dot(y, vector), s)
    return vector


def dot(a, b):
    return float(np.vdot(a, b))


def _add(out, factor, vector):
    """``out += factor * vector`` in place."""
    blas: Any = importlib.import_module("scipy.linalg.blas")
    add = blas.saxpy if out.dtype == np.float32 else blas.daxpy
    add(vector.reshape(-1), out.reshape(-1), a=factor)
