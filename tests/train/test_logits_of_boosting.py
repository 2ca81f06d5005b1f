"""`logits_of` of the boosting libraries: raw scores, whatever the objective makes of them."""

import json

import numpy as np
import pytest
from scipy.special import expit, log_expit, softmax
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lastlayer.train import logits_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
NOISY = X[:, 0] + 0.5 * RNG.normal(size=200)
TWO = (NOISY > 0).astype(int)
THREE = np.digitize(NOISY, [-0.5, 0.5])
MANY = np.stack([NOISY > 0, X[:, 1] > 0.3, X[:, 2] > -0.3], axis=1).astype(int)
NAMES = np.array(["a", "b", "c"])


def own_objective(y, raw):
    return expit(raw) - y, expit(raw) * (1 - expit(raw))


def agrees(outputs, p, atol):
    if outputs.task == "binary":
        np.testing.assert_allclose(expit(outputs.scores), p[:, 1] if p.ndim == 2 else p, rtol=atol, atol=atol)
    else:
        found = expit(outputs.scores) if outputs.task == "multilabel" else softmax(outputs.scores, axis=1)
        np.testing.assert_allclose(found, p, rtol=atol, atol=atol)
    assert outputs.kind == "logits"


# XGBoost (float32: predict_proba to 2e-6)


@pytest.mark.parametrize("y", [TWO, THREE, MANY], ids=["two", "three", "labels"])
def test_xgboost(y):
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=5).fit(X, y)
    outputs = logits_of(model, X, y=y, batch=64)
    assert outputs.task == {id(TWO): "binary", id(THREE): "multiclass", id(MANY): "multilabel"}[id(y)]
    assert np.array_equal(outputs.target, y)
    agrees(outputs, model.predict_proba(X), 2e-6)
    assert np.array_equal(outputs.scores, model.predict(X, output_margin=True))
    objective = "multi:softprob" if y is THREE else "binary:logistic"
    assert outputs.source == f"XGBClassifier.predict(output_margin=True), {objective}"
    booster = model.get_booster()
    for rows in (X, xgboost.DMatrix(X)):
        again = logits_of(booster, rows)
        assert (again.task, again.kind) == (outputs.task, "logits")
        assert np.array_equal(again.scores, outputs.scores)
    piped = logits_of(make_pipeline(StandardScaler(), model).fit(X, y), X, y=y)
    assert piped.source.startswith("Pipeline > XGBClassifier.predict")


def test_xgboost_s_base_score_is_in_the_margin():
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=0, base_score=0.9).fit(X, TWO)
    np.testing.assert_allclose(logits_of(model, X).scores, np.log(9), rtol=1e-6)


def test_tails_of_xgboost():
    """Its trees summed by hand, from the dump."""
    xgboost = pytest.importorskip("xgboost")
    clean = (X[:, 0] > 0).astype(int)
    settings = dict(n_estimators=1, max_depth=1, learning_rate=1.0, reg_lambda=0, base_score=0.5, min_child_weight=0)
    model = xgboost.XGBClassifier(**settings).fit(X, clean)
    (stump,) = (json.loads(each) for each in model.get_booster().get_dump(dump_format="json"))
    leaves = sorted(leaf["leaf"] for leaf in stump["children"])
    model = xgboost.XGBClassifier(**settings | {"learning_rate": 60.0}).fit(X, clean)
    p = model.predict_proba(X)
    assert (p[clean == 1, 1] == 1).all() and leaves == [-2, 2]
    outputs = logits_of(model, X)
    assert np.array_equal(outputs.scores, np.where(clean == 1, 120, -120))


@pytest.mark.parametrize(
    ("objective", "kind", "task"),
    [
        ("binary:logitraw", "logits", "binary"),
        ("binary:hinge", "margin", "binary"),
        ("reg:logistic", "logits", "binary"),
        ("multi:softmax", "logits", "multiclass"),
    ],
)
def test_objectives_of_xgboost(objective, kind, task):
    xgboost = pytest.importorskip("xgboost")
    multi = objective.startswith("multi")
    settings = {"objective": objective} | ({"num_class": 3} if multi else {})
    booster = xgboost.train(settings, xgboost.DMatrix(X, THREE if multi else TWO), 3)
    outputs = logits_of(booster, X)
    assert (outputs.kind, outputs.task) == (kind, task)
    if objective == "reg:logistic":
        agrees(outputs, booster.predict(xgboost.DMatrix(X)), 2e-6)


