"""Firth's method against R's logistf, firthmodels, closed forms and finite differences."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm
from sklearn.utils.estimator_checks import check_estimator

from lastlayer._check import DataError
from lastlayer.train import FirthClassifier, LinearClassifier, inference

# R's logistf on `separated`, as the tests of firthmodels (github.com/jzluo/firthmodels) have it: four columns, then
# the intercept. It stops at slopes of 1e-5.
LOGISTF = {
    "coef": [3.6577140153, 0.6759781501, -0.8633119501, 0.3385788510, -0.4434562830],
    "se": [1.4822786334, 0.2687886213, 0.3874453554, 0.1370778814, 0.3452906671],
    "p": [0.0002084147149, 0.0093173148959, 0.0236385713206, 0.0055887969164, 0.1997147194],
    "low": [1.3901042899, 0.1602568036, -1.6677883758, 0.0893054012, -1.16089382506],
    "high": [8.5876062114, 1.2568999211, -0.1135186948, 0.6572681313, 0.2295139209],
}
# firthmodels 0.8.2 (gtol and xtol 1e-10, profile tol 1e-10) on every sixth of Cleveland's complete rows; weights 1 and
# 2 in turn, offset from -1 to 1.
CLEVELAND = {
    "coef": [
        -0.0659279621, 1.86990221, 0.0452307163, 0.0123198243, -0.0426427817, 1.19711336, 0.791405817, -2.01829501,
    ],
    "se": [
        0.0459230433, 0.789094244, 0.0189418122, 0.00811680147, 0.0220815605, 0.328909782, 0.351058921, 3.4825712,
    ],
    "low": [
        -0.170215797, 0.379692717, 0.00875059079, -0.00491782475, -0.0992348683, 0.578645668, 0.115597345, -9.64505803,
    ],
    "high": [
        0.0242957433, 3.83335457, 0.0904009595, 0.0300068419, -0.00133078826, 1.9808492, 1.58024517, 5.00001013,
    ],
}  # fmt: skip


@pytest.fixture
def separated():
    """100 rows, of which the 14 with the first column 1 are all of one class."""
    rng = np.random.default_rng(42)
    first = rng.choice([0, 1], 100, p=[0.8, 0.2])
    a, b, c = rng.standard_normal(100), rng.uniform(-1, 1, 100), rng.exponential(scale=2.0, size=100)
    y = rng.binomial(1, expit(-0.5 + 0.8 * a - 0.6 * b + 0.3 * c))
    return np.column_stack([first, a, b, c]), np.where(first == 1, 1, y)


def penalised(x, y, b, weight=1.0, offset=0.0):
    """The likelihood times Jeffreys' prior, from its definition."""
    z = x @ b + offset
    w = weight * expit(z) * expit(-z)
    return float((weight * (y * z - np.logaddexp(0, z))).sum() + np.linalg.slogdet((x.T * w) @ x)[1] / 2)


