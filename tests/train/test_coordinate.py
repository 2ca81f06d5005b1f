"""Fits with absolute values and bounds: against scikit-learn, by their own conditions, and what bounds their gap."""

from dataclasses import replace

import numpy as np
import pytest
from problems import FAMILIES, problem, value
from scipy.optimize import minimize
from scipy.sparse import csr_array, random_array
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression

import lastlayer as ll
from lastlayer.train import _coordinate, _coordinate_model, _coordinate_wide
from lastlayer.train._coordinate_model import Terms, column_descent, model_descent
from lastlayer.train._objective import Frame
from lastlayer.train._problem import Penalty, Problem
from lastlayer.train._solve import solve

TOL, MOST = 1e-9, 3000
D = 6
ROUTES = {"held": 1000, "wide": 0}
BOTH = [(family, route) for family in FAMILIES for route in ROUTES if (family, route) != ("ordinal", "wide")]


def penalties(d=D, seed=3):
    rng = np.random.default_rng(seed)
    l1, zero = rng.uniform(1, 6, d), np.zeros(d)
    return {
        "l1": Penalty(zero, l1),
        "elastic net": Penalty(l1 / 3, l1),
        "some without": Penalty(zero, np.where(np.arange(d) < 2, 0.0, l1)),
        "box": Penalty(zero + 0.1, zero, zero - 0.02, zero + 0.03),
        "not negative": Penalty(zero + 2.0, zero, zero),
        "l1 in a box": Penalty(zero, l1, zero - 0.01, zero + np.inf),
        "away from 0": Penalty(zero, l1, zero + 0.01, zero + 0.05),
    }


def whole(one, coef, intercept):
    """F from its definition."""
    return value(one, coef, intercept) + float((one.penalty.l1 * np.abs(coef)).sum())


def slopes(one, coef, intercept, step=1e-6):
    """The gradient of the smooth part by differences of its definition, coefficients and intercepts."""
    out = []
    for which, table in enumerate((coef, intercept)):
        grad = np.zeros(table.shape)
        for i in np.ndindex(table.shape):
            ends = []
            for sign in (1, -1):
                moved = [coef.copy(), intercept.copy()]
                moved[which][i] += sign * step
                ends.append(value(one, *moved))
            grad[i] = (ends[0] - ends[1]) / (2 * step)
        out.append(grad)
    return out


def assert_conditions(one, fit, atol):
    """0 is among the subgradients: of each coefficient, where it is, by the four cases."""
    by_coef, by_intercept = slopes(one, fit.coef, fit.intercept)
    penalty = one.penalty
    l1 = np.broadcast_to(penalty.l1, fit.coef.shape)
    low, high = (
        np.broadcast_to(end if bound is None else bound, fit.coef.shape)
        for bound, end in ((penalty.low, -np.inf), (penalty.high, np.inf))
    )
    assert (fit.coef >= low).all() and (fit.coef <= high).all()
    inner = (fit.coef != 0) & (fit.coef > low) & (fit.coef < high)
    np.testing.assert_allclose((by_coef + l1 * np.sign(fit.coef))[inner], 0, atol=atol)
    at_zero = (fit.coef == 0) & (low < 0) & (high > 0)
    assert (np.abs(by_coef) <= l1 + atol)[at_zero].all()
    right = by_coef + np.where(fit.coef >= 0, l1, -l1)
    left = by_coef + np.where(fit.coef > 0, l1, -l1)
    assert (right >= -atol)[fit.coef == low].all() and (left <= atol)[fit.coef == high].all()
    if one.intercept:
        np.testing.assert_allclose(by_intercept, 0, atol=atol)


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    monkeypatch.setattr(_coordinate, "HELD", ROUTES[request.param])
    return request.param


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", penalties())
@pytest.mark.parametrize(("family", "route"), BOTH, indirect=["route"])
def test_conditions_of_a_minimum(family, name, intercept, route):
    one = problem(family, n=150, d=D, penalty=penalties()[name], intercept=intercept)
    fit = solve(one, tol=TOL, most=MOST)
    assert fit.certificate.converged and not fit.certificate.escapes
    assert fit.certificate.objective == pytest.approx(whole(one, fit.coef, fit.intercept), rel=1e-12)
    assert_conditions(one, fit, 3e-5)
    if name == "l1":
        assert (fit.coef == 0).any() and (fit.coef != 0).any()