def test_what_xgboost_does_not_say_is_asked():
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBRegressor(n_estimators=3).fit(X, NOISY)
    with pytest.raises(
        ValueError, match=r"XGBRegressor has the objective reg:squarederror; say kind='margin' if it ranks"
    ):
        logits_of(model, X)
    assert logits_of(model, X, kind="margin").kind == "margin"
    model = xgboost.XGBClassifier(n_estimators=3, objective=own_objective).fit(X, TWO)
    with pytest.raises(ValueError, match="has an objective of yours"):
        logits_of(model, X)
    outputs = logits_of(model, X, kind="logits")
    assert outputs.source.endswith("an own objective") and outputs.task == "binary"
    ranker = xgboost.XGBRanker(n_estimators=3).fit(X, TWO, qid=np.repeat(np.arange(20), 10))
    assert (logits_of(ranker, X).kind, logits_of(ranker, X).task) == ("margin", "binary")
    with pytest.raises(ValueError, match="need to call fit or load_model beforehand"):
        logits_of(xgboost.XGBClassifier(), X)
    with pytest.raises(ValueError, match="Feature shape mismatch") as caught:
        logits_of(model, X[:, :2], kind="logits")
    assert caught.value.__notes__[0].startswith("logits_of: rows 0 to 199 of 200, XGBClassifier")


# LightGBM


@pytest.mark.parametrize("boosting_type", ["gbdt", "rf", "dart"])
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_lightgbm(y, boosting_type):
    """The raw score of a random forest is a sum, of which predict_proba takes the mean."""
    lightgbm = pytest.importorskip("lightgbm")
    settings = dict(n_estimators=7, subsample=0.5, subsample_freq=1, verbose=-1, boosting_type=boosting_type)
    model = lightgbm.LGBMClassifier(**settings).fit(X, NAMES[y])
    outputs = logits_of(model, X, y=NAMES[y])
    agrees(outputs, model.predict_proba(X), 1e-12)
    assert outputs.classes == tuple(NAMES[: y.max() + 1]) and np.array_equal(outputs.target, y)
    again = logits_of(model.booster_, X)
    assert np.array_equal(again.scores, outputs.scores) and again.task == outputs.task


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
def test_lightgbm_s_sigmoid_scales_and_early_stopping_is_kept():
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=5, sigmoid=2.0, verbose=-1).fit(X, TWO)
    outputs = logits_of(model, X)
    assert outputs.source == "2 * LGBMClassifier.predict(raw_score=True), binary"
    agrees(outputs, model.predict_proba(X), 1e-12)
    for boosting_type in ("gbdt", "rf"):
        settings = dict(n_estimators=50, subsample=0.5, subsample_freq=1, verbose=-1, boosting_type=boosting_type)
        model = lightgbm.LGBMClassifier(**settings)
        model.fit(
            X[:150], TWO[:150], eval_set=[(X[150:], TWO[150:])], callbacks=[lightgbm.early_stopping(2, verbose=False)]
        )
        assert 0 < model.best_iteration_ < 50
        agrees(logits_of(model, X), model.predict_proba(X), 1e-12)


def test_lightgbm_one_versus_all_and_shares():
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=5, objective="multiclassova", verbose=-1).fit(X, THREE)
    p = model.predict_proba(X)
    outputs = logits_of(model, X)
    np.testing.assert_allclose(np.exp(outputs.scores), p, rtol=1e-12)
    agrees(outputs, p / p.sum(1, keepdims=True), 1e-12)
    assert "one-versus-rest" in outputs.source
    booster = lightgbm.train({"objective": "cross_entropy", "verbose": -1}, lightgbm.Dataset(X, expit(NOISY)), 5)
    agrees(logits_of(booster, X), booster.predict(X), 1e-12)