def test_conventions_of_scikit_learn():
    columns = "Jeffreys' prior is 0 everywhere for more columns than rows, which this check has"
    tails = "log-probabilities keep what float32 probabilities round to 1, and this check wants them equal"
    expected = {
        "check_sample_weight_equivalence_on_dense_data": columns,
        "check_sample_weight_equivalence_on_sparse_data": columns,
        "check_classifiers_train": tails,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks: SkipTestWarning, and those for the expected failures
        found = check_estimator(FirthClassifier(), expected_failed_checks=expected, on_fail=None)
    assert not [check for check in found if check["status"] == "failed"]
    assert sum(check["status"] == "passed" for check in found) > 45


def test_equals_logistf(separated):
    x, y = separated
    found = inference(FirthClassifier().fit(x, y), x, y)
    for name, want in LOGISTF.items():
        np.testing.assert_allclose(getattr(found, name), want, rtol=1e-4)


def test_all_features_are_tested_as_the_only_one_is(separated):
    x, y = separated
    found = inference(FirthClassifier().fit(x[:, :1], y), x[:, :1], y)
    assert found.lr.p == pytest.approx(found.p[0], rel=1e-9) and found.lr.statistic == pytest.approx(found.z[0] ** 2)


def test_published_figures_of_cleveland(shared_data):
    table = pd.read_csv(shared_data / "tabular" / "processed.cleveland.data", header=None, na_values="?").dropna()
    x, y = table[[0, 1, 3, 4, 7, 9, 11]].to_numpy()[::6], (table[13] > 0).to_numpy()[::6]
    rest = 1 + np.arange(len(y)) % 2, np.linspace(-1, 1, len(y))
    model = FirthClassifier().fit(x, y, *rest)
    found = inference(model, x, y, *rest)
    for name, want in CLEVELAND.items():
        np.testing.assert_allclose(getattr(found, name), want, rtol=1e-6)
    assert model.log_likelihood_ == pytest.approx(-7.36214039, abs=5e-9)
    np.testing.assert_allclose(found.coef, [*model.coef_[0], *model.intercept_], rtol=1e-9)
    np.testing.assert_allclose(found.covariance, model.covariance_, rtol=1e-7)


def test_equals_firthmodels(separated):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("firthmodels")
        x, y = separated
        want = peer.FirthLogisticRegression(backend="numpy", gtol=1e-10, xtol=1e-10, max_iter=500).fit(x, y).lrt()
        ends = want.conf_int(method="pl", tol=1e-10, max_iter=200)
    model = FirthClassifier().fit(x, y)
    found = inference(model, x, y)
    np.testing.assert_allclose(found.coef, [*want.coef_, want.intercept_], rtol=1e-8)
    np.testing.assert_allclose(found.se, want.bse_, rtol=1e-8)
    np.testing.assert_allclose(found.p, want.lrt_pvalues_, rtol=1e-8)
    np.testing.assert_allclose(np.column_stack([found.low, found.high]), ends, rtol=1e-8)
    assert model.log_likelihood_ == pytest.approx(want.loglik_, rel=1e-12)


def test_saturated_tables_add_half_a_row():
    """One column of 0 and 1: Jeffreys' prior is half a row in each cell."""
    counts = {(0, 0): 7, (0, 1): 2, (1, 0): 5, (1, 1): 0}
    x, y = (np.repeat(np.array(list(counts))[:, k], list(counts.values())) for k in (0, 1))
    model = FirthClassifier().fit(x[:, None], y)
    assert model.intercept_[0] == pytest.approx(np.log(2.5 / 7.5), rel=1e-10)
    assert model.coef_[0, 0] == pytest.approx(np.log(0.5 / 5.5) - np.log(2.5 / 7.5), rel=1e-10)


@pytest.mark.parametrize("intercept", [True, False])
def test_is_the_maximum_of_its_definition(separated, intercept):
    x, y = separated
    rng = np.random.default_rng(0)
    weight, offset = rng.uniform(0.5, 2, 100), rng.normal(size=100)
    model = FirthClassifier(fit_intercept=intercept).fit(x, y, weight, offset)
    table = np.column_stack([x, np.ones(100)]) if intercept else x
    best = np.concatenate([model.coef_[0], model.intercept_])[: table.shape[1]]
    assert model.log_likelihood_ == pytest.approx(penalised(table, y, best, weight, offset), rel=1e-12)
    for step in np.eye(len(best)) * 1e-4:
        ahead, back = (penalised(table, y, best + s * step, weight, offset) for s in (1, -1))
        assert max(ahead, back) < model.log_likelihood_
        assert abs(ahead - back) / 2e-4 < 1e-6
    assert len(model.covariance_) == table.shape[1] and model.intercept_.shape == (1,)


def test_intervals_end_where_the_profile_has_fallen(separated):
    """At each end, and at 0, the best others are searched for by another minimiser."""
    x, y = separated
    table = np.column_stack([x, np.ones(100)])
    model = FirthClassifier().fit(x, y)
    found = inference(model, x, y, level=0.9)
    best = np.append(model.coef_[0], model.intercept_)

    def profile(j, value):
        def cost(others):
            return -penalised(table, y, np.insert(others, j, value))

        return -minimize(cost, np.delete(best, j), method="BFGS", options={"gtol": 1e-7}).fun

    for j in (0, 3, 4):
        for end in (found.low[j], found.high[j]):
            fallen = 2 * (model.log_likelihood_ - profile(j, end))
            assert fallen == pytest.approx(norm.ppf(0.95) ** 2, rel=1e-6)
        ratio = 2 * (model.log_likelihood_ - profile(j, 0.0))
        assert found.z[j] ** 2 == pytest.approx(ratio, rel=1e-6) and found.z[j] * found.coef[j] > 0
    tested = found.test("x3", "likelihood_ratio")
    assert (tested.statistic, tested.df) == (pytest.approx(found.z[3] ** 2, rel=1e-8), 1)
    assert found.lr.df == 4 and found.aic is None


def test_one_coefficient_alone():
    """Without an intercept and others there is nothing to search for: the profile is the likelihood."""
    x, y = np.array([[1.0], [2.0], [-1.0], [3.0], [0.5]]), np.array([1, 1, 0, 1, 0])
    found = inference(FirthClassifier(fit_intercept=False).fit(x, y), x, y)
    for end in (found.low[0], found.high[0]):
        fallen = 2 * (found.log_likelihood - penalised(x, y, np.array([end])))
        assert fallen == pytest.approx(norm.ppf(0.975) ** 2, rel=1e-9)
    assert found.null_log_likelihood == pytest.approx(penalised(x, y, np.zeros(1)), rel=1e-12)


def test_weights_are_repeats_and_zero_leaves_out(separated):
    x, y = separated
    times = np.random.default_rng(0).integers(0, 3, 100)
    model, other = (
        FirthClassifier().fit(x, y, times),
        FirthClassifier().fit(np.repeat(x, times, 0), np.repeat(y, times)),
    )
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=1e-8)
    np.testing.assert_allclose(model.covariance_, other.covariance_, rtol=1e-8)
    assert model.log_likelihood_ == pytest.approx(other.log_likelihood_, rel=1e-12)