@pytest.mark.parametrize("ratio", [1.0, 0.4])
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_saga(classes, ratio, route):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8))
    y = (x @ rng.normal(size=(8, classes)) + rng.gumbel(size=(300, classes))).argmax(1)
    want = LogisticRegression(C=0.05, l1_ratio=ratio, solver="saga", tol=1e-12, max_iter=50_000).fit(x, y)
    target, outputs = (y.astype(float), 1) if classes == 2 else (y, 3)
    penalty = Penalty(np.full(8, (1 - ratio) / 0.05), np.full(8, ratio / 0.05))
    family = "binary" if classes == 2 else "multinomial"
    one = Problem(x, target, np.ones(300), None, family, outputs, True, penalty)
    fit = solve(one, tol=1e-10, most=MOST)
    assert fit.certificate.objective == pytest.approx(whole(one, want.coef_, want.intercept_), rel=1e-9)
    np.testing.assert_allclose(fit.coef, want.coef_, atol=1e-6)
    assert ((fit.coef == 0) == (want.coef_ == 0)).all()


def test_equals_liblinear(route):
    """Whose intercept is penalised, so without one."""
    rng = np.random.default_rng(1)
    x = random_array((400, 50), density=0.2, rng=rng, format="csr") + 0
    y = (x @ rng.normal(size=50) + rng.logistic(size=400) > 0).astype(float)
    want = LogisticRegression(C=2.0, l1_ratio=1, solver="liblinear", tol=1e-9, max_iter=10_000, fit_intercept=False)
    want.fit(x, y)
    one = Problem(csr_array(x), y, np.ones(400), None, "binary", 1, False, Penalty(np.zeros(50), np.full(50, 0.5)))
    fit = solve(one, tol=TOL, most=MOST)
    assert fit.certificate.objective == pytest.approx(whole(one, want.coef_, np.zeros(1)), rel=1e-8)
    np.testing.assert_allclose(fit.coef, want.coef_, atol=1e-5)


def test_bounds_equal_another_solver():
    one = problem("binary", n=150, d=4, penalty=Penalty(np.ones(4), np.zeros(4), np.zeros(4), np.full(4, 0.05)))
    fit = solve(one, tol=TOL)
    found = minimize(
        lambda v: value(one, v[None, :4], v[4:]),
        np.zeros(5),
        method="L-BFGS-B",
        bounds=[(0, 0.05)] * 4 + [(None, None)],
        options={"ftol": 1e-15, "gtol": 1e-9},
    )
    assert fit.certificate.objective == pytest.approx(found.fun, rel=1e-9)
    assert fit.certificate.objective <= found.fun * (1 + 1e-12)


@pytest.mark.parametrize("family", ["binary", "multinomial"])
def test_above_the_largest_penalty_all_are_zero(family, route):
    """lambda_max is the largest slope where only the intercepts are fitted: just below it one coefficient is not 0."""
    plain = problem(family, n=100, d=D, offset=None)
    hit = plain.target[:, None] == (np.arange(4) if family == "multinomial" else 1.0)
    share = plain.weight @ hit / plain.weight.sum()
    edge = np.abs(plain.features.T @ (plain.weight[:, None] * (share - hit))).max()
    above = solve(replace(plain, penalty=Penalty(np.zeros(D), np.full(D, edge * 1.0001))), tol=TOL, most=MOST)
    below = solve(replace(plain, penalty=Penalty(np.zeros(D), np.full(D, edge * 0.99))), tol=TOL, most=MOST)
    assert (above.coef == 0).all() and (below.coef != 0).any()
    assert above.certificate.gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["l1", "elastic net", "box"])
@pytest.mark.parametrize("family", ["binary", "multinomial", "multilabel"])
def test_the_gap_bounds_what_is_left(family, name, route):
    """At any point, on the way and near its end."""
    one = problem(family, n=150, d=D, penalty=penalties()[name])
    least = solve(one, tol=1e-11, most=MOST).certificate.objective
    for tol in (1e-2, 1e-3, 1e-5, 1e-8):
        certificate = solve(one, tol=tol, most=MOST).certificate
        assert certificate.gap >= certificate.objective - least - 1e-10
    assert certificate.gap <= 1e-4


@pytest.mark.parametrize("intercept", [False, True])
def test_the_gap_where_all_is_zero(intercept):
    """There p is 1/2, q the mean of the target, or 1/2 without intercept, moved towards it: the dual in closed form."""
    one = problem("binary", n=60, d=3, offset=None, intercept=intercept, penalty=Penalty(np.zeros(3), np.full(3, 9.0)))
    y, weight = one.target, one.weight
    q = np.full(60, weight @ y / weight.sum() if intercept else 0.5)
    share = 9.0 / np.abs(one.features.T @ (weight * (q - y))).max()
    assert share < 1
    q = y + share * (q - y)
    dual = -weight @ (q * np.log(q) + (1 - q) * np.log1p(-q))
    found = _coordinate._gap(one, _coordinate_wide.rows_of(one), np.zeros((1, 3)), np.zeros(1))
    assert found == pytest.approx(weight.sum() * np.log(2) - dual, rel=1e-9)


