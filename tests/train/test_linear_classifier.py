"""The estimator against scikit-learn, published figures and closed forms; its conventions, and what it refuses."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_array, csr_array
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.train import LinearClassifier


def data(n=300, d=4, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 1.0
    z = x @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))
    return x, z.argmax(1)


@pytest.mark.parametrize("prior", ["population", "weighted"])
def test_conventions_of_scikit_learn(prior):
    moved = "class weights move no probability here unless prior='weighted' says so, and this check wants them moved"
    expected = {"check_class_weight_classifiers": moved} if prior == "population" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks: SkipTestWarning, and one for the expected failure
        found = check_estimator(LinearClassifier(prior=prior), expected_failed_checks=expected, on_fail=None)
    assert not [check for check in found if check["status"] == "failed"]
    assert sum(check["status"] == "passed" for check in found) > 50


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0, np.inf])
@pytest.mark.parametrize("classes", [2, 4])
def test_equals_scikit_learn(classes, C, weighted, intercept):
    x, y = data(classes=classes)
    weight = np.random.default_rng(1).uniform(0.1, 3, len(y)) if weighted else None
    want = LogisticRegression(C=C, tol=1e-12, max_iter=10_000, solver="newton-cg", fit_intercept=intercept)
    want.fit(x, y, weight)
    got = LinearClassifier(C=C, tol=1e-12, fit_intercept=intercept).fit(x, y, weight)
    shift = want.intercept_.mean() if classes > 2 else 0.0  # the constant that changes nothing
    centre = want.coef_.mean(0) if classes > 2 else 0.0
    np.testing.assert_allclose(got.coef_, want.coef_ - centre, atol=1e-6)
    np.testing.assert_allclose(got.intercept_, want.intercept_ - shift, atol=1e-6)
    np.testing.assert_allclose(got.predict_proba(x), want.predict_proba(x), atol=1e-7)
    assert (got.predict(x) == want.predict(x)).all() and got.score(x, y) == want.score(x, y)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_saga_with_an_l1_penalty(classes, ratio):
    x, y = data(classes=classes, d=6)
    want = LogisticRegression(C=0.05, l1_ratio=ratio, solver="saga", tol=1e-12, max_iter=50_000).fit(x, y)
    for given in (x, csr_array(x)):
        got = LinearClassifier(C=0.05, l1_ratio=ratio, tol=1e-10).fit(given, y)
        np.testing.assert_allclose(got.coef_, want.coef_, atol=1e-6)
        np.testing.assert_allclose(got.predict_proba(given), want.predict_proba(x), atol=1e-6)
        assert got.certificate_.solver == "coordinate" and (got.coef_ == 0).any()


@pytest.mark.parametrize("classes", [2, 3])
def test_bounds_hold(classes):
    """Of coefficients that would be beyond them; one that is let go is what it would be without the others' bounds."""
    x, y = data(classes=classes, d=4)
    free = LinearClassifier(low=-5, high=5, tol=1e-9).fit(x, y)
    np.testing.assert_allclose(free.coef_, LinearClassifier(tol=1e-9).fit(x, y).coef_, atol=1e-6)
    signs = LinearClassifier(low=0).fit(x, y)
    assert (free.coef_ < 0).any() and (signs.coef_ >= 0).all() and (signs.coef_ == 0).any()
    assert signs.certificate_.converged and signs.certificate_.objective > free.certificate_.objective
    high = np.array([np.inf, 0.1, 0.1, np.inf])
    assert (LinearClassifier(high=high).fit(x, y).coef_ <= high).all()


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_raw_units_need_no_warning(load):
    """Columns from 1e-3 to 1e3, on which scikit-learn's default warns and stops above the minimum."""
    x, y = load(return_X_y=True)
    model = LinearClassifier().fit(x, y)
    assert model.certificate_.converged and model.certificate_.gap < 1e-6
    with pytest.warns(ConvergenceWarning):
        other = LogisticRegression().fit(x, y)
    assert objective(model, x, y) < objective(other, x, y)


def objective(model, x, y):
    proba = model.predict_proba(x)[np.arange(len(y)), y]
    return -np.log(proba).sum() + (model.coef_**2).sum() / 2


