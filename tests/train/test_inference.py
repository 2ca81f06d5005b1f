"""Errors of coefficients against published figures, finite differences, repeats and simulation; what is refused."""

import json
import warnings
from dataclasses import replace

import mpmath
import numpy as np
import pandas as pd
import pytest
from problems import FAMILIES, problem, value
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from lastlayer._check import DataError
from lastlayer.train import LinearClassifier, inference
from lastlayer.train._covariance import sandwich
from lastlayer.train._estimates import log_chi_squared_tail, log_normal_tails, printed
from lastlayer.train._problem import Penalty
from lastlayer.train._solve import solve

NAMES = ["age", "sex", "trestbps", "chol", "thalach", "oldpeak", "ca"]
EXACT = {"rtol": 1e-6, "atol": 1e-9}

# Figures of statsmodels 0.15.0 on Cleveland: Logit, MNLogit (diseases 0, 1, 2 and more), OrderedModel, Binomial GLM.
# Clusters are the number of the row modulo 40; the intercept is last.
LOGIT = {
    "coef": [
        -0.0240993846, 1.61047543, 0.0194595964, 0.00634625701, -0.0398536795, 0.540166435, 1.15316278, 0.620794171,
    ],
    "se": [
        0.0209281711, 0.384786429, 0.00935435305, 0.00321389739, 0.0087893565, 0.158955045, 0.22105914, 2.06122406,
    ],
    "p": [
        0.249514895, 2.84695936e-05, 0.0375006143, 0.0483101943, 5.77917095e-06, 0.000678223856, 1.82300973e-07,
        0.763279197,
    ],
    "low": [
        -0.0651178462, 0.856307886, 0.00112540133, 4.71338709e-05, -0.0570805017, 0.228620272, 0.719894827,
        -3.41913074,
    ],
    "high": [
        0.0169190771, 2.36464297, 0.0377937915, 0.0126453801, -0.0226268573, 0.851712597, 1.58643074, 4.66071908,
    ],
    "HC0": [
        0.0197002478, 0.382376709, 0.00957190132, 0.00275258421, 0.00808673297, 0.162050553, 0.269293969, 1.92427043,
    ],
    "CR0": [
        0.0173702119, 0.431498245, 0.00972936451, 0.00307545331, 0.00843945502, 0.150201193, 0.242065226, 1.77786552,
    ],
    "CR1": [
        0.0178032686, 0.442255925, 0.00997192723, 0.00315212741, 0.00864985902, 0.153945858, 0.248100152, 1.82218948,
    ],
}  # fmt: skip
MNLOGIT = {
    "coef": [
        -0.0147959679, 1.65479884, 0.017839628, 0.00582843655, -0.0325822657, 0.249059081, 0.83834142, -0.841422429,
        -0.0316544119, 1.56527696, 0.0198537273, 0.00699345565, -0.0493534014, 0.848568466, 1.49053909, 0.841121329,
    ],
    "se": [
        0.0235779094, 0.451824162, 0.0104343978, 0.0036617755, 0.0097065158, 0.188481961, 0.246946676, 2.33414163,
        0.0257449404, 0.497334517, 0.0116546186, 0.00398651597, 0.0101821304, 0.18935648, 0.255602346, 2.55610544,
    ],
    "p": [
        0.530308476, 0.0002497812, 0.0873224617, 0.111452835, 0.000788667741, 0.186369762, 0.000686718001,
        0.71848467, 0.218869731, 0.00164767628, 0.0884731831, 0.0793829528, 1.25304259e-06, 7.41800565e-06,
        5.49390238e-09, 0.742107596,
    ],
    "HC0": [
        0.0220734348, 0.468808913, 0.0107407687, 0.00318284849, 0.00936437555, 0.189251893, 0.288593876, 2.21396,
        0.024218395, 0.437717935, 0.0114428443, 0.00349722137, 0.00942339147, 0.188545311, 0.298538213, 2.4524347,
    ],
    "CR1": [
        0.0210457287, 0.527873623, 0.0115731536, 0.00356365761, 0.010442632, 0.164052665, 0.24190659, 2.23461682,
        0.0238680088, 0.464240364, 0.0108364259, 0.00368728939, 0.0100343433, 0.21009108, 0.282945712, 2.1769561,
    ],
}  # fmt: skip
ORDERED = {
    "coef": [
        -0.0196135676,
        1.22202425,
        0.0176255788,
        0.0054358596,
        -0.0316377544,
        0.621899822,
        1.04026317,
        0.112342871,
    ],
    "se": [0.0181718471, 0.333198782, 0.00800349255, 0.0027718355, 0.0068397339, 0.134139843, 0.174759115],
}
WEIGHTED = {  # the number of the row modulo 3 as weights, an offset from -1 to 1
    "coef": [-0.0202766866, 1.77779483, 0.034121457, 0.0100007471, -0.0392445731, 0.501035943, 1.40029944, -2.63414731],
    "se": [0.0216571323, 0.387247199, 0.0103793706, 0.00337587846, 0.00919587389, 0.182031749, 0.26257785, 2.2311756],
}


