"""Proximal Newton for many features: one output after the other, by some of the features at a time.

A model takes in the coefficients that are not 0, those that would leave it, and those whose slope is near to; the
others wait until a pass over all of them, which every step begins with, finds them in need. Sparse columns are swept
as they are; of dense ones a Hessian of at most `WORKING` is summed. Given the other classes, a class of a multinomial
is a binary problem whose offset is minus their log-sum, so that classes take turns.
"""

import functools
from typing import NamedTuple

import numpy as np

from lastlayer.parallel import over_ranges
from lastlayer.train._coordinate_model import Terms, column_descent, lowest
from lastlayer.train._objective import BLOCK, Frame, binary_rows, design, multinomial_rows, squared
from lastlayer.train._ordinal import sparse_frame
from lastlayer.train._problem import Problem

NEAR = 0.8  # of l1: slopes from which a coefficient of 0 takes part
WORKING = 1024  # dense features whose Hessian is summed at a time
SWEEPS = 1000
TURN = 2  # steps of a class before the next one's turn
HALVINGS = 40
FALL = 1e-4  # the share of the fall promised by the model that a step must bring
RISE = 1e-12  # of the value: what rounding may add to it near the minimum
EASE = 0.1  # of the violation: how far the minimum of a model is sought


def fallen(before, after, promised, flatter):
    """Whether F has fallen enough, or, where rounding hides it, the slopes have."""
    if not np.isfinite(after):
        return False
    enough = after <= before + FALL * promised and after < before
    return enough or (flatter and after <= before + RISE * abs(before))


def rows_of(problem: Problem):
    """The rows of a problem, in standardised features."""
    return Sparse(problem) if hasattr(problem.features, "tocsc") else Dense(problem)


