"""`logits_of` of scikit-learn: softmax or sigmoid of it is predict_proba, also where that says exactly 1."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, softmax
from sklearn import (
    calibration,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    frozen,
    gaussian_process,
    linear_model,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    semi_supervised,
    svm,
    tree,
)
from sklearn.exceptions import NotFittedError

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.train import logits_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 4))
NOISY = X[:, 0] + 0.5 * RNG.normal(size=150)
TWO = np.where(NOISY > 0, "yes", "no")
THREE = np.array([7, 3, 5])[np.digitize(NOISY, [-0.5, 0.5])]  # labels that are no indices, out of order
MANY = np.stack([NOISY > 0, X[:, 1] > 0.3, X[:, 2] > -0.3], axis=1).astype(int)
COUNTS = RNG.poisson(np.exp(X))

LOGITS = [
    linear_model.LogisticRegression(),
    linear_model.LogisticRegressionCV(Cs=2, cv=2, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"),
    linear_model.SGDClassifier(loss="log_loss", random_state=0),
    discriminant_analysis.LinearDiscriminantAnalysis(),
    discriminant_analysis.QuadraticDiscriminantAnalysis(),
    ensemble.GradientBoostingClassifier(n_estimators=5),
    ensemble.HistGradientBoostingClassifier(max_iter=5),
    ensemble.AdaBoostClassifier(n_estimators=5),
    naive_bayes.GaussianNB(),
    naive_bayes.BernoulliNB(),
    neighbors.NearestCentroid(),
    neural_network.MLPClassifier((5,), max_iter=20, solver="lbfgs", random_state=0),
]
PROBS = [
    ensemble.RandomForestClassifier(5),
    ensemble.ExtraTreesClassifier(5),
    ensemble.BaggingClassifier(n_estimators=3),
    tree.DecisionTreeClassifier(max_depth=2),
    neighbors.KNeighborsClassifier(),
    neighbors.RadiusNeighborsClassifier(9.0),
    gaussian_process.GaussianProcessClassifier(),
    dummy.DummyClassifier(),
    calibration.CalibratedClassifierCV(svm.LinearSVC()),
    ensemble.VotingClassifier([("a", tree.DecisionTreeClassifier()), ("b", naive_bayes.GaussianNB())], voting="soft"),
    semi_supervised.LabelSpreading(),
]
MARGINS = [
    svm.SVC(),
    svm.NuSVC(nu=0.2),
    svm.LinearSVC(),
    linear_model.Perceptron(),
    linear_model.RidgeClassifier(),
    linear_model.RidgeClassifierCV(),
    linear_model.SGDClassifier(loss="hinge"),
    linear_model.SGDClassifier(loss="modified_huber"),
    multiclass.OneVsOneClassifier(svm.LinearSVC()),
]


def name_of(value):
    return type(value).__name__ if hasattr(value, "fit") else None


def probabilities(outputs):
    """What the logits say, in the shape of predict_proba."""
    if outputs.task == "multiclass":
        return softmax(outputs.logits, axis=1)
    p = expit(outputs.logits)
    return p if outputs.task == "multilabel" else np.stack([1 - p, p], axis=1)


def agrees(model, outputs, features=X):
    np.testing.assert_allclose(probabilities(outputs), model.predict_proba(features), rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("model", LOGITS, ids=name_of)
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_probabilities_of_the_logits_are_predict_proba(model, y):
    model.fit(X, y)
    outputs = logits_of(model, X, y=y)
    assert outputs.kind == "logits"
    assert outputs.task == ("binary" if y is TWO else "multiclass")
    assert outputs.classes == tuple(map(str, model.classes_))
    assert np.array_equal(model.classes_[outputs.target], y)
    assert type(model).__name__ in outputs.source
    agrees(model, outputs)


@pytest.mark.parametrize("model", [naive_bayes.MultinomialNB(), naive_bayes.ComplementNB()], ids=name_of)
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_naive_bayes_of_counts(model, y):
    agrees(model.fit(COUNTS, y), logits_of(model, COUNTS), COUNTS)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("model", PROBS, ids=name_of)
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_probabilities_where_there_are_no_logits(model, y):
    model.fit(X, y)
    outputs = logits_of(model, X)
    assert outputs.kind == "probs"
    assert outputs.source == f"{type(model).__name__}.predict_proba"
    expected = model.predict_proba(X)
    assert np.array_equal(outputs.scores, expected[:, 1] if y is TWO else expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("model", MARGINS, ids=name_of)
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_margins_are_not_called_logits(model, y):
    outputs = logits_of(model.fit(X, y), X, y=y)
    assert outputs.kind == "margin"
    assert outputs.task == ("binary" if y is TWO else "multiclass")
    assert np.array_equal(outputs.scores, model.decision_function(X))


def test_exponential_loss_is_half_a_logit():
    model = ensemble.GradientBoostingClassifier(loss="exponential", n_estimators=5).fit(X, TWO)
    outputs = logits_of(model, X)
    agrees(model, outputs)
    assert np.array_equal(outputs.scores, 2 * model.decision_function(X))
    assert outputs.source == "2 * GradientBoostingClassifier.decision_function"


def test_one_versus_rest_sigmoids_are_divided_by_their_sum():
    """Softmax of the decision itself would be another distribution."""
    model = linear_model.SGDClassifier(loss="log_loss", random_state=0).fit(X, THREE)
    outputs = logits_of(model, X)
    p = expit(model.decision_function(X))
    np.testing.assert_allclose(softmax(outputs.scores, axis=1), p / p.sum(1, keepdims=True), rtol=1e-12)
    assert np.abs(softmax(model.decision_function(X), axis=1) - model.predict_proba(X)).max() > 0.1
    assert "one-versus-rest" in outputs.source


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("multi_class", ["ovr", "multinomial"])
def test_the_parameter_of_old_logistic_regressions(y, multi_class):
    """``multi_class``, until scikit-learn 1.7; two classes of "multinomial" had the logits -d and d."""
    model = linear_model.LogisticRegression().fit(X, y)
    model.multi_class = multi_class
    d = model.decision_function(X)
    if y is TWO:
        expected = softmax(np.stack([-d, d], axis=1), axis=1) if multi_class == "multinomial" else None
        expected = np.stack([1 - expit(d), expit(d)], axis=1) if expected is None else expected
    else:
        sigmoids = expit(d)
        expected = softmax(d, axis=1) if multi_class == "multinomial" else sigmoids / sigmoids.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(logits_of(model, X)), expected, rtol=1e-12, atol=1e-15)


# Tails: rows so far out that predict_proba is exactly 0 or 1, against a reference that never saw a probability.


def far(model, outputs, features, expected):
    """Exactly 1 for predict_proba, and here the value it came from."""
    p = model.predict_proba(features)
    assert (p.max(1) == 1).mean() > 0.9
    np.testing.assert_allclose(outputs.scores, expected, rtol=1e-11)
    assert np.isfinite(outputs.scores).all()


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("y", [TWO, THREE, MANY], ids=["two", "three", "labels"])
def test_tails_of_a_multilayer_perceptron(y, activation):
    model = neural_network.MLPClassifier((5, 3), activation=activation, max_iter=5, solver="lbfgs", random_state=0)
    with pytest.warns(match="converge"):
        model.fit(X, y)
    model.coefs_[-1] *= 1e5  # the smallest gap is then above 40
    hidden = X
    for W, b in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        z = hidden @ W + b
        hidden = {"relu": np.maximum(z, 0), "tanh": np.tanh(z), "logistic": expit(z), "identity": z}[activation]
    expected = hidden @ model.coefs_[-1] + model.intercepts_[-1]
    outputs = logits_of(model, X)
    assert outputs.source == f"MLPClassifier before its {model.out_activation_}"
    assert model.out_activation_ != "identity"  # as it was
    assert outputs.task == {id(TWO): "binary", id(THREE): "multiclass", id(MANY): "multilabel"}[id(y)]
    np.testing.assert_allclose(outputs.scores, expected[:, 0] if y is TWO else expected, rtol=1e-10)
    assert np.isfinite(outputs.scores).all()
    p = model.predict_proba(X)
    assert (p == 1).any()
    agrees(model, outputs)


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_tails_of_gradient_boosting(y):
    """Trees summed by hand; a step of 25 leaves of 2 is a logit of 50, and sigmoid is 1 from 37 on."""
    clean = np.where(X[:, 0] > 0, "yes", "no") if y is TWO else np.digitize(X[:, 0], [-0.5, 0.5])
    model = ensemble.GradientBoostingClassifier(n_estimators=3, learning_rate=25.0, init="zero").fit(X, clean)
    trees = 25 * sum(np.stack([one.predict(X) for one in row], axis=1) for row in model.estimators_)
    far(model, logits_of(model, X), X, trees[:, 0] if y is TWO else trees)


def test_tails_of_naive_bayes():
    """The densities as the model's means and variances say them."""
    model = naive_bayes.GaussianNB().fit(X, THREE)
    rows = 100 * X
    squares = (rows[:, None] - model.theta_) ** 2 / model.var_
    joint = np.log(model.class_prior_) - 0.5 * (np.log(2 * np.pi * model.var_) + squares).sum(-1)
    far(model, logits_of(model, rows), rows, joint)
    two = naive_bayes.GaussianNB().fit(X, TWO)
    squares = (rows[:, None] - two.theta_) ** 2 / two.var_
    joint = np.log(two.class_prior_) - 0.5 * (np.log(2 * np.pi * two.var_) + squares).sum(-1)
    outputs = logits_of(two, rows)
    np.testing.assert_allclose(outputs.scores, joint[:, 1] - joint[:, 0], rtol=1e-10)
    assert outputs.source == "difference of GaussianNB.predict_joint_log_proba"


