"""The penalised fit that all affine maps of logits share.

    logits' = A x + b,   x as in `_affine_features`, A as its `_affine_structure` allows
    mean_i w_i [ logsumexp(logits'_i) - logits'_i[target] ] + sum_j strength_j (parameter_j - centre_j)^2

is convex. A pass over the rows gives its sums, which merge; what was observed never changes and is summed once.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from lastlayer._check import DataError
from lastlayer._convex import Minimum, minimise
from lastlayer.calibrate._affine_features import Block
from lastlayer.calibrate._affine_structure import Observed, Structure
from lastlayer.parallel import over_ranges, single_products
from lastlayer.state import State

TILE = 2**16  # entries of a block: what a pass allocates for one is reused by the allocator for the next
FLAT = 1e-13  # of the largest curvature: less is the rounding of sums that are 0
EXACT = 300  # parameters up to which the whole Hessian is summed
KEPT_IN_MEMORY = 2**25  # entries (256 MB in float64); the features of larger data are made again in every pass
LARGEST = 1e12  # logit: beside it float64 tells no others apart, and the sums of the loss are their rounding


@dataclass(frozen=True, eq=False)
class Sums(State):
    """Of rows at one set of parameters: weight, sum of logsumexp, expectation, and curvature (see `Structure`)."""

    weight: np.ndarray
    normaliser: np.ndarray
    expected: np.ndarray
    curvature: np.ndarray

    @classmethod
    def of(cls, block: Block, structure: Structure, parameters, curvature) -> Self:
        with np.errstate(all="ignore"):  # far from the minimum a step may overflow; `minimise` shortens it
            sums = structure.sums(block, parameters, curvature)
        return cls(np.array(block.weight.sum()), *map(np.asarray, sums))

    def merge(self, other: Self) -> Self:
        theirs = other.arrays()
        return type(self)(**{name: mine + theirs[name] for name, mine in self.arrays().items()})

    def value(self):
        return float(self.normaliser / self.weight)


class Penalty(NamedTuple):
    """``sum strength (parameters - centre)^2`` on the mean loss; strength 0 leaves a parameter free."""

    strength: np.ndarray
    centre: np.ndarray


class Point(NamedTuple):
    """The objective at some parameters, as `minimise` wants it, and its mean loss without the penalty."""

    at: np.ndarray
    value: float
    gradient: np.ndarray
    scale: float
    exact: bool
    step: Callable[[np.ndarray], np.ndarray]
    loss: float


class Objective:
    """The penalised loss of blocks of rows, as a function of the parameters."""

    def __init__(self, over_blocks, structure: Structure, penalty: Penalty):
        self._over_blocks, self._structure, self._penalty = over_blocks, structure, penalty
        self._exact = len(penalty.centre) <= EXACT
        self._steady = None  # the guess of the inverse Hessian, where the first one is kept
        largest = over_blocks(Block.largest, max)
        if not largest < LARGEST:
            raise DataError(
                f"a logit of size {largest:.2g} leaves float64 no digits for the others.",
                field="logits",
                fix="give masked classes as -inf, and check the largest scores.",
            )
        self._observed = over_blocks(structure.observed, lambda a, b: Observed(a.sum + b.sum, a.size + b.size))

    def __call__(self, parameters) -> Point:
        wanted = "hessian" if self._exact else "blocks" if self._steady is None else None
        sums = self._over_blocks(lambda block: Sums.of(block, self._structure, parameters, wanted), Sums.merge)
        weight, apart, ridge = float(sums.weight), parameters - self._penalty.centre, 2 * self._penalty.strength
        pull = ridge * apart
        loss = sums.value() - float(self._observed.sum @ parameters) / weight
        return Point(
            at=parameters,
            value=loss + float(pull @ apart) / 2,
            gradient=(sums.expected - self._observed.sum) / weight + pull,
            scale=2 * float(np.linalg.norm(self._observed.size)) / weight + float(np.linalg.norm(pull)),
            exact=self._exact,
            step=self._step(sums.curvature / weight, ridge),
            loss=loss,
        )

    def _step(self, curvature, ridge):
        if self._exact:
            return functools.partial(shortest, curvature + np.diag(ridge))
        if self._steady is not None:
            return self._steady
        step = self._structure.solver(curvature, ridge)
        self._steady = step if self._structure.steady else None
        return step


def shortest(hessian, vector):
    """The shortest solution: along what changes nothing, as a constant added to every bias, it does not move."""
    values, vectors = np.linalg.eigh(hessian)
    kept = values > FLAT * values[-1]
    return vectors[:, kept] @ ((vectors[:, kept].T @ vector) / values[kept])


class Fit(NamedTuple):
    parameters: np.ndarray
    minimum: Minimum
    loss: float  # the mean, without the penalty


def fit(rows, kind, temperature, structure: Structure, penalty: Penalty, start) -> Fit:
    """The parameters of least penalised loss on `calibrate.rows.Rows`, from ``start``."""
    step = max(1, TILE // rows.width)

    def prepared(first, last):
        return Block.of(rows.take(slice(first, last)), kind, temperature)

    kept = list(over_ranges(prepared, len(rows), step)) if len(rows) * rows.width <= KEPT_IN_MEMORY else None

    def over_blocks(work, merge):
        def part(first, last):
            return work(kept[first // step] if kept else prepared(first, last))

        return functools.reduce(merge, over_ranges(part, len(rows), step))

    with single_products():
        minimum = minimise(Objective(over_blocks, structure, penalty), start)
    return Fit(minimum.point.at, minimum, minimum.point.loss)
