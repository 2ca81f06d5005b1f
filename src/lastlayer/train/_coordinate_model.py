"""The part of a penalty that is not smooth, and the minimum of a quadratic model with it, a coordinate at a time."""

from typing import NamedTuple

import numpy as np

from lastlayer.kernels import dispatched
from lastlayer.train._newton import scaled
from lastlayer.train._objective import Frame
from lastlayer.train._problem import Problem

SWEEPS = 20  # of coordinate descent, before the face is looked at
ROUNDS = 100
ROUNDING = 1e-15  # of the terms of a slope: what violations cannot be told from
WALLS = 50  # that may be met on a face


class Terms(NamedTuple):
    """What of the penalty is not smooth, for each parameter."""

    l1: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, problem: Problem, frame: Frame):
        """Of the standardised coefficients of one output."""
        penalty, width = problem.penalty, problem.features.shape[1]
        low = np.full(width, -np.inf) if penalty.low is None else penalty.low * frame.scale
        high = np.full(width, np.inf) if penalty.high is None else penalty.high * frame.scale
        return cls(penalty.l1 / frame.scale, low, high)

    def and_free(self, more):
        """With so many parameters after them that nothing holds."""
        ends = (0.0, -np.inf, np.inf)
        return Terms(*(np.append(part, np.full(more, end)) for part, end in zip(self, ends, strict=True)))

    def times(self, outputs):
        """The same for each of several outputs."""
        return Terms(*(np.tile(part, outputs) for part in self))

    def some(self, index):
        return Terms(*(part[index] for part in self))

    def spread(self, index):
        """Those of the marked entries of a table ``(outputs, d)``."""
        return Terms(*(np.broadcast_to(part, index.shape)[index] for part in self))

    def value(self, at):
        return float((np.abs(at) @ self.l1).sum())

    def inside(self, at):
        """The nearest point within the bounds."""
        return np.minimum(np.maximum(at, self.low), self.high)

    def violation(self, at, slopes):
        """How much F falls by a step of 1 in each parameter, to first order; ``slopes`` are of its smooth part."""
        up = slopes + np.where(at >= 0, self.l1, -self.l1)
        down = slopes + np.where(at > 0, self.l1, -self.l1)
        return np.maximum(np.maximum(np.where(at < self.high, -up, 0.0), np.where(at > self.low, down, 0.0)), 0.0)

    def lowest(self, at, slopes, curvature):
        """The minimum of each parameter alone, the others standing still."""
        bent = curvature > 0
        over = np.divide(1.0, curvature, out=np.zeros_like(slopes), where=bent)
        aim = at - slopes * over
        aim = np.sign(aim) * np.maximum(np.abs(aim) - self.l1 * over, 0.0)
        return self.inside(np.where(bent, aim, np.where(self.l1 > 0, 0.0, at)))

    def free(self, at):
        """The parameters that F is smooth in, where they are."""
        return ((at != 0) | (self.l1 == 0)) & (at > self.low) & (at < self.high)


class Limits(NamedTuple):
    """Of `column_descent`: whether there is an intercept, and when to end."""

    intercept: bool
    rounds: int
    sweeps: int
    tol: float


@dispatched
def model_descent(hessian, slopes, at, l1, low, high, sweeps, tol):
    """Move ``at``, and its ``slopes``, towards the minimum of a quadratic with the terms, one coordinate after another.

    Sweeps end where no violation is above ``tol``. The largest that the last sweep met is returned, 0 if it met none.
    """
    terms, worst = Terms(l1, low, high), 0.0
    for _ in range(sweeps):
        worst = 0.0
        for j in range(len(at)):
            one, here = terms.some(slice(j, j + 1)), at[j : j + 1]
            violation = one.violation(here, slopes[j : j + 1])[0]
            if not violation > tol:
                continue
            worst = max(worst, violation)
            aim = one.lowest(here, slopes[j : j + 1], hessian[j, j : j + 1])[0]
            slopes += (aim - at[j]) * hessian[j]
            at[j] = aim
        if worst == 0:
            break
    return worst


