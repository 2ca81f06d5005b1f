"""Value, gradient and Hessian of a `Problem`, summed over blocks of its rows.

Solvers see the features in a `Frame`, standardised while a block is read, so that the units of a column change nothing;
the objective is the same, its penalty being carried over. Parameters are, output by output, the coefficients and the
intercept. Classes of a multinomial have one too many: a constant added to all of them changes no probability, so they
are measured along `contrasts`, K - 1 directions that sum to 0, which is where the least penalty lies. Thresholds of an
ordinal follow its coefficients. Losses and slopes are made of the larger part and the rest, never of 1 - p.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from lastlayer.kernels import dispatched
from lastlayer.parallel import over_ranges
from lastlayer.train._problem import Problem
from lastlayer.transform.sigmoid import log1mexp, sigmoid, softplus

RANGE = 2**13  # rows of one range of the pool
BLOCK = 2**18  # entries of a table that is made of some rows: 2 MB
LOOKED_AT = 2**18  # entries that the frame is taken from, or 1,000 rows
RUN = 32  # rows that are taken together, where some are
CONSTANT = 1e-13  # of the largest: a deviation that is the rounding of equal numbers
FARTHEST = 500  # powers of two that a scale may be from 1: its square is a float still


class Frame(NamedTuple):
    """Standardised features: ``(x - centre) / scale``. Scales are powers of two: they round nothing."""

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, problem: Problem):
        """From the mean and deviation of some rows: any other frame has the same minimum."""
        width = problem.features.shape[1]
        part = dense(some(problem.features, max(LOOKED_AT // max(width, 1), 1000)))
        largest = np.abs(part).max(0)
        largest[largest == 0] = 1.0
        part /= largest
        mean = part.mean(0) if problem.intercept else np.zeros(width)
        deviation = np.sqrt(np.square(part - mean).mean(0))
        power = np.round(np.log2(np.where(deviation > CONSTANT, deviation, 1.0)) + np.log2(largest))
        return cls(mean * largest, 2.0 ** np.clip(power, -FARTHEST, FARTHEST))

    def inward(self, coef, intercept, sign=1.0):
        """Coefficients and intercepts of standardised features; ``sign`` is -1 for thresholds."""
        return coef * self.scale, intercept + sign * (coef @ self.centre)

    def outward(self, coef, intercept, sign=1.0):
        """Coefficients and intercepts of the features as they came."""
        coef = coef / self.scale
        return coef, intercept - sign * (coef @ self.centre)

    def jacobian(self, intercepts, sign=1.0):
        """What `outward` does to the parameters of one output, as a matrix."""
        width = len(self.scale)
        matrix = np.eye(width + intercepts)
        matrix[:width, :width] = np.diag(1 / self.scale)
        matrix[width:, :width] = -sign * self.centre / self.scale
        return matrix


class Sums(NamedTuple):
    """Of rows at some parameters, without the penalty; ``largest`` is the largest squared norm of a row."""

    loss: float
    gradient: np.ndarray
    hessian: np.ndarray
    largest: float

    def plus(self, other):
        return Sums(
            self.loss + other.loss,
            self.gradient + other.gradient,
            self.hessian + other.hessian,
            max(self.largest, other.largest),
        )


def some(array, most):
    """About ``most`` of the rows, in runs that are spread evenly; all of them if there are no more."""
    rows = array.shape[0]
    every = -(-rows // most)
    if every == 1:
        return array
    size = RUN * every
    if hasattr(array, "toarray"):
        index = np.arange(rows // size * size)
        return array[index[index // RUN % every == 0]]
    part = array[: rows // size * size].reshape(-1, size, *array.shape[1:])[:, :RUN]
    return np.array(part, order="K").reshape(-1, *array.shape[1:])


def dense(part):
    """Some rows as a table of our own in float64."""
    return np.array(part.toarray() if hasattr(part, "toarray") else part, np.float64)


def design(features, frame: Frame, intercept) -> np.ndarray:
    """Standardised rows, and a column of ones for the intercept."""
    part = features.toarray() if hasattr(features, "toarray") else features
    table = np.ones((part.shape[0], part.shape[1] + intercept))
    inner = table[:, : part.shape[1]]
    np.subtract(part, frame.centre, out=inner)
    inner /= frame.scale
    return table


@functools.cache
def contrasts(outputs) -> np.ndarray:
    """Orthonormal directions of the classes that sum to 0, ``(outputs, outputs - 1)``."""
    from scipy.linalg import helmert

    return helmert(outputs).T


def binary_rows(z, target, weight):
    """Sum of losses of logits ``z``; slope and curvature of each. ``target`` is the share of 1.

    loss = log1p(e) + [z > 0 ? (1 - y) z : -y z],   e = exp(-|z|),   p and 1 - p being 1 / (1 + e) and e / (1 + e)
    """
    e = np.exp(-np.abs(z))
    over, positive, rest = 1 / (1 + e), z > 0, 1 - target
    losses = weight * (np.log1p(e) + np.where(positive, rest, -target) * z)
    slope = weight * over * np.where(positive, rest - target * e, rest * e - target)
    return losses.sum(), slope, weight * e * over * over


def multinomial_rows(z, target, weight):
    """Sum of losses; slopes of the logits ``(rows, K)`` and their probabilities. ``target`` is an index."""
    rows, first = np.arange(len(z)), z.argmax(1)
    top = z[rows, first]
    p = np.exp(z - top[:, None])
    p[rows, first] = 0.0
    rest = p.sum(1)
    losses = weight * ((top - z[rows, target]) + np.log1p(rest))
    p[rows, first] = 1.0
    p /= (1 + rest)[:, None]
    slope = p.copy()
    slope[rows, target] = 0.0
    slope[rows, target] = -slope.sum(1)
    return losses.sum(), slope * weight[:, None], p


class Steps(NamedTuple):
    """Of rows of an ordinal: slope of the score; curvature towards the thresholds above, below, and between them."""

    slope: np.ndarray
    above: np.ndarray
    below: np.ndarray
    between: np.ndarray


def ordinal_rows(score, target, weight, thresholds):
    """Sum of losses, `Steps`, and the gradient of the thresholds.

    loss = softplus(-b) + softplus(a) - log(1 - exp(a - b)),   b = t_y - s,   a = t_{y-1} - s   (`loss.cumulative_link`)
    """
    last = len(thresholds)
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    a, b = ends[target] - score, ends[target + 1] - score
    width = ends[target + 1] - ends[target]
    losses = weight * (softplus(-b) + softplus(a) - log1mexp(-width))
    after, before = weight * sigmoid(-b), weight * sigmoid(a)
    inner = weight / np.expm1(width)
    up = np.bincount(target, -after - inner, last + 1)[:last]
    down = np.bincount(target, before + inner, last + 1)[1:]
    steps = Steps(after - before, after * sigmoid(b), before * sigmoid(-a), inner / -np.expm1(-width))
    return losses.sum(), steps, up + down


@dispatched
def logistic_newton(features, target, weight, offset, parameters, centre, scale):
    """Loss, gradient, Hessian and largest squared norm of binary rows, of features ``(x - centre) / scale``.

    A parameter more than there are features is the intercept. ``scale`` is of powers of two.
    """
    frame, intercept = Frame(centre, scale), len(parameters) > features.shape[1]

    def sums(a, b):
        table = design(features[a:b], frame, intercept)
        largest = np.square(table).sum(1).max()
        loss, slope, bend = binary_rows(table @ parameters + offset[a:b], target[a:b], weight[a:b])
        gradient = slope @ table
        table *= np.sqrt(bend)[:, None]
        return Sums(loss, gradient, squared(table), largest)

    step = max(BLOCK // len(parameters), 1)
    return tuple(functools.reduce(Sums.plus, (sums(a, a + step) for a in range(0, len(target), step))))


def squared(table):
    """``table' table``, half of it computed."""
    from scipy.linalg import get_blas_funcs

    (syrk,) = get_blas_funcs(("syrk",), (table,))
    lower = syrk(1.0, table.T, lower=1)
    return np.tril(lower) + np.tril(lower, -1).T


