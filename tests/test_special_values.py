"""The table of special values, cell by cell: what a row may hold, and what comes out of it; and the laws of limits.

| row | logsumexp | softmax, log_softmax | cross_entropy | gradient |
|---|---|---|---|---|
| some -inf | as if absent | 0, -inf there | target masked: inf; 0 * inf = 0 | p - onehot |
| all -inf | -inf | nan, or `empty=` | nan | 0 |
| n times +inf | inf | 1 / n on them | log n on them, else inf | p - onehot at that limit |
| nan | nan | nan | nan | nan, in this row only |
| ignored | | | 0 | exactly 0 |
"""

from math import inf, log, nan

import numpy as np
import pytest

import lastlayer as ll
from arrays import DIFFERENTIABLE, JAX_JIT, LIBRARIES
from laws import ROWS
from table import law

THIRD, E = 1 / (1 + np.exp(1)), np.exp(1) / (1 + np.exp(1))

OF_CLASSES = [row for row in ROWS if row.takes != "number"]

# row, logsumexp, softmax, log_softmax
TRANSFORMS = {
    "finite": ([1.0, 0.0], 1.3132616875182228, [E, THIRD], [-0.3132616875182228, -1.3132616875182228]),
    "finite, huge": ([1e30, -1e30], 1e30, [1, 0], [0, -2e30]),
    "one masked": (
        [1.0, -inf, 0.0],
        1.3132616875182228,
        [E, 0, THIRD],
        [-0.3132616875182228, -inf, -1.3132616875182228],
    ),
    "one left": ([-inf, 5.0, -inf], 5.0, [0, 1, 0], [-inf, 0, -inf]),
    "empty": ([-inf, -inf], -inf, [nan, nan], [nan, nan]),
    "one infinite": ([inf, 3.0], inf, [1, 0], [0, -inf]),
    "two infinite": ([inf, 0.0, inf], inf, [0.5, 0, 0.5], [-log(2), -inf, -log(2)]),
    "infinite and masked": ([-inf, inf], inf, [0, 1], [-inf, 0]),
    "nan": ([nan, 1.0], nan, [nan, nan], [nan, nan]),
    "nan and infinite": ([inf, nan], nan, [nan, nan], [nan, nan]),
    "nan and masked": ([-inf, nan], nan, [nan, nan], [nan, nan]),
}

# row, target, loss, gradient
LOSSES = {
    "masked, target allowed": ([1.0, -inf, 0.0], 0, 0.3132616875182228, [-THIRD, 0, THIRD]),
    "masked, target masked": ([1.0, -inf, 0.0], 1, inf, [E, -1, THIRD]),
    "masked, shares of 0 on it": ([1.0, -inf, 0.0], [0.5, 0.0, 0.5], 0.8132616875182228, [E - 0.5, 0, THIRD - 0.5]),
    "masked, a share on it": ([1.0, -inf, 0.0], [0.5, 0.5, 0.0], inf, [E - 0.5, -0.5, THIRD]),
    "empty": ([-inf, -inf], 0, nan, [0, 0]),
    "empty, shares": ([-inf, -inf], [0.5, 0.5], nan, [0, 0]),
    "one infinite, target": ([inf, 3.0], 0, 0.0, [0, 0]),
    "one infinite, not the target": ([inf, 3.0], 1, inf, [1, -1]),
    "two infinite, target": ([inf, 0.0, inf], 2, log(2), [0.5, 0, -0.5]),
    "two infinite, shares": ([inf, 0.0, inf], [0.75, 0.0, 0.25], log(2), [-0.25, 0, 0.25]),
    "two infinite, a share elsewhere": ([inf, 0.0, inf], [0.5, 0.5, 0.0], inf, [0, -0.5, 0.5]),
    "nan": ([nan, 1.0], 1, nan, [nan, nan]),
}


