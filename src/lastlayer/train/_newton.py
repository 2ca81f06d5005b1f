"""Newton's method for a `Problem` whose penalty is smooth and whose parameters are few: its Hessian is held.

Tall data begin with a fit of some of their rows, whose error is that of the sample; each pass over all the rows then
squares it. The Hessian is scaled to a diagonal of ones before it is factored. What is not identified, as one of two
equal columns without a penalty, does not move: of several minima that is the least one in standardised features.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lastlayer._convex import minimise
from lastlayer.parallel import single_products
from lastlayer.train._objective import Frame, Objective, shares, some
from lastlayer.train._problem import Certificate, Fit, Problem

TALL = 2**15  # rows from which a sample is worth its fit
SHARE = 30  # one row of so many makes the sample
ROWS_EACH = 50  # rows of the sample for each parameter, at least
FLAT = 1e-13  # of the largest eigenvalue: less is the rounding of sums that are 0
NEAR = 1e-4, 30  # gradient and passes of the fit of the sample


class Point(NamedTuple):
    """F at some parameters, as `minimise` wants it."""

    at: np.ndarray
    value: float
    gradient: np.ndarray
    scale: float
    step: Callable[[np.ndarray], np.ndarray]
    hessian: np.ndarray
    largest: float  # squared norm of a row
    exact: bool = True


def solve(problem: Problem, start, tol, most) -> Fit:
    """The minimum, from ``start``, coefficients and intercepts, or from a start of its own."""
    if problem.family == "multilabel":
        return label_by_label(solve, problem, start, tol, most)
    began = time.perf_counter()
    objective = Objective(problem, Frame.of(problem))
    with single_products():
        at = objective.inward(*start) if start is not None else _start(objective)
        return descended(objective, at, tol, most, began)


def descended(objective: Objective, at, tol, most, began) -> Fit:
    """The minimum of an objective, from the parameters ``at``."""

    def function(parameters):
        return _point(objective, parameters)

    problem = objective.problem
    minimum = minimise(function, at, tol, most, rises=bool(problem.penalty.l2.all()))
    inverse = inverted(minimum.point.hessian)
    point = minimum.point
    coef, intercept = objective.outward(point.at)
    certificate = Certificate(
        solver="newton",
        passes=minimum.passes,
        objective=float(point.value),
        gradient=float(np.abs(point.gradient).max() / point.scale),
        gap=None if minimum.escapes or problem.family == "ordinal" else gap(point, inverse, problem.family),
        converged=minimum.converged,
        escapes=minimum.escapes,
        seconds=time.perf_counter() - began,
    )
    return Fit(coef, intercept, certificate, objective.inverse_outward(inverse))


def label_by_label(solve, problem, start, tol, most):
    """Each label is a binary problem of its own: nothing joins them."""
    fits = []
    for k in range(problem.outputs):
        offset = None if problem.offset is None else problem.offset[:, k]
        one = replace(problem, target=problem.target[:, k], offset=offset, family="binary", outputs=1)
        fits.append(solve(one, None if start is None else (start[0][k : k + 1], start[1][k : k + 1]), tol, most))
    certificates = [fit.certificate for fit in fits]
    gaps = [c.gap for c in certificates]
    together = Certificate(
        solver=certificates[0].solver,
        passes=sum(c.passes for c in certificates),
        objective=sum(c.objective for c in certificates),
        gradient=max(c.gradient for c in certificates),
        gap=None if None in gaps else sum(gaps),
        converged=all(c.converged for c in certificates),
        escapes=any(c.escapes for c in certificates),
        seconds=sum(c.seconds for c in certificates),
    )
    coef, intercept = (np.concatenate([fit[i] for fit in fits]) for i in (0, 1))
    inverses = [fit.inverse for fit in fits if fit.inverse is not None]
    return Fit(coef, intercept, together, np.stack(inverses) if inverses else None)


def _point(objective, parameters):
    sums = objective.penalised(parameters, objective.sums(parameters))

    def step(vector):
        return solved(sums.hessian, vector)

    return Point(parameters, sums.loss, sums.gradient, objective.weight, step, sums.hessian, sums.largest)


def _start(objective):
    """The fit of a sample where there are many rows, else no slope and the logits of the shares of the classes."""
    problem = objective.problem
    rows = problem.features.shape[0]
    begun = objective.inward(*shares(problem))
    most = max(rows // SHARE, ROWS_EACH * len(begun))
    if rows < TALL or 4 * most > rows:
        return begun
    part = replace(
        problem,
        features=some(problem.features, most),
        target=some(problem.target, most),
        weight=some(problem.weight, most),
        offset=None if problem.offset is None else some(problem.offset, most),
    )
    return near(objective, part, begun)


def near(objective: Objective, part: Problem, begun):
    """The fit of a part of the rows with as much less of the penalty; ``begun`` where a class is not among them."""
    if part.family == "binary":
        complete = 0 < part.weight @ part.target < part.weight.sum()
    else:
        complete = np.bincount(part.target, part.weight, part.outputs).min() > 0
    if not complete:
        return begun
    share = part.weight.sum() / objective.weight
    less = Objective(replace(part, penalty=replace(part.penalty, l2=part.penalty.l2 * share)), objective.frame)
    minimum = minimise(lambda parameters: _point(less, parameters), begun, *NEAR)
    return minimum.point.at if minimum.converged else begun


def scaled(hessian):
    """The Hessian with a diagonal of ones, and the roots of its own; a parameter without curvature keeps its 0."""
    root = np.sqrt(np.maximum(np.diag(hessian), 0.0))
    root[root == 0] = 1.0
    return hessian / np.outer(root, root), root


def solved(hessian, vector):
    """The inverse Hessian times ``vector``; where it has none, the shortest scaled step."""
    from scipy.linalg import solve_triangular

    matrix, root = scaled(hessian)
    lower = _cholesky(matrix)
    if lower is None:
        values, vectors = _identified(matrix)
        return vectors @ ((vectors.T @ (vector / root)) / values) / root
    half = solve_triangular(lower, vector / root, lower=True, check_finite=False)
    return solve_triangular(lower, half, lower=True, trans=1, check_finite=False) / root


def inverted(hessian):
    """The inverse Hessian, of what is identified."""
    from scipy.linalg import solve_triangular

    matrix, root = scaled(hessian)
    lower = _cholesky(matrix)
    if lower is None:
        values, vectors = _identified(matrix)
        half = (vectors / np.sqrt(values)).T
    else:
        half = solve_triangular(lower, np.eye(len(lower)), lower=True, check_finite=False)
    return half.T @ half / np.outer(root, root)


def _cholesky(matrix):
    """Its lower factor, or None where a pivot is no more than rounding."""
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return None
    return lower if np.square(np.diag(lower)).min() > FLAT * len(matrix) else None


def _identified(matrix):
    """Eigenvalues that are more than rounding, and their directions."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > FLAT * len(values) * values[-1]
    return values[kept], vectors[:, kept]


def gap(point, inverse, family) -> float | None:
    """How far F is above its minimum at most, or None where the point is too far from it to say.

        F - minimum <= decrement^2 / (4 c(r)),   c(r) = (exp(-r) - 1 + r) / r^2

    Moving the logits of a row by v, a class against another, changes its Hessian by a factor of at most exp(|v|) (Bach
    2010, lemma 1). Within |v| <= r of every row F is therefore above its tangent plus c(r) times the square of the step
    in the norm of the Hessian here. At the border of that region it is above where it began if c(r) r exceeds decrement
    times the largest |v| of a step of norm 1, so the minimum lies inside.
    """
    squared = float(point.gradient @ inverse @ point.gradient)
    farthest = float(np.sqrt(point.largest * np.linalg.norm(inverse) * (2 if family == "multinomial" else 1)))
    reach = np.sqrt(max(squared, 0.0)) * farthest
    r = min(4 * reach, 1.0)
    curve = 0.5 - r / 6  # below c(r): its series alternates and falls
    return float(squared / (4 * curve)) if reach <= curve * r else None