def test_published_figures_of_cleveland(shared_data):
    """statsmodels' Logit on the 297 complete rows, seven predictors (shared/research/training.md, 6)."""
    table = pd.read_csv(shared_data / "tabular" / "processed.cleveland.data", header=None, na_values="?").dropna()
    x, y = table[[0, 1, 3, 4, 7, 9, 11]].to_numpy(), (table[13] > 0).to_numpy()
    model = LinearClassifier(C=np.inf).fit(x, y)
    assert model.intercept_.round(4) == [0.6208]
    assert model.coef_[0].round(4).tolist() == [-0.0241, 1.6105, 0.0195, 0.0063, -0.0399, 0.5402, 1.1532]
    assert model.certificate_.objective == pytest.approx(127.519668, abs=5e-7)
    assert model.certificate_.gap < 1e-9


def test_ordinal_fits_cumulative_odds():
    """The minimum of the losses that `loss.cumulative_link` gives, and probabilities that sum to 1."""
    x, _ = data(d=2)
    noise = np.random.default_rng(2).logistic(size=len(x))
    y = np.digitize(x @ [1.0, -2.0] + noise, [-2.0, 0.0, 1.0])
    model = LinearClassifier(C=np.inf, ordinal=True, tol=1e-10).fit(x, y)

    def loss(coef, thresholds):
        return ll.loss.cumulative_link(x @ coef, y, thresholds).sum()

    best = loss(model.coef_[0], model.intercept_)
    assert best == pytest.approx(model.certificate_.objective, rel=1e-12)
    for step in np.eye(5) * 1e-4:
        for sign in (1, -1):
            assert loss(model.coef_[0] + sign * step[:2], model.intercept_ + sign * step[2:]) > best
    proba = model.predict_proba(x)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(proba[:, :2].sum(1), expit(model.intercept_[1] - x @ model.coef_[0]), rtol=1e-9)
    assert (model.predict(x) == proba.argmax(1)).all()


def test_labels_are_so_many_binary_fits():
    x, y = data(classes=3)
    labels = np.eye(3, dtype=int)[y]
    labels[::5, 0] = 1
    model = LinearClassifier().fit(x, labels)
    for k in range(3):
        one = LinearClassifier().fit(x, labels[:, k])
        np.testing.assert_allclose(model.coef_[k], one.coef_[0], rtol=1e-12)
        np.testing.assert_allclose(model.predict_proba(x)[:, k], one.predict_proba(x)[:, 1], rtol=1e-12)
    assert model.outputs(x, labels).task == "multilabel"


def test_probabilities_keep_their_tails():
    model = LinearClassifier(C=np.inf).fit([[0.0], [1.0], [0.0], [1.0]], [0, 1, 1, 0])
    model.coef_, model.intercept_ = np.array([[1.0]]), np.zeros(1)
    assert model.predict_proba([[-700.0]])[0, 1] == pytest.approx(np.exp(-700), rel=1e-12)
    assert model.predict_proba([[700.0]])[0, 0] == pytest.approx(np.exp(-700), rel=1e-12)
    assert model.predict_log_proba([[1e5]])[0].tolist() == [-1e5, 0.0]


@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_leave_the_population_alone(classes):
    """Where features say nothing, balanced weights leave the shares of the classes: 0.6 and 0.4, or 0.5, 0.3, 0.2."""
    y = np.repeat(np.arange(classes), [60, 40] if classes == 2 else [50, 30, 20])
    x = np.zeros((100, 1))
    shares = np.bincount(y) / 100
    for prior, want in (("population", shares), ("weighted", np.full(classes, 1 / classes))):
        model = LinearClassifier(class_weight="balanced", prior=prior).fit(x, y)
        np.testing.assert_allclose(model.predict_proba(x[:1])[0], want, rtol=1e-9)
    by_hand = LinearClassifier(class_weight=dict(enumerate(1 / shares)), prior="weighted").fit(x, y)
    np.testing.assert_allclose(by_hand.predict_proba(x[:1])[0], 1 / classes, rtol=1e-9)


def test_class_weights_are_row_weights():
    x, y = data()
    weighed = LinearClassifier(class_weight={0: 3.0}, prior="weighted").fit(x, y)
    rows = LinearClassifier().fit(x, y, np.where(y == 0, 3.0, 1.0))
    np.testing.assert_allclose(weighed.coef_, rows.coef_, rtol=1e-12)
    corrected = LinearClassifier(class_weight={0: 3.0}).fit(x, y)
    assert corrected.intercept_[0] == pytest.approx(rows.intercept_[0] + np.log(3.0))


def test_penalty_factor_is_a_change_of_units():
    x, y = data()
    f = np.array([0.5, 1.0, 4.0, 9.0])
    model = LinearClassifier(penalty_factor=f, tol=1e-10).fit(x, y)
    plain = LinearClassifier(tol=1e-10).fit(x / np.sqrt(f), y)
    np.testing.assert_allclose(model.coef_, plain.coef_ / np.sqrt(f), rtol=1e-7)