@pytest.fixture
def cleveland(shared_data):
    """The 297 complete rows, seven predictors by name, and the grade of the disease."""
    table = pd.read_csv(shared_data / "tabular" / "processed.cleveland.data", header=None, na_values="?").dropna()
    return table[[0, 1, 3, 4, 7, 9, 11]].set_axis(NAMES, axis=1), table[13].to_numpy()


def fitted(x, y, *rest, **settings):
    return LinearClassifier(**({"C": np.inf, "tol": 1e-10} | settings)).fit(x, y, *rest)


def data(n=200, d=3, seed=0, classes=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 0.5
    return x, (x @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))).argmax(1)


def test_logit_of_cleveland(cleveland):
    x, y = cleveland[0], cleveland[1] > 0
    found = inference(fitted(x, y), x, y)
    for name in ("coef", "se", "p", "low", "high"):
        np.testing.assert_allclose(getattr(found, name), LOGIT[name], **EXACT)
    assert found.names == (*NAMES, "intercept")
    assert found.log_likelihood == pytest.approx(-127.519668, abs=5e-7)
    assert (found.aic, found.bic) == pytest.approx((271.039336, 300.589193), abs=1e-6)
    assert (found.lr.statistic, found.pseudo_r2) == pytest.approx((154.90716, 0.377871654), rel=1e-8)
    assert found.test(["age", "chol"]).statistic == pytest.approx(4.660526696291982, rel=1e-9)
    assert found.test(["age", "chol"]).p == pytest.approx(0.09727012780846707, rel=1e-9)


def test_sandwiches_of_cleveland(cleveland):
    x, y = cleveland[0], cleveland[1] > 0
    model, clusters = fitted(x, y), np.arange(len(y)) % 40
    plain = inference(model, x, y, covariance="robust", small_sample=False)
    np.testing.assert_allclose(plain.se, LOGIT["HC0"], **EXACT)
    np.testing.assert_allclose(
        inference(model, x, y, covariance="robust").se, plain.se * np.sqrt(297 / 289), rtol=1e-12
    )
    np.testing.assert_allclose(inference(model, x, y, clusters=clusters).se, LOGIT["CR1"], **EXACT)
    np.testing.assert_allclose(
        inference(model, x, y, clusters=clusters.astype(str), small_sample=False).se, LOGIT["CR0"], **EXACT
    )


