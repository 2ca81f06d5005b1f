"""The least of a smooth convex function: Newton's method, or L-BFGS where its Hessian is too large to hold.

Both stop by one rule. The gradient is at most 1e-10 of its scale, or what else is asked, and the step that would come
next is small beside the parameters: where the function falls for ever, the gradient fades but the steps do not, so that
a minimum at infinity is told from one that is reached. A few parameters within bounds are
`calibrate._bounded_newton`'s: there every step is a problem with bounds itself, which L-BFGS has no answer to, and a
parameter at its bound does not enter the rule that ends it.
"""

from collections import deque
from typing import Any, NamedTuple, Protocol

import numpy as np

TOLERANCE = 1e-10
SMALL = 1e-6  # a step, beside the parameters
PASSES = 500
HALVINGS = 40
MEMORY = 20
RISE = 1e-12  # of the value: what rounding may add to it near the minimum
FALL = 1e-4  # the share of the fall promised by the slope that a step must bring


class Point(Protocol):
    """The function at ``at``: ``value``, ``gradient``, the ``scale`` of a gradient there, and ``step``.

    ``step(vector)`` is the inverse Hessian times the vector where `exact`, and else a guess of it, symmetric and
    positive.
    """

    at: np.ndarray
    value: float
    gradient: np.ndarray
    scale: float
    exact: bool

    def step(self, vector: np.ndarray) -> np.ndarray: ...


class Minimum(NamedTuple):
    point: Any
    passes: int
    converged: bool
    escapes: bool  # the gradient faded while the steps did not: the minimum is at infinity
    gradient: float  # relative to its scale


def minimise(function, start, tolerance=TOLERANCE, most=PASSES, rises=False) -> Minimum:
    """The minimum of a convex ``function(parameters) -> Point``, from ``start``, in ``most`` passes or a few more.

    Of a function that ``rises`` in the end whichever way one goes, no minimum is at infinity.
    """
    here, passes = function(start), 1
    pairs = deque(maxlen=MEMORY)
    while True:
        relative = float(np.linalg.norm(here.gradient) / here.scale) if here.scale > 0 else 0.0
        step = -here.step(here.gradient) if here.exact else -_quasi_newton(here, pairs)
        flat, faded = relative <= tolerance, relative <= min(tolerance, TOLERANCE) and not rises
        small = bool(np.abs(step).max() <= SMALL * (1 + np.abs(here.at).max()))
        if (flat and small) or faded or passes >= most:
            return Minimum(here, passes, flat and small, faded and not small, relative)
        there, tried = _descend(function, here, step)
        passes += tried
        if there is None:  # rounding hides every fall: nothing is left to gain
            return Minimum(here, passes, flat, False, relative)
        pairs.append((there.at - here.at, there.gradient - here.gradient))
        here = there


def _descend(function, here, step):
    """The first point along ``step`` where the function has fallen enough, and how many were looked at."""
    slope = float(here.gradient @ step)
    length = 1.0
    for tried in range(1, HALVINGS + 1):
        there = function(here.at + length * step)
        ahead = float(there.gradient @ step)
        if np.isfinite(there.value) and np.isfinite(ahead):
            fallen = there.value <= here.value + FALL * length * slope
            level = there.value <= here.value + RISE * abs(here.value) and abs(ahead) <= abs(slope) / 2
            if fallen or level:
                return there, tried
            guess = slope / (slope - ahead) if ahead > 0 else 0.5  # where the slope is 0, if it is a straight line
        else:
            guess = 0.1
        length *= min(max(guess, 0.1), 0.5)
    return None, HALVINGS


def _quasi_newton(here, pairs):
    """The two loops of L-BFGS (Nocedal and Wright 2006), with the guess at ``here`` in their middle."""
    vector = here.gradient.copy()
    used = [(s, y, 1 / float(s @ y)) for s, y in pairs if s @ y > 0]
    weights = []
    for s, y, rho in reversed(used):
        weights.append(rho * float(s @ vector))
        vector -= weights[-1] * y
    vector = here.step(vector)
    for (s, y, rho), weight in zip(used, reversed(weights), strict=True):
        vector += (weight - rho * float(y @ vector)) * s
    return vector
