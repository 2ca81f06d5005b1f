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
from lastlayer.train._coordinate_rows import rows_of
from lastlayer.train._newton import label_by_label
from lastlayer.train._objective import Objective, Sums, shares
from lastlayer.train._problem import Certificate, Fit, Penalty, Problem
from lastlayer.train.separation import open_to_infinity, searchable, separated

HELD = 1000  # parameters: a Hessian of so many is summed over the rows
HALVINGS = 40
FARTHER, FADED = 0.5, 1e-5  # a logit, and slopes of the mean loss, by which a minimum at infinity is told
FARTHEST = 1e100  # a bound: with it products may overflow
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
    _refuse_far(problem.penalty)
    start = shares(problem) if start is None else start
    width, last = problem.features.shape[1], start[1].size
    few = problem.outputs * width + last <= HELD
    if problem.family == "ordinal" and not few:
        raise ValueError(
            f"LinearClassifier: ordinal classes with an l1 penalty or bounds take at most {HELD - last} features; "
            f"these are {width}. Leave features out, or take l1_ratio=0 without bounds."
        )
    rows = rows_of(problem)
    with single_products():
        coef, intercept, value, worst, passes = (_held if few else _coordinate_wide.solve)(
            problem, rows, start, tol, most
        )
        if problem.family == "multinomial" and problem.intercept:
            intercept = intercept - intercept.mean()
        above, farther = _proofs(problem, rows, coef, intercept, tol)
    certificate = Certificate(
        solver="coordinate",
        passes=passes,
        objective=value,
        gradient=worst,
        gap=above,
        converged=bool(np.isfinite(value)) and (worst <= tol or (above is not None and above <= tol * abs(value))),
        escapes=_escapes(problem, farther, worst),
        seconds=time.perf_counter() - began,
    )
    return Fit(coef, intercept, certificate)


def _refuse_far(penalty: Penalty):
    low, high = (np.zeros(len(penalty.l1)) if end is None else end for end in (penalty.low, penalty.high))
    far = np.flatnonzero((low > FARTHEST) | (high < -FARTHEST))
    if len(far):
        j = far[0]
        raise ValueError(
            f"LinearClassifier: bounds leave room for a coefficient that logits can be computed with; feature {j} has "
            f"{f'low={low[j]:g}' if low[j] > 0 else f'high={high[j]:g}'}. Give -inf for no lower bound, and inf for no "
            "upper."
        )


def _escapes(problem, farther, worst):
    """Whether the minimum is at infinity: slopes have faded there, but the next step still moves logits.

    Programs that look for columns which separate have the last word, where they take no longer than the fit.
    """
    if not farther > FARTHER:
        return False
    if not searchable(problem):
        return worst <= FADED
    count = int(problem.target.max()) + 1  # of the two of "binary" too
    return bool(separated(problem, range(problem.features.shape[1]), range(count)))


def _proofs(problem, rows, coef, intercept, tol):
    """The gap, and what the step that would come next moves the logits by at most."""
    if problem.family == "ordinal":
        return None, _farther(problem, rows, (coef, intercept), tol)
    solver = _coordinate_wide.Solver(problem, rows)
    here = solver.begun(*rows.frame.inward(coef, intercept))
    found = solver.dual(here)
    return None if found is None else found.gap, solver.farther(here, tol) if open_to_infinity(problem) else 0.0


def _farther(problem, rows, end, tol):
    """The second of `_proofs` for one score and its thresholds."""
    objective, terms, here = _begun(problem, rows, end)
    if not open_to_infinity(problem):
        return 0.0
    ease = _coordinate_wide.DEEP * min(here.worst, tol) * objective.weight
    step = lowest(here.sums.hessian, here.sums.gradient, here.at, terms, ease) - here.at
    width = problem.features.shape[1]
    return float(np.abs(rows.times(step[:width, None])).max() + np.abs(step[width:]).max())


def _begun(problem, rows, start):
    """F and its terms, of all parameters, and the point of a start."""
    objective = Objective(problem, rows.frame, np.eye(problem.outputs))
    begun = objective.inward(*start)
    own = len(begun) // problem.outputs - problem.features.shape[1]
    terms = Terms.of(problem, rows.frame).and_free(own).times(problem.outputs)
    return objective, terms, _point(objective, terms, terms.inside(begun))


def _held(problem, rows, start, tol, most):
    """What `_coordinate_wide.solve` gives, by the Hessian of all parameters."""
    (objective, terms, here), passes, stalls = _begun(problem, rows, start), 1, 0
    while here.worst > tol and passes < most and stalls < _coordinate_wide.STALLS:
        ease = max(EASE * here.worst * min(here.worst, 1.0), EASE * tol) * objective.weight
        aim = lowest(_anchored(problem, here.sums.hessian), here.sums.gradient, here.at, terms, ease)
        there, tried = _ahead(objective, terms, here, aim)
        passes += tried
        if there is None:  # rounding hides every fall: nothing is left to gain
            break
        better = _coordinate_wide.gained((here.value, here.worst), (there.value, there.worst))
        here, stalls = there, 0 if better else stalls + 1
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