class Dense:
    """Rows as they came, standardised while a block of them is read."""

    def __init__(self, problem: Problem):
        self.features, self.intercept = problem.features, problem.intercept
        self.frame = Frame.of(problem)

    def times(self, coef):
        """The features times ``(d,)`` or ``(d, outputs)``."""
        out = np.empty((len(self.features), *coef.shape[1:]))

        def work(a, b):
            out[a:b] = design(self.features[a:b], self.frame, False) @ coef

        for _ in over_ranges(work, len(out), self._size(self.features.shape[1])):
            pass
        return out

    def turned(self, slopes):
        """The transposed features times ``(n,)`` or ``(n, outputs)``."""

        def work(a, b):
            return design(self.features[a:b], self.frame, False).T @ slopes[a:b]

        return functools.reduce(np.add, over_ranges(work, len(slopes), self._size(self.features.shape[1])))

    def aim(self, at, gradient, rows, terms, ridge, active, tol):
        """The coefficients, and the step of the intercept, at the minimum of the model of the active features."""
        slope, bend = rows
        if len(active) > WORKING:
            key = terms.violation(at, gradient)[active]
            active = np.sort(active[np.argsort(-key, kind="stable")[:WORKING]])
        frame = Frame(self.frame.centre[active], self.frame.scale[active])

        def work(a, b):
            table = design(self.features[a:b][:, active], frame, self.intercept)
            table *= np.sqrt(bend[a:b])[:, None]
            return squared(table)

        hessian = functools.reduce(np.add, over_ranges(work, len(slope), self._size(len(active))))
        own = np.arange(len(active))
        hessian[own, own] += ridge[active]
        slopes, begun, part = gradient[active], at[active], terms.some(active)
        if self.intercept:
            slopes, begun, part = np.append(slopes, slope.sum()), np.append(begun, 0.0), part.and_free(1)
        found = lowest(hessian, slopes, begun, part, tol)
        out = at.copy()
        out[active] = found[: len(active)]
        return out, found[-1] if self.intercept else 0.0

    def _size(self, width):
        return max(4 * BLOCK // max(width, 1), 64)


class Sparse:
    """Rows by columns, a copy of the entries; scaled and not centred, so that zeros stay zeros."""

    def __init__(self, problem: Problem):
        self.frame = sparse_frame(problem.features)
        self.intercept = problem.intercept
        matrix = problem.features.tocsc()
        matrix.data = matrix.data / np.repeat(self.frame.scale, np.diff(matrix.indptr)).astype(matrix.dtype)
        self.matrix = matrix
        self.columns = matrix.data, *(v.astype(np.int32, copy=False) for v in (matrix.indices, matrix.indptr))

    def times(self, coef):
        return self.matrix @ coef

    def turned(self, slopes):
        return self.matrix.T @ slopes

    def aim(self, at, gradient, rows, terms, ridge, active, tol):
        """As of dense rows; ``gradient`` is what the columns give anew."""
        slope, bend = rows
        values, index, starts = self.columns
        some, out, (l1, low, high) = active.astype(np.int32), at.copy(), terms
        shift = column_descent(
            values, index, starts, some, slope, bend, out, ridge, l1, low, high, self.intercept, SWEEPS, tol
        )
        return out, shift


class Output(NamedTuple):
    """One output: its coefficients, its logits, and F with the losses, slopes and curvatures of the rows there."""

    at: np.ndarray
    shift: float  # of the intercept, from where it was
    logits: np.ndarray
    value: float
    slope: np.ndarray
    bend: np.ndarray


class Solver:
    """Steps of one output of a problem."""

    def __init__(self, problem: Problem, rows):
        self.rows, self.weight, self.intercept = rows, problem.weight, problem.intercept
        self.terms = Terms.of(problem, rows.frame)
        self.ridge = problem.penalty.l2 / np.square(rows.frame.scale)
        self.total = float(problem.weight.sum())

    def output(self, at, shift, logits, target) -> Output:
        with np.errstate(all="ignore"):  # a step too far may overflow; the line search shortens it
            loss, slope, bend = binary_rows(logits, target, self.weight)
        value = float(loss) + float(self.ridge @ np.square(at)) / 2 + self.terms.value(at)
        return Output(at, shift, logits, value, slope, bend)

    def slopes(self, here: Output):
        """The gradient of the smooth part by the coefficients, and the largest violation of the mean loss."""
        gradient = self.rows.turned(here.slope) + self.ridge * here.at
        violation = self.terms.violation(here.at, gradient)
        last = abs(float(here.slope.sum())) if self.intercept else 0.0
        return gradient, violation, max(float(violation.max(initial=0.0)), last) / self.total

    def descend(self, here: Output, target, tol, most):
        """The last point, the violations first and last seen, and the passes."""
        gradient, violation, worst = self.slopes(here)
        first, passes = worst, 1
        while worst > tol and passes < most:
            there = self._ahead(here, target, gradient, violation, EASE * max(worst * min(worst / first, 1.0), tol))
            if there is None:
                break
            here = there
            gradient, violation, worst = self.slopes(here)
            passes += 1
        return here, first, worst, passes

    def _ahead(self, here, target, gradient, violation, ease):
        near = (self.terms.l1 > 0) & (np.abs(gradient) > NEAR * self.terms.l1)
        active = np.flatnonzero((here.at != 0) | (violation > 0) | near)
        aim, shift = self.rows.aim(
            here.at, gradient, (here.slope, here.bend), self.terms, self.ridge, active, ease * self.total
        )
        step = aim - here.at
        along = self.rows.times(step) + shift
        promised = float(gradient @ step) + float(here.slope.sum()) * shift
        promised += self.terms.value(aim) - self.terms.value(here.at)
        length = 1.0
        for _ in range(HALVINGS):
            at = aim if length == 1 else here.at + length * step
            there = self.output(at, here.shift + length * shift, here.logits + length * along, target)
            if fallen(here.value, there.value, length * promised, length == 1):
                return there
            length /= 2
        return None


def solve(problem: Problem, rows, start, tol, most):
    """Coefficients, intercepts, F, the violation and the passes."""
    solver = Solver(problem, rows)
    coef, intercept = rows.frame.inward(*start)
    inside = solver.terms.inside(coef)
    logits = rows.times(inside.T) + intercept
    if problem.offset is not None:
        logits += problem.offset.reshape(logits.shape)
    run = _classes if problem.family == "multinomial" else _alone
    coef, shift, value, worst, passes = run(problem, solver, inside, logits, tol, most)
    return *rows.frame.outward(coef, intercept + shift), value, worst, passes


def _alone(problem, solver, coef, logits, tol, most):
    begun = solver.output(coef[0], 0.0, logits[:, 0], problem.target)
    here, _, worst, passes = solver.descend(begun, problem.target, tol, most)
    return here.at[None], np.array([here.shift]), here.value, worst, passes


def _classes(problem, solver, coef, logits, tol, most):
    """Turns of the classes until none of them, in a whole round, needs a step."""
    coef, shift, passes, worst = coef.copy(), np.zeros(problem.outputs), 0, np.inf
    while worst > tol and passes < most:
        worst = 0.0
        for k in range(problem.outputs):
            base = _others(logits, k)
            target = (problem.target == k).astype(np.float64)
            begun = solver.output(coef[k], shift[k], logits[:, k] - base, target)
            here, first, _, _ = solver.descend(begun, target, tol, 1 + TURN)
            worst = max(worst, first)
            coef[k], shift[k], logits[:, k] = here.at, here.shift, here.logits + base
        coef -= _common(coef, solver.terms, solver.ridge)
        passes += 1
    loss = multinomial_rows(logits, problem.target, problem.weight)[0]
    value = float(loss) + sum(float(solver.ridge @ np.square(at)) / 2 + solver.terms.value(at) for at in coef)
    return coef, shift, value, worst, passes


def _common(coef, terms, ridge):
    """The constant of each feature without which its classes cost least: it changes no probability.

    The slope of ``sum_k l2 (B_k - t)^2 / 2 + l1 |B_k - t|`` rises with t; it is looked at on both sides of each B_k.
    Where t = 0 is as good as any it stays, and zeros with it.
    """
    classes, ordered = len(coef), np.sort(coef, axis=0)
    sums, index = coef.sum(0), np.arange(classes)[:, None]
    level = (coef > 0).sum(0) - (coef < 0).sum(0)
    slack = terms.l1 * (coef == 0).sum(0) + RISE * ridge * np.abs(coef).sum(0)
    stays = np.abs(ridge * sums + terms.l1 * level) <= slack
    after = ridge * (classes * ordered - sums) + terms.l1 * (2 * index + 2 - classes)
    first = (after >= 0).argmax(0)
    at, before = ordered[first, np.arange(len(sums))], terms.l1 * (2 * first - classes)
    between = np.divide(sums * ridge - before, classes * ridge, out=np.zeros_like(sums), where=ridge > 0)
    t = np.where(ridge * (classes * at - sums) + before > 0, between, at)
    return np.clip(np.where(stays, 0.0, t), ordered[-1] - terms.high, ordered[0] - terms.low)


def _others(logits, k):
    """The log-sum of the other classes."""
    rest = np.delete(logits, k, axis=1)
    top = rest.max(1)
    return top + np.log(np.exp(rest - top[:, None]).sum(1))
