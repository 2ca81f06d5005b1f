"""Fits with absolute values and bounds: against scikit-learn, by their own conditions, and what bounds their gap."""

from dataclasses import replace

import numpy as np
import pytest
from problems import FAMILIES, problem, value
from scipy.optimize import minimize
from scipy.sparse import csr_array, random_array
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression

import lastlayer as ll
from lastlayer.train import LinearClassifier, _coordinate, _coordinate_model, _coordinate_rows, _coordinate_wide
from lastlayer.train._coordinate_model import Limits, Terms, column_descent, model_descent
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


def slopes_of_classes(one, coef, intercept):
    """The same by the formula of softmax: ``(p - y) x + l2 B``."""
    logits = one.features @ coef.T + intercept
    apart = softmax(logits, axis=1) - (one.target[:, None] == np.arange(len(coef)))
    return (one.features.T @ apart).T + one.penalty.l2 * coef, apart.sum(0)


def assert_conditions(one, fit, atol, slopes=slopes):
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
    solver = _coordinate_wide.Solver(one, _coordinate_rows.rows_of(one))
    assert solver.dual(solver.begun(np.zeros((1, 3)), np.zeros(1))).gap == pytest.approx(
        weight.sum() * np.log(2) - dual, rel=1e-9
    )


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
    monkeypatch.setattr(_coordinate_rows, "WORKING", 10)
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


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (dict(low=np.inf), "feature 0 has low=inf"),
        (dict(low=0, high=[1, -np.inf, 1]), "low <= high; for feature 1 they are 0.0 and -inf"),
        (dict(high=[1, -np.inf, 1]), "feature 1 has high=-inf"),
        (dict(low=[0, -np.inf, 1e300]), r"feature 2 has low=1e\+300"),
        (dict(low=1, high=0), "low <= high; for feature 0 they are 1.0 and 0.0"),
        (dict(low=[0, np.nan, 0]), "low <= high; for feature 1 they are nan and inf"),
        (dict(low=[0, 1]), r"one per feature \(3,\); it is \(2,\)"),
        (dict(l1_ratio=1.1), "between 0 .* and 1 .*; it is 1.1"),
        (dict(l1_ratio=np.nan), "between 0 .* and 1 .*; it is nan"),
        (dict(l1_ratio=1, penalty_factor=[1, 1, -1]), "finite and at least 0"),
    ],
)
def test_settings_that_have_no_minimum_are_refused(bounds, said):
    one = problem("binary")
    with pytest.raises(ValueError, match=said):
        LinearClassifier(**bounds).fit(one.features, one.target)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("family", ["binary", "multinomial"])