def test_several_classes_of_cleveland(cleveland):
    x, y = cleveland[0], np.minimum(cleveland[1], 2)
    model, clusters = fitted(x, y), np.arange(len(y)) % 40
    found = inference(model, x, y)
    for name in ("coef", "se", "p"):
        np.testing.assert_allclose(getattr(found, name), MNLOGIT[name], **EXACT)
    assert found.log_likelihood == pytest.approx(-202.346625, abs=5e-7)
    assert (found.aic, found.lr.statistic, found.lr.df) == pytest.approx((436.693251, 188.990201, 14), abs=1e-6)
    robust = inference(model, x, y, covariance="robust", small_sample=False)
    np.testing.assert_allclose(robust.se, MNLOGIT["HC0"], **EXACT)
    np.testing.assert_allclose(inference(model, x, y, clusters=clusters).se, MNLOGIT["CR1"], **EXACT)
    assert found.outputs == ("1",) * 8 + ("2",) * 8 and "against '0'" in found.notes[0]


def test_grades_of_cleveland(cleveland):
    x, y = cleveland[0], np.minimum(cleveland[1], 2)
    found = inference(fitted(x, y, ordinal=True), x, y)
    np.testing.assert_allclose(found.coef[:8], ORDERED["coef"], rtol=1e-6)
    np.testing.assert_allclose(found.se[:7], ORDERED["se"], rtol=1e-4)  # its Hessian is a difference
    assert found.log_likelihood == pytest.approx(-208.446525, abs=5e-7)
    assert found.names[-2:] == ("0 | 1", "1 | 2")


def test_weights_and_offset_of_cleveland(cleveland):
    x, y = cleveland[0], cleveland[1] > 0
    rest = np.arange(len(y)) % 3, np.linspace(-1, 1, len(y))
    found = inference(fitted(x, y, *rest, weights="frequency"), x, y, *rest)
    np.testing.assert_allclose(found.coef, WEIGHTED["coef"], **EXACT)
    np.testing.assert_allclose(found.se, WEIGHTED["se"], **EXACT)
    assert found.log_likelihood == pytest.approx(-127.356979, abs=5e-7) and found.n == 297


def test_equals_statsmodels(cleveland):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api = pytest.importorskip("statsmodels.api")
        x, y = cleveland[0], np.minimum(cleveland[1], 2)
        table, settings = x.assign(const=1.0), dict(disp=0, tol=1e-14, maxiter=100, method="newton")
        logit, several = api.Logit(y > 0, table).fit(**settings), api.MNLogit(y, table).fit(**settings)
    found, all_of_them = inference(fitted(x, y > 0), x, y > 0), inference(fitted(x, y), x, y)
    for name, other in (("coef", "params"), ("se", "bse"), ("p", "pvalues")):
        np.testing.assert_allclose(getattr(found, name), getattr(logit, other), rtol=1e-9)
        np.testing.assert_allclose(getattr(all_of_them, name), getattr(several, other).T.to_numpy().ravel(), rtol=1e-9)
    assert (found.log_likelihood, all_of_them.log_likelihood) == pytest.approx((logit.llf, several.llf), rel=1e-12)


