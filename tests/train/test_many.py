"""Fits of many folds and penalties as columns of one product, against a fit of each alone and their definition."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from problems import problem, value
from scipy.optimize import approx_fprime
from scipy.sparse import csr_array
from scipy.special import expit

import lastlayer as ll
from lastlayer.train import _newton, many
from lastlayer.train._problem import Penalty

FAMILIES = ("binary", "multinomial", "multilabel")
L2 = np.array([[0.1, 1.0, 3.0], [20.0, 5.0, 8.0]])


def folds(p, count=3):
    """Weights of each fold: 0 where a row is held out, and there are uneven weights besides."""
    return np.stack([(np.arange(len(p.weight)) % count != k) * p.weight for k in range(count)])


def alone(p, weight, l2):
    kept = weight > 0
    part = replace(
        p,
        features=p.features[kept],
        target=p.target[kept],
        weight=weight[kept],
        offset=None if p.offset is None else p.offset[kept],
        penalty=Penalty(l2, np.zeros(len(l2))),
    )
    return _newton.solve(part, None, 1e-12, 500)


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, csr_array])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_the_fit_of_its_own_rows_and_penalty(family, intercept, layout):
    p = problem(family, intercept=intercept)
    weights = folds(p)
    found = many.solve(replace(p, features=layout(p.features)), weights, L2, tol=1e-11)
    assert found.converged.all() and found.gradient.max() < 1e-9
    for k, weight in enumerate(weights):
        for c, l2 in enumerate(L2):
            one = alone(p, weight, l2)
            np.testing.assert_allclose(found.coef[k, c], one.coef, atol=1e-7)
            np.testing.assert_allclose(found.intercept[k, c], one.intercept, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_value_and_gradient_are_those_of_the_definition(family):
    p = problem(family, n=40)
    weights, rng = folds(p), np.random.default_rng(1)
    function = many.Function(p, weights, L2)
    at = rng.normal(size=(2, p.outputs, 4)) * 0.1
    which, penalties = np.array([2, 0]), np.array([1, 0])
    found = function(at, which, penalties)
    for i in range(2):
        one = replace(p, weight=weights[which[i]], penalty=Penalty(L2[penalties[i]], np.zeros(3)))

        def F(flat, one=one):
            table = flat.reshape(p.outputs, 4)
            return value(one, table[:, :3], table[:, 3] - table[:, :3] @ function.moments.centre)

        assert found.value[i] == pytest.approx(F(at[i].ravel()), rel=1e-12)
        slope = approx_fprime(at[i].ravel(), F, 1e-6)
        np.testing.assert_allclose(found.gradient[i].ravel(), slope, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("way", [nullcontext, ll.formulas], ids=["kernel", "formula"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_of_fits_are_exact_in_both_tails(way, dtype):
    z = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0] * 7)
    weights, folds = np.random.default_rng(0).random((2, len(z) + 9)).astype(dtype), np.array([1, 0, 1])
    weight, exact = weights[folds, 4:-5].astype(float), 50 * np.finfo(dtype).eps
    for truth in (0, 1):
        sign = np.full((2, len(z) + 9), 1.0 - 2 * truth, dtype)
        tile = np.tile(z, (3, 2, 1)).astype(dtype)
        with way():
            loss, bend = many.fit_slopes(tile, sign, weights, folds, 4)
        slope = expit(z) if truth == 0 else -expit(-z)
        np.testing.assert_allclose(tile[:, 1], weight * slope, rtol=exact, atol=1e-38)
        np.testing.assert_allclose(loss, 2 * weight @ (np.logaddexp(0, z) - truth * z), rtol=exact)
        np.testing.assert_allclose(bend[:, 0], weight @ (expit(z) * expit(-z)), rtol=exact)


def test_slopes_of_classes_are_exact_where_the_target_is_sure():
    z = np.array([[40.0, 0.0, -800.0], [0.0, -1.0, 0.0], [0.0, 2.0, 800.0]])  # (classes, rows)
    target, weight = np.array([[0, 2, 0]]), np.array([[1.0, 2.0, 3.0]])
    tile = z[None].copy()
    loss, bend = many.class_slopes(tile, target, weight, np.array([0]), 0)
    e = np.exp(-40.0)
    np.testing.assert_allclose(tile[0, :, 0], [-2 * e, e, e], rtol=1e-14)
    middle = np.exp([0.0, -1.0, 2.0]) / np.exp([0.0, -1.0, 2.0]).sum()
    np.testing.assert_allclose(tile[0, :, 1], 2 * (middle - [0, 0, 1]), rtol=1e-14)
    assert tile[0, :, 2].tolist() == [-3.0, 0.0, 3.0]
    last = np.log(np.exp([0.0, -1.0, 2.0]).sum()) - 2.0
    assert loss[0] == pytest.approx(np.log1p(2 * e) + 2 * last + 3 * 1600.0, rel=1e-15)
    assert bend[0, 0] == pytest.approx(2 * e + 2 * middle[0] * (1 - middle[0]), rel=1e-12)


def test_units_of_columns_change_neither_the_passes_nor_the_minimum():
    """Penalties follow the units, so that the problem is the same one."""
    p = problem("multinomial", n=400, offset=None)
    units = np.array([1e-4, 1.0, 1e5])
    want = many.solve(p, folds(p), L2, tol=1e-9)
    got = many.solve(replace(p, features=p.features * units), folds(p), L2 * units**2, tol=1e-9)
    assert np.abs(got.passes - want.passes).max() <= 2
    np.testing.assert_allclose(got.coef * units, want.coef, atol=1e-7)


def test_float32_arrives_within_its_own_digits():
    p = problem("multinomial", n=500)
    want = many.solve(p, folds(p), L2, tol=1e-9)
    got = many.solve(replace(p, features=p.features.astype(np.float32)), folds(p), L2, tol=1e-6)
    assert got.converged.all() and got.coef.dtype == np.float64
    np.testing.assert_allclose(got.coef, want.coef, atol=2e-3)


def test_a_few_at_a_time_are_the_same_as_all(monkeypatch):
    p = problem("binary")
    want = many.solve(p, folds(p), L2, tol=1e-10)
    monkeypatch.setattr(many, "ROOM", 2 * many.MEMORY * 4 * 2)  # two fits
    got = many.solve(p, folds(p), L2, tol=1e-10)
    assert got.converged.all()
    np.testing.assert_allclose(got.coef, want.coef, atol=1e-8)


def test_a_fit_that_has_arrived_leaves_the_product():
    p = problem("binary", n=300)
    sizes = []

    class Watched(many.Function):
        def __call__(self, tables, which, penalties):
            sizes.append(len(tables))
            return super().__call__(tables, which, penalties)

    l2 = np.array([[1e6] * 3, [1e-3] * 3])
    function = Watched(p, folds(p), l2)
    which, penalties = np.divmod(np.arange(6), 2)
    _, _, passes, converged = many._descend(function, which, penalties, 1e-9, 500)
    assert converged.all() and sizes[0] == 6 and sizes[-1] < 6 and sorted(sizes, reverse=True) == sizes
    assert sum(sizes) == passes.sum() and passes[penalties == 0].max() < passes[penalties == 1].min()


def test_too_few_passes_are_no_minimum():
    p = problem("multinomial")
    found = many.solve(p, folds(p), L2, tol=1e-12, most=3)
    assert not found.converged.any() and (found.passes == 3).all()


def test_without_a_penalty_classes_that_are_separated_do_not_arrive():
    p = problem("binary", offset=None)
    p = replace(p, target=(p.features[:, 0] > np.median(p.features[:, 0])) * 1.0)
    found = many.solve(p, folds(p), np.zeros((1, 3)), most=200)
    assert not found.converged.any()