@pytest.mark.parametrize("case", TRANSFORMS)
def test_transforms(case, library):
    row, normaliser, probs, logs = TRANSFORMS[case]
    for function, want in ((ll.logsumexp, normaliser), (ll.softmax, probs), (ll.log_softmax, logs)):
        got = library.run(function, [row, [0.0] * len(row)])
        np.testing.assert_allclose(got[0], want, rtol=4 * library.eps, err_msg=function.__name__)
        assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("case", TRANSFORMS)
def test_the_gradient_of_logsumexp_is_softmax_and_0_for_an_empty_row(case, differentiable):
    row, _, probs, _ = TRANSFORMS[case]
    got = differentiable.gradient(ll.logsumexp, [row])
    np.testing.assert_allclose(got[0], [0, 0] if case == "empty" else probs, rtol=4 * differentiable.eps)


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case, library):
    row, target, loss, _ = LOSSES[case]
    np.testing.assert_allclose(library.run(ll.cross_entropy, [row], [target]), [loss], rtol=4 * library.eps)


@pytest.mark.parametrize("case", LOSSES)
def test_gradients_of_losses(case, differentiable):
    row, target, _, gradient = LOSSES[case]
    got = differentiable.gradient(ll.cross_entropy, [row], [target])
    np.testing.assert_allclose(got[0], gradient, rtol=0, atol=4 * differentiable.eps)


@law("empty row", "A row of nothing but -inf gives what is said.", OF_CLASSES, LIBRARIES)
def test_empty_row(row, library):
    check_limit(row, library, [-inf] * 3, row.empty)


@law(
    "infinities",
    "The row (inf, 0, inf) gives the limit that is said: classes at inf share everything between them.",
    OF_CLASSES,
    LIBRARIES,
)
def test_infinities(row, library):
    check_limit(row, library, [inf, 0.0, inf], row.infinite)


def check_limit(row, library, logits, want):
    if row.takes == "batch":
        got = library.run(row, logits)
    else:
        target = row.special_target(1)
        got = library.run(row, [logits], target)[0]
    np.testing.assert_allclose(got, np.broadcast_to(want, np.shape(got)), rtol=4 * library.eps)


@law(
    "ends",
    "At the two ends of its domain a function of single numbers has the value and the slope that are said.",
    [row for row in ROWS if row.takes == "number"],
    DIFFERENTIABLE,
)
def test_ends(row, library):
    target = None if row.target is None else np.ones(1, int)
    for end, (value, slope) in zip(row.domain, row.ends, strict=True):
        end = float(end)
        got = library.run(row, [end], target), library.gradient(row, [end], target)
        np.testing.assert_allclose(got, [[value], [slope]], rtol=4 * library.eps)


@pytest.mark.parametrize("empty", ["nan", "uniform", "zero"])
def test_an_empty_row_by_choice(empty, library):
    rows = [[-inf] * 4, [0.0] * 4]
    probs = library.run(lambda z: ll.softmax(z, empty=empty), rows)
    logs = library.run(lambda z: ll.log_softmax(z, empty=empty), rows)
    want = {"nan": nan, "uniform": 0.25, "zero": 0.0}[empty]
    np.testing.assert_array_equal(probs, [[want] * 4, [0.25] * 4])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(logs, np.log(probs), rtol=2 * library.eps)