def bends(function, at, step=1e-3):
    """The Hessian by central differences of the fourth order."""
    size, shares = len(at), {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
    found = np.zeros((size, size))
    for j, k in np.ndindex(size, size):
        for a, first in shares.items():
            for b, second in shares.items():
                there = at.copy()
                there[j] += a * step
                there[k] += b * step
                found[j, k] += first * second * function(there) / step**2
    return found


def slopes(function, at, step=1e-4):
    ahead = [function(at + step * e) - function(at - step * e) for e in np.eye(len(at))]
    return np.array(ahead) / (2 * step)


def parts(one):
    """Coefficients and intercepts of flat parameters, as `Fit.inverse` has them."""

    def split(at):
        if one.family == "ordinal":
            return at[None, : len(at) - 3], at[len(at) - 3 :]
        table = at.reshape(one.outputs, -1)
        return (table[:, :-1], table[:, -1]) if one.intercept else (table, np.zeros(one.outputs))

    return split


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_covariances_are_those_of_finite_differences(family, intercept):
    """Bread, Hessian of the losses and slopes of rows, from the definition of F alone."""
    one = problem(family, n=40, d=2, outputs=3, intercept=intercept)
    one = replace(one, features=one.features / np.abs(one.features).max(0))
    fit = solve(one, tol=1e-12)
    if family == "ordinal":
        at = np.concatenate([fit.coef[0], fit.intercept])
    else:
        at = (np.column_stack([fit.coef, fit.intercept]) if intercept else fit.coef).ravel()
    split, free = parts(one), replace(one, penalty=Penalty(np.zeros(2), np.zeros(2)))
    bread = np.linalg.pinv(bends(lambda b: value(one, *split(b)), at), rcond=1e-7)
    losses = bends(lambda b: value(free, *split(b)), at)
    each = [replace(free, weight=np.where(np.arange(40) == i, one.weight, 0.0)) for i in range(40)]
    rows = np.array([slopes(lambda b, row=row: value(row, *split(b)), at) for row in each])
    names = ["a", "b"]
    clusters = np.arange(40) // 4
    for kind, groups, counts, between in (
        ("hessian", None, False, losses),
        ("robust", None, False, rows.T @ rows),
        ("robust", None, True, (rows.T / one.weight) @ rows),
        ("cluster", clusters, False, sum(np.outer(s, s) for s in rows.reshape(10, 4, -1).sum(1))),
    ):
        found = sandwich(one, fit.coef, fit.intercept, kind, groups, False, counts, names)
        want = bread @ between @ bread
        np.testing.assert_allclose(found.covariance, want, atol=2e-6 * np.abs(want).max())
        assert found.df == pytest.approx(np.trace(bread @ losses), rel=1e-5)
        assert found.loss == pytest.approx(value(free, fit.coef, fit.intercept), rel=1e-12)


@pytest.mark.parametrize("covariance", ["hessian", "robust"])
@pytest.mark.parametrize("settings", [{}, {"ordinal": True}, {"C": 1.0}], ids=["plain", "ordinal", "penalised"])
def test_frequencies_are_repeats(covariance, settings):
    x, y = data(classes=3)
    times = np.random.default_rng(1).integers(0, 4, len(y))
    again = np.repeat(np.arange(len(y)), times)
    weighed = inference(fitted(x, y, times, weights="frequency", **settings), x, y, times, covariance=covariance)
    repeated = inference(fitted(x[again], y[again], **settings), x[again], y[again], covariance=covariance)
    np.testing.assert_allclose(weighed.coef, repeated.coef, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(weighed.covariance, repeated.covariance, rtol=1e-7, atol=1e-10)
    assert weighed.n == repeated.n == times.sum()
    assert weighed.bic == (None if repeated.bic is None else pytest.approx(repeated.bic, rel=1e-10))


def test_importance_takes_no_row_for_two():
    """Twice the importance changes no error of the sandwich, and half of the rows twice as important no count."""
    x, y = data()
    weight = np.where(np.arange(len(y)) % 2, 2.0, 1.0)
    once, twice = (inference(fitted(x, y, w), x, y, w) for w in (weight, 2 * weight))
    assert once.method.startswith("robust") and once.n == len(y)
    np.testing.assert_allclose(once.se, twice.se, rtol=1e-9)
    assert once.aic is None and once.lr is None
    asked = inference(fitted(x, y, weight), x, y, weight, covariance="hessian")
    assert any("importan" in note for note in asked.notes)
    with pytest.raises(ValueError, match="count as they are"):
        once.test("x0", "likelihood_ratio")


@pytest.mark.parametrize("covariance", ["hessian", "robust"])
@pytest.mark.parametrize("classes", [2, 3])
def test_units_change_nothing(classes, covariance):
    x, y = data(classes=classes)
    units = 10.0 ** np.array([-4.0, 0.0, 5.0])
    plain = inference(fitted(x, y), x, y, covariance=covariance)
    for table in (x * units, csr_array(x * units)):
        scaled = inference(fitted(table, y), table, y, covariance=covariance)
        divisor = np.tile([*units, 1.0], classes - 1)
        np.testing.assert_allclose(scaled.coef * divisor, plain.coef, rtol=1e-7)
        np.testing.assert_allclose(scaled.se * divisor, plain.se, rtol=1e-7)
        np.testing.assert_allclose(scaled.log_p, plain.log_p, rtol=1e-6)


def test_intervals_cover_what_is_true():
    """95 % intervals of 400 simulated samples: binomial error is 1.1 %, that of the approximation less than 1 %."""
    rng, true = np.random.default_rng(3), np.array([0.8, -0.5, 0.3])
    hits = {"hessian": np.zeros(3), "robust": np.zeros(3)}
    for _ in range(400):
        x = rng.normal(size=(200, 2))
        y = (rng.random(200) < expit(x @ true[:2] + true[2])).astype(int)
        model = fitted(x, y)
        for kind, count in hits.items():
            found = inference(model, x, y, covariance=kind)
            count += (found.low <= true) & (true <= found.high)
    for count in hits.values():
        assert (np.abs(count / 400 - 0.95) < 0.035).all(), count / 400


def test_ratios_of_likelihoods_are_of_two_fits():
    x, y = data(classes=3)
    found = inference(fitted(x, y), x, y)
    less = inference(fitted(x[:, [1]], y), x[:, [1]], y)
    tested = found.test(["x0", "x2"], "likelihood_ratio")
    assert tested.df == 4
    assert tested.statistic == pytest.approx(2 * (found.log_likelihood - less.log_likelihood), rel=1e-9)
    shares = np.bincount(y) / len(y)
    assert found.null_log_likelihood == pytest.approx(len(y) * (shares @ np.log(shares)), rel=1e-9)
    assert found.test(["x0", "x1", "x2"], "likelihood_ratio") == found.lr._replace(columns=("x0", "x1", "x2"))


def test_labels_are_each_for_itself():
    x, y = data(classes=3)
    labels = np.column_stack([y == 0, y > 0, x[:, 0] + np.sin(np.arange(200.0)) > 0.5]).astype(int)
    for kind in ("hessian", "robust"):
        found = inference(fitted(x, labels), x, labels, covariance=kind)
        for k in range(3):
            one = inference(fitted(x, labels[:, k]), x, labels[:, k], covariance=kind)
            part = slice(4 * k, 4 * k + 4)
            np.testing.assert_allclose(found.covariance[part, part], one.covariance, rtol=1e-6)
            np.testing.assert_allclose(found.coef[part], one.coef, rtol=1e-9)
    # the second label is the opposite of the first: robust covariances know it
    np.testing.assert_allclose(found.covariance[:4, 4:8], -found.covariance[:4, :4], rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_leave_the_rows_own_fit(classes):
    """Errors of the weighted fit; intercepts are moved back by constants."""
    x, y = data(classes=classes)
    model = fitted(x, y, class_weight={0: 1.0, 1: 3.0})
    found = inference(model, x, y, covariance="robust", small_sample=False)
    difference = np.column_stack([model.coef_, model.intercept_])
    np.testing.assert_allclose(found.coef, (difference[1:] - difference[0] if classes > 2 else difference).ravel())
    weight = np.where(y == 1, 3.0, 1.0)
    other = inference(fitted(x, y, weight), x, y, weight, small_sample=False)
    np.testing.assert_allclose(found.se, other.se, rtol=1e-9)
    assert found.coef[3] == pytest.approx(other.coef[3] - np.log(3), rel=1e-9)


def test_a_penalty_is_said():
    x, y = data()
    found = inference(fitted(x, y, C=0.1), x, y)
    assert any(note.startswith("Penalised") for note in found.notes) and found.lr is None
    assert 1 < found.df < 4  # a shrunken coefficient is part of a parameter
    assert (found.se < inference(fitted(x, y), x, y).se).all()
    with pytest.raises(ValueError, match="no penalty"):
        found.test("x0", "likelihood_ratio")


def test_percentiles_of_resampled_rows():
    x, y = data(n=400)
    model = fitted(x, y)
    normal = inference(model, x, y)
    found = inference(model, x, y, bootstrap=200, seed=5)
    assert np.isnan(found.z).all() and np.isnan(found.p).all() and "bootstrap" in found.method
    np.testing.assert_allclose(found.se, normal.se, rtol=0.25)
    np.testing.assert_allclose(found.low, normal.low, atol=0.6 * normal.se.max())
    np.testing.assert_allclose(found.high, normal.high, atol=0.6 * normal.se.max())
    again = inference(model, x, y, bootstrap=200, seed=5)
    assert (again.low == found.low).all() and (again.high == found.high).all()
    assert (inference(model, x, y, bootstrap=200, seed=6).low != found.low).any()
    assert json.loads(found.to_json())["inference"]["terms"][0]["p"] is None
    with pytest.raises(ValueError, match="intervals"):
        found.test("x0")


def test_the_loss_is_without_the_penalty():
    x, y = data(n=200)
    model = LinearClassifier(0.02, l1_ratio=0.5, tol=1e-9).fit(x, y)
    logits = model.decision_function(x)
    loss = np.logaddexp(0, np.where(y == 1, -logits, logits)).sum()
    found = inference(model, x, y, bootstrap=20)
    assert (np.abs(model.coef_) > 0.1).any() and found.log_likelihood == pytest.approx(-loss, rel=1e-10)


def test_a_fit_that_did_not_end_says_how_far_it_is():
    """One coefficient moved by a fiftieth of its standard error; the loss is a parabola so near."""
    x, y = data(n=20_000)
    model = fitted(x, y)
    error = inference(model, x, y).se[0]
    model.coef_[0, 0] += 0.02 * error
    (note,) = [note for note in inference(model, x, y).notes if "from its minimum" in note]
    assert float(note.split()[3]) == pytest.approx(0.02, rel=0.05)


def test_resampled_clusters_are_drawn_whole():
    """Every row five times over: clusters of the copies give the errors of the rows themselves."""
    x, y = data(n=300, seed=2)
    table, target, clusters = np.repeat(x, 5, axis=0), np.repeat(y, 5), np.repeat(np.arange(300), 5)
    single = inference(fitted(x, y), x, y)
    found = inference(fitted(table, target), table, target, clusters=clusters, bootstrap=200)
    np.testing.assert_allclose(found.se, single.se, rtol=0.25)
    robust = inference(fitted(x, y), x, y, covariance="robust", small_sample=False)
    both = inference(fitted(table, target), table, target, clusters=clusters, small_sample=False)
    np.testing.assert_allclose(both.se, robust.se, rtol=1e-9)


def test_tails_in_logarithms():
    """Against mpmath, where 1 - cdf is 0 and where floats end."""
    with mpmath.workdps(40):
        for z in (0.0, 0.3, 5.0, 38.0, 60.0, 1000.0):
            want = mpmath.log(mpmath.erfc(mpmath.mpf(z) / mpmath.sqrt(2)))
            assert log_normal_tails(-z) == pytest.approx(float(want), rel=1e-12, abs=1e-300)
        for df in (1, 2, 7, 60):
            for x in (0.5, 10.0, 500.0, 1400.0, 3e4):
                want = mpmath.log(mpmath.gammainc(mpmath.mpf(df) / 2, mpmath.mpf(x) / 2, regularized=True))
                assert log_chi_squared_tail(x, df) == pytest.approx(float(want), rel=1e-11, abs=1e-15)
    assert printed(log_normal_tails(60.0)) == "<1e-300" and printed(np.log(0.05)) == "0.0500"


def test_the_table_has_eighty_columns(cleveland):
    x, y = cleveland[0].copy(), np.minimum(cleveland[1], 2)
    x = x.rename(columns={"ca": "major vessels coloured by fluoroscopy"})
    found = inference(fitted(x, y), x, y)
    text = str(found)
    assert max(map(len, text.split("\n"))) <= 80
    assert "major vessels coloured by fluoroscopy\n" in text
    (line,) = [line for line in text.split("1:\n")[1].split("2:\n")[0].split("\n") if line.startswith("sex")]
    assert line.split() == ["sex", "1.655", "0.4518", "3.66", "2.5e-04", "5.232", "2.158", "12.68"]
    record = json.loads(found.to_json())
    assert record["schema_version"] == 1
    row = record["inference"]["terms"][1]
    assert (row["name"], row["coef"], row["odds_ratio"]) == ("sex", found.coef[1], float(np.exp(found.coef[1])))
    assert record["inference"]["terms"][7]["odds_ratio"] is None


def test_level_is_that_of_the_intervals():
    x, y = data()
    wide, narrow = (inference(fitted(x, y), x, y, level=level) for level in (0.95, 0.5))
    np.testing.assert_allclose((wide.high - wide.low) / (narrow.high - narrow.low), 1.959963984540 / 0.674489750196)


def test_other_rows_are_refused():
    x, y = data()
    model = fitted(x, y)
    with pytest.raises(DataError, match="not fitted to these rows: the mean loss has a slope"):
        inference(model, x[::2], y[::2])
    with pytest.raises(DataError, match="not fitted to these rows: its classes"):
        inference(model, x, np.where(y, "yes", "no"))


def test_columns_that_make_each_other_up_are_named():
    x, y = data()
    table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(sum=x[:, 0] + 3 * x[:, 2], one=1.0)
    model = fitted(table, y)
    with pytest.raises(DataError, match=r"X: a, c, sum, one are constant or made up by one another"):
        inference(model, table, y)
    assert inference(fitted(table, y, C=1.0), table, y).df < 5


def test_what_has_no_normal_distribution_is_refused():
    x, y = data()
    model = fitted(x, y, C=1.0)
    model.set_params(l1_ratio=0.5)
    with pytest.raises(ValueError, match=r"after an l1 penalty .* bootstrap=200"):
        inference(model, x, y)
    model = fitted(x, y)
    model.set_params(high=model.coef_[0, 0])
    with pytest.raises(ValueError, match=r"after bounds, which 1 coefficients are at"):
        inference(model, x, y)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"covariance": "HC1"}, "covariance is one of 'auto', 'hessian', 'robust', 'cluster', not 'HC1'"),
        ({"covariance": "cluster"}, "come together"),
        ({"clusters": np.arange(200), "covariance": "robust"}, "come together"),
        ({"clusters": np.arange(3)}, r"clusters are one name per row, \(200,\); they are \(3,\)"),
        ({"clusters": np.zeros(200)}, "all rows are of one cluster"),
        ({"level": 95}, "level is a share between 0 and 1"),
        ({"bootstrap": 3}, "at least 20; it is 3"),
    ],
)
def test_wrong_calls(settings, sentence):
    x, y = data()
    with pytest.raises(ValueError, match=sentence):
        inference(fitted(x, y), x, y, **settings)


def test_more_coefficients_than_a_table_holds():
    x, labels = np.ones((4, 99)), np.array([[0, 1] * 26, [1, 0] * 26] * 2)
    model = fitted(x, labels, C=1.0)
    with pytest.raises(ValueError, match="covariance of 5,200 coefficients is a table of 5,200 squared; up to 5,000"):
        inference(model, x, labels)


def test_other_models_and_names_are_refused():
    x, y = data()
    with pytest.raises(TypeError, match=r"not LogisticRegression. Of a pipeline give the last step"):
        inference(LogisticRegression().fit(x, y), x, y)
    found = inference(fitted(x, y), x, y)
    with pytest.raises(ValueError, match="columns is one of 'x0', 'x1', 'x2', not 'intercept'"):
        found.test(["x0", "intercept"])
    with pytest.raises(ValueError, match="at least one name"):
        found.test([])
