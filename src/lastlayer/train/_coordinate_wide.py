"""Proximal Newton for many features: a model of some coefficients of every output at a time.

A model takes in the coefficients that are not 0, those that would leave it, and those whose slope is near to; the
others wait until a pass over all of them, which every step begins with, finds them in need. It is the second-order
one of all the rows, classes together: a step that moves a row's logits by t changes its slopes by (diag p - p p') t,
which takes no product of columns with each other. Where p is nearly 0 it bends too little far from the minimum, steps
overflow and the line search ends at nothing: as much of the identity is added to it as past steps have shown to need
(Levenberg 1944; Marquardt 1963). Sparse columns are swept as they are; of dense ones a Hessian is summed.
"""

from typing import NamedTuple

import numpy as np

from lastlayer.parallel import over_ranges
from lastlayer.train._coordinate_model import Terms
from lastlayer.train._duality import Dual, dual
from lastlayer.train._objective import binary_rows, multinomial_rows
from lastlayer.train._problem import Problem
from lastlayer.transform.sigmoid import sigmoid

NEAR = 0.8  # of l1: slopes from which a coefficient of 0 takes part
RANGE = 2**18  # logits of one range of rows
HALVINGS = 8
FALL = 1e-4  # the share of the fall promised by the model that a step must bring
RISE = 1e-12  # of the value: what rounding may add to it near the minimum
EASE = 0.1  # of the violation: how far the minimum of a model is sought
DEEP = 1e-6  # of the violation: for a step that is to show whether coefficients have an end
BENDS = 0.125  # a model begins with so much curvature: a first step of a logit is then at most 8
LEAST = 1e-6  # damping below it is none
GOOD, POOR = 0.75, 0.25  # a fall beside that of the model
LESS, MORE = 6.0, 4.0  # times
FIRST = 1e-2  # damping after a line search that found nothing without
STALLS = 5  # steps by which neither F nor the slopes have fallen
LATE = 10  # passes before which to look for coefficients that are 0 costs more than it saves
SOONER = 1e5  # times less violation than at first, or when coefficients were last looked for that are 0


def fallen(before, after, promised, flatter):
    """Whether F has fallen enough, or, where rounding hides it, the slopes have."""
    if not np.isfinite(after):
        return False
    enough = after <= before + FALL * promised and after < before
    return enough or (flatter and after <= before + RISE * abs(before))


def gained(before, after):
    """Whether a step from one point to another was worth it: F has fallen, or the slopes to a half."""
    return after[0] < before[0] - RISE * abs(before[0]) or after[1] < before[1] / 2


class Point(NamedTuple):
    """Coefficients of standardised features, and of all the rows what F has of them there."""

    at: np.ndarray  # (outputs, d)
    shift: np.ndarray  # of the intercepts, from where they were
    logits: np.ndarray  # (n, outputs)
    value: float
    slope: np.ndarray  # (n, outputs)
    share: np.ndarray  # (n, outputs): probabilities


class Slopes(NamedTuple):
    """Of the smooth part by the coefficients, what F falls by along each, and the largest of the mean loss."""

    gradient: np.ndarray
    violation: np.ndarray
    worst: float