@dispatched
def column_descent(values, rows, starts, active, ends, slope, share, weight, damping, at, shift, penalty, limits):
    """Move ``at`` and ``shift`` towards the minimum of a model of rows of several outputs, with columns as they are.

    A step that moves the logits of a row by t changes its slopes by ``w (p (t - p't) + damping t)``, p being its
    ``share``; what all steps move them by, ``(outputs, rows)``, is returned. Outputs take turns: in each of
    ``limits.rounds`` rounds so many sweeps of ``active[ends[k] : ends[k + 1]]``, until no violation is above
    ``limits.tol``. In a turn the intercept is always at its minimum: a step of a coefficient takes its share along, so
    that columns act as if they were centred. Rows of ``penalty`` are l2, l1, low and high.
    """
    moved, mean = np.zeros(slope.shape), np.zeros(slope.shape[1])
    for _ in range(limits.rounds):
        worst = 0.0
        for k in range(len(slope)):
            pull = weight * share[k]
            bend = pull * (1 - share[k]) + damping * weight
            residual = slope[k] + pull * (moved[k] - mean) + damping * weight * moved[k]
            columns = values, rows, starts, active[ends[k] : ends[k + 1]]
            along, step, violation = _turn(columns, residual, bend, at[k], penalty, limits)
            worst = max(worst, violation)
            shift[k] += step
            moved[k] += along
            mean += share[k] * along
        if worst == 0:
            break
    return moved


def _turn(columns, residual, bend, at, penalty, limits):
    """What one output's columns and its intercept add to each row, the intercept's step, and the first violation."""
    values, rows, starts, active = columns
    ridge, terms, first = penalty[0], Terms(*penalty[1:]), 0.0
    total = bend.sum() if limits.intercept else 0.0
    shift = -residual.sum() / total if total > 0 else 0.0
    along = np.zeros(len(residual))
    for sweep in range(limits.sweeps):
        worst = 0.0
        for j in active:
            part, one = slice(starts[j], starts[j + 1]), terms.some(slice(j, j + 1))
            column, mine, here = values[part].astype(np.float64), rows[part], at[j : j + 1]
            mean = column @ bend[mine]
            slopes = column @ residual[mine] + shift * mean + ridge[j] * here
            violation = one.violation(here, slopes)[0]
            if not violation > limits.tol:
                continue
            worst = max(worst, violation)
            part_of = mean / total if total > 0 else 0.0
            curvature = np.square(column) @ bend[mine] - mean * part_of + ridge[j : j + 1]
            aim = one.lowest(here, slopes, curvature)[0]
            step, at[j] = aim - at[j], aim
            residual[mine] += bend[mine] * (step * column)
            along[mine] += step * column
            shift -= step * part_of
        first = worst if sweep == 0 else first
        if worst == 0:
            break
    return along + shift, shift, first


def lowest(hessian, slopes, at, terms: Terms, tol) -> np.ndarray:
    """The minimum of the model around ``at``, up to a violation of ``tol``.

    Where sweeps are slow, for features that are alike, they have at least found which parameters are 0 or at a bound;
    the others go to their minimum together.
    """
    at, slopes = at.copy(), slopes.copy()
    tol = max(tol, ROUNDING * float((np.abs(hessian) @ np.abs(at) + np.abs(slopes)).max(initial=0.0)))
    for _ in range(ROUNDS):
        if model_descent(hessian, slopes, at, *terms, SWEEPS, tol) == 0:
            break
        _to_the_face(hessian, slopes, at, terms)
    return at


def _to_the_face(hessian, slopes, at, terms):
    """Move the free parameters to their minimum by Newton's steps; those that get to 0 or a bound stay there."""
    for _ in range(WALLS):
        free = np.flatnonzero(terms.free(at))
        own, slope = hessian[np.ix_(free, free)], slopes[free] + terms.l1[free] * np.sign(at[free])
        step = _newton_step(own, slope)
        if step is None or not step @ slope < 0:
            return
        some = terms.some(free)
        near, far = _stopped(at[free], step, some)
        # all that would cross a wall are put to it at once, if that is no worse than to stop at the first
        move, less = far - at[free], near - at[free]
        better = move @ slope + move @ own @ move / 2 <= less @ slope + less @ own @ less / 2
        move = move if better else less
        slopes += hessian[:, free] @ move
        at[free] = far if better else near
        if (far == near).all():
            return


def _newton_step(hessian, slope):
    """To where the slope is 0, or None where there is no such point: sweeps lead on from there."""
    from scipy.linalg import cho_factor, cho_solve

    matrix, root = scaled(hessian)
    try:
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    return -cho_solve(factor, slope / root, check_finite=False) / root


def _stopped(at, step, terms):
    """Where the first parameter meets a wall, which is 0 where its term is bent, or a bound; and where all have."""
    wall = np.where(step > 0, terms.high, terms.low)
    wall = np.where((terms.l1 > 0) & (at * step < 0) & (np.abs(at) < np.abs(wall - at)), 0.0, wall)
    room = np.divide(wall - at, step, out=np.full(len(at), np.inf), where=step != 0)
    length = min(float(room.min(initial=np.inf)), 1.0)
    if length == 1:
        return at + step, at + step
    return np.where(room <= length, wall, at + length * step), np.where(room <= 1, wall, at + step)
