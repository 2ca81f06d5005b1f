"""Rows of many features, in standardised features: their products, and the minimum of a quadratic model of them."""

import functools
from typing import Any, NamedTuple

import numpy as np

from lastlayer.parallel import over_ranges
from lastlayer.train._coordinate_model import Limits, column_descent, lowest
from lastlayer.train._objective import BLOCK, Frame, design, squared
from lastlayer.train._ordinal import sparse_frame
from lastlayer.train._problem import Problem

WORKING = 1024  # dense features whose Hessian is summed at a time
HESSIANS = 2**24  # entries of those of all classes: 128 MB
ROUNDS = 50  # of the classes of a model
SWEEPS = 5  # of a class in its turn
ALONE = 1000  # sweeps of one output
RANGES = 8  # of the columns of a sparse table


class Minimum(NamedTuple):
    """Of a model: its coefficients, the step of the intercepts, and what both move the logits by, (n, outputs)."""

    at: np.ndarray
    shift: np.ndarray
    moved: np.ndarray


def rows_of(problem: Problem):
    """The rows of a problem."""
    return Sparse(problem) if hasattr(problem.features, "tocsc") else Dense(problem)


class Dense:
    """Rows as they came, standardised while a block of them is read."""

    def __init__(self, problem: Problem):
        self.features, self.intercept = problem.features, problem.intercept
        self.weight = problem.weight
        self.frame = Frame.of(problem)
        self._kept: Any = slice(None)

    @functools.cached_property
    def norms(self):
        """Of the features, with the weights of the rows, around their mean if there is an intercept."""
        square, mean = np.zeros(self.features.shape[1]), np.zeros(self.features.shape[1])

        def work(a, b):
            table = design(self.features[a:b], self.frame, False)
            return self.weight[a:b] @ np.square(table), self.weight[a:b] @ table

        for one, two in over_ranges(work, len(self.features), self._size(len(mean))):
            square, mean = square + one, mean + two
        return _norms(square, mean, self.weight, self.intercept)

    def keep(self, some):
        """Take products with those features alone; the sums of others are 0."""
        self._kept = slice(None) if some.all() else np.flatnonzero(some)

    def times(self, coef):
        """The features times ``(d, outputs)``."""
        out = np.empty((len(self.features), *coef.shape[1:]))

        def work(a, b):
            out[a:b] = design(self.features[a:b], self.frame, False) @ coef

        for _ in over_ranges(work, len(out), self._size(self.features.shape[1])):
            pass
        return out

    def turned(self, slopes):
        """The transposed features times ``(n, outputs)``."""
        kept = self._kept
        frame = Frame(self.frame.centre[kept], self.frame.scale[kept])

        def work(a, b):
            return design(self.features[a:b][:, kept], frame, False).T @ slopes[a:b]

        out = np.zeros((self.features.shape[1], slopes.shape[1]))
        out[kept] = functools.reduce(np.add, over_ranges(work, len(slopes), self._size(len(frame.scale))))
        return out

    def aim(self, solver, here, slopes, active, damping, tol) -> Minimum:
        """The minimum of the model of F at ``here`` in the active coefficients, ``(outputs, d)``."""
        outputs, most = len(active), min(WORKING, int((HESSIANS / len(active)) ** 0.5))
        turns = [
            _Turn.of(self, solver, here.at[k], _worst(active[k], slopes.violation[k], most)) for k in range(outputs)
        ]
        at, shift, moved, mean = (
            here.at.copy(),
            np.zeros(outputs),
            np.zeros(here.slope.shape),
            np.zeros(len(here.slope)),
        )
        for _ in range(ROUNDS if outputs > 1 else 1):
            ended = True
            for k, turn in enumerate(turns):
                share, extra = here.share[:, k], damping * self.weight
                bend = self.weight * share * (1 - share) + extra
                slope = here.slope[:, k] + self.weight * share * (moved[:, k] - mean) + extra * moved[:, k]
                along = turn.step(slope, bend, tol)
                if along is None:
                    continue
                ended = False
                moved[:, k] += along
                mean += share * along
            if ended:
                break
        for k, turn in enumerate(turns):
            at[k, turn.index], shift[k] = turn.coef, turn.shift
        return Minimum(at, shift, moved)

    def _size(self, width):
        return max(4 * BLOCK // max(width, 1), 64)


class _Turn:
    """What one output of a model has of dense rows."""

    def __init__(self, rows, index, frame, ridge, terms, at):
        self.rows, self.index, self.frame, self.ridge, self.terms, self.at = rows, index, frame, ridge, terms, at
        self.hessian: Any = None

    @classmethod
    def of(cls, rows, solver, at, index):
        own = int(rows.intercept)
        frame = Frame(rows.frame.centre[index], rows.frame.scale[index])
        terms = solver.terms.some(index).and_free(own)
        return cls(
            rows,
            index,
            frame,
            np.append(solver.ridge[index], np.zeros(own)),
            terms,
            np.append(at[index], np.zeros(own)),
        )

    @property
    def coef(self):
        return self.at[: len(self.index)]

    @property
    def shift(self):
        return float(self.at[len(self.index) :].sum())

    def step(self, slope, bend, tol):
        """Go to the minimum of this output: what that moves the logits by, or None where it is already there."""

        def table(a, b):
            return design(self.rows.features[a:b][:, self.index], self.frame, self.rows.intercept)

        def work(a, b):
            part = table(a, b)
            gradient = slope[a:b] @ part
            if self.hessian is not None:
                return gradient, 0.0
            part *= np.sqrt(bend[a:b])[:, None]
            return gradient, squared(part)

        sums = over_ranges(work, len(slope), self.rows._size(len(self.at)))
        gradient, hessian = functools.reduce(lambda one, two: (one[0] + two[0], one[1] + two[1]), sums)
        if self.hessian is None:
            self.hessian = hessian + np.diag(self.ridge)
        gradient += self.ridge * self.at
        if self.terms.violation(self.at, gradient).max(initial=0.0) <= tol:
            return None
        found = lowest(self.hessian, gradient, self.at, self.terms, tol)
        step, self.at = found - self.at, found
        out = np.empty(len(slope))

        def move(a, b):
            out[a:b] = table(a, b) @ step

        for _ in over_ranges(move, len(out), self.rows._size(len(step))):
            pass
        return out


class Sparse:
    """Rows by columns, a copy of the entries; scaled and not centred, so that zeros stay zeros."""

    def __init__(self, problem: Problem):
        self.frame = sparse_frame(problem.features)
        self.intercept, self.weight = problem.intercept, problem.weight
        matrix = problem.features.tocsc()
        matrix.data = matrix.data / np.repeat(self.frame.scale, np.diff(matrix.indptr)).astype(matrix.dtype)
        self.matrix = matrix
        self.columns = matrix.data, *(v.astype(np.int32, copy=False) for v in (matrix.indices, matrix.indptr))
        self.keep(np.ones(matrix.shape[1], bool))

    @functools.cached_property
    def norms(self):
        weighed = self.weight[self.matrix.indices] * self.matrix.data
        column = np.repeat(np.arange(self.matrix.shape[1]), np.diff(self.matrix.indptr))
        square, mean = (
            np.bincount(column, part, self.matrix.shape[1]) for part in (weighed * self.matrix.data, weighed)
        )
        return _norms(square, mean, self.weight, self.intercept)

    def keep(self, some):
        self._kept = np.flatnonzero(some)
        matrix = self.matrix if some.all() else self.matrix[:, self._kept]
        self._size = max(-(-len(self._kept) // RANGES), 1)
        self._turned = [_some(matrix, a, self._size) for a in range(0, len(self._kept), self._size)]

    def times(self, coef):
        return self.matrix @ coef

    def turned(self, slopes):
        out = np.zeros((self.matrix.shape[1], slopes.shape[1]))

        def work(a, b):
            out[self._kept[a:b]] = self._turned[a // self._size] @ slopes

        for _ in over_ranges(work, len(self._kept), self._size):
            pass
        return out

    def aim(self, solver, here, slopes, active, damping, tol) -> Minimum:
        values, index, starts = self.columns
        outputs, features = np.nonzero(active)
        some = features.astype(np.int32)
        ends = np.append(0, np.cumsum(np.bincount(outputs, minlength=len(active))))
        at, shift = here.at.copy(), np.zeros(len(active))
        limits = Limits(self.intercept, ROUNDS, SWEEPS if len(active) > 1 else ALONE, tol)
        slope, share = (np.ascontiguousarray(part.T) for part in (here.slope, here.share))
        penalty = np.stack([solver.ridge, *solver.terms])
        moved = column_descent(
            values, index, starts, some, ends, slope, share, self.weight, damping, at, shift, penalty, limits
        )
        return Minimum(at, shift, np.ascontiguousarray(moved.T))


def _worst(active, violation, most):
    """The active features, or those of the largest violation."""
    index = np.flatnonzero(active)
    if len(index) <= most:
        return index
    return np.sort(index[np.argsort(-violation[index], kind="stable")[:most]])


def _norms(square, mean, weight, intercept):
    return np.sqrt(np.maximum(square - (np.square(mean) / weight.sum() if intercept else 0.0), 0.0))


def _some(matrix, first, count):
    """So many columns of a matrix by columns, as rows; nothing is copied."""
    from scipy.sparse import csr_array

    starts = matrix.indptr[first : first + count + 1]
    part = slice(starts[0], starts[-1])
    shape = len(starts) - 1, matrix.shape[0]
    return csr_array((matrix.data[part], matrix.indices[part], starts - starts[0]), shape=shape)