class Solver:
    """Steps of a problem of one output, or of classes."""

    def __init__(self, problem: Problem, rows):
        self.problem, self.rows = problem, rows
        self.terms = Terms.of(problem, rows.frame)
        self.ridge = problem.penalty.l2 / np.square(rows.frame.scale)
        self.total = float(problem.weight.sum())

    def begun(self, coef, intercept) -> Point:
        """The point at standardised coefficients, or next to them within the bounds."""
        inside = self.terms.inside(coef)
        logits = self.rows.times(inside.T) + intercept
        if self.problem.offset is not None:
            logits += self.problem.offset.reshape(logits.shape)
        return self.point(inside, np.zeros(len(inside)), logits)

    def point(self, at, shift, logits) -> Point:
        problem, slope, share = self.problem, np.empty_like(logits), np.empty_like(logits)

        def work(a, b):
            given = problem.target[a:b], problem.weight[a:b]
            with np.errstate(all="ignore"):  # in each thread: a step too far may overflow
                if problem.family == "multinomial":
                    loss, slope[a:b], share[a:b] = multinomial_rows(logits[a:b], *given)
                else:
                    loss, slope[a:b, 0], _ = binary_rows(logits[a:b, 0], *given)
                    share[a:b, 0] = sigmoid(logits[a:b, 0])
            return float(loss)

        loss = sum(over_ranges(work, len(logits), max(RANGE // logits.shape[1], 1)))
        return Point(at, shift, logits, loss + self.penalty(at), slope, share)

    def penalty(self, at):
        return float((self.ridge * np.square(at)).sum()) / 2 + self.terms.value(at)

    def slopes(self, here: Point) -> Slopes:
        gradient = self.rows.turned(here.slope).T + self.ridge * here.at
        violation = self.terms.violation(here.at, gradient)
        last = np.abs(here.slope.sum(0)).max() if self.problem.intercept else 0.0
        return Slopes(gradient, violation, max(float(violation.max(initial=0.0)), last) / self.total)

    def dual(self, here: Point) -> Dual | None:
        return dual(self.problem, self.rows, here.at, here.logits, self.terms, self.ridge)

    def descend(self, here: Point, tol, most):
        """The last point, its slopes, and the passes."""
        slopes = self.slopes(here)
        first, looked, passes, damping, stalls = slopes.worst, slopes.worst, 1, self._begun(here), 0
        alive = np.ones(here.at.shape, bool)
        while slopes.worst > tol and passes < most and stalls < STALLS:
            if passes >= LATE and slopes.worst < looked / SOONER:
                looked = slopes.worst
                found = self.dual(here)
                if found is not None:
                    alive &= ~self.zero(found)
                    self.rows.keep(alive.any(0) | (here.at != 0).any(0))
            quadratic = 1.0 if damping > 0 else min(slopes.worst / first, 1.0)
            there, damping = self._ahead(here, slopes, alive, damping, EASE * max(slopes.worst * quadratic, tol))
            if there is None:
                break
            before = here.value, slopes.worst
            here, slopes = there, self.slopes(there)
            stalls = 0 if gained(before, (here.value, slopes.worst)) else stalls + 1
            passes += 1
        return here, slopes, passes

    def zero(self, found: Dual):
        """Coefficients that are 0 at the minimum: there the slopes theta lie in a ball around those of the dual point.

            |x_j theta*| <= |x_j theta| + |x_j| sqrt(2 L gap) < l1   (Ndiaye, Fercoq, Gramfort and Salmon 2017, eq. 8)

        where L is the largest curvature of a loss by a logit, 1/4, or of K classes (1 - 1/K) / 2.
        """
        outputs = self.problem.outputs
        largest = 0.25 if self.problem.family == "binary" else (1 - 1 / outputs) / 2
        reach = np.sqrt(2 * largest * found.gap) * self.rows.norms
        held = (self.terms.low <= 0) & (self.terms.high >= 0)
        return held & (np.abs(found.slopes) + reach < self.terms.l1)

    def _begun(self, here: Point):
        """The damping of the first model: without coefficients, how far the curvature is below `BENDS`.

        With coefficients none, unless a class has so little curvature for its slopes.
        """
        bend = self.problem.weight @ (here.share * (1 - here.share))
        if here.at.any():
            return BENDS if (BENDS * np.abs(here.slope).sum(0) > bend).any() else 0.0
        return max(BENDS - float(bend.min()) / self.total, 0.0)

    def farther(self, here: Point, tol) -> float:
        """What the step that would come next, without damping, moves the logits by at most."""
        slopes = self.slopes(here)
        active = (here.at != 0) | (slopes.violation > 0)
        with np.errstate(all="ignore"):
            model = self.rows.aim(self, here, slopes, active, 0.0, DEEP * min(slopes.worst, tol) * self.total)
            return float(np.abs(model.moved).max())

    def _ahead(self, here: Point, slopes: Slopes, alive, damping, ease):
        """The next point, or None where rounding hides every fall, and the damping for the one after."""
        near = (self.terms.l1 > 0) & (np.abs(slopes.gradient) > NEAR * self.terms.l1)
        active = (here.at != 0) | (alive & ((slopes.violation > 0) | near))
        while True:
            with np.errstate(all="ignore"):  # a step without end is none: more damping shortens it
                model = self.rows.aim(self, here, slopes, active, damping, ease * self.total)
                there, length, ratio = self._along(here, model)
            if there is not None:
                if length < 1 or ratio < POOR:
                    damping = max(MORE * damping, MORE * LEAST)
                elif ratio > GOOD:
                    damping = damping / LESS if damping > LEAST else 0.0
                return self._without_common(there), damping
            if damping > 1:  # more than any loss bends
                return None, damping
            damping = max(MORE**2 * damping, FIRST)

    def _along(self, here: Point, model):
        """The first point on the way to the minimum of a model where F has fallen enough, and how far it is.

        Then what F has fallen by, beside what the quadratic has.
        """
        step, moved = model.at - here.at, model.moved
        linear = float(np.vdot(here.slope, moved)) + float((self.ridge * here.at * step).sum())
        linear += self.terms.value(model.at) - self.terms.value(here.at)
        own = here.share * moved
        bend = float(self.problem.weight @ ((own * moved).sum(1) - np.square(own.sum(1))))
        bend += float((self.ridge * np.square(step)).sum())
        length = 1.0
        for _ in range(HALVINGS):
            at = model.at if length == 1 else here.at + length * step
            there = self.point(at, here.shift + length * model.shift, here.logits + length * moved)
            if fallen(here.value, there.value, length * linear, length == 1):
                said = length * linear + length**2 * bend / 2
                hidden = said >= -RISE * abs(here.value)
                return there, length, 1.0 if hidden else (there.value - here.value) / said
            length /= 2
        return None, 0.0, 0.0

    def _without_common(self, here: Point) -> Point:
        if self.problem.family != "multinomial":
            return here
        some = np.flatnonzero(here.at.any(0))
        common = _common(here.at[:, some], self.terms.some(some), self.ridge[some])
        if not common.any():
            return here
        at = here.at.copy()
        at[:, some] -= common
        return here._replace(at=at, value=here.value - self.penalty(here.at) + self.penalty(at))


def solve(problem: Problem, rows, start, tol, most):
    """Coefficients, intercepts, F, the violation and the passes."""
    solver = Solver(problem, rows)
    coef, intercept = rows.frame.inward(*start)
    here, slopes, passes = solver.descend(solver.begun(coef, intercept), tol, most)
    rows.keep(np.ones(coef.shape[1], bool))
    return *rows.frame.outward(here.at, intercept + here.shift), here.value, slopes.worst, passes


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
