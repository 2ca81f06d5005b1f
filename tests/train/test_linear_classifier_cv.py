"""Cross-validated logistic regression against fits of single folds, scikit-learn's, and what it refuses."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import log_softmax
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import KFold, LeaveOneGroupOut, RepeatedStratifiedKFold, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.train import LinearClassifier, LinearClassifierCV, out_of_fold

CS = [0.01, 0.3, 20.0]


def data(n=240, d=4, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 10.0 ** np.arange(d) + 1.0
    z = x / 10.0 ** np.arange(d) @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))
    return x, z.argmax(1)


@pytest.mark.parametrize("prior", ["population", "weighted"])
def test_conventions_of_scikit_learn(prior):
    moved = "class weights move no probability here unless prior='weighted' says so, and this check wants them moved"
    expected = {"check_class_weight_classifiers": moved} if prior == "population" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks: SkipTestWarning, and one for the expected failure
        model = LinearClassifierCV(Cs=[0.1, 1.0], cv=2, prior=prior)
        found = check_estimator(model, expected_failed_checks=expected, on_fail=None)
    assert not [(check["check_name"], check["exception"]) for check in found if check["status"] == "failed"]
    assert sum(check["status"] == "passed" for check in found) > 50


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_scikit_learn(classes, weighted, class_weight, intercept):
    x, y = data(classes=classes)
    x = x / 10.0 ** np.arange(4)  # in units in which the peer arrives
    weight = np.random.default_rng(1).uniform(0.1, 3, len(y)) if weighted else None
    settings: dict = dict(Cs=CS, cv=3, scoring="neg_log_loss", fit_intercept=intercept, class_weight=class_weight)
    solver: dict = dict(solver="newton-cg", tol=1e-12, max_iter=10_000, l1_ratios=(0,), use_legacy_attributes=False)
    want = LogisticRegressionCV(**settings, **solver).fit(x, y, weight)
    got = LinearClassifierCV(**settings, tol=1e-11, prior="weighted").fit(x, y, weight)
    assert got.C_ == want.C_ and got.Cs_.tolist() == CS
    np.testing.assert_allclose(got.scores_, want.scores_, atol=1e-9)
    paths = want.coefs_paths_ - (want.coefs_paths_.mean(3, keepdims=True) if classes > 2 else 0.0)
    assert got.coefs_paths_.shape == paths.shape and got.n_iter_.shape == want.n_iter_.shape
    np.testing.assert_allclose(got.coefs_paths_, paths, atol=1e-6)
    np.testing.assert_allclose(got.predict_proba(x), want.predict_proba(x), atol=1e-7)


def test_every_fold_and_penalty_is_the_fit_of_its_rows_alone():
    x, y = data(classes=3)
    fold = np.random.default_rng(2).integers(0, 4, len(y))
    model = LinearClassifierCV(Cs=CS, cv=fold, tol=1e-11).fit(x, y)
    for k in range(4):
        for c, C in enumerate(CS):
            one = LinearClassifier(C=C, tol=1e-12).fit(x[fold != k], y[fold != k])
            scale = 10.0 ** np.arange(4)
            np.testing.assert_allclose(model.coefs_paths_[k, 0, c, :, :4] * scale, one.coef_ * scale, atol=1e-6)
            np.testing.assert_allclose(model.coefs_paths_[k, 0, c, :, 4], one.intercept_, atol=1e-6)
            score = log_softmax(one.decision_function(x[fold == k]), 1)[range((fold == k).sum()), y[fold == k]].mean()
            assert model.scores_[k, 0, c] == pytest.approx(score, abs=1e-7)
    whole = LinearClassifier(C=model.C_).fit(x, y)
    np.testing.assert_allclose(model.coef_, whole.coef_, atol=1e-5)
    assert model.certificate_.converged


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_raw_units_need_no_warning(load):
    x, y = load(return_X_y=True)
    model = LinearClassifierCV().fit(x, y)
    assert model.scores_.shape == (5, 1, 10) and (model.n_iter_ < 900).all()
    assert model.scores_.mean(0).max() == model.scores_.mean(0)[0, list(model.Cs_).index(model.C_)]


def test_class_weights_leave_probabilities_out_of_fold_where_they_belong():
    x, y = data(n=900)
    rare = np.flatnonzero((y == 0) | (np.arange(len(y)) % 8 == 0))
    x, y = x[rare], y[rare]
    moved = LinearClassifierCV(Cs=CS, class_weight="balanced", prior="weighted").fit(x, y).out_of_fold
    kept = LinearClassifierCV(Cs=CS, class_weight="balanced").fit(x, y).out_of_fold
    shares = [float((1 / (1 + np.exp(-said.scores))).mean()) for said in (moved, kept)]
    assert abs(shares[1] - y.mean()) < 0.02 < abs(shares[0] - y.mean())


def test_out_of_fold_is_what_fits_without_the_row_say_and_calibrates():
    x, y = data()
    names = np.array(["no", "yes"])[y]
    fold = np.random.default_rng(3).permutation(np.arange(len(y)) % 5)
    weight = np.random.default_rng(4).uniform(0.5, 2, len(y))
    model = LinearClassifierCV(Cs=CS, cv=fold, tol=1e-10).fit(x, names, weight)
    said = model.out_of_fold
    for k in range(5):
        rows = fold == k
        one = LinearClassifier(C=model.C_, tol=1e-12).fit(x[~rows], names[~rows], weight[~rows])
        np.testing.assert_allclose(said.scores[rows], one.decision_function(x[rows]), atol=1e-6)
    assert said.classes == ("no", "yes") and said.target.tolist() == y.tolist() and said.task == "binary"
    assert said.weight.tolist() == weight.tolist() and said.groups["fold"].tolist() == fold.astype(str).tolist()
    assert ll.calibrate.fit(said, method="temperature")(said.scores).shape == (len(y),)
    assert "nll" in ll.check(said).metrics


def test_labels_are_as_many_binary_fits():
    x, _ = data()
    labels = (x / 10.0 ** np.arange(4) + np.random.default_rng(5).normal(size=x.shape) > 1)[:, :3].astype(int)
    fold = np.arange(len(x)) % 3
    model = LinearClassifierCV(Cs=CS, cv=fold, tol=1e-10).fit(x, labels)
    assert model.out_of_fold.task == "multilabel" and model.out_of_fold.target.tolist() == labels.tolist()
    total = 0.0
    for j in range(3):
        one = LinearClassifierCV(Cs=CS, cv=fold, tol=1e-10).fit(x, labels[:, j])
        total = total + one.scores_
        np.testing.assert_allclose(model.coefs_paths_[..., j, :], one.coefs_paths_[..., 0, :], atol=1e-5)
    np.testing.assert_allclose(model.scores_, total, atol=1e-7)


def test_float32_and_sparse_and_columns_give_the_same():
    x, y = data(classes=3)
    x[x < 0] = 0.0
    want = LinearClassifierCV(Cs=CS, cv=3).fit(x, y)
    for other in (np.asfortranarray(x), csr_array(x), x.astype(np.float32)):
        got = LinearClassifierCV(Cs=CS, cv=3).fit(other, y)
        np.testing.assert_allclose(got.scores_, want.scores_, atol=1e-4)
        assert got.C_ == want.C_ and got.out_of_fold.scores.dtype == other.dtype


def test_offsets_come_on_top_in_every_fold():
    x, y = data()
    offset = np.random.default_rng(6).normal(size=len(y)) * 3
    fold = np.arange(len(y)) % 3
    model = LinearClassifierCV(Cs=CS, cv=fold, tol=1e-10).fit(x, y, offset=offset)
    rows = fold == 1
    one = LinearClassifier(C=model.C_, tol=1e-12).fit(x[~rows], y[~rows], offset=offset[~rows])
    want = one.decision_function(x[rows], offset=offset[rows])
    np.testing.assert_allclose(model.out_of_fold.scores[rows], want, atol=1e-6)


@pytest.mark.parametrize(
    "scoring, measure",
    [
        ("neg_log_loss", lambda y, p: -log_loss(y, p)),
        ("neg_brier_score", lambda y, p: -brier_score_loss(y, p)),
        ("accuracy", lambda y, p: ((p > 0.5) == y).mean()),
        ("roc_auc", roc_auc_score),
        (lambda said: -float(np.abs(said.scores).mean()), None),
    ],
)
def test_scores_are_what_they_are_called(scoring, measure):
    x, y = data()
    fold = np.arange(len(y)) % 3
    model = LinearClassifierCV(Cs=CS, cv=fold, scoring=scoring, tol=1e-10).fit(x, y)
    for k in range(3):
        for c, C in enumerate(CS):
            one = LinearClassifier(C=C, tol=1e-12).fit(x[fold != k], y[fold != k])
            z, truth = one.decision_function(x[fold == k]), y[fold == k]
            want = -np.abs(z).mean() if measure is None else measure(truth, 1 / (1 + np.exp(-z)))
            assert model.scores_[k, 0, c] == pytest.approx(want, abs=1e-7)
    assert model.scores_.mean((0, 1)).argmax() == CS.index(model.C_)


def test_of_equal_scores_the_smallest_C_wins():
    x, y = data()
    assert LinearClassifierCV(Cs=[5.0, 1.0, 2.0], scoring=lambda said: 1.0).fit(x, y).C_ == 1.0


def test_path_is_the_fits_of_all_rows():
    x, y = data(classes=3)
    path = LinearClassifierCV(Cs=CS, tol=1e-10, class_weight={1: 3.0}).path(x, y)
    for c, C in enumerate(CS):
        one = LinearClassifier(C=C, tol=1e-12, class_weight={1: 3.0}).fit(x, y)
        np.testing.assert_allclose(path.coef[c], one.coef_, atol=1e-6)
        np.testing.assert_allclose(path.intercept[c], one.intercept_, atol=1e-6)
    assert path.converged.all() and path.Cs.tolist() == CS


def test_splitters_and_groups():
    x, y = data()
    site = np.arange(len(y)) % 4
    by_group = LinearClassifierCV(Cs=CS, cv=LeaveOneGroupOut()).fit(x, y, groups=site)
    by_code = LinearClassifierCV(Cs=CS, cv=site).fit(x, y)
    pairs = LinearClassifierCV(Cs=CS, cv=list(KFold(4).split(x))).fit(x, y)
    assert by_group.scores_.tolist() == by_code.scores_.tolist() and pairs.scores_.shape == (4, 1, 3)


def test_a_cv_that_does_not_test_every_row_once_has_no_logits_out_of_fold():
    x, y = data()
    left_out = LinearClassifierCV(Cs=CS, cv=ShuffleSplit(2, test_size=0.2, random_state=0)).fit(x, y)
    with pytest.raises(DataError, match=r"in no test fold.*First rows.*tests every row once"):
        _ = left_out.out_of_fold
    repeated = LinearClassifierCV(Cs=CS, cv=RepeatedStratifiedKFold(n_splits=2, n_repeats=2)).fit(x, y)
    with pytest.raises(DataError, match="240 of 240 rows are in several test folds"):
        _ = repeated.out_of_fold
    with pytest.raises(DataError, match="in no test fold"):
        out_of_fold(LinearClassifier(), x, y, cv=ShuffleSplit(2, random_state=0))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(cv=np.arange(9)), r"the fold of each row is \(9,\), and there are 240 rows"),
        (dict(cv=np.zeros(240)), "every row is in the same fold"),
        (dict(cv=1), "cv is at least 2"),
        (dict(cv=241), "241 folds of 240 rows"),
        (dict(Cs=[1.0, 0.0]), "Cs are numbers above 0"),
        (dict(Cs=[-1.0]), "Cs are numbers above 0"),
        (dict(Cs=[np.nan]), "Cs are numbers above 0"),
        (dict(Cs=[]), "Cs are numbers above 0"),
        (dict(Cs=0), "Cs are numbers above 0"),
        (dict(scoring="roc_acu"), "Did you mean 'roc_auc'"),
        (dict(scoring="neg_log_los"), "Did you mean 'neg_log_loss'"),
        (dict(tol=0.0), "tol is a number above 0"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LinearClassifierCV(**settings).fit(*data())


@pytest.mark.parametrize(
    "rows, message", [(1, "has 1 row, .*no number of folds"), (3, "has 3 rows.*number of folds is 3.*cv=3")]
)
@pytest.mark.parametrize("fit", [LinearClassifierCV(cv=5).fit, lambda x, y: out_of_fold(LinearClassifier(), x, y)])
def test_a_rare_class_is_named_with_the_number_of_folds_that_it_allows(fit, rows, message):
    x, _ = data()
    y = np.where(np.arange(len(x)) < rows, "rare", np.where(x[:, 0] > 1, "b", "a"))
    with pytest.raises(DataError, match=f"class 'rare' {message}"):
        fit(x, y)


def test_folds_that_do_not_learn_a_class_are_refused():
    x, y = data(classes=3)
    with pytest.raises(DataError, match="class 2 has no row in what fold 1 learns from"):
        LinearClassifierCV(cv=np.where(y == 2, 1, np.arange(len(y)) % 2 * 2)).fit(x, y)
    labels = np.column_stack([x[:, 0] > 1, np.arange(len(x)) < 5]).astype(int)
    with pytest.raises(DataError, match="label 1 is the same in every row of what fold 0 learns from"):
        LinearClassifierCV(cv=2).fit(x, labels)
    with pytest.raises(DataError, match="class 2 has no row in what fold 1"):
        out_of_fold(LinearClassifier(), x, y, cv=np.where(y == 2, 1, np.arange(len(y)) % 2 * 2))


def test_a_score_that_is_not_a_number_is_refused():
    x, y = data()
    with pytest.raises(DataError, match="score of fold 0 is nan"):
        LinearClassifierCV(cv=np.where(np.arange(len(y)) % 2 == 0, y, 2), scoring="roc_auc").fit(x, y)


def test_too_few_passes_are_said():
    with pytest.warns(ConvergenceWarning, match="some fits stopped at a largest slope"):
        LinearClassifierCV(Cs=CS, max_iter=2).fit(*data())


@pytest.mark.parametrize(
    "estimator", [LinearClassifier(), make_pipeline(StandardScaler(), LinearClassifier()), RandomForestClassifier(20)]
)
def test_out_of_fold_of_any_estimator(estimator):
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    said = out_of_fold(estimator, x, names, cv=StratifiedKFold(3, shuffle=True, random_state=0))
    assert said.target.tolist() == y.tolist() and said.classes == ("setosa", "versicolor", "virginica")
    assert ll.accuracy(said.logits, said.target).value > 0.9 and set(said.groups["fold"]) == {"0", "1", "2"}
    assert str(said.source).endswith("out of fold")


def test_out_of_fold_of_tables_lists_and_weights():
    import pandas as pd
    from sklearn.feature_extraction.text import CountVectorizer

    x, y = data()
    weight = np.random.default_rng(7).uniform(0.5, 2, len(y))
    fold = np.arange(len(y)) % 2
    said = out_of_fold(LinearClassifier(), pd.DataFrame(x, columns=list("abcd")), y, cv=fold, sample_weight=weight)
    one = LinearClassifier().fit(x[fold == 0], y[fold == 0], weight[fold == 0])
    np.testing.assert_allclose(said.scores[fold == 1], one.decision_function(x[fold == 1]), atol=1e-12)
    assert said.weight.tolist() == weight.tolist()
    words = [("good " if label else "bad ") + str(i % 3) for i, label in enumerate(y)]
    text = out_of_fold(make_pipeline(CountVectorizer(), LinearClassifier()), words, y, cv=3)
    assert ll.accuracy(text.scores, text.target).value == 1.0