def test_an_offset_is_added():
    x, y = data()
    offset = x[:, 0] * 0.7
    model = LinearClassifier().fit(x, y, offset=offset)
    z = x @ model.coef_[0] + model.intercept_[0] + offset
    np.testing.assert_allclose(model.decision_function(x, offset), z, rtol=1e-12)
    np.testing.assert_allclose((expit(z) - y) @ x + model.coef_[0], 0, atol=1e-5)


@pytest.mark.parametrize("make", [csr_array, csc_array, np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]])
def test_layouts_and_sparse_give_the_same_fit(make):
    x, y = data(n=500)
    x[x < 0.5] = 0
    want, got = LinearClassifier().fit(x, y), LinearClassifier().fit(make(x), y)
    np.testing.assert_allclose(got.coef_, want.coef_, rtol=1e-9)
    np.testing.assert_allclose(got.decision_function(make(x)), want.decision_function(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_float32_stays(classes):
    x, y = data(classes=classes)
    x = x.astype(np.float32)
    model = LinearClassifier().fit(x, y)
    assert model.coef_.dtype == np.float64
    assert model.decision_function(x).dtype == model.predict_proba(x).dtype == np.float32
    np.testing.assert_allclose(model.coef_, LinearClassifier().fit(x.astype(float), y).coef_, rtol=1e-9)


def test_names_of_classes_and_features():
    x, y = data(classes=3)
    names = np.array(["red", "green", "blue"])[y]
    frame = pd.DataFrame(x, columns=list("abcd"))
    model = LinearClassifier().fit(frame, names)
    assert model.classes_.tolist() == ["blue", "green", "red"]
    assert model.feature_names_in_.tolist() == list("abcd")
    outputs = model.outputs(frame, names)
    assert list(outputs.classes) == ["blue", "green", "red"]
    assert ll.accuracy(outputs.scores, outputs.target).value == pytest.approx(model.score(frame, names))
    assert ll.calibrate.fit(outputs)(outputs.scores).shape == (300, 3)
    with pytest.raises(DataError, match="class 'pink' was not among the 3 classes"):
        model.outputs(frame[:1], ["pink"])


@pytest.mark.parametrize("classes", [2, 3])
def test_warm_start_begins_where_it_ended(classes):
    x, y = data(classes=classes)
    model = LinearClassifier(warm_start=True).fit(x, y)
    first, coef = model.n_iter_[0], model.coef_
    model.fit(x, y)
    assert model.n_iter_[0] == 1 < first
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-9)
    assert clone(model).set_params(warm_start=False).fit(x, y).n_iter_[0] == first
    model.fit(x[:, :2], y)  # another shape: from the beginning
    assert model.coef_.shape[1] == 2


def test_inverse_hessian_gives_standard_errors():
    """Of the unpenalised fit they are the roots of the diagonal of (X' diag(p (1 - p)) X)^-1."""
    x, y = data()
    model = LinearClassifier(C=np.inf).fit(x * [1e-3, 1, 1e3, 1e5], y)
    design = np.column_stack([x, np.ones(len(x))])
    p = model.predict_proba(x * [1e-3, 1, 1e3, 1e5])[:, 1]
    want = np.sqrt(np.diag(np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)))
    got = np.sqrt(np.diag(model.inverse_hessian_)) * [1e-3, 1, 1e3, 1e5, 1]
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_too_few_passes_are_said():
    x, y = data()
    with pytest.warns(ConvergenceWarning, match="after 1 passes"):
        LinearClassifier(max_iter=1).fit(x, y)


