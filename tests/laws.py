"""One row per public function of ``transform`` and ``loss``: what it promises, whatever the array library.

``test_laws.py`` runs every promise over every row that makes it, ``test_gradients.py`` its derivatives;
``test_accuracy.py`` holds each row to its ULP, and ``test_special_values.py`` to its cells of the table of special
values. A row that does not make a promise says why, with an example on which the promise is seen to be broken. A public
function without a row fails the suite.

    shift        adding a constant to a row leaves the result ("same") or adds that constant to it ("adds")
    permutation  reordering the classes reorders the result ("follows") or leaves it ("same")
    masked       a further class of -inf changes nothing; this is the result at that class, where there is one per class
    order        which way the result goes when a logit is raised
    symmetry     an identity with another function, or with itself
    empty        the result for a row of nothing but -inf; its gradient is 0
    infinite     the result for the row (inf, 0, inf), class 0 (or half 0, half 2) being the target
    half         the dtype that float16 and bfloat16 come out in
    ulp          the worst error in units in the last place, of `unit` where the result itself can cancel to nothing
    slope_ulp    the same for the gradient; None where the derivative itself cancels, and `test_accuracy.py` bounds it
                 against the largest entry of the row
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, log, nan
from typing import Any

import numpy as np
import pytest

from lastlayer import loss, transform


@dataclass(frozen=True)
class Exempt:
    """A promise that is not made: why, and a row (with its target) on which it is seen to be broken."""

    why: str
    example: tuple
    target: Any = None
    instead_of: str = ""


@dataclass(frozen=True)
class Symmetry:
    """``left(x) = right(x)`` for logits of two classes, or for single numbers."""

    says: str
    left: Callable
    right: Callable


@dataclass(frozen=True, eq=False)
class Law:
    """One row; ``law(x, target)`` calls the function with the row's settings."""

    function: Callable
    takes: str  # "row" of classes, "number", or a whole "batch" of losses
    gives: str  # "classes", "one" (number per row, or in all), or "number" for each number
    symmetry: Symmetry
    ulp: int
    order: str
    slope_ulp: int | None
    target: str | None = None  # "index", "distribution" or "binary"
    settings: dict = field(default_factory=dict)
    variant: str = ""
    domain: tuple[float, float] = (-inf, inf)
    shift: Any = None
    permutation: Any = None
    masked: Any = None
    empty: float | None = None
    infinite: Any = None
    half: str = "same"
    unit: Callable | None = None

    @property
    def name(self):
        return self.function.__name__ + (f" ({self.variant})" if self.variant else "")

    def __call__(self, x, target=None):
        return self.function(x, **self.settings) if target is None else self.function(x, target, **self.settings)


def over(laws):
    """A test for each of these rows, called by its name."""
    return pytest.mark.parametrize("law", laws, ids=lambda law: law.name)


def sample(law, seed=0, shape=(4, 4)):
    """Rows of eighths, so that adding 1,024 rounds nothing; the second row has a tie, the third is dominated."""
    rng = np.random.default_rng(seed)
    low, high = law.domain
    if (low, high) == (0, 1):
        return rng.integers(1, 64, shape) / 64
    x = rng.integers(-48, 48, shape) / 8
    if high == 0:
        return -abs(x) - 1 / 8
    x[1, :2] = x[1].max() + 1
    x[2, 0] = 24
    return x


def targets(law, x, seed=0):
    """A target for each row (or number) of `x`, of the kind the law takes."""
    rng = np.random.default_rng(seed)
    if law.target == "index":
        return rng.integers(0, x.shape[-1], x.shape[:-1])
    if law.target == "distribution":
        return rng.integers(1, 8, x.shape) / 8
    return rng.integers(0, 2, x.shape) if law.target == "binary" else None


def largest(row):
    """The size of the largest logit: logsumexp is that plus at most log(classes), and may cancel to nothing."""
    return abs(max(row))


def gap(row):
    """Largest minus second logit: log-odds are that minus at most log(classes)."""
    first, *others = sorted(row, reverse=True)
    return first - others[0] if others else inf