def test_tails_of_one_versus_rest():
    """log_sigmoid keeps what no sigmoid can hold: below -745 it is 0."""
    model = linear_model.SGDClassifier(loss="log_loss", random_state=0).fit(X, THREE)
    rows = 1e4 * X
    d = rows @ model.coef_.T + model.intercept_
    far_below = d < -745
    outputs = logits_of(model, rows)
    assert (expit(d[far_below]) == 0).all() and far_below.any()
    np.testing.assert_allclose(outputs.scores[far_below], d[far_below], rtol=1e-12)


# Estimators of estimators


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_a_pipeline_of_a_search_of_a_pipeline(y):
    inner = pipeline.make_pipeline(preprocessing.StandardScaler(), "passthrough", linear_model.LogisticRegression())
    search = model_selection.GridSearchCV(inner, {"logisticregression__C": [0.1, 1]}, cv=2)
    model = pipeline.make_pipeline(preprocessing.MinMaxScaler(), search).fit(X, y)
    outputs = logits_of(model, X, y=y)
    assert outputs.source == (
        "Pipeline > GridSearchCV.best_estimator_ > Pipeline > LogisticRegression.decision_function"
    )
    assert np.array_equal(outputs.scores, model.decision_function(X))
    agrees(model, outputs)


OF_TWO = [
    frozen.FrozenEstimator(linear_model.LogisticRegression().fit(X, TWO)),
    model_selection.FixedThresholdClassifier(linear_model.LogisticRegression(), threshold=0.9),
    model_selection.TunedThresholdClassifierCV(linear_model.LogisticRegression(), cv=2),
]
OF_ANY = [
    pipeline.Pipeline([("only", linear_model.LogisticRegression())]),
    model_selection.RandomizedSearchCV(linear_model.LogisticRegression(), {"C": [1.0]}, n_iter=1, cv=2),
    feature_selection.RFE(linear_model.LogisticRegression(), n_features_to_select=2),
    feature_selection.RFECV(linear_model.LogisticRegression(), cv=2),
    semi_supervised.SelfTrainingClassifier(linear_model.LogisticRegression()),
    ensemble.StackingClassifier([("a", naive_bayes.GaussianNB()), ("b", linear_model.LogisticRegression())], cv=2),
    multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
]


