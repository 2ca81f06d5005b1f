"""All folds and penalties of a smooth `Problem` at once, as the columns of one product.

A fit takes a column for each output: folds differ by the weights of their rows, which are 0 where a row is held out,
and penalties by what is added afterwards, so that one pass over the features serves them all. A product with 500
columns takes little more than one with 50, since a block of features is read once, near the processor. Each fit goes
its own way, by L-BFGS in the whitened variables of `_whitened`, with a factor for each penalty; those that have arrived
leave the product.

Logits stand in a tile ``(fits, outputs, rows)``: what is done to classes is then done to whole rows of numbers.
"""

from typing import Any, NamedTuple

import numpy as np

from lastlayer.kernels import dispatched
from lastlayer.parallel import over_ranges, single_products
from lastlayer.train._problem import Problem
from lastlayer.train._whitened import (
    BEND,
    FALL,
    FLOOR,
    MOVED,
    ROUNDING,
    SMALL,
    TRIES,
    UNLIKE,
    Curvature,
    moments,
    prior,
)

TILE = 2**16  # logits of one range: few of them, so that what is made of them stays near
LEAST, MOST = 64, 2**13  # rows of one range
MEMORY = 20  # pairs of steps
ROOM = 2**26  # entries of all the pairs of fits that are worked on together: 512 MB


class Many(NamedTuple):
    """Minima of all fits, ``(folds, penalties, ...)``, in float64, and how they ended."""

    coef: np.ndarray  # (folds, penalties, outputs, features)
    intercept: np.ndarray  # (folds, penalties, outputs)
    gradient: np.ndarray  # the largest slope of the mean loss, by standardised features
    passes: np.ndarray
    converged: np.ndarray


class Points(NamedTuple):
    """F of some fits at their parameters, of which the first axis is the fit."""

    at: np.ndarray  # (fits, outputs, features + 1)
    value: np.ndarray
    gradient: np.ndarray
    bend: np.ndarray  # (fits, outputs): the sum of w p (1 - p)

    def only(self, index):
        return Points(*(array[index] for array in self))

    def put(self, index, others):
        for array, other in zip(self, others, strict=True):
            array[index] = other