def test_units_change_nothing(separated):
    x, y = separated
    units = np.array([1e-5, 1.0, 1e4, 10.0])
    shift = np.array([0.0, 0.0, 1e6, 0.0])
    plain = inference(FirthClassifier().fit(x, y), x, y)
    table = x * units + shift
    scaled = inference(FirthClassifier().fit(table, y), table, y)
    for name in ("coef", "se", "low", "high"):
        np.testing.assert_allclose(getattr(scaled, name)[:4] * units, getattr(plain, name)[:4], rtol=1e-6)
    np.testing.assert_allclose(scaled.p[:4], plain.p[:4], rtol=1e-6)


def test_less_bias_than_the_likelihood():
    """Odds of rare events, 300 samples: the likelihood is too far from 0, Firth's estimate is not."""
    rng, true = np.random.default_rng(1), np.array([1.5, -2.0])
    estimates, others = [], []
    while len(estimates) < 300:
        x = rng.normal(size=(60, 1))
        y = (rng.random(60) < expit(true[0] * x[:, 0] + true[1])).astype(int)
        if y.sum() < 4:
            continue
        try:
            others.append(LinearClassifier(C=np.inf).fit(x, y).coef_[0, 0])
        except DataError:
            continue
        estimates.append(FirthClassifier().fit(x, y).coef_[0, 0])
    assert abs(np.mean(estimates) - 1.5) < 0.1 < abs(np.mean(others) - 1.5)


def test_predicts_as_an_estimator(separated):
    x, y = separated
    names = np.array(["healthy", "ill"])[y]
    model = FirthClassifier().fit(pd.DataFrame(x, columns=list("abcd")), names)
    logits = model.decision_function(pd.DataFrame(x, columns=list("abcd")))
    np.testing.assert_allclose(logits, x @ model.coef_[0] + model.intercept_)
    assert set(model.predict(pd.DataFrame(x, columns=list("abcd")))) == {"healthy", "ill"}
    found = inference(model, pd.DataFrame(x, columns=list("abcd")), names)
    assert found.names == ("a", "b", "c", "d", "intercept")
    assert "Firth" in str(found) and max(map(len, str(found).split("\n"))) <= 80
    assert model.certificate_.converged


def test_what_is_refused(separated):
    x, y = separated
    with pytest.raises(
        ValueError, match=r"Only binary classification is supported. The type of the target is multiclass"
    ):
        FirthClassifier().fit(x, np.arange(100) % 3)
    with pytest.raises(DataError, match="x0, x4 are constant or made up by one another"):
        FirthClassifier().fit(np.column_stack([x, 2 * x[:, 0]]), y)
    with pytest.raises(DataError, match="5 coefficients for 4 rows"):
        FirthClassifier().fit(x[:4], [0, 1, 0, 1])
    with pytest.raises(ValueError, match="tol is a number above 0"):
        FirthClassifier(tol=0).fit(x, y)
    model = FirthClassifier().fit(x, y)
    with pytest.raises(DataError, match="not fitted to these rows"):
        inference(model, x[:80], y[:80])
    for other in ({"covariance": "robust"}, {"clusters": np.arange(len(y))}, {"bootstrap": 50}):
        with pytest.raises(ValueError, match="profile likelihood alone"):
            inference(model, x, y, **other)