@pytest.mark.filterwarnings("ignore:y contains no unlabeled")
@pytest.mark.parametrize(
    ("model", "y"),
    [(model, TWO) for model in OF_TWO] + [(model, y) for model in OF_ANY for y in (TWO, THREE)],
    ids=name_of,
)
def test_what_is_made_of_other_estimators_is_read_through(model, y):
    if isinstance(model, semi_supervised.SelfTrainingClassifier) and y is TWO:  # -1 is "not known" there, so no strings
        y = y.astype(object)
    model.fit(X, y)
    outputs = logits_of(model, X, y=y)
    assert outputs.kind == "logits"
    assert outputs.classes == tuple(map(str, model.classes_))
    assert np.array_equal(model.classes_[outputs.target], y)
    agrees(model, outputs)


@pytest.mark.parametrize(
    "model",
    [
        multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
        multiclass.OneVsRestClassifier(ensemble.GradientBoostingClassifier(n_estimators=3, loss="exponential")),
        multioutput.MultiOutputClassifier(linear_model.LogisticRegression()),
        multioutput.MultiOutputClassifier(
            pipeline.make_pipeline(preprocessing.StandardScaler(), naive_bayes.GaussianNB())
        ),
        multioutput.MultiOutputClassifier(tree.DecisionTreeClassifier(max_depth=2)),
        multioutput.ClassifierChain(linear_model.LogisticRegression()),
        multiclass.OneVsRestClassifier(tree.DecisionTreeClassifier(max_depth=2)),
        ensemble.RandomForestClassifier(5),
        neighbors.KNeighborsClassifier(),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("labels", [2, 3])
def test_several_labels(model, labels):
    y = MANY[:, :labels]
    outputs = logits_of(model.fit(X, y), X, y=y)
    assert outputs.task == "multilabel"
    assert outputs.classes == tuple(map(str, range(labels)))
    assert np.array_equal(outputs.target, y)
    p = model.predict_proba(X)
    p = np.stack([each[:, 1] for each in p], axis=1) if isinstance(p, list) else p
    if outputs.kind == "probs":
        assert np.array_equal(outputs.scores, p)
    else:
        np.testing.assert_allclose(expit(outputs.scores), p, rtol=1e-12)
        assert type(model).__name__ not in ("ClassifierChain", "RandomForestClassifier")


def test_a_label_that_never_came():
    """Its decision function would be 0, which is an even chance."""
    y = MANY.copy()
    y[:, 1] = 0
    with pytest.warns(UserWarning, match="not 1 is present|Label not 1"):
        model = multiclass.OneVsRestClassifier(linear_model.LogisticRegression()).fit(X, y)
    outputs = logits_of(model, X)
    assert (outputs.scores[:, 1] == -np.inf).all()
    np.testing.assert_allclose(expit(outputs.scores), model.predict_proba(X), rtol=1e-12)


def test_one_versus_rest_of_probabilities_and_of_margins():
    forest = multiclass.OneVsRestClassifier(ensemble.RandomForestClassifier(5)).fit(X, THREE)
    outputs = logits_of(forest, X)
    assert outputs.kind == "probs" and np.array_equal(outputs.scores, forest.predict_proba(X))
    machine = multiclass.OneVsRestClassifier(svm.LinearSVC()).fit(X, THREE)
    outputs = logits_of(machine, X)
    assert outputs.kind == "margin" and np.array_equal(outputs.scores, machine.decision_function(X))
    assert outputs.classes == ("3", "5", "7")


def test_ridge_of_labels_is_known_by_its_target():
    model = linear_model.RidgeClassifier().fit(X, MANY)
    assert logits_of(model, X, y=MANY).task == "multilabel"
    assert logits_of(model, X, task="multilabel").task == "multilabel"


# The frame: rows, batches, progress, target, names


@pytest.mark.parametrize("batch", [1, 7, 150, 1000])
def test_batches_and_progress(batch):
    model = discriminant_analysis.LinearDiscriminantAnalysis().fit(X, THREE)
    seen = []
    outputs = logits_of(model, X, batch=batch, progress=seen.append)
    assert sum(seen) == 150 and max(seen) == min(batch, 150) and len(seen) == -(-150 // batch)
    np.testing.assert_allclose(outputs.scores, model.decision_function(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.coo_array, sparse.csc_matrix, list, "frame"])
def test_rows_of_any_form_are_cut(form):
    model = linear_model.LogisticRegression().fit(X, TWO)
    expected = model.decision_function(X)
    if form == "frame":
        pandas = pytest.importorskip("pandas")
        rows = pandas.DataFrame(X, columns=list("abcd"), index=np.arange(150)[::-1] / 2)
        model.fit(rows, TWO)
    else:
        rows = form(X)
    np.testing.assert_allclose(logits_of(model, rows, batch=40).scores, expected, rtol=1e-12, atol=1e-12)


def test_texts():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["cheap pills", "see you at lunch", "cheap watches", "lunch at noon"] * 3
    y = ["spam", "ham"] * 6
    model = pipeline.make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression()).fit(texts, y)
    outputs = logits_of(model, texts, y=y, batch=5)
    assert np.array_equal(outputs.scores, model.decision_function(texts))
    assert outputs.target.tolist() == [1, 0] * 6
    with pytest.raises(TypeError, match=r"X is one text; give a list of rows: \[text\]"):
        logits_of(model, texts[0])


def test_an_iterator_gives_batches():
    model = linear_model.LogisticRegression().fit(X, TWO)
    seen = []
    outputs = logits_of(model, iter([X[:100], X[100:]]), progress=seen.append)
    assert np.array_equal(outputs.scores, model.decision_function(X)) and seen == [100, 50]
    with pytest.raises(DataError, match="X has no rows"):
        logits_of(model, iter([]))


def test_everything_else_goes_to_the_outputs():
    model = linear_model.LogisticRegression().fit(X, TWO)
    outputs = logits_of(model, X, y=TWO, groups=THREE, weight=np.arange(150), ids=np.arange(150), classes=["-", "+"])
    assert outputs.classes == ("-", "+")
    assert outputs.groups["group"][0] == str(THREE[0])
    assert outputs.weight[3] == 3 and outputs.ids[149] == 149
    assert np.array_equal(outputs.target, TWO == "yes")
    assert ll.check(outputs).metrics["accuracy"] == pytest.approx(
        np.average(model.predict(X) == TWO, weights=range(150))
    )


def test_labels_are_looked_up_as_the_model_has_them():
    """3, 5 and 7 are labels and not indices; so are 3.0 and a Boolean."""
    model = linear_model.LogisticRegression().fit(X, THREE)
    assert np.array_equal(logits_of(model, X, y=THREE.astype(float)).target, np.searchsorted([3, 5, 7], THREE))
    with pytest.raises(
        DataError, match=r"LogisticRegression.decision_function: y: 0 is no class of the model; it has 3,"
    ):
        logits_of(model, X, y=np.zeros(150, int))
    truth = linear_model.LogisticRegression().fit(X, TWO == "yes")
    assert np.array_equal(logits_of(truth, X, y=TWO == "yes").target, TWO == "yes")
    shares = np.full((150, 3), 1 / 3)
    assert np.array_equal(logits_of(model, X, y=shares).target, shares)


class Stranger:
    """Of no known library."""

    classes_ = np.array(["a", "b"])

    def predict_proba(self, features):
        return np.stack([1 - expit(features[:, 0]), expit(features[:, 0])], axis=1)

    def decision_function(self, features):
        return features[:, 0]


def test_whatever_has_predict_proba():
    outputs = logits_of(Stranger(), X)
    assert outputs.kind == "probs" and outputs.classes == ("a", "b")
    assert outputs.source == "Stranger.predict_proba"
    outputs = logits_of(Stranger(), X, kind="logits")
    assert outputs.source == "Stranger.decision_function"
    assert np.array_equal(outputs.scores, X[:, 0])


def test_a_subclass_is_read_as_its_base():
    class Mine(linear_model.LogisticRegression):
        pass

    model = Mine().fit(X, TWO)
    assert logits_of(model, X).source == "Mine.decision_function"


@pytest.mark.parametrize("y", [TWO, THREE, MANY], ids=["two", "three", "labels"])
def test_our_own_estimators(y):
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), ll.train.LinearClassifier()).fit(X, y)
    outputs = logits_of(model, X, y=y, batch=40)
    assert outputs.source == "Pipeline > LinearClassifier.decision_function"
    assert outputs.task == {id(TWO): "binary", id(THREE): "multiclass", id(MANY): "multilabel"}[id(y)]
    assert np.array_equal(outputs.target, np.unique(y, return_inverse=True)[1].reshape(y.shape))
    np.testing.assert_allclose(outputs.scores, model.decision_function(X), rtol=1e-12)
    agrees(model, outputs)
    with pytest.raises(NotFittedError):
        logits_of(ll.train.LinearClassifier(), X)