IGNORED = np.array([[nan, 1.0, 2.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [1.0, 2.0, 3.0]])
TARGETS = {
    "index": np.array([0, -100, 99, 2]),
    "distribution": np.array([[nan, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1.0]]),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", TARGETS)
def test_an_ignored_row_costs_nothing_whatever_it_holds(kind, smoothing, differentiable):
    valid = np.array([False, False, False, True])

    def loss(z, target):
        return ll.cross_entropy(z, target, label_smoothing=smoothing, valid=valid)

    losses = differentiable.run(loss, IGNORED, TARGETS[kind])
    slopes = differentiable.gradient(loss, IGNORED, TARGETS[kind])
    assert (losses[:3] == 0).all()
    assert (slopes[:3] == 0).all()
    alone = differentiable.run(
        lambda z, y: ll.cross_entropy(z, y, label_smoothing=smoothing), IGNORED[3:], TARGETS[kind][3:]
    )
    np.testing.assert_allclose(losses[3:], alone, rtol=4 * differentiable.eps)
    assert slopes[3].any()


@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_a_class_of_weight_0_is_ignored(kind, differentiable):
    weight = np.array([0.0, 1.0, 2.0])
    rows = np.array([[nan, 1.0, 2.0], [1.0, 2.0, 3.0]])
    target = np.array([0, 2]) if kind == "index" else np.eye(3)[[0, 2]]

    def loss(z, y):
        return ll.cross_entropy(z, y, class_weight=weight)

    losses, slopes = differentiable.run(loss, rows, target), differentiable.gradient(loss, rows, target)
    assert losses[0] == 0
    assert (slopes[0] == 0).all()
    np.testing.assert_allclose(losses[1], 2 * np.log1p(np.exp(-1) + np.exp(-2)), rtol=4 * differentiable.eps)


# logit, target, loss, gradient
BINARY = {
    "right": (inf, 1, 0.0, 0.0),
    "right, negative": (-inf, 0, 0.0, 0.0),
    "wrong": (-inf, 1, inf, -1.0),
    "wrong, negative": (inf, 0, inf, 1.0),
    "undecided": (0.0, 1, log(2), -0.5),
    "undecided, negative": (0.0, 0, log(2), 0.5),
    "shared, infinite": (inf, 0.5, inf, 0.5),
    "nan": (nan, 1, nan, nan),
}


@pytest.mark.parametrize("case", BINARY)
def test_binary_losses(case, differentiable):
    z, y, loss, slope = BINARY[case]
    np.testing.assert_allclose(
        differentiable.run(ll.binary_cross_entropy, [z], [y]), [loss], rtol=4 * differentiable.eps
    )
    np.testing.assert_allclose(differentiable.gradient(ll.binary_cross_entropy, [z], [y]), [slope], atol=1e-15)


@pytest.mark.parametrize("held", [nan, inf, -inf, 7.0])
def test_an_ignored_binary_entry_costs_nothing_whatever_it_holds(held, differentiable):
    valid = np.array([False, True])

    def loss(z, y):
        return ll.binary_cross_entropy(z, y, valid=valid)

    z, y = [held, 0.0], [-100, 1]
    assert differentiable.run(loss, z, y)[0] == 0
    assert differentiable.gradient(loss, z, y)[0] == 0
    assert differentiable.gradient(loss, z, y)[1] == -0.5


# function, number, value, slope; the ends of each domain are in the laws
NUMBERS = [
    (ll.sigmoid, 0.0, 0.5, 0.25),
    (ll.softplus, 0.0, log(2), 0.5),
    (ll.logit, 0.5, 0.0, 4.0),
    (ll.softcap, 0.0, 0.0, 1.0),
]


@pytest.mark.parametrize(
    ("function", "number", "value", "slope"), NUMBERS, ids=lambda part: getattr(part, "__name__", part)
)
def test_numbers(function, number, value, slope, differentiable):
    settings = {"cap": 30.0} if function is ll.softcap else {}
    got = differentiable.run(lambda z: function(z, **settings), [number])
    np.testing.assert_allclose(got, [value], rtol=4 * differentiable.eps)
    np.testing.assert_allclose(
        differentiable.gradient(lambda z: function(z, **settings), [number]), [slope], rtol=4 * differentiable.eps
    )


def test_subnormal_probabilities_may_flush_under_xla_but_their_logarithms_stay():
    JAX_JIT.require()
    assert JAX_JIT.run(ll.softmax, [0.0, -100.0])[1] < np.finfo(np.float32).tiny
    assert JAX_JIT.run(ll.log_softmax, [0.0, -100.0])[1] == -100