def test_features_that_say_nothing(family, sparse, route):
    """All zero, constant, twice the same, with one entry: the conditions hold, and zero columns get no coefficient."""
    plain = problem(family, n=60, d=3, offset=None)
    one_entry = np.eye(60)[:, :1]
    table = np.column_stack([plain.features, np.zeros(60), np.full(60, 7.0), plain.features, one_entry])
    penalty = Penalty(np.zeros(9), np.array([1, 1, 1, 1, 0, 1, 1, 1, 0.05]))
    one = replace(plain, features=csr_array(table) if sparse else table, penalty=penalty)
    fit = solve(one, tol=1e-8, most=MOST)
    assert fit.certificate.converged and (fit.coef[:, 3] == 0).all()
    assert (fit.coef[:, 8] != 0).any()
    assert_conditions(one, fit, 1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_class_for_every_other_row(sparse, route):
    table = np.random.default_rng(0).normal(size=(30, 4))
    penalty = Penalty(np.zeros(4), np.full(4, 0.1))
    features = csr_array(table) if sparse else table
    one = Problem(features, np.arange(30) // 2, np.ones(30), None, "multinomial", 15, True, penalty)
    fit = solve(one, tol=1e-8, most=MOST)
    assert fit.certificate.converged and fit.intercept.any()
    assert_conditions(one, fit, 1e-5, slopes_of_classes)


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
def test_model_descent_equals_its_formula(seed):
    rng = np.random.default_rng(seed)
    root, begun, start = rng.normal(size=(20, D)), rng.normal(size=D), rng.normal(size=D)
    terms = rng.uniform(0, 3, D), np.full(D, -0.5), np.where(np.arange(D) < 3, 0.7, np.inf)

    def run(sweeps):
        slopes, at = begun.copy(), np.clip(start, *terms[1:])
        return model_descent(root.T @ root, slopes, at, *terms, sweeps, 1e-10), slopes, at

    for sweeps in (1, 500):
        found = run(sweeps)
        with ll.formulas():
            want = run(sweeps)
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("damping", [0.0, 0.2])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [1, 3])
def test_column_descent_equals_its_formula(outputs, dtype, intercept, damping):
    """After one sweep, in the same order; after many, at the minimum of the model, however it got there."""
    rng = np.random.default_rng(outputs)
    n, d = 60, 12
    sparse = random_array((n, d), density=0.3, rng=rng).tocsc()
    table = sparse.data.astype(dtype), *(v.astype(np.int32) for v in (sparse.indices, sparse.indptr))
    share = rng.dirichlet(np.ones(outputs + 1), n).T[:outputs].copy()
    slope, weight = rng.normal(size=(outputs, n)), rng.uniform(0.5, 2, n)
    active = np.tile(np.arange(0, d, 2, dtype=np.int32), outputs)
    ends = np.arange(outputs + 1) * (d // 2)
    penalty = np.stack([np.full(d, 0.1), rng.uniform(0, 0.3, d), np.full(d, -0.5), np.where(np.arange(d) < 6, 0.7, 9)])

    def run(rounds, sweeps, tol):
        at, shift = np.full((outputs, d), 0.1), np.zeros(outputs)
        limits = Limits(intercept, rounds, sweeps, tol)
        given = *table, active, ends, slope, share, weight, damping, at, shift, penalty, limits
        return column_descent(*given), at, shift

    for limits in ((1, 1, 1e-12), (300, 50, 1e-12)):
        found = run(*limits)
        with ll.formulas():
            want = run(*limits)
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    moved, at, shift = found
    step = sparse.astype(dtype).astype(float) @ (at - 0.1).T + shift
    np.testing.assert_allclose(moved.T, step, atol=1e-12)
    bent = share * (moved - (share * moved).sum(0)) + damping * moved
    slopes = (slope + weight * bent) @ sparse.astype(dtype).astype(float) + penalty[0] * at
    violation = Terms(*penalty[1:]).violation(at, slopes)
    assert violation[:, ::2].max() <= 1e-10 and (at[:, 1::2] == 0.1).all()


def words(n=400, d=300, classes=12, seed=0):
    """Rows of few words each, some of them of one class: sparse, and columns that are alike."""
    rng = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    words = np.where(rng.random((n, 8)) < 0.4, 5 * target[:, None] + rng.integers(0, 5, (n, 8)), 0)
    words = np.where(words > 0, words, rng.integers(0, d - 40, (n, 8)) ** 2 // (d - 40))
    table = np.zeros((n, d))
    np.add.at(table, (np.arange(n).repeat(8), words.ravel()), 1.0)
    table[:, d - 40 :] = table[:, :40]
    return table / np.sqrt(np.square(table).sum(1))[:, None], target


def text(l1, ratio=1.0, **changes):
    table, target = words(**changes)
    d = table.shape[1]
    penalty = Penalty(np.full(d, (1 - ratio) * l1), np.full(d, ratio * l1))
    return Problem(
        csr_array(table), target, np.ones(len(target)), None, "multinomial", int(target.max()) + 1, True, penalty
    )


@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_text_of_many_classes_equals_saga(ratio):
    one = text(0.5, ratio)
    fit = solve(one, tol=1e-9, most=100)
    assert fit.certificate.converged and fit.certificate.gap <= 1e-5 * fit.certificate.objective
    want = LogisticRegression(C=2.0, l1_ratio=ratio, solver="saga", tol=1e-6, max_iter=5000)
    want.fit(one.features, one.target)
    least = whole(one, want.coef_, want.intercept_)
    assert fit.certificate.objective <= least * (1 + 1e-12)
    assert fit.certificate.objective == pytest.approx(least, rel=1e-5)
    assert_conditions(one, fit, 1e-5, slopes_of_classes)


@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("l1", [1e-2, 1e-4])
def test_rows_that_a_step_too_far_saturates(l1, classes):
    """A first step without damping moves logits by 1 / p; where p is then 0 the next would be without end."""
    one = text(l1, classes=classes, n=200)
    with np.errstate(all="raise", under="ignore"):
        fit = solve(one, tol=1e-7, most=200)
    assert fit.certificate.converged and np.abs(fit.coef).max() < 1e3
    assert_conditions(one, fit, 1e-3 * l1 + 2e-4, slopes_of_classes)


def test_a_start_far_off_comes_back():
    """Where every row is sure of a wrong class there is no curvature at all."""
    one = text(0.5)
    rng = np.random.default_rng(0)
    start = 200 * rng.normal(size=(one.outputs, one.features.shape[1])), np.zeros(one.outputs)
    fit, want = solve(one, start, tol=1e-8, most=300), solve(one, tol=1e-8, most=300)
    assert fit.certificate.converged
    assert fit.certificate.objective == pytest.approx(want.certificate.objective, rel=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", ["binary", "multinomial"])
def test_screened_coefficients_are_zero(family, intercept, sparse, monkeypatch):
    """Whatever the point: what its dual says to be 0 is 0 at the minimum, and near the minimum that is most."""
    monkeypatch.setattr(_coordinate, "HELD", 0)
    x = random_array((300, 40), density=0.4, rng=np.random.default_rng(0)).toarray()
    one = problem(family, n=300, d=40, features=csr_array(x) if sparse else x, intercept=intercept, offset=None)
    one = replace(one, penalty=Penalty(np.where(np.arange(40) < 20, 0.0, 0.2), np.full(40, 3.0)))
    least = solve(one, tol=1e-12, most=MOST)
    rows = _coordinate_rows.rows_of(one)
    solver = _coordinate_wide.Solver(one, rows)
    end, at_end = rows.frame.inward(least.coef, least.intercept)
    shares = []
    for away in (1.0, 0.1, 0.01, 0.001, 0.0):
        at = (1 - away) * end
        zero = solver.zero(solver.dual(solver.begun(at, at_end)))
        assert (least.coef[zero] == 0).all()
        shares.append(zero.mean())
    assert shares[-1] > 0.9 * (least.coef == 0).mean() > shares[0]


@pytest.mark.parametrize("sparse", [False, True])
def test_screening_changes_no_minimum(sparse, monkeypatch):
    """With a look at every step, and products of the rest alone."""
    one = text(1.0)
    one = one if sparse else replace(one, features=one.features.toarray())
    want = solve(one, tol=1e-10, most=MOST)
    monkeypatch.setattr(_coordinate_wide, "SOONER", 1)
    monkeypatch.setattr(_coordinate_wide, "LATE", 0)
    kept, keep = [], type(_coordinate_rows.rows_of(one)).keep
    monkeypatch.setattr(
        type(_coordinate_rows.rows_of(one)), "keep", lambda self, some: kept.append(some.mean()) or keep(self, some)
    )
    fit = solve(one, tol=1e-10, most=MOST)
    assert min(kept) < 0.5
    np.testing.assert_allclose(fit.coef, want.coef, atol=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
def test_products_of_some_features(sparse):
    one = text(1.0)
    rows = _coordinate_rows.rows_of(one if sparse else replace(one, features=one.features.toarray()))
    slopes = np.random.default_rng(0).normal(size=(one.features.shape[0], 3))
    want = rows.turned(slopes)
    some = np.random.default_rng(1).random(one.features.shape[1]) < 0.2
    rows.keep(some)
    found = rows.turned(slopes)
    np.testing.assert_allclose(found[some], want[some], rtol=1e-12)
    assert not found[~some].any()
    rows.keep(np.ones(len(some), bool))
    np.testing.assert_array_equal(rows.turned(slopes), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", ["binary", "multinomial"])
def test_a_tolerance_below_rounding_ends(family, dtype, route):
    """And the certificate says what was reached."""
    one = problem(family, n=200, d=D, penalty=penalties()["elastic net"])
    fit = solve(replace(one, features=one.features.astype(dtype)), tol=1e-30, most=1000)
    assert fit.certificate.passes <= 60
    assert fit.certificate.gradient <= 1e-13 and fit.certificate.gap <= 1e-10 * fit.certificate.objective


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
