"""Proximal Newton for a `Problem` whose penalty is not smooth: absolute values of coefficients, or bounds.

Each pass over the rows gives a quadratic model of the smooth part of F; its minimum with the rest of the penalty is
found a coordinate at a time, and a line search on F itself leads towards it (Yuan, Ho and Lin 2012, who name it
newGLMNET; Lee, Sun and Saunders 2014). Few parameters have their whole Hessian; many go output by output, without one
of all features (`_coordinate_wide`). Classes keep a row of coefficients each, as in scikit-learn: |B| is not the same
by contrasts.
"""

import time
from typing import NamedTuple

import numpy as np

from lastlayer.parallel import single_products
from lastlayer.train import _coordinate_wide
from lastlayer.train._coordinate_model import Terms, lowest
from lastlayer.train._duality import gap
from lastlayer.train._newton import label_by_label
from lastlayer.train._objective import Objective, Sums, shares
from lastlayer.train._problem import Certificate, Fit, Problem

HELD = 1000  # parameters: a Hessian of so many is summed over the rows
HALVINGS = 40
EASE = 0.1  # of the violation: how far the minimum of a model is sought


class Point(NamedTuple):
    """F at standardised parameters, and how far it is from a minimum: the violation of the mean loss."""

    at: np.ndarray
    value: float
    sums: Sums
    worst: float


def solve(problem: Problem, start, tol, most) -> Fit:
    """The minimum, from ``start``, coefficients and intercepts, or from no slope, in about ``most`` passes."""
    if problem.family == "multilabel":
        return label_by_label(solve, problem, start, tol, most)
    began = time.perf_counter()
    start = shares(problem) if start is None else start
    width, last = problem.features.shape[1], start[1].size
    few = problem.outputs * width + last <= HELD
    if problem.family == "ordinal" and not few:
        raise ValueError(
            f"LinearClassifier: ordinal classes with an l1 penalty or bounds take at most {HELD - last} features; "
            f"these are {width}. Leave features out, or take l1_ratio=0 without bounds."
        )
    rows = _coordinate_wide.rows_of(problem)
    with single_products():
        coef, intercept, value, worst, passes = (_held if few else _coordinate_wide.solve)(
            problem, rows, start, tol, most
        )
        if problem.family == "multinomial" and problem.intercept:
            intercept = intercept - intercept.mean()
        above = None if problem.family == "ordinal" else _gap(problem, rows, coef, intercept)
    certificate = Certificate(
        solver="coordinate",
        passes=passes,
        objective=value,
        gradient=worst,
        gap=above,
        converged=bool(np.isfinite(value)) and (worst <= tol or (above is not None and above <= tol * abs(value))),
        escapes=False,
        seconds=time.perf_counter() - began,
    )
    return Fit(coef, intercept, certificate)


def _gap(problem, rows, coef, intercept):
    inner, moved = rows.frame.inward(coef, intercept)
    logits = rows.times(inner.T) + moved
    if problem.offset is not None:
        logits += problem.offset.reshape(logits.shape)
    ridge = problem.penalty.l2 / np.square(rows.frame.scale)
    return gap(problem, rows, inner, logits, Terms.of(problem, rows.frame), ridge)


def _held(problem, rows, start, tol, most):
    """Coefficients, intercepts, F, the violation and the passes, by the Hessian of all parameters."""
    objective = Objective(problem, rows.frame, np.eye(problem.outputs))
    begun = objective.inward(*start)
    own = len(begun) // problem.outputs - problem.features.shape[1]
    terms = Terms.of(problem, rows.frame).and_free(own).times(problem.outputs)
    here, passes = _point(objective, terms, terms.inside(begun)), 1
    while here.worst > tol and passes < most:
        ease = max(EASE * here.worst * min(here.worst, 1.0), EASE * tol) * objective.weight
        aim = lowest(_anchored(problem, here.sums.hessian), here.sums.gradient, here.at, terms, ease)
        there, tried = _ahead(objective, terms, here, aim)
        passes += tried
        if there is None:  # rounding hides every fall: nothing is left to gain
            break
        here = there
    return *objective.outward(here.at), here.value, here.worst, passes


def _point(objective, terms, at):
    sums = objective.penalised(at, objective.sums(at))
    worst = float(terms.violation(at, sums.gradient).max(initial=0.0)) / objective.weight
    return Point(at, sums.loss + terms.value(at), sums, worst)


def _anchored(problem, hessian):
    """With a pull on the sum of the intercepts of the classes, which changes no probability and no minimum."""
    if problem.family != "multinomial" or not problem.intercept:
        return hessian
    index = np.arange(problem.features.shape[1], len(hessian), problem.features.shape[1] + 1)
    hessian = hessian.copy()
    hessian[np.ix_(index, index)] += hessian[index, index].mean()
    return hessian


def _ahead(objective, terms, here, aim):
    """The first point on the way to ``aim`` where F has fallen enough, and how many were looked at."""
    step = aim - here.at
    promised = float(here.sums.gradient @ step) + terms.value(aim) - terms.value(here.at)
    length = 1.0
    for tried in range(1, HALVINGS + 1):
        there = _point(objective, terms, aim if length == 1 else here.at + length * step)
        if _coordinate_wide.fallen(here.value, there.value, length * promised, there.worst < here.worst):
            return there, tried
        length /= 2
    return None, HALVINGS