def test_a_function_needs_its_kind():
    outputs = logits_of(lambda rows: rows[:, :3], X, kind="logp", batch=64)
    assert outputs.kind == "logp" and np.array_equal(outputs.scores, X[:, :3])
    assert logits_of(lambda rows: rows[:, :1], X, kind="logits").task == "binary"
    assert logits_of(lambda rows: rows[:, :3], X, kind="logits", task="multilabel").task == "multilabel"
    named = logits_of(lambda rows: {"hidden": rows, "logits": rows[:, :2]}, X)
    assert named.kind == "logits" and named.source == "<lambda>, logits"
    assert logits_of(lambda rows: {"a": rows, "b": rows[:, :2]}, X, output="b", kind="probs").scores.shape == (150, 2)
    both = logits_of(lambda a, b: a + b, (X, X), kind="margin", batch=33)
    assert np.array_equal(both.scores, 2 * X)
    both = logits_of(lambda a, b: a + b, {"a": X, "b": X}, kind="margin", batch=33)
    assert np.array_equal(both.scores, 2 * X)


# Errors


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: logits_of(object(), X), TypeError, "a model of type object is nothing it can read"),
        (
            lambda: logits_of(linear_model.LogisticRegression, X),
            TypeError,
            r"the class LogisticRegression is nothing it can read\. It reads models of lastlayer, XGBoost,",
        ),
        (
            lambda: logits_of(lambda rows: rows, X),
            ValueError,
            "nothing says what <lambda> is.* say kind= one of 'logits'",
        ),
        (lambda: logits_of(lambda rows: rows, X, kind="logit"), ValueError, "kind is one of .* Did you mean 'logits'?"),
        (lambda: logits_of(lambda rows: rows, X, kind="logits", batch=0), ValueError, "batch is a number of rows"),
        (
            lambda: logits_of(lambda rows: rows[1:], X, kind="logits"),
            DataError,
            r"150 rows in, an output of shape \(149, 4",
        ),
        (lambda: logits_of(lambda rows: (rows, rows), X, kind="logits"), TypeError, "gives 2 things; wrap the one"),
        (lambda: logits_of(lambda rows: {"a": rows, "b": rows}, X, kind="logits"), ValueError, "say which: output='a'"),
        (
            lambda: logits_of(lambda rows: {"a": rows}, X, kind="logits", output="b"),
            ValueError,
            "has no output 'b'; it has a",
        ),
        (lambda: logits_of(linear_model.LogisticRegression(), X), NotFittedError, "not fitted yet"),
        (
            lambda: logits_of(model_selection.GridSearchCV(linear_model.LogisticRegression(), {}), X),
            ValueError,
            "GridSearchCV has no best_estimator_; call fit, with refit=True",
        ),
        (lambda: logits_of(linear_model.LinearRegression().fit(X, NOISY), X), ValueError, "has no predict_proba"),
        (lambda: logits_of(svm.SVC(decision_function_shape="ovo").fit(X, THREE), X), ValueError, "a column per pair"),
        (
            lambda: logits_of(pipeline.make_pipeline(preprocessing.StandardScaler(), "passthrough").fit(X), X),
            ValueError,
            "ends in 'passthrough'",
        ),
        (
            lambda: logits_of(svm.LinearSVC().fit(X, TWO), X, kind="logits"),
            ValueError,
            "LinearSVC.decision_function is margin, not logits",
        ),
        (
            lambda: logits_of(linear_model.LogisticRegression().fit(X, TWO), X, task="multilabel"),
            ValueError,
            "is binary, not multilabel; leave task= out",
        ),
        (
            lambda: logits_of(linear_model.LogisticRegression().fit(X, TWO), X, device="cuda"),
            ValueError,
            "device= is for Hugging Face, PyTorch and functions; leave it out for a model of scikit-learn",
        ),
        (
            lambda: logits_of(tree.DecisionTreeClassifier().fit(X, np.stack([THREE, THREE], 1)), X),
            DataError,
            "2 targets of 3, 3 classes",
        ),
        (
            lambda: logits_of(dummy.DummyClassifier().fit(X, np.zeros(150)), X),
            DataError,
            r"the model knows the class .*0\.0.* alone",
        ),
        (
            lambda: logits_of(linear_model.LogisticRegression().fit(X, TWO), X, classes=["a", "b", "c"]),
            DataError,
            "3 class names for 2 classes",
        ),
    ],
)
def test_a_sentence_says_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_the_model_s_own_error_says_which_rows():
    model = linear_model.LogisticRegression().fit(X, TWO)
    with pytest.raises(ValueError, match="X has 2 features, but LogisticRegression is expecting 4") as caught:
        logits_of(model, X[:, :2], batch=100)
    assert caught.value.__notes__ == ["logits_of: rows 0 to 99 of 150, LogisticRegression.decision_function."]
    broken = X.copy()
    broken[120, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN") as caught:
        logits_of(model, broken, batch=100)
    assert caught.value.__notes__[0].startswith("logits_of: rows 100 to 149 of 150,")
