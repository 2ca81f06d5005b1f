"""Sums over rows against the definition, finite differences, and each other: kernel, formula, layouts, sparse."""

from dataclasses import replace

import numpy as np
import pytest
from problems import FAMILIES, problem, somewhere, value
from scipy.sparse import csr_array

import lastlayer as ll
from lastlayer import kernels
from lastlayer.train import _objective
from lastlayer.train._objective import Frame, Objective, logistic_newton
from lastlayer.train._ordinal import Slopes

JOINED = tuple(family for family in FAMILIES if family != "multilabel")


def penalised(objective, parameters):
    return objective.penalised(parameters, objective.sums(parameters))


def slope(function, at, step=1e-5):
    """Central differences."""
    moves = np.eye(len(at)) * step
    return np.array([(function(at + move) - function(at - move)) / (2 * step) for move in moves])


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("family", JOINED)
def test_value_gradient_and_hessian(family, intercept):
    one = problem(family, intercept=intercept)
    objective = Objective(one, Frame.of(one))
    at = objective.inward(*somewhere(one))
    sums = penalised(objective, at)
    assert sums.loss == pytest.approx(value(one, *objective.outward(at)), rel=1e-12)
    np.testing.assert_allclose(sums.gradient, slope(lambda v: penalised(objective, v).loss, at), rtol=1e-6, atol=1e-5)
    numeric = slope(lambda v: penalised(objective, v).gradient, at)
    np.testing.assert_allclose(sums.hessian, numeric, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sums.hessian, sums.hessian.T, rtol=1e-12)


@pytest.mark.parametrize("sparse", [True, False])
def test_slopes_of_an_ordinal(sparse):
    one = problem("ordinal")
    given = replace(one, features=csr_array(one.features)) if sparse else one
    objective = Slopes(given)
    at = objective.inward(*somewhere(one))
    assert objective(at).value == pytest.approx(value(one, *somewhere(one)), rel=1e-12)
    numeric = slope(lambda v: objective(v).value, at)
    np.testing.assert_allclose(objective(at).gradient, numeric, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("family", JOINED)
def test_blocks_are_only_ways_of_cutting(family, monkeypatch):
    one = problem(family, n=203)
    objective = Objective(one, Frame.of(one))
    at = objective.inward(*somewhere(one))
    whole = objective.sums(at)
    monkeypatch.setattr(_objective, "RANGE", 50)
    monkeypatch.setattr(_objective, "BLOCK", 100)
    with ll.formulas():
        for found, want in zip(objective.sums(at), whole, strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("family", JOINED)
def test_inward_and_outward_undo_each_other(family):
    one = problem(family)
    objective = Objective(one, Frame.of(one))
    coef, intercept = somewhere(one)
    if family == "multinomial":
        coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
    for found, want in zip(objective.outward(objective.inward(coef, intercept)), (coef, intercept), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)


def rows_of(n, d, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, d)) * 3 + 1).astype(dtype)
    target, weight = rng.integers(0, 2, n).astype(float), rng.uniform(size=n)
    centre, scale = rng.normal(size=d), 2.0 ** rng.integers(-2, 3, d)
    return x, target, weight, rng.normal(size=n), rng.normal(size=d + 1), centre, scale


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 2), (255, 3), (256, 4), (257, 5), (900, 30), (70, 128)])
@pytest.mark.parametrize("intercept", [0, 1])
def test_kernel_equals_formula(n, d, dtype, intercept):
    x, target, weight, offset, parameters, centre, scale = rows_of(n, d, dtype)
    args = (x, target, weight, offset, parameters[: d + intercept], centre, scale)
    assert kernels.choose("logistic_newton", x) is not None
    found = logistic_newton(*args)
    with ll.formulas():
        want = logistic_newton(*args)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * max(np.abs(b).max(), 1))


def test_kernel_far_out():
    """Logits of hundreds: a right answer costs its exp(-|z|), a wrong one |z|, and nothing is 1 - p."""
    x = np.array([[800.0], [-800.0], [40.0], [40.0], [-40.0]])
    target = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    for i, want in enumerate([0.0, 800.0, np.exp(-40), 40.0, np.exp(-40)]):
        one = (x[i : i + 1], target[i : i + 1], np.ones(1), np.zeros(1), np.ones(1), np.zeros(1), np.ones(1))
        loss, gradient, _, _ = logistic_newton(*one)
        assert loss == pytest.approx(want, rel=1e-14)
        miss = -np.exp(-40.0) if i == 2 else np.exp(-40.0) if i == 4 else {0: 0.0, 1: -1.0, 3: 1.0}[i]
        assert gradient[0] == pytest.approx(miss * x[i, 0], rel=1e-14)


def test_layout_changes_no_bit_and_no_input():
    x, *others = rows_of(600, 5)
    want = logistic_newton(x, *others)
    wide = np.zeros((1200, 10))
    wide[::2, ::2] = x
    layouts = [np.asfortranarray(x), wide[::2, ::2], x[::-1].copy()[::-1], x.astype(x.dtype.newbyteorder())]
    frozen = x.copy()
    frozen.flags.writeable = False
    for same in [*layouts, frozen]:
        for a, b in zip(logistic_newton(same, *others), want, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ("column", "centred"),
    [(np.full(50, 0.1), 0.0), (np.zeros(50), 0.0), (1e140 * np.arange(50.0), None), (1e-140 * np.arange(50.0), None)],
    ids=["constant", "zero", "huge", "tiny"],
)
def test_frame_of_odd_columns(column, centred):
    one = problem("binary", n=50, d=1, features=column[:, None], penalty=problem("binary", d=1).penalty)
    frame = Frame.of(one)
    assert np.log2(frame.scale) == np.round(np.log2(frame.scale))
    inside = (column - frame.centre) / frame.scale
    if centred is None:
        assert 0.7 < inside.std() < 1.42
    else:
        assert (inside == centred).all()


@pytest.mark.parametrize("make", [np.asarray, np.asfortranarray, csr_array])
def test_some_rows_are_even_and_whole_where_they_are_few(make):
    table = make(np.arange(1.0, 200_001.0).reshape(-1, 2))
    assert _objective.some(table[:10], 10).shape[0] == 10
    part = _objective.some(table, 5_000)
    part = part.toarray() if make is csr_array else part
    assert 4_900 <= len(part) <= 5_100
    assert (part[:, 1] == part[:, 0] + 1).all() and (np.diff(part[:32, 0]) == 2).all()
    assert np.histogram(part[:, 0], 10, (0, 200_000))[0].min() > 450