LAWS = [
    Law(
        transform.softmax,
        takes="row",
        gives="classes",
        shift="same",
        permutation="follows",
        masked=0.0,
        empty=nan,
        infinite=(0.5, 0.0, 0.5),
        order="keeps the order of the classes",
        symmetry=Symmetry(
            "softmax([a, b])[1] = sigmoid(b - a)",
            lambda z: transform.softmax(z)[..., 1],
            lambda z: transform.sigmoid(z[..., 1] - z[..., 0]),
        ),
        ulp=5,
        slope_ulp=None,
    ),
    Law(
        transform.log_softmax,
        takes="row",
        gives="classes",
        shift="same",
        permutation="follows",
        masked=-inf,
        empty=nan,
        infinite=(-log(2), -inf, -log(2)),
        order="keeps the order of the classes",
        symmetry=Symmetry(
            "log_softmax([a, b])[1] = log_sigmoid(b - a)",
            lambda z: transform.log_softmax(z)[..., 1],
            lambda z: transform.log_sigmoid(z[..., 1] - z[..., 0]),
        ),
        ulp=4,
        slope_ulp=None,
    ),
    Law(
        transform.logsumexp,
        takes="row",
        gives="one",
        shift="adds",
        permutation="same",
        masked="absent",
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "logsumexp([a, b]) = a + softplus(b - a)",
            transform.logsumexp,
            lambda z: z[..., 0] + transform.softplus(z[..., 1] - z[..., 0]),
        ),
        ulp=2,
        unit=largest,
        slope_ulp=5,
    ),
    Law(
        transform.entropy,
        takes="row",
        gives="one",
        shift="same",
        permutation="same",
        masked="absent",
        empty=nan,
        infinite=log(2),
        order="falls with the largest logit",
        symmetry=Symmetry(
            "entropy([a, b]) = softplus(b - a) - (b - a) sigmoid(b - a)",
            transform.entropy,
            lambda z: (
                transform.softplus(z[..., 1] - z[..., 0])
                - (z[..., 1] - z[..., 0]) * transform.sigmoid(z[..., 1] - z[..., 0])
            ),
        ),
        ulp=4,
        slope_ulp=None,
    ),
    Law(
        transform.log_odds,
        takes="row",
        gives="one",
        shift="same",
        permutation="same",
        masked="absent",
        empty=nan,
        infinite=0.0,
        order="rises with the largest logit",
        symmetry=Symmetry(
            "log_odds([a, b], 1) = b - a", lambda z: transform.log_odds(z, 1), lambda z: z[..., 1] - z[..., 0]
        ),
        ulp=4,
        unit=gap,
        slope_ulp=5,
    ),
    Law(
        transform.top2_gap,
        takes="row",
        gives="one",
        shift="same",
        permutation="same",
        masked="absent",
        empty=nan,
        infinite=0.0,
        order="rises with the largest logit",
        symmetry=Symmetry("top2_gap([a, b]) = |b - a|", transform.top2_gap, lambda z: abs(z[..., 1] - z[..., 0])),
        ulp=1,
        slope_ulp=1,
    ),
    Law(
        transform.sigmoid,
        takes="number",
        gives="number",
        order="rises",
        symmetry=Symmetry(
            "sigmoid(-z) = 1 - sigmoid(z)", lambda z: transform.sigmoid(-z), lambda z: 1 - transform.sigmoid(z)
        ),
        ulp=3,
        slope_ulp=5,
    ),
    Law(
        transform.log_sigmoid,
        takes="number",
        gives="number",
        order="rises",
        symmetry=Symmetry(
            "log_sigmoid(z) - log_sigmoid(-z) = z",
            lambda z: transform.log_sigmoid(z) - transform.log_sigmoid(-z),
            lambda z: z,
        ),
        ulp=3,
        slope_ulp=4,
    ),
    Law(
        transform.softplus,
        takes="number",
        gives="number",
        order="rises",
        symmetry=Symmetry(
            "softplus(z) - softplus(-z) = z", lambda z: transform.softplus(z) - transform.softplus(-z), lambda z: z
        ),
        ulp=3,
        slope_ulp=4,
    ),
    Law(
        transform.logit,
        takes="number",
        gives="number",
        domain=(0, 1),
        order="rises",
        symmetry=Symmetry(
            "logit(p) = log(p) - log1mexp(log(p)) = -logit(1 - p)",
            transform.logit,
            lambda p: -transform.logit(1 - p),
        ),
        ulp=4,
        slope_ulp=4,
    ),
    Law(
        transform.log1mexp,
        takes="number",
        gives="number",
        domain=(-inf, 0),
        order="falls",
        symmetry=Symmetry(
            "log1mexp(log_sigmoid(z)) = log_sigmoid(-z)",
            lambda z: transform.log1mexp(transform.log_sigmoid(z)),
            lambda z: transform.log_sigmoid(-z),
        ),
        ulp=4,
        slope_ulp=6,
    ),
    Law(
        transform.softcap,
        takes="number",
        gives="number",
        settings={"cap": 30.0},
        order="rises",
        symmetry=Symmetry(
            "softcap(-z) = -softcap(z)", lambda z: transform.softcap(-z, 30.0), lambda z: -transform.softcap(z, 30.0)
        ),
        ulp=4,
        slope_ulp=None,
    ),
    Law(
        loss.cross_entropy,
        takes="row",
        gives="one",
        target="index",
        shift="same",
        permutation="same",
        masked="absent",
        empty=nan,
        infinite=log(2),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "cross_entropy([a, b], 1) = binary_cross_entropy(b - a, 1)",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int)),
            lambda z: loss.binary_cross_entropy(z[..., 1] - z[..., 0], np.ones(z.shape[:-1], int)),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Law(
        loss.cross_entropy,
        variant="distribution",
        takes="row",
        gives="one",
        target="distribution",
        shift="same",
        permutation="same",
        masked="absent",
        empty=nan,
        infinite=log(2),
        order=Exempt(
            "a class that already has more than its share costs more when it is raised",
            example=(2.0, 0.0, 0.0),
            target=(0.5, 0.25, 0.25),
            instead_of="falls with the logit of the target",
        ),
        symmetry=Symmetry(
            "cross_entropy(z, onehot) = cross_entropy(z, index)",
            lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.0, 1.0])),
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int)),
        ),
        half="float32",
        ulp=5,
        slope_ulp=None,
    ),
    Law(
        loss.cross_entropy,
        variant="label smoothing",
        takes="row",
        gives="one",
        target="index",
        settings={"label_smoothing": 0.25},
        shift="same",
        permutation="same",
        masked="absent",
        empty=nan,
        infinite=inf,
        order=Exempt(
            "smoothing wants the target at 1 - s + s / classes and no higher",
            example=(8.0, 0.0, 0.0),
            target=0,
            instead_of="falls with the logit of the target",
        ),
        symmetry=Symmetry(
            "cross_entropy(z, 1, label_smoothing=s) = cross_entropy(z, (s / 2, 1 - s / 2))",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int), label_smoothing=0.25),
            lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.125, 0.875])),
        ),
        half="float32",
        ulp=5,
        slope_ulp=None,
    ),
    Law(
        loss.binary_cross_entropy,
        takes="number",
        gives="number",
        target="binary",
        order="falls towards the target",
        symmetry=Symmetry(
            "binary_cross_entropy(z, 1) = binary_cross_entropy(-z, 0)",
            lambda z: loss.binary_cross_entropy(z, np.ones(z.shape, int)),
            lambda z: loss.binary_cross_entropy(-z, np.zeros(z.shape, int)),
        ),
        half="float32",
        ulp=3,
        slope_ulp=4,
    ),
    Law(
        loss.mean,
        takes="batch",
        gives="one",
        shift="adds",
        permutation="same",
        masked=Exempt("a loss of -inf is a loss; rows are left out by valid= and weight=", example=(1.0, 3.0)),
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "mean(x, weight=(1, 3)) = (x[0] + 3 x[1]) / 4",
            lambda z: loss.mean(z[0, :], weight=np.array([1.0, 3.0])),
            lambda z: (z[0, 0] + 3 * z[0, 1]) / 4,
        ),
        half="float32",
        ulp=4,
        unit=largest,
        slope_ulp=1,
    ),
]