def test_tails_of_lightgbm():
    lightgbm = pytest.importorskip("lightgbm")
    clean = (X[:, 0] > 0).astype(int)
    settings = dict(n_estimators=1, num_leaves=2, learning_rate=30.0, boost_from_average=False, min_child_samples=1)
    model = lightgbm.LGBMClassifier(**settings, verbose=-1).fit(X, clean)
    leaves = np.array([model.booster_.get_leaf_output(0, leaf) for leaf in (0, 1)])
    outputs = logits_of(model, X)
    assert (model.predict_proba(X)[clean == 1, 1] == 1).all()
    assert np.array_equal(np.sort(leaves), np.unique(outputs.scores)) and outputs.scores.max() > 50


def test_what_lightgbm_does_not_say_is_asked():
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1).fit(X, NOISY)
    with pytest.raises(ValueError, match="has the objective regression"):
        logits_of(model, X)
    model = lightgbm.LGBMClassifier(n_estimators=3, objective=own_objective, verbose=-1).fit(X, TWO)
    with pytest.raises(ValueError, match="has an objective of yours"):
        logits_of(model, X)
    assert logits_of(model, X, kind="logits").task == "binary"
    ranker = lightgbm.LGBMRanker(n_estimators=3, verbose=-1).fit(X, TWO, group=[10] * 20)
    assert logits_of(ranker, X).kind == "margin"
    with pytest.raises(ValueError, match="call fit beforehand"):
        logits_of(lightgbm.LGBMClassifier(), X)


# CatBoost


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("Logloss", TWO),
        ("Logloss", NAMES[TWO]),
        ("CrossEntropy", 0.8 * TWO),
        ("Focal:focal_alpha=0.5;focal_gamma=2.0", TWO),
        ("MultiClass", NAMES[THREE]),
        ("MultiLogloss", MANY),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_catboost(loss, y, tmp_path):
    catboost = pytest.importorskip("catboost")
    quiet = dict(iterations=5, verbose=False, allow_writing_files=False)
    model = catboost.CatBoostClassifier(loss_function=loss, **quiet).fit(X, y)
    outputs = logits_of(model, X, y=None if loss == "CrossEntropy" else y)
    agrees(outputs, model.predict_proba(X), 1e-12)
    if loss != "CrossEntropy":
        assert np.array_equal(outputs.target, MANY if y is MANY else np.unique(y, return_inverse=True)[1])
    model.save_model(tmp_path / "model.cbm")
    loaded = catboost.CatBoost().load_model(tmp_path / "model.cbm")
    again = logits_of(loaded, catboost.Pool(X))
    assert np.array_equal(again.scores, outputs.scores) and again.classes == outputs.classes


def test_catboost_one_versus_all():
    catboost = pytest.importorskip("catboost")
    quiet = dict(iterations=5, verbose=False, allow_writing_files=False)
    model = catboost.CatBoostClassifier(loss_function="MultiClassOneVsAll", **quiet).fit(X, THREE)
    np.testing.assert_allclose(np.exp(logits_of(model, X).scores), model.predict_proba(X), rtol=1e-12)


def test_tails_of_catboost():
    catboost = pytest.importorskip("catboost")
    quiet = dict(iterations=40, verbose=False, allow_writing_files=False)
    clean = (X[:, 0] > 0).astype(int)
    model = catboost.CatBoostClassifier(**quiet).fit(X, clean)
    model.set_scale_and_bias(1000.0, 3.0)
    outputs = logits_of(model, X)
    assert (model.predict_proba(X)[:, 1] == 1).any()
    p = model.predict_proba(X)[:, 1]
    between = (p > 0) & (p < 1)
    np.testing.assert_allclose(expit(outputs.scores[between]), p[between], rtol=1e-9)
    assert np.isfinite(outputs.scores).all() and outputs.scores.max() > 100
    assert (log_expit(-outputs.scores)[p == 1] < -36).all()


def test_what_catboost_does_not_say_is_asked():
    catboost = pytest.importorskip("catboost")
    quiet = dict(iterations=3, verbose=False, allow_writing_files=False)
    model = catboost.CatBoostRegressor(**quiet).fit(X, NOISY)
    with pytest.raises(ValueError, match="has the loss RMSE"):
        logits_of(model, X)
    with pytest.raises(ValueError, match="CatBoostClassifier is not fitted; call fit first"):
        logits_of(catboost.CatBoostClassifier(), X)