def solve(problem: Problem, weights, l2, tol=1e-6, most=1000) -> Many:
    """The minimum for each of ``weights``, ``(folds, n)``, and each penalty ``l2``, ``(penalties, features)``.

    The weights and the penalty of ``problem`` are those that its moments are taken with, and no more.
    """
    folds, penalties = np.divmod(np.arange(len(weights) * len(l2)), len(l2))
    function = Function(problem, np.asarray(weights), np.asarray(l2, np.float64))
    size = problem.outputs * (problem.features.shape[1] + 1)
    together = max(ROOM // (2 * MEMORY * size), 1)
    with single_products():
        parts = [
            _descend(function, folds[a : a + together], penalties[a : a + together], tol, most)
            for a in range(0, len(folds), together)
        ]
    tables, gradient, passes, converged = (np.concatenate(part) for part in zip(*parts, strict=True))
    coef, intercept = function.outward(tables)
    shape = len(weights), len(l2)
    found = (array.reshape(*shape, *array.shape[1:]) for array in (coef, intercept, gradient, passes, converged))
    return Many(*found)


class Function:
    """F of any fold and penalty, and what is known of its curvature."""

    def __init__(self, problem: Problem, weights, l2):
        features: Any = problem.features
        self.problem, self.features, self.l2 = problem, features, l2
        self.dtype = np.dtype(features.dtype)
        self.moments = moments(problem)
        self.deviation = np.where(self.moments.deviation > 0, self.moments.deviation, 1.0)
        self.weights, self.totals = np.ascontiguousarray(weights, self.dtype), weights.sum(1, dtype=np.float64)
        self.sparse = hasattr(features, "toarray")
        self.rows, self.width = features.shape
        target = problem.target.reshape(self.rows, -1).T
        if problem.family != "multinomial":
            target = np.ascontiguousarray(1 - 2 * target, self.dtype)
        self.target = target
        self.slopes = class_slopes if problem.family == "multinomial" else fit_slopes
        self._curvatures: dict[int, Curvature] = {}

    def start(self, fits):
        """No slope, and the logits of the shares of the outputs."""
        tables = np.zeros((fits, self.problem.outputs, self.width + 1), self.dtype)
        if self.problem.intercept:
            tables[:, :, -1] = prior(self.problem)
        return tables

    def outward(self, tables):
        """Coefficients and intercepts in float64; those of classes sum to 0, where the penalty is least."""
        if self.problem.family == "multinomial":
            tables = tables - tables.mean(1, keepdims=True)
        coef = tables[:, :, :-1]
        intercept = tables[:, :, -1] - coef @ self.moments.centre
        return np.ascontiguousarray(coef), intercept if self.problem.intercept else np.zeros_like(intercept)

    def __call__(self, tables, folds, penalties) -> Points:
        """F of the fits of these folds and penalties."""
        fits, outputs, width = tables.shape
        flat = tables.reshape(-1, width)
        size = min(max(TILE // len(flat), LEAST), MOST)

        def work(a, b):
            block = self._block(a, b)
            tile = self._logits(flat, block).reshape(fits, outputs, -1)
            if self.problem.offset is not None:
                tile += self.problem.offset[a:b].reshape(b - a, outputs).T.astype(self.dtype)
            loss, bend = self.slopes(tile, self.target, self.weights, folds, a)
            return loss, bend, self._gradient(tile.reshape(fits * outputs, -1), block)

        value, bend, gradient = 0.0, 0.0, np.zeros(flat.shape)
        with np.errstate(all="ignore"):  # a step too far may overflow; it is shortened
            for part in over_ranges(work, self.rows, size):
                value, bend = value + part[0], bend + part[1]
                gradient += part[2]
        gradient = gradient.reshape(tables.shape)
        if not self.problem.intercept:
            gradient[:, :, -1] = 0.0
        pull = tables[:, :, :-1] * self.l2[penalties, None, :]
        gradient[:, :, :-1] += pull
        value = value + (pull * tables[:, :, :-1]).sum((1, 2)) / 2
        return Points(tables, value, gradient, np.asarray(bend))

    def step(self, gradient, bend, penalties):
        """The inverse of the whitening curvature of each fit, times its gradient."""
        bend = np.maximum(bend, np.maximum(bend.mean(1, keepdims=True) / UNLIKE, np.finfo(self.dtype).tiny))
        out = np.empty_like(gradient)
        for penalty in np.unique(penalties):
            mine = np.flatnonzero(penalties == penalty)
            each = bend[mine].ravel()
            mean = float(np.exp(np.log(each).mean()))
            known = self._curvatures.get(penalty)
            if known is None or max(known.mean / mean, mean / known.mean) > MOVED:
                known = self._curvatures[penalty] = Curvature(self.moments, self.l2[penalty], 1.0, mean)
            columns = gradient[mine].reshape(len(each), -1).T
            found = known.solver(each, columns.dtype)(columns)
            out[mine] = found.T.reshape(len(mine), *gradient.shape[1:])
        return out

    def relative(self, gradient, folds):
        """The largest entry of the gradient of the mean loss by standardised features."""
        inner = np.abs(gradient[:, :, :-1]).max(1) / self.deviation
        last = np.abs(gradient[:, :, -1]).max(1)
        return np.maximum(inner.max(1, initial=0.0), last) / self.totals[folds]

    def _block(self, a, b):
        """Rows, centred, and a column of ones; of sparse rows, themselves."""
        part = self.features[a:b]
        if self.sparse:
            return part
        block = np.ones((b - a, self.width + 1), self.dtype)
        np.subtract(part, self.moments.centre, out=block[:, :-1], casting="same_kind")
        return block

    def _logits(self, flat, block):
        if not self.sparse:
            return flat @ block.T
        shift = flat[:, -1] - (flat[:, :-1] @ self.moments.centre).astype(self.dtype)
        return np.ascontiguousarray((block @ np.ascontiguousarray(flat[:, :-1].T)).T) + shift[:, None]

    def _gradient(self, slopes, block):
        if not self.sparse:
            return slopes @ block
        sums = slopes.sum(1, dtype=np.float64)
        inner = (block.T @ np.ascontiguousarray(slopes.T)).T - np.multiply.outer(sums, self.moments.centre)
        return np.column_stack([inner, sums])


@dispatched
def fit_slopes(tile, sign, weights, folds, start):
    """Logits of fits ``(fits, outputs, rows)`` to slopes, in their place; the losses of fits, and their curvatures.

    The rows are those from ``start`` of ``sign``, ``(outputs, n)``, and of ``weights``, ``(folds, n)``.

    loss = softplus(m),   m = z for a target of 0 and -z for one of 1: what ``sign`` says; slopes are sign sigmoid(m)
    """
    rows = slice(start, start + tile.shape[2])
    sign, weight = sign[:, rows], weights[folds, rows]
    tile *= sign
    e = np.exp(-np.abs(tile))
    over = 1 / (1 + e)
    losses = np.log1p(e) + np.maximum(tile, 0)
    tile[...] = np.where(tile > 0, 1, e) * over
    bend = e * over * over
    tile *= sign
    return _summed(losses.sum(1), weight), _weighed(tile, bend, weight)


def class_slopes(tile, target, weights, folds, start):
    """The same of the softmax over the outputs; ``target`` is an index, ``(1, rows)``.

    The slope of the target is that of all the others, so that no ``1 - p`` takes its last digits.
    """
    rows = slice(start, start + tile.shape[2])
    largest, weight = tile.max(1, keepdims=True), weights[folds, rows]
    index = np.broadcast_to(target[:, rows], (len(tile), 1, tile.shape[2]))
    losses = largest - np.take_along_axis(tile, index, 1)
    tile -= largest
    np.exp(tile, out=tile)
    own = np.take_along_axis(tile, index, 1)
    np.put_along_axis(tile, index, 0, 1)
    rest = tile.sum(1, keepdims=True)
    losses += np.log1p(rest + (own - 1))
    over = 1 / (rest + own)
    tile *= over
    bend = tile * (1 - tile)
    rest *= over
    np.put_along_axis(bend, index, rest * (own * over), 1)
    np.put_along_axis(tile, index, -rest, 1)
    return _summed(losses[:, 0], weight), _weighed(tile, bend, weight)


def _summed(losses, weight):
    return np.multiply(losses, weight, out=losses).sum(1, dtype=np.float64)


def _weighed(tile, bend, weight):
    """Weigh the slopes; the sums of the weighed curvatures."""
    tile *= weight[:, None]
    return np.matmul(bend, weight[:, :, None])[:, :, 0].astype(np.float64)


class Pairs:
    """The last steps of fits and the changes of their gradients, for the two loops of L-BFGS."""

    def __init__(self, shape):
        self.steps, self.changes = np.zeros((2, MEMORY, *shape))
        self.over = np.zeros((MEMORY, shape[0]))  # 1 / (step . change), 0 where there is no pair
        self.newest = 0

    def add(self, index, steps, changes):
        """A pair of the fits ``index``; the others get none, which costs them their oldest."""
        self.newest = (self.newest + 1) % MEMORY
        self.over[self.newest] = 0.0
        along = dots(steps, changes)
        good = along > 0
        at = index[good]
        self.steps[self.newest, at], self.changes[self.newest, at] = steps[good], changes[good]
        self.over[self.newest, at] = 1 / along[good]

    def keep(self, index):
        self.steps, self.changes = self.steps[:, index], self.changes[:, index]
        self.over = self.over[:, index]

    def directions(self, gradient, solve):
        """Nocedal and Wright 2006, algorithm 7.4, of every fit, from an inverse curvature, which is scaled."""
        vector, weights = -gradient, {}
        order = [(self.newest - i) % MEMORY for i in range(MEMORY)]
        order = [i for i in order if self.over[i].any()]
        for i in order:
            weights[i] = self.over[i] * dots(self.steps[i], vector)
            vector -= weights[i][:, None, None] * self.changes[i]
        vector = solve(vector)
        if order:
            change, over = self.changes[order[0]], self.over[order[0]]
            size = over * dots(change, solve(change))
            vector /= np.where(size > 0, size, 1.0)[:, None, None]
        for i in reversed(order):
            rest = weights[i] - self.over[i] * dots(self.changes[i], vector)
            vector += rest[:, None, None] * self.steps[i]
        return vector


def dots(a, b):
    """The product of each fit's two tables."""
    return np.einsum("fkj,fkj->f", a, b, dtype=np.float64)


class Descents:
    """Fits that are still on their way: where they are, and the steps that they try."""

    def __init__(self, function: Function, folds, penalties):
        self.function, self.folds, self.penalties = function, folds, penalties
        count = len(folds)
        self.here = function(function.start(count), folds, penalties)
        self.pairs = Pairs(self.here.at.shape)
        self.steps, self.slope = np.zeros(self.here.at.shape), np.zeros(count)
        self.length, self.fresh = np.ones(count), np.ones(count, bool)
        self.tried, self.passes = np.zeros(count, np.int64), np.ones(count, np.int64)

    def aim(self):
        """A new direction for those that have arrived where their step led."""
        bend, penalties = self.here.bend, self.penalties
        found = self.pairs.directions(self.here.gradient, lambda g: self.function.step(g, bend, penalties))
        self.steps[self.fresh] = found[self.fresh]
        self.slope = dots(self.here.gradient, self.steps)
        self.length[self.fresh], self.tried[self.fresh] = 1.0, 0

    def finished(self, tol):
        """Which are at their minimum, and their largest slopes; the fall to come is half of that along the step."""
        relative = self.function.relative(self.here.gradient, self.folds)
        fall = -self.slope / np.maximum(np.abs(self.here.value), np.finfo(np.float64).tiny)
        flat = (relative <= tol) | (fall <= FLOOR[self.function.dtype.name])
        bounded = (self.function.l2[self.penalties] > 0).all(1)
        return flat & (bounded | (fall <= SMALL)), relative

    def keep(self, index):
        """Those alone go on."""
        for name in ("folds", "penalties", "steps", "slope", "length", "fresh", "tried", "passes"):
            setattr(self, name, getattr(self, name)[index])
        self.here = self.here.only(index)
        self.pairs.keep(index)

    def go(self):
        """Try the steps: those that bring enough are taken, the others made shorter."""
        here = self.here
        at = (here.at + self.length[:, None, None] * self.steps).astype(self.function.dtype)
        there = self.function(at, self.folds, self.penalties)
        self.passes += 1
        ahead = dots(there.gradient, self.steps)
        rounding = ROUNDING[self.function.dtype.name] * np.abs(here.value)
        self.fresh = enough(here.value, there.value, self.slope, ahead, self.length, rounding)
        taken = np.flatnonzero(self.fresh)
        if len(taken):
            self.pairs.add(taken, (there.at - here.at)[taken], (there.gradient - here.gradient)[taken])
            here.put(taken, there.only(taken))
        self.length *= _shorter(self.slope, ahead)
        self.tried += 1


def _descend(function, folds, penalties, tol, most):
    """The last tables of fits, their largest slopes, the passes, and whether they are minima."""
    fits, active = Descents(function, folds, penalties), np.arange(len(folds))
    tables = np.empty(fits.here.at.shape)
    slopes, passes, converged = np.empty(len(folds)), np.empty(len(folds), np.int64), np.empty(len(folds), bool)
    while True:
        fits.aim()
        done, relative = fits.finished(tol)
        over = done | (fits.tried >= TRIES) | (fits.passes >= most)
        at = active[over]
        tables[at], slopes[at] = fits.here.at[over], relative[over]
        passes[at], converged[at] = fits.passes[over], done[over]
        if over.all():
            return tables, slopes, passes, converged
        if over.any():
            fits.keep(~over)
            active = active[~over]
        fits.go()


def enough(before, after, slope, ahead, length, rounding):
    """Which steps bring enough: a share of the fall that their slope promises, or, within rounding, a lesser slope."""
    with np.errstate(invalid="ignore"):
        fallen = (after <= before + FALL * length * slope) & (ahead <= -BEND * slope)
        level = (after <= before + rounding) & (np.abs(ahead) <= np.abs(slope) / 2)
        return np.isfinite(after) & np.isfinite(ahead) & (fallen | level)


def _shorter(slope, ahead):
    """By how much to shorten a step: to where the slope is 0, if it is a straight line."""
    with np.errstate(all="ignore"):
        guess = np.where(ahead > 0, slope / (slope - ahead), 0.5)
    return np.clip(np.where(np.isfinite(ahead), guess, 0.1), 0.1, 0.7)