def shares(problem: Problem):
    """Coefficients of 0, and the intercepts that give each class its share."""
    weight, target = problem.weight, problem.target
    if problem.family == "multinomial":
        intercept = np.log(np.bincount(target, weight, problem.outputs))
        intercept -= intercept.mean()
    elif problem.family == "ordinal":
        counts = np.cumsum(np.bincount(target, weight))
        intercept = np.log(counts[:-1]) - np.log(counts[-1] - counts[:-1])
    else:
        share = np.atleast_1d(weight @ target) / weight.sum()
        intercept = np.log(share) - np.log1p(-share)
    if not problem.intercept and problem.family != "ordinal":
        intercept = np.zeros_like(intercept)
    return np.zeros((problem.outputs, problem.features.shape[1])), intercept


class Objective:
    """F of a binary, multinomial or ordinal problem but for what of its penalty is not smooth.

    It is a function of standardised parameters, of several classes along ``axes``, by default `contrasts`.
    """

    def __init__(self, problem: Problem, frame: Frame, axes: np.ndarray | None = None):
        self.problem, self.frame = problem, frame
        self.width = problem.features.shape[1]
        self.ridge = problem.penalty.l2 / np.square(frame.scale)
        self.weight = float(problem.weight.sum())
        if axes is None:
            axes = contrasts(problem.outputs) if problem.family == "multinomial" else np.ones((1, 1))
        self.axes = axes
        self.sign = -1.0 if problem.family == "ordinal" else 1.0
        self._sums: Any = getattr(Objective, f"_{problem.family}")  # not bound: in a circle the rows would outlive it

    def inward(self, coef, intercept) -> np.ndarray:
        """The parameters of coefficients and intercepts."""
        coef, intercept = self.frame.inward(coef, intercept, self.sign)
        if self.problem.family == "ordinal":
            return np.concatenate([coef[0], intercept])
        return (self.axes.T @ self._joined(coef, intercept)).ravel()

    def outward(self, parameters):
        """The coefficients ``(outputs, d)`` and intercepts of parameters."""
        if self.problem.family == "ordinal":
            coef, intercept = parameters[None, : self.width], parameters[self.width :]
        else:
            table = self.axes @ parameters.reshape(self.axes.shape[1], -1)
            coef = table[:, : self.width]
            intercept = table[:, self.width] if self.problem.intercept else np.zeros(len(table))
        return self.frame.outward(coef, intercept, self.sign)

    def inverse_outward(self, inverse) -> np.ndarray:
        """The inverse of a Hessian for the coefficients and intercepts as they came."""
        intercepts = len(inverse) // self.axes.shape[1] - self.width
        turn = np.kron(self.axes, self.frame.jacobian(intercepts, self.sign))
        return turn @ inverse @ turn.T

    def sums(self, parameters) -> Sums:
        """Over all the rows, without the penalty."""
        rows, size = self.problem.features.shape[0], RANGE
        if hasattr(self.problem.features, "toarray"):
            size = max(min(RANGE, 4 * BLOCK // max(self.width, 1)), 1)
        return functools.reduce(Sums.plus, over_ranges(functools.partial(self._range, parameters), rows, size))

    def penalised(self, parameters, sums: Sums) -> Sums:
        """With the penalty."""
        ridge = np.zeros(len(parameters))
        if self.problem.family == "ordinal":
            ridge[: self.width] = self.ridge
        else:
            ridge.reshape(self.axes.shape[1], -1)[:, : self.width] = self.ridge
        pull = ridge * parameters
        value = sums.loss + float(pull @ parameters) / 2
        return Sums(value, sums.gradient + pull, sums.hessian + np.diag(ridge), sums.largest)

    def _joined(self, coef, intercept):
        return np.column_stack([coef, intercept]) if self.problem.intercept else coef

    def _range(self, parameters, a, b):
        problem = self.problem
        offset = None if problem.offset is None else problem.offset[a:b]
        with np.errstate(all="ignore"):  # a step too far may overflow; `minimise` shortens it
            return self._sums(self, problem.features[a:b], problem.target[a:b], problem.weight[a:b], offset, parameters)

    def _binary(self, features, target, weight, offset, parameters):
        part = features.toarray() if hasattr(features, "toarray") else features
        offset = np.zeros(len(target)) if offset is None else offset
        return Sums._make(logistic_newton(part, target, weight, offset, parameters, *self.frame))

    def _multinomial(self, features, target, weight, offset, parameters):
        table = self.axes @ parameters.reshape(self.axes.shape[1], -1)
        classes, width = table.shape
        gradient, largest, loss = np.zeros((classes, width)), 0.0, 0.0
        same, apart = np.zeros((classes, width, width)), np.zeros((len(parameters), len(parameters)))
        step = max(BLOCK // (classes * width), 1)
        for a in range(0, len(target), step):
            rows = design(features[a : a + step], self.frame, self.problem.intercept)
            z = rows @ table.T if offset is None else rows @ table.T + offset[a : a + step]
            part, slope, p = multinomial_rows(z, target[a : a + step], weight[a : a + step])
            loss, largest = loss + part, max(largest, np.square(rows).sum(1).max())
            gradient += slope.T @ rows
            root = np.sqrt(weight[a : a + step])[:, None]
            rows *= root
            for k in range(classes):
                same[k] += (rows * p[:, k, None]).T @ rows
            apart += squared(((p @ self.axes)[:, :, None] * rows[:, None, :]).reshape(len(rows), -1))
        both = np.einsum("ka,kb,kij->aibj", self.axes, self.axes, same, optimize=True).reshape(apart.shape)
        return Sums(loss, (self.axes.T @ gradient).ravel(), both - apart, largest)

    def _ordinal(self, features, target, weight, offset, parameters):
        coef, thresholds = parameters[: self.width], parameters[self.width :]
        if not (np.diff(thresholds) > 0).all():
            return Sums(np.inf, np.full(len(parameters), np.nan), np.zeros((len(parameters),) * 2), 0.0)
        total = None
        step = max(BLOCK // (self.width + len(thresholds)), 1)
        for a in range(0, len(target), step):
            rows, y = design(features[a : a + step], self.frame, 0), target[a : a + step]
            score = rows @ coef if offset is None else rows @ coef + offset[a : a + step]
            loss, steps, bend = ordinal_rows(score, y, weight[a : a + step], thresholds)
            part = Sums(loss, np.concatenate([steps.slope @ rows, bend]), _ordinal_hessian(rows, y, steps, bend), 0.0)
            total = part if total is None else total.plus(part)
        return total


def _ordinal_hessian(rows, target, steps: Steps, thresholds):
    """Of the coefficients and as many thresholds: a score moves against both, which is each block's sign."""
    width, last = rows.shape[1], len(thresholds)
    hessian = np.zeros((width + last,) * 2)
    hessian[:width, :width] = (rows * (steps.above + steps.below)[:, None]).T @ rows
    near = np.zeros((len(rows), last + 2))  # a row's curvature beside its two thresholds, with one more at either end
    index = np.arange(len(rows))
    near[index, target + 1] = steps.above
    near[index, target] += steps.below
    cross = -(near[:, 1:-1].T @ rows)
    hessian[width:, :width], hessian[:width, width:] = cross, cross.T
    own = np.bincount(target, steps.above + steps.between, last + 1)[:last]
    own += np.bincount(target, steps.below + steps.between, last + 1)[1:]
    pairs = -np.bincount(target, steps.between, last + 1)[1:last]
    hessian[width:, width:] = np.diag(own) + np.diag(pairs, 1) + np.diag(pairs, -1)
    return hessian
