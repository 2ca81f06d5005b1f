"""Newton's fits against closed forms and each other, and what their certificates promise."""

from dataclasses import replace

import numpy as np
import pytest
from problems import FAMILIES, problem, value
from scipy.sparse import csr_array

from lastlayer.train import _newton, _ordinal, _whitened
from lastlayer.train._newton import gap, inverted, solved
from lastlayer.train._objective import Frame, Objective, shares
from lastlayer.train._problem import Penalty, Problem
from lastlayer.train._solve import solve

TOL, MOST = 1e-12, 200


def newton(one, start=None, tol=TOL):
    return _newton.solve(one, start, tol, MOST)


def unpenalised(width):
    return Penalty(np.zeros(width), np.zeros(width))


def table(n00, n01, n10, n11):
    """A feature of 0 and 1 and a target, so many times each: its log odds ratio is known."""
    counts = [n00, n01, n10, n11]
    x, y = np.repeat([0.0, 0, 1, 1], counts)[:, None], np.repeat([0.0, 1, 0, 1], counts)
    return Problem(x, y, np.ones(len(y)), None, "binary", 1, True, unpenalised(1))


def test_two_by_two_table():
    """Coefficient log(ad / bc), intercept the log odds of the first row, variance 1/a + 1/b + 1/c + 1/d."""
    fit = newton(table(40, 10, 15, 30))
    assert fit.coef[0, 0] == pytest.approx(np.log(40 * 30 / (10 * 15)), rel=1e-12)
    assert fit.intercept[0] == pytest.approx(np.log(10 / 40), rel=1e-12)
    assert fit.inverse[0, 0] == pytest.approx(1 / 40 + 1 / 10 + 1 / 15 + 1 / 30, rel=1e-10)
    assert fit.inverse[1, 1] == pytest.approx(1 / 40 + 1 / 10, rel=1e-10)
    assert fit.inverse[0, 1] == pytest.approx(-1 / 40 - 1 / 10, rel=1e-10)


def test_ordinal_without_features_has_the_cumulative_shares():
    """With a feature of zeros the thresholds are the logits of 10, 30 and 60 of 100."""
    y = np.repeat([0, 1, 2, 3], [10, 20, 30, 40])
    one = Problem(np.zeros((100, 1)), y, np.ones(100), None, "ordinal", 1, True, unpenalised(1))
    fit = newton(one)
    np.testing.assert_allclose(fit.intercept, np.log([10 / 90, 30 / 70, 60 / 40]), rtol=1e-12)
    assert fit.coef[0, 0] == 0


def curvature(one, fit, step=1e-3):
    """The Hessian of F in coefficients and intercepts, output by output, by differences of its definition."""
    ordinal = one.family == "ordinal"
    table = np.column_stack([fit.coef, fit.intercept]) if not ordinal else np.r_[fit.coef[0], fit.intercept]

    def at(move):
        moved = table + move.reshape(table.shape)
        parts = (moved[None, :3], moved[3:]) if ordinal else (moved[:, :3], moved[:, 3])
        return value(one, *parts)

    moves = np.eye(table.size) * step
    return np.array([[(at(a + b) - at(a - b) - at(b - a) + at(-a - b)) / (4 * step**2) for b in moves] for a in moves])


@pytest.mark.parametrize("family", ["binary", "multinomial", "ordinal"])
def test_inverse_undoes_the_hessian(family):
    """Of classes, on the directions that sum to 0."""
    one = problem(family)
    fit = newton(one)
    size = len(fit.inverse)
    want = np.eye(size)
    if family == "multinomial":
        want -= np.kron(np.full((4, 4), 0.25), np.eye(4))
    root = np.sqrt(np.diag(fit.inverse))
    apart = fit.inverse @ curvature(one, fit) - want
    np.testing.assert_allclose(apart * root / root[:, None], 0, atol=1e-4)