X, Y = data(n=40)
NAN = np.where(np.arange(160).reshape(40, 4) == 13, np.nan, X)
BAD = {
    "constant target": (dict(), (X, np.ones(40)), r"every row is of one class, 1\.0"),
    "identifiers": (dict(), (X, np.arange(40)), "as many classes as rows, 40"),
    "continuous": (dict(), (X, X[:, 0]), "Unknown label type: continuous"),
    "nan": (dict(), (NAN, Y), r"column 1: Input X contains NaN.*First rows: 3\..*SimpleImputer"),
    "nan, sparse": (dict(), (csr_array(NAN), Y), r"column 1: Input X contains NaN.*First rows: 3\."),
    "infinity": (dict(), (np.where(np.isnan(NAN), np.inf, NAN), Y), "contains infinity"),
    "text": (dict(), (pd.DataFrame({"a": ["1", "2", "tall"], "b": 1.0}), [0, 1, 0]), "a: text.*'tall'.*rows: 2"),
    "missing target": (dict(), (X, np.array([None, *Y[1:]], object)), "the target is missing.*First rows: 0"),
    "mixed target": (dict(), (X, np.array(["a", 1] * 20, object)), "no common order"),
    "a negative weight": (dict(), (X, Y, np.r_[-1.0, np.ones(39)]), "weight is a finite number.*rows: 0"),
    "weights of 0": (dict(), (X, Y, np.zeros(40)), "every weight is zero"),
    "a class without weight": (dict(), (X, Y, (Y == 0) * 1.0), "every row of class 1 has weight zero"),
    "weights of another shape": (dict(), (X, Y, np.ones(3)), r"one number per row, \(40,\); it is \(3,\)"),
    "a constant label": (dict(), (X, np.c_[Y, 0 * Y]), "label 1 is 0 in every row"),
    "labels of 2": (dict(), (X, np.c_[Y, 2 * Y]), "entries are 0 and 1"),
    "an offset of another shape": (dict(), (X, Y, None, np.ones((40, 2))), r"\(40\); it is \(40, 2\)"),
    "an infinite offset": (dict(), (X, Y, None, np.r_[np.inf, np.ones(39)]), "finite logit.*rows: 0"),
    "C": (dict(C=0), (X, Y), "C is a number above 0"),
    "l1_ratio": (dict(l1_ratio=2), (X, Y), "l1_ratio is between 0"),
    "penalty_factor": (dict(penalty_factor=[1, 2]), (X, Y), r"one per feature \(4,\); it is \(2,\)"),
    "a negative factor": (dict(penalty_factor=-1), (X, Y), "at least 0"),
    "bounds": (dict(low=1, high=0), (X, Y), "low <= high; for feature 0 they are 1.0 and 0.0"),
    "class_weight": (dict(class_weight={7: 2}), (X, Y), r"names 7; the classes are \[0, 1\]"),
    "class_weight, a word": (dict(class_weight="equal"), (X, Y), "'balanced' or a dict, not 'equal'"),
    "class_weight of labels": (dict(class_weight="balanced"), (X, np.c_[Y, 1 - Y]), "not for labels"),
    "class_weight of grades": (dict(class_weight="balanced", ordinal=True), (X, Y), "weigh rows with sample_weight"),
    "prior": (dict(prior="populaton"), (X, Y), "Did you mean 'population'"),
    "weights": (dict(weights="counts"), (X, Y), "'importance', 'frequency'"),
    "tol": (dict(tol=0), (X, Y), "tol is a number above 0"),
    "max_iter": (dict(max_iter=0), (X, Y), "max_iter is at least 1"),
    "ordinal labels": (dict(ordinal=True), (X, np.c_[Y, 1 - Y]), "ordinal classes are one column"),
    "separation": (dict(C=np.inf), (Y[:, None] * 1.0, Y), "x0 separates all rows .*Firth"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_says_why(name):
    settings, args, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        LinearClassifier(**settings).fit(*args)


@pytest.mark.parametrize(
    "y",
    [
        np.array([True, False] * 20),
        np.array([3, -2] * 20, np.int8),
        np.array([0.0, 5.0] * 20),
        np.array([10**12, -(10**12)] * 20),
        np.array(["b", "a"] * 20, object),
        np.array(["a"] * 39 + ["b"]),
        np.resize([3, 70_000, 5], 40),
        pd.Series(["b", "a"] * 20),
        pd.Series(["b", "a"] * 20, dtype="category"),
    ],
    ids=lambda y: str(y.dtype),
)
def test_labels_of_any_kind(y, monkeypatch):
    monkeypatch.setattr("lastlayer.train._encode.FIRST", 10)  # labels that come later are found
    model = LinearClassifier().fit(X, y)
    assert model.classes_.tolist() == sorted(set(np.asarray(y).tolist()))
    assert set(model.predict(X).tolist()) <= set(np.asarray(y).tolist())
    want = np.searchsorted(model.classes_, np.asarray(y))
    np.testing.assert_allclose(model.coef_, LinearClassifier().fit(X, want).coef_, rtol=1e-9)


def test_one_feature_and_few_rows():
    model = LinearClassifier().fit([[0.0], [1.0]], [0, 1])
    b = model.coef_[0, 0]
    assert b == pytest.approx(expit(-b / 2), rel=1e-6)  # of the slope 2 p(-b/2) / 2 = b, the intercept being -b/2
    assert model.intercept_[0] == pytest.approx(-b / 2, rel=1e-6)
