"""Temperature scaling: one number for all logits, found as a convex problem in its inverse.

    loss(beta) = sum_i w_i [ logsumexp(beta z_i) - beta z_i[target] ],   beta = 1 / temperature

With ``d = z - max(z) <= 0`` the slope is an expectation minus an observation, ``sum w (E_p[d] - d[target])``, and the
curvature a variance, ``sum w Var_p[d]``: nothing cancels in the tail. The sums of one pass are a mergeable state, so
blocks, shards and machines are only ways of cutting.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from lastlayer._array import floating, restore
from lastlayer._check import DataError, positive
from lastlayer.calibrate.calibrator import Calibrator, Certificate
from lastlayer.kernels import dispatched
from lastlayer.parallel import over_ranges
from lastlayer.state import State

BETA = (1e-4, 1e4)  # the temperatures looked at, upside down
TOLERANCE = 1e-10
PASSES = 200
WIDE = 32  # classes from which the kernel's first compilation, half a second, is soon paid for
KEPT_IN_MEMORY = 2**25  # entries (256 MB in float64); larger data is taken apart again in every pass
ABSENT = -1e300  # a gap whose exponential is exactly 0 at every beta, and 0 again after it is multiplied by the gap


@dataclass(frozen=True, eq=False)
class Temperature(Calibrator):
    """Logits divided by one temperature: above 1 it makes a model less confident, below 1 more.

        calibrated = logits / temperature

    The order of the classes stays. A masked class stays masked. float32 in, float32 out; gradients pass through.

    >>> Temperature(2.0)(np.array([4.0, 1.0, -np.inf]))
    array([ 2. ,  0.5, -inf])
    """

    method = "temperature"

    temperature: float

    def __post_init__(self):
        positive("Temperature", "temperature", self.temperature)

    def map(self, logits):
        z: Any = floating(logits)
        return restore(z / self.temperature, logits)

    @classmethod
    def solve(cls, rows):
        """The temperature of least NLL, with its certificate."""
        best = minimise(likelihood(rows))
        certificate = Certificate(
            best.converged,
            best.passes,
            best.state.relative_gradient(),
            best.bound,
            best.before.value(),
            best.state.value(),
            *rows.left_out,
        )
        return cls(1 / float(best.state.beta), certificate=certificate)


def likelihood(rows):
    """The `Likelihood` of rows as a function of ``beta``: one pass over them for each."""
    blocks = list(rows.blocks())
    small = len(rows) * rows.width <= KEPT_IN_MEMORY
    kept = list(over_ranges(lambda i, _: taken_apart(blocks[i]), len(blocks), 1)) if small else None

    def at(beta):
        def part(i, _):
            return Likelihood.of(kept[i] if kept else taken_apart(blocks[i]), beta)

        return functools.reduce(Likelihood.merge, over_ranges(part, len(blocks), 1))

    return at


class Gaps(NamedTuple):
    """A block of rows as distances below their largest logit, which stay the same at every temperature.

    ``others`` has one row per class but one, since the top class is left out, and one column per row of data; a masked
    class is ``ABSENT``. A binary logit is the pair (0, z). A multilabel row is as many columns as labels.
    """

    others: np.ndarray  # (classes - 1, n)
    observed: np.ndarray  # (n,), d[target], or its mean under a target distribution
    weight: np.ndarray  # (n,)
    rows: int
    row_weight: float

    @classmethod
    def of(cls, rows):
        with np.errstate(all="ignore"):
            others, observed = (_multiclass if rows.task == "multiclass" else _binary)(rows.logits, rows.target)
        weight = np.repeat(rows.weight, observed.size // len(rows))
        return cls(others, observed, weight, len(rows), float(rows.weight.sum()))

    def sums(self, beta):
        """Per row, over the others: ``exp(beta d)``, and that times d and d^2."""
        terms = np.multiply(self.others, beta)
        np.exp(terms, out=terms)
        rest = terms.sum(0)
        first = np.multiply(terms, self.others, out=terms).sum(0)
        second = np.multiply(terms, self.others, out=terms).sum(0)
        return rest, first, second


class Wide(NamedTuple):
    """A block of rows of many classes, of which a copy would cost more than a pass of the kernel."""

    logits: np.ndarray  # (n, classes)
    top: np.ndarray  # (n,), the index of the largest
    observed: np.ndarray
    weight: np.ndarray
    rows: int
    row_weight: float

    @classmethod
    def of(cls, rows):
        z, target, top = rows.logits, rows.target, rows.logits.argmax(1)
        largest = z[np.arange(len(z)), top].astype(np.float64)
        if target.ndim == 1:
            observed = z[np.arange(len(z)), target] - largest
        else:
            with np.errstate(all="ignore"):
                observed = np.where(target == 0, 0.0, target * (z - largest[:, None])).sum(1)
        return cls(z, top, observed, rows.weight, len(rows), float(rows.weight.sum()))

    def sums(self, beta):
        return gap_sums(self.logits, self.top, beta)


@dispatched
def gap_sums(logits, top, beta):
    """Per row, over all but the ``top`` entry, with ``d = logits - logits[top]``: sums of exp(beta d), times d, d^2."""
    index = np.arange(len(logits))
    gaps = np.maximum(logits - logits[index, top].astype(np.float64)[:, None], ABSENT)
    terms = np.exp(beta * gaps)
    terms[index, top] = 0.0
    return terms.sum(1), (terms * gaps).sum(1), (terms * gaps * gaps).sum(1)


def taken_apart(rows) -> Gaps | Wide:
    return (Wide if rows.task == "multiclass" and rows.width >= WIDE else Gaps).of(rows)


def _multiclass(z, target):
    index, top = np.arange(len(z)), z.argmax(1)
    gaps = np.array(z.T, dtype=np.float64, order="C")  # sums over the first axis are whole-row additions
    gaps -= gaps[top, index]
    if target.ndim == 1:
        observed = gaps[target, index]
    else:
        observed = np.where(target.T == 0, 0.0, target.T * gaps).sum(0)
    gaps[top, index] = gaps[-1]  # the last class takes the place of the top one, which is left out
    return np.maximum(gaps[:-1], ABSENT, out=gaps[:-1]), observed


def _binary(z, target):
    z, target = z.reshape(-1).astype(np.float64), target.reshape(-1)
    below, above = np.minimum(z, 0.0), np.minimum(-z, 0.0)  # gaps of the positive class and of the negative one
    observed = np.where(target == 0, 0.0, target * below) + np.where(target == 1, 0.0, (1 - target) * above)
    return np.maximum(below + above, ABSENT)[None], observed


@dataclass(frozen=True, eq=False)
class Likelihood(State):
    """Loss, slope and curvature in ``beta`` of a block of rows: sums, so merging adds. ``value()`` is the mean loss.

    ``expected`` and ``observed`` are ``sum w E_p[d]`` and ``sum w d[target]``, both at most 0; the gradient is their
    difference and their size together is its scale.
    """

    beta: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    loss: np.ndarray
    expected: np.ndarray
    observed: np.ndarray
    curvature: np.ndarray

    @classmethod
    def empty(cls, beta) -> Self:
        return cls(np.array(beta), np.array(0), *(np.zeros(()) for _ in range(5)))

    @classmethod
    def of(cls, gaps: Gaps | Wide, beta) -> Self:
        with np.errstate(all="ignore"):
            rest, first, second = gaps.sums(beta)
            total = 1 + rest
            mean = first / total
            loss = np.log1p(rest) - beta * gaps.observed
            columns = (loss, mean, gaps.observed, second / total - mean**2)
            # Not `weight @ column`: BLAS has threads of its own, and its sum depends on their number.
            sums = [np.array((gaps.weight * column).sum()) for column in columns]
        return cls(np.array(beta), np.array(gaps.rows), np.array(gaps.row_weight), *sums)

    def merge(self, other: Self) -> Self:
        if self.beta != other.beta:
            raise ValueError(f"Likelihood: one beta at a time; these are at {self.beta} and {other.beta}.")
        theirs = other.arrays()
        return type(self)(**{n: mine if n == "beta" else mine + theirs[n] for n, mine in self.arrays().items()})

    def value(self):
        return float(self.loss / self.weight)

    @property
    def gradient(self):
        return self.expected - self.observed

    def reciprocal(self):
        """``1 / expected - 1 / observed``, nearly a straight line in ``beta``, 0 where the gradient is."""
        return 1 / self.expected - 1 / self.observed

    def reciprocal_slope(self):
        return -self.curvature / self.expected**2

    def relative_gradient(self):
        scale = -(self.expected + self.observed)
        return float(abs(self.gradient) / scale) if scale > 0 else 0.0


def _through(one, two):
    """Where the inverse cubic through two passes and their slopes (Hermite's) has its root; nan from one pass."""
    y1, y2 = one.reciprocal(), two.reciprocal()
    height = y2 - y1
    t = -y1 / height
    value = one.beta * (1 + 2 * t) * (1 - t) ** 2 + two.beta * t**2 * (3 - 2 * t)
    bend = (1 - t) / one.reciprocal_slope() - t / two.reciprocal_slope()
    return float(value + height * t * (1 - t) * bend)


class Optimum(NamedTuple):
    before: Likelihood  # at beta = 1
    state: Likelihood  # at the solution
    passes: int
    converged: bool
    bound: str | None


def minimise(likelihood) -> Optimum:
    """The least loss over ``BETA``, where ``likelihood(beta)`` is one pass over the data, however it is cut.

    Far out the expected gap falls like ``1 / beta`` (the density of gaps at 0), so the root is sought of its
    reciprocal, by the inverse cubic through the last two passes and their slopes: 6 passes where Newton's method on the
    same needs 7, and 9 on the gradient itself (DenseNet-40, CIFAR-10). A step that leaves the bracket, or a gradient
    that two passes have not halved, is answered with the end of ``BETA`` that is still unknown, or else with the
    geometric middle.
    """
    before = at = likelihood(1.0)
    if not np.isfinite(before.loss):
        raise DataError(
            "the loss overflows float64.", field="logits", fix="check the largest scores; 1e300 is no logit."
        )
    if at.observed == 0 and likelihood(BETA[0]).expected < 0:
        # Every row is right, so the loss falls for ever; its gradient underflows long before the bound.
        return Optimum(before, likelihood(BETA[1]), 3, False, f"temperature >= {1 / BETA[1]:g}")
    ends: list[float | None] = [None, None]  # the solution is known to lie above the first, below the second
    sizes = [np.inf, np.inf]
    last = before
    for passes in range(1, PASSES):
        beta = float(at.beta)
        if at.relative_gradient() <= TOLERANCE:
            return Optimum(before, at, passes, True, None)
        if beta in BETA and (beta == BETA[0]) == (at.gradient > 0):
            limit = f"temperature <= {1 / beta:g}" if beta == BETA[0] else f"temperature >= {1 / beta:g}"
            return Optimum(before, at, passes, False, limit)
        ends[int(at.gradient > 0)] = beta
        low, high = (edge if end is None else end for end, edge in zip(ends, BETA, strict=True))
        middle = float(np.sqrt(low) * np.sqrt(high)) if None not in ends else BETA[ends.index(None)]
        if None not in ends and not low < middle < high:
            return Optimum(before, at, passes, True, None)
        sizes.append(abs(at.gradient))
        slow = sizes[-1] > sizes[-3] / 2
        with np.errstate(all="ignore"):  # where all is flat the step is nan, which is inside of nothing
            ahead = _through(last, at)
            if not low < ahead < high:
                ahead = float(at.beta - at.reciprocal() / at.reciprocal_slope())
        last, at = at, likelihood(ahead if low < ahead < high and not slow else middle)
    return Optimum(before, at, PASSES, False, None)
