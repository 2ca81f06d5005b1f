"""A convex loss of few parameters, some of them bounded below: Newton's method within the bounds.

Each step solves the quadratic model of the loss within the bounds, and is halved until the loss falls enough (Nocedal
and Wright 2006). Steps cut off at the bounds one by one, the projected Newton method, do not do: where two parameters
are nearly alike they zigzag. One call of ``sums`` is one pass over the rows, so blocks and shards are only ways of
cutting.
"""

from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-10
PASSES = 200
ENOUGH = 1e-4  # of the fall that the slope promises
ROUNDING = 1e-13  # of the loss: what is less is no fall
SHORTEST = 1e-6


class Sums(NamedTuple):
    """One pass over the rows. ``size`` is what each slope is small against: the sum of its terms' magnitudes."""

    loss: float
    gradient: np.ndarray  # (m,)
    size: np.ndarray  # (m,)
    curvature: np.ndarray  # (m, m)

    def plus(self, other):
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Optimum(NamedTuple):
    parameters: np.ndarray
    loss: float
    gradient: float  # the largest relative slope of the parameters that are free to move
    held: np.ndarray  # (m,), at the bound, and pushing
    passes: int
    converged: bool


def minimise(sums, start, lower) -> Optimum:
    """The least loss with ``parameters >= lower``, from ``start``."""
    at = np.maximum(np.asarray(start, dtype=np.float64), lower)
    here, passes = sums(at), 1
    while True:
        held, relative = _slope(at, here, lower)
        if relative <= TOLERANCE or passes >= PASSES:
            return Optimum(at, here.loss, relative, held, passes, relative <= TOLERANCE)
        step, length = _step(at, here, lower, held), 1.0
        while True:
            ahead = np.maximum(at + length * step, lower)
            there, passes = sums(ahead), passes + 1
            fall = here.loss - there.loss
            enough = fall > 0 and fall >= ENOUGH * float(here.gradient @ (at - ahead))
            flat = abs(fall) <= ROUNDING * abs(here.loss) and _slope(ahead, there, lower)[1] < relative
            if enough or flat:
                break
            length /= 2
            if length < SHORTEST or passes >= PASSES:
                # Where the whole step promises less than the rounding of the loss, this is its least value.
                promised = -float(here.gradient @ step)
                return Optimum(at, here.loss, relative, held, passes, promised <= ROUNDING * abs(here.loss))
        at, here = ahead, there


def _slope(at, sums, lower):
    """Which parameters are held by their bound, and the largest relative slope of the others."""
    held = (at <= lower) & (sums.gradient > 0)
    size = np.where(sums.size > 0, sums.size, 1.0)
    return held, float(np.max(np.abs(sums.gradient / size), where=~held, initial=0.0))


def _step(at, sums, lower, held):
    """To the least of the quadratic model within the bounds; the shortest such step where there are several."""
    scale = np.sqrt(np.maximum(np.diag(sums.curvature), 0.0))  # rounding may leave less than 0
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(sums.curvature / np.outer(scale, scale))
    some = values > len(values) * np.finfo(np.float64).eps * values[-1]
    root, vectors = np.sqrt(values[some]), vectors[:, some]
    downhill = -(vectors.T @ (sums.gradient / scale)) / root
    if not held.any():
        step = vectors @ (downhill / root) / scale
        if (at + step >= lower).all():
            return step
    from scipy.optimize import lsq_linear

    room = np.where(np.isfinite(lower), (lower - at) * scale, -np.inf)
    return lsq_linear(root[:, None] * vectors.T, downhill, (room, np.inf), method="bvls").x / scale
