"""XGBoost, LightGBM and CatBoost: the raw sum of the trees, and what the objective makes of it."""

import json
import sys

import numpy as np

from lastlayer.outputs import Kind, Task
from lastlayer.train._logits_reading import Reading, unusable
from lastlayer.transform import log_sigmoid

Meaning = dict[str, tuple[Kind, Task]]
_OWN = "say kind='margin' if it ranks, or kind='logits' if softmax or sigmoid of it is meant"


def xgboost(model, asked):
    """``output_margin=True``, base_score included."""
    wrapper = hasattr(model, "get_booster")
    booster = model.get_booster() if wrapper else model
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    written = wrapper and callable(getattr(model, "objective", None))  # the configuration does not know of it
    source = f"{type(model).__name__}.predict(output_margin=True), {'an own objective' if written else objective}"
    known = "rank" if objective.startswith("rank:") else objective
    kind, task = (None, None) if written else _XGBOOST.get(known, (None, None))
    if kind is None and asked.kind is None:
        raise unusable(model, "has an objective of yours" if written else f"has the objective {objective}", _OWN)
    labels = np.asarray(model.classes_) if hasattr(model, "n_classes_") else None
    if wrapper:
        return Reading(lambda X: model.predict(X, output_margin=True), source, kind, task, labels)

    def scores(X):
        DMatrix = sys.modules["xgboost"].DMatrix
        return booster.predict(X if isinstance(X, DMatrix) else DMatrix(X, enable_categorical=True), output_margin=True)

    return Reading(scores, source, kind, task)


_XGBOOST: Meaning = {
    **dict.fromkeys(("binary:logistic", "binary:logitraw", "reg:logistic"), ("logits", "binary")),
    **dict.fromkeys(("multi:softmax", "multi:softprob"), ("logits", "multiclass")),
    **dict.fromkeys(("binary:hinge", "rank"), ("margin", "binary")),
}


def lightgbm(model, asked):
    """``raw_score=True``, times the objective's sigmoid; of random forests the mean of the trees, not their sum."""
    booster = model.booster_ if hasattr(type(model), "booster_") else model
    lines = booster.model_to_string(num_iteration=1).split("\n")
    objective, *settings = next((line[10:] for line in lines if line.startswith("objective=")), "").split(" ")
    settings = dict(setting.split(":") for setting in settings if ":" in setting)
    source = f"{type(model).__name__}.predict(raw_score=True), {objective or 'an own objective'}"
    kind, task = _LIGHTGBM.get(objective, (None, None))
    if kind is None and asked.kind is None:
        raise unusable(model, f"has the objective {objective}" if objective else "has an objective of yours", _OWN)
    labels = np.asarray(model.classes_) if hasattr(model, "classes_") else None
    slope = float(settings.get("sigmoid", 1.0)) if kind == "logits" else 1.0
    if "average_output" in lines:
        slope /= booster.best_iteration if booster.best_iteration > 0 else booster.current_iteration()

    def scores(X):
        raw = model.predict(X, raw_score=True)
        raw = raw if slope == 1 else slope * raw
        return log_sigmoid(raw) if objective == "multiclassova" else raw

    source = source if slope == 1 else f"{slope:g} * {source}"
    source = f"log_sigmoid of {source} (one-versus-rest)" if objective == "multiclassova" else source
    return Reading(scores, source, kind, task, labels)


_LIGHTGBM: Meaning = {
    **dict.fromkeys(("binary", "cross_entropy"), ("logits", "binary")),
    **dict.fromkeys(("multiclass", "multiclassova"), ("logits", "multiclass")),
    **dict.fromkeys(("lambdarank", "rank_xendcg"), ("margin", "binary")),
}


def catboost(model, asked):
    """``prediction_type="RawFormulaVal"``, scale and bias included."""
    if not model.is_fitted():
        raise unusable(model, "is not fitted", "call fit first")
    loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    kind, task = _CATBOOST.get(loss, (None, None))
    if kind is None and asked.kind is None:
        raise unusable(model, f"has the loss {loss}" if loss else "has a loss of yours", _OWN)
    source = f"{type(model).__name__}.predict(prediction_type='RawFormulaVal'), {loss or 'an own loss'}"

    def scores(X):
        raw = np.asarray(model.predict(X, prediction_type="RawFormulaVal"))
        return log_sigmoid(raw) if loss == "MultiClassOneVsAll" else raw

    source = f"log_sigmoid of {source} (one-versus-rest)" if loss == "MultiClassOneVsAll" else source
    labels = np.asarray(model.classes_) if task in ("binary", "multiclass") else None
    return Reading(scores, source, kind, task, labels)


_CATBOOST: Meaning = {
    **dict.fromkeys(("Logloss", "CrossEntropy", "Focal"), ("logits", "binary")),
    **dict.fromkeys(("MultiClass", "MultiClassOneVsAll"), ("logits", "multiclass")),
    **dict.fromkeys(("MultiLogloss", "MultiCrossEntropy"), ("logits", "multilabel")),
    **dict.fromkeys(("QueryRMSE", "QuerySoftMax", "YetiRank", "YetiRankPairwise", "PairLogit"), ("margin", "binary")),
}