def test_the_sum_of_the_other_classes_does_not_cancel():
    logits = np.array([[0.0, -50.0, -60.0], [-1.0, 0.0, -1.0], [-50.0, 900.0, -700.0]])
    for k in range(3):
        want = np.logaddexp.reduce(np.delete(logits, k, axis=1), axis=1)
        np.testing.assert_allclose(_coordinate_wide._others(logits, k), want, rtol=1e-14, atol=1e-14)


def test_no_gap_is_named_where_nothing_bounds_it():
    some = problem("binary", n=100, d=D, penalty=penalties()["some without"])
    assert solve(some, tol=TOL).certificate.gap is None


@pytest.mark.parametrize(("family", "route"), BOTH, indirect=["route"])
def test_sparse_equals_dense(family, route):
    x = random_array((150, D), density=0.5, rng=np.random.default_rng(0)).toarray()
    one = problem(family, n=150, d=D, features=x, penalty=Penalty(np.full(D, 0.1), np.full(D, 0.5)))
    want = solve(one, tol=TOL, most=MOST)
    got = solve(replace(one, features=csr_array(x)), tol=TOL, most=MOST)
    np.testing.assert_allclose(got.coef, want.coef, atol=1e-6)
    np.testing.assert_allclose(got.intercept, want.intercept, atol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts_and_float32(order, dtype, route):
    one = problem("binary", n=150, d=D, penalty=penalties()["l1"])
    features = np.array(one.features, dtype, order=order)
    fit = solve(replace(one, features=features), tol=TOL, most=MOST)
    want = solve(replace(one, features=features.astype(float)), tol=TOL, most=MOST)
    assert fit.coef.dtype == np.float64
    np.testing.assert_allclose(fit.coef, want.coef, atol=1e-7)


def test_weights_are_repeats(route):
    one = problem("binary", n=80, d=D, penalty=penalties()["elastic net"], offset=None)
    times = np.random.default_rng(0).integers(0, 4, 80)
    want = solve(replace(one, weight=times.astype(float)), tol=TOL, most=MOST)
    again = {"features": one.features.repeat(times, 0), "target": one.target.repeat(times)}
    got = solve(replace(one, weight=np.ones(times.sum()), **again), tol=TOL, most=MOST)
    np.testing.assert_allclose(got.coef, want.coef, atol=1e-7)


@pytest.mark.parametrize(("family", "route"), BOTH, indirect=["route"])
def test_bounds_that_do_not_bind_change_nothing(family, route):
    one = problem(family, n=150, d=3)
    want = solve(one, tol=1e-10)
    far = Penalty(one.penalty.l2, one.penalty.l1, np.full(3, -1e3), np.full(3, 1e3))
    got = solve(replace(one, penalty=far), tol=1e-9, most=MOST)
    np.testing.assert_allclose(got.coef, want.coef, atol=1e-6)
    assert got.certificate.objective == pytest.approx(want.certificate.objective, rel=1e-10)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_raw_units_take_no_more_passes(load):
    """A column in other units with its penalty in those is the same problem; correlated ones end on a face."""
    x, y = load(return_X_y=True)
    classes = y.max() + 1
    family, outputs, target = ("binary", 1, y.astype(float)) if classes == 2 else ("multinomial", 3, y)
    units = 10.0 ** np.linspace(-3, 5, x.shape[1])
    l1 = 0.1 * x.std(0)
    one = Problem(x, target, np.ones(len(y)), None, family, outputs, True, Penalty(np.zeros(len(l1)), l1))
    two = replace(one, features=x * units, penalty=Penalty(np.zeros(len(l1)), l1 * units))
    plain, scaled = solve(one, tol=TOL), solve(two, tol=TOL)
    assert plain.certificate.converged and scaled.certificate.converged
    assert max(plain.certificate.passes, scaled.certificate.passes) <= 25
    assert scaled.certificate.objective == pytest.approx(plain.certificate.objective, rel=1e-9)
    assert ((scaled.coef == 0) == (plain.coef == 0)).all() and (plain.coef == 0).any()


@pytest.mark.parametrize("sparse", [False, True])
def test_more_features_than_a_model_takes(sparse, monkeypatch):
    """Of 60 features 10 at a time."""
    monkeypatch.setattr(_coordinate, "HELD", 0)
    monkeypatch.setattr(_coordinate_wide, "WORKING", 10)
    x = random_array((200, 60), density=0.3, rng=np.random.default_rng(0)).toarray()
    one = problem("binary", n=200, d=60, features=csr_array(x) if sparse else x)
    one = replace(one, penalty=Penalty(np.full(60, 0.5), np.full(60, 0.05)))
    fit = solve(one, tol=1e-8, most=MOST)
    assert fit.certificate.converged and (fit.coef != 0).sum() > 10
    assert_conditions(one, fit, 1e-4)


def test_a_start_at_the_minimum_ends_there(route):
    one = problem("multinomial", n=150, d=D, penalty=penalties()["elastic net"])
    fit = solve(one, tol=TOL, most=MOST)
    again = solve(one, (fit.coef, fit.intercept), tol=1e-8, most=MOST)
    assert again.certificate.passes == 1 and again.certificate.converged


def test_many_features_of_an_ordinal_are_refused(monkeypatch):
    monkeypatch.setattr(_coordinate, "HELD", 5)
    with pytest.raises(ValueError, match="at most 2 features; these are 3"):
        solve(problem("ordinal", penalty=Penalty(np.zeros(3), np.ones(3))))


@pytest.mark.parametrize("outputs", [4, 5])
@pytest.mark.parametrize("name", ["l1", "elastic net", "l1 in a box"])
def test_a_constant_of_all_classes_is_taken_out(name, outputs):
    """The penalty of a feature's classes is then the least of all constants."""
    terms = Terms.of(problem("multinomial", d=D, penalty=penalties()[name]), Frame(np.zeros(D), np.ones(D)))
    ridge = penalties()[name].l2
    coef = terms.inside(np.random.default_rng(0).normal(size=(outputs, D)).round(1))
    left = coef - _coordinate_wide._common(coef, terms, ridge)
    assert (terms.inside(left) == left).all() and ((left == 0).any() if name == "l1" else True)

    def costs(table):
        return (ridge * np.square(table) / 2 + terms.l1 * np.abs(table)).sum(0)

    for t in np.linspace(-2, 2, 401):
        moved = left - t
        inside = (terms.inside(moved) == moved).all(0)
        assert (costs(moved) >= costs(left) - 1e-9)[inside].all()


@pytest.mark.parametrize("seed", range(3))
def test_kernels_equal_their_formulas(seed):
    rng = np.random.default_rng(seed)
    d, n = 12, 40
    root = rng.normal(size=(20, d))
    hessian, start = root.T @ root, rng.normal(size=d)
    terms = rng.uniform(0, 3, d), np.full(d, -0.5), np.where(np.arange(d) < 6, 0.7, np.inf)
    start = np.clip(start, *terms[1:])
    sparse = random_array((n, d), density=0.3, rng=rng).tocsc()
    rows = rng.normal(size=n), rng.uniform(0.1, 1, n)

    def both():
        out = []
        for sweeps in (1, 500):
            slopes, at = begun.copy(), start.copy()
            worst = model_descent(hessian, slopes, at, *terms, sweeps, 1e-10)
            out += [np.array([worst]), slopes, at]
            for intercept in (False, True):
                for dtype in (np.float32, np.float64):
                    at = start.copy()
                    table = sparse.data.astype(dtype), *(v.astype(np.int32) for v in (sparse.indices, sparse.indptr))
                    active = np.arange(0, d, 2, dtype=np.int32)
                    shift = column_descent(*table, active, *rows, at, np.full(d, 0.1), *terms, intercept, sweeps, 1e-10)
                    out += [at, np.array([shift])]
        return out

    begun = rng.normal(size=d)
    found = both()
    with ll.formulas():
        want = both()
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_alike_features_end_on_their_face(monkeypatch):
    """Where sweeps alone would take thousands, Newton's step of the free parameters ends it."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(50, 1)) + 1e-3 * rng.normal(size=(50, 8))
    hessian, slopes = root.T @ root, root.T @ rng.normal(size=50)
    terms = Terms(np.full(8, 1e-4), np.full(8, -np.inf), np.full(8, np.inf))
    calls = []
    descend = _coordinate_model.model_descent
    monkeypatch.setattr(_coordinate_model, "model_descent", lambda *args: calls.append(1) or descend(*args))
    at = _coordinate_model.lowest(hessian, slopes, np.zeros(8), terms, 1e-9)
    assert terms.violation(at, slopes + hessian @ at).max() <= 1e-8
    assert len(calls) <= 30