def test_inverse_of_labels_is_one_of_each():
    one = problem("multilabel")
    fit = newton(one)
    assert fit.inverse.shape == (4, 4, 4)
    single = replace(one, target=one.target[:, 2], offset=one.offset[:, 2], family="binary", outputs=1)
    np.testing.assert_allclose(fit.inverse[2], newton(single).inverse, rtol=1e-10)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_solvers_agree(family, intercept):
    one = problem(family, n=300, intercept=intercept)
    fit = newton(one)
    again = (_ordinal if family == "ordinal" else _whitened).solve(one, None, 1e-7, 5000)
    assert fit.certificate.converged and again.certificate.converged
    assert fit.certificate.objective == pytest.approx(value(one, fit.coef, fit.intercept), rel=1e-12)
    assert again.certificate.objective == pytest.approx(fit.certificate.objective, rel=1e-8)
    np.testing.assert_allclose(again.coef, fit.coef, atol=1e-4)
    np.testing.assert_allclose(again.intercept, fit.intercept, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_features_give_the_fit_of_dense_ones(family):
    one = problem(family)
    one.features[::3, 1] = 0
    fit, same = newton(one), newton(replace(one, features=csr_array(one.features)))
    np.testing.assert_allclose(same.coef, fit.coef, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_is_so_many_rows(family):
    one = problem(family)
    times = np.arange(len(one.weight)) % 3
    rows = np.repeat(np.arange(len(times)), times)
    many = replace(
        one, features=one.features[rows], target=one.target[rows], weight=np.ones(len(rows)), offset=one.offset[rows]
    )
    for a, b in zip(newton(replace(one, weight=times * 1.0)), newton(many), strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", ["binary", "multinomial", "multilabel"])
def test_an_offset_that_the_features_make_is_taken_back(family):
    """Without a penalty, logits o + B x + b with o = A x + a give the coefficients less A and the intercepts less a."""
    one = replace(problem(family, n=400, d=2), offset=None, penalty=unpenalised(2))
    rng = np.random.default_rng(3)
    a, shift = rng.normal(size=(one.outputs, 2)) * 0.1, rng.normal(size=one.outputs)
    offset = one.features @ a.T + shift
    plain = newton(one)
    moved = newton(replace(one, offset=offset[:, 0] if family == "binary" else offset))
    if family == "multinomial":
        a, shift = a - a.mean(0), shift - shift.mean()
    np.testing.assert_allclose(moved.coef, plain.coef - a, atol=1e-9)
    np.testing.assert_allclose(moved.intercept, plain.intercept - shift, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_of_the_features_change_nothing(family):
    """Columns times s with a penalty over s^2 are the same fit, its coefficients over s: from 1e-8 to 1e8."""
    one = problem(family, d=4)
    s = np.array([1e-8, 1e-3, 1.0, 1e8])
    other = replace(one, features=one.features * s, penalty=replace(one.penalty, l2=one.penalty.l2 * s**2))
    fit, same = newton(one), newton(other)
    np.testing.assert_allclose(same.coef * s, fit.coef, rtol=1e-8, atol=1e-11)
    assert same.certificate.objective == pytest.approx(fit.certificate.objective, rel=1e-12)


def test_a_far_mean_costs_no_digits():
    """Years around 2000, a deviation of 1e-5 of the mean: the same as with the mean taken out beforehand."""
    one = replace(problem("binary", n=500, d=2), offset=None, penalty=unpenalised(2))
    far = replace(one, features=one.features + 1e5)
    np.testing.assert_allclose(newton(far).coef, newton(one).coef, rtol=1e-8)


def test_classes_sum_to_zero():
    fit = newton(problem("multinomial", penalty=unpenalised(3)))
    np.testing.assert_allclose(fit.coef.sum(0), 0, atol=1e-12)
    assert fit.intercept.sum() == pytest.approx(0, abs=1e-11)


def test_equal_columns_share_their_coefficient():
    """With a penalty by itself; without, as the least coefficients that do."""
    one = replace(problem("binary", d=2), penalty=unpenalised(2))
    twice = replace(one, features=one.features[:, [0, 1, 1]], penalty=unpenalised(3))
    fit, shared = newton(one), newton(twice)
    assert shared.certificate.converged
    np.testing.assert_allclose(shared.coef[0], fit.coef[0, [0, 1, 1]] / [1, 2, 2], rtol=1e-8)
    ridge = newton(replace(twice, penalty=Penalty(np.full(3, 1e-3), np.zeros(3))))
    assert ridge.coef[0, 1] == pytest.approx(ridge.coef[0, 2], rel=1e-9)


@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_a_constant_column_has_no_coefficient(l2):
    one = problem("binary", d=2)
    one.features[:, 1] = 0.1
    fit = newton(replace(one, penalty=Penalty(np.full(2, l2), np.zeros(2))))
    assert fit.certificate.converged and abs(fit.coef[0, 1]) < 1e-12


@pytest.mark.parametrize("family", ["binary", "multinomial", "ordinal"])
def test_separated_classes_escape(family):
    one = replace(problem(family, n=60, d=1), offset=None, penalty=unpenalised(1))
    y = one.target if family == "ordinal" else one.target.astype(int)
    order = np.argsort(y, kind="stable")
    one.features[order, 0] = np.arange(60) + 5.0 * y[order]
    certificate = newton(one).certificate
    assert certificate.escapes and not certificate.converged and certificate.gap is None
    held = newton(replace(one, penalty=Penalty(np.ones(1), np.zeros(1)))).certificate
    assert held.converged and not held.escapes


@pytest.mark.parametrize("family", ["binary", "multinomial"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_gap_is_an_upper_bound(family, l2):
    """On the way to the minimum, wherever it says something; and it is not wide: at most twice the truth near it."""
    one = problem(family, n=2000, penalty=Penalty(np.full(3, l2), np.zeros(3)))
    objective = Objective(one, Frame.of(one))
    fit = newton(one)
    best, at = fit.certificate.objective, objective.inward(fit.coef, fit.intercept)
    away = np.random.default_rng(0).normal(size=len(at))
    said = 0
    for distance in 10.0 ** np.arange(-5, 1.5, 0.5):
        point = _newton._point(objective, at + distance * away)
        bound = gap(point, inverted(point.hessian), family)
        if bound is not None:
            said += 1
            assert bound >= (point.value - best) * (1 - 1e-6) - 1e-9
            assert bound <= 2 * (point.value - best) + 1e-9
    assert said >= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_tall_data_begin_with_a_sample(family, monkeypatch):
    one = problem(family, n=20_000, d=2, outputs=3, offset=None)
    z = (one.features - one.features.mean(0)) @ [0.3, 0.2]
    latent = 3 * z / z.std() + np.random.default_rng(2).logistic(size=len(z))
    grade = (latent > 0) * 1 + ((latent > 3) if family in ("multinomial", "ordinal") else 0)
    one.target[:] = grade[:, None] if family == "multilabel" else grade
    alone = newton(one)
    monkeypatch.setattr(_newton, "TALL", 1000)
    fit = newton(one)
    assert fit.certificate.passes < alone.certificate.passes
    np.testing.assert_allclose(fit.coef, alone.coef, rtol=1e-8, atol=1e-10)


def test_a_sample_without_a_class_is_not_begun_with(monkeypatch):
    monkeypatch.setattr(_newton, "TALL", 1000)
    one = problem("binary", n=4000)
    one.target[:] = 0
    one.target[40:60] = 1  # none of them is in the runs that are looked at
    objective = Objective(one, Frame.of(one))
    np.testing.assert_array_equal(_newton._start(objective), objective.inward(*shares(one)))
    assert newton(one).certificate.converged


def test_a_start_is_where_it_begins():
    one = problem("multinomial")
    fit = newton(one)
    assert newton(one, (fit.coef, fit.intercept), 1e-8).certificate.passes == 1


def test_solved_and_inverted_leave_out_what_has_no_curvature():
    hessian = np.array([[4.0, 0.0, 0.0], [0.0, 1e-12, 1e-12], [0.0, 1e-12, 1e-12]])
    np.testing.assert_allclose(solved(hessian, np.array([8.0, 2e-12, 2e-12])), [2.0, 1.0, 1.0])
    np.testing.assert_allclose(inverted(hessian), [[0.25, 0, 0], [0, 2.5e11, 2.5e11], [0, 2.5e11, 2.5e11]])


@pytest.mark.parametrize("family", ["multinomial", "ordinal"])
def test_many_parameters_go_without_a_hessian(family):
    penalty = Penalty(np.full(800, 30.0), np.zeros(800))
    features = np.random.default_rng(0).normal(size=(50, 800))
    one = problem(family, n=50, d=800, outputs=3, features=features, penalty=penalty, offset=None)
    fit = solve(one, tol=1e-9)
    assert fit.certificate.solver != "newton" and fit.certificate.converged
    assert fit.inverse is None
    np.testing.assert_allclose(fit.coef, newton(one).coef, atol=1e-7)
