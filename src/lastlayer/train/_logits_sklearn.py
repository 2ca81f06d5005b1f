"""scikit-learn: which output of each estimator is its logits, or what it is instead.

The classes are recognised by name, so a subclass is read as what it derives from. An estimator that no row knows, of
scikit-learn or of anybody who follows its interface, gives ``predict_proba``.
"""

import copy
from typing import Any

import numpy as np

from lastlayer._check import DataError
from lastlayer.outputs import Kind
from lastlayer.train._logits_reading import Reading, column, reading_of, several_labels, unusable
from lastlayer.transform import log_sigmoid


def reading(model, asked):
    """By the reader of the first class above the model that has one in `_READERS`."""
    from sklearn.utils.validation import check_is_fitted

    names = (above.__name__ for above in type(model).__mro__ if above.__module__.partition(".")[0] == "sklearn")
    read = next((_READERS[name] for name in names if name in _READERS), classifier)
    if read is not _search and (read is not classifier or _theirs(model)):
        check_is_fitted(model)
    return read(model, asked)


def classifier(model, asked):
    """Whatever has ``predict_proba``; with ``kind=`` of a score, its ``decision_function``."""
    if asked.kind in ("logits", "margin") and hasattr(model, "decision_function") and not _theirs(model):
        return Reading(model.decision_function, _of(model, "decision_function"), task=asked.task, labels=_labels(model))
    if not hasattr(model, "predict_proba"):
        raise unusable(model, "has no predict_proba", "fit a classifier that has, or wrap it in CalibratedClassifierCV")
    source = _of(model, "predict_proba")
    classes = getattr(model, "classes_", None)
    if several_labels(classes, source):

        def of_labels(X):
            return np.stack([column(p, 1) for p in model.predict_proba(X)], axis=1)

        return Reading(of_labels, source, "probs", "multilabel")
    labels = _labels(model)
    if labels is None or len(labels) != 2:
        return Reading(model.predict_proba, source, "probs", None if labels is None else "multiclass", labels)
    return Reading(lambda X: column(model.predict_proba(X), 1), source, "probs", "binary", labels)


def ours(model, asked):
    """An estimator of this library: its own `Outputs`."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model)
    return Reading(model.outputs, _of(model, "decision_function"), labels=_labels(model))


def _theirs(model):
    """Whether scikit-learn wrote it, so that its scores are no riddle."""
    return type(model).__module__.startswith("sklearn.")


def _labels(model) -> Any:
    """The classes of a target of one column; None where the model does not say them."""
    classes = getattr(model, "classes_", None)
    if classes is None or isinstance(classes, list):
        return None
    if len(classes) < 2:
        raise DataError(
            f"the model knows the class {classes[0]!r} alone.",
            file=type(model).__name__,
            fix="fit it on rows of at least two classes.",
        )
    return np.asarray(classes)


def _of(model, method):
    return f"{type(model).__name__}.{method}"


def _decided(model, kind: Kind = "logits", times=1.0):
    """``times`` the decision function: (n,) of two classes, a column each of more."""
    labels, decide = _labels(model), model.decision_function
    source = f"{'' if times == 1 else f'{times:g} * '}{_of(model, 'decision_function')}"
    scores = decide if times == 1 else lambda X: times * decide(X)
    return Reading(scores, source, kind, "binary" if len(labels) == 2 else "multiclass", labels)


def _logits(model, asked):
    """Its softmax or sigmoid is ``predict_proba``."""
    return _decided(model)


def _margin(model, asked):
    """A distance from a boundary, whose scale nothing has set: of SVMs, perceptrons and ridge."""
    return _decided(model, "margin")


def _support_vectors(model, asked):
    if model.decision_function_shape == "ovo" and len(model.classes_) > 2:
        raise unusable(
            model,
            "has decision_function_shape='ovo', a column per pair of classes",
            "set model.decision_function_shape = 'ovr': one per class, and the fit stays as it is",
        )
    return _decided(model, "margin")


def _ridge(model, asked):
    """Its classes are the columns of one target or of several labels, which only the target's shape tells apart."""
    return Reading(model.decision_function, _of(model, "decision_function"), "margin", labels=_labels(model))


def _one_versus_rest(model):
    """``log_sigmoid`` of a decision per class: softmax divides its sigmoids by their sum, as predict_proba does."""
    source = f"log_sigmoid of {_of(model, 'decision_function')} (one-versus-rest)"
    return Reading(lambda X: log_sigmoid(model.decision_function(X)), source, "logits", "multiclass", _labels(model))


def _logistic(model, asked):
    # `multi_class` was a parameter until scikit-learn 1.7, and "multinomial" gave two classes the logits -d and d.
    multi_class = getattr(model, "multi_class", "auto")
    if len(model.classes_) == 2:
        return _decided(model, times=2.0 if multi_class == "multinomial" else 1.0)
    return _one_versus_rest(model) if multi_class == "ovr" or model.solver == "liblinear" else _decided(model)


def _sgd(model, asked):
    if model.loss != "log_loss":
        return _decided(model, "margin")
    return _decided(model) if len(model.classes_) == 2 else _one_versus_rest(model)


def _boosting(model, asked):
    return _decided(model, times=2.0 if model.loss == "exponential" else 1.0)


def _ada_boost(model, asked):
    """SAMME: predict_proba is the softmax of the decision over K - 1 (Zhu et al. 2009, equation 15)."""
    return _decided(model, times=1 / (len(_labels(model)) - 1))


def _centroid(model, asked):
    return _decided(model) if hasattr(model, "decision_function") else classifier(model, asked)


def _bayes(model, asked):
    """log p(x, y), which predict_proba takes the softmax of; of two classes the difference."""
    labels, joint = _labels(model), model.predict_joint_log_proba
    source = _of(model, "predict_joint_log_proba")
    if len(labels) > 2:
        return Reading(joint, source, "logits", "multiclass", labels)

    def difference(X):
        scores = joint(X)
        return scores[:, 1] - scores[:, 0]

    return Reading(difference, f"difference of {source}", "logits", "binary", labels)


def _mlp(model, asked):
    """The same weights with the identity as the output's activation: what the softmax or sigmoid takes."""
    bare = copy.copy(model)
    bare.out_activation_ = "identity"
    source = f"{type(model).__name__} before its {model.out_activation_}"
    if model.out_activation_ == "softmax":
        return Reading(bare.predict_proba, source, "logits", "multiclass", _labels(model))
    if model.n_outputs_ > 1:
        return Reading(bare.predict_proba, source, "logits", "multilabel", _labels(model))
    return Reading(lambda X: column(bare.predict_proba(X), 1), source, "logits", "binary", _labels(model))


def _after(transform, inner, model):
    """``inner`` of what ``transform`` makes of the rows."""
    name = type(model).__name__
    return inner._replace(scores=lambda X: inner.scores(transform(X)), source=f"{name} > {inner.source}")


def _pipeline(model, asked):
    last = model.steps[-1][1]
    if last is None or isinstance(last, str):
        raise unusable(model, f"ends in {last!r}", "give one that ends in a classifier")

    def transform(X):
        for _, step in model.steps[:-1]:
            X = step.transform(X) if hasattr(step, "transform") else X  # else "passthrough", or a sampler
        return X

    return _after(transform, reading_of(last, asked), model)


def _selected(model, asked):
    """RFE: the chosen features."""
    return _after(model.transform, reading_of(model.estimator_, asked), model)


def _stack(model, asked):
    """The last estimator on what the others say; its own classes are numbers in the order of the stack's."""
    if isinstance(model.classes_, list):
        return classifier(model, asked)
    return _after(model.transform, reading_of(model.final_estimator_, asked), model)._replace(labels=_labels(model))


def _search(model, asked):
    if not hasattr(model, "best_estimator_"):
        raise unusable(model, "has no best_estimator_", "call fit, with refit=True")
    return _within(model, "best_estimator_", asked)


def _fitted(model, asked):
    """A tuned threshold, which moves the decision and not the scores, and self-training."""
    return _within(model, "estimator_", asked)


def _frozen(model, asked):
    return _within(model, "estimator", asked)


def _within(model, name, asked):
    inner = reading_of(getattr(model, name), asked)
    return inner._replace(source=f"{type(model).__name__}.{name} > {inner.source}")


def _each(model, task, asked):
    """What the estimators of the labels say, side by side."""
    parts = [None if _constant(one) else reading_of(one, asked) for one in model.estimators_]
    read = [part for part in parts if part is not None]
    if len({part.kind for part in read}) != 1:
        raise unusable(model, "has estimators that do not all give the same", "read them one at a time")
    kind, source = read[0].kind, f"{type(model).__name__} of {read[0].source}"
    never, always = (0.0, 1.0) if kind == "probs" else (-np.inf, np.inf)

    def scores(X):
        found = {k: part.scores(X) for k, part in enumerate(parts) if part is not None}
        like = next(iter(found.values()))
        for k, one in enumerate(model.estimators_):
            if k not in found:
                found[k] = np.full_like(like, always if one.y_[0] else never)
        return np.stack([found[k] for k in range(len(parts))], axis=1)

    return Reading(scores, source, kind, task)


def _constant(estimator):
    """Whether it saw one class alone; its decision function is 0 or 1, which is no logit."""
    return type(estimator).__name__ == "_ConstantPredictor"


def _rest(model, asked):
    """OneVsRestClassifier: labels side by side; of classes predict_proba divides the probabilities by their sum."""
    if model.multilabel_:
        return _each(model, "multilabel", asked)
    labels = _labels(model)
    if len(labels) == 2:
        inner = reading_of(model.estimators_[0], asked)
        return inner._replace(source=f"{type(model).__name__} > {inner.source}", labels=labels)
    each = _each(model, "multiclass", asked)._replace(labels=labels)
    if each.kind == "probs":
        return each._replace(scores=model.predict_proba, source=_of(model, "predict_proba"))
    if each.kind != "logits":
        return each
    return each._replace(scores=lambda X: log_sigmoid(each.scores(X)), source=f"log_sigmoid of {each.source}")


def _several(model, asked):
    """MultiOutputClassifier, whose targets must be labels."""
    several_labels(model.classes_, type(model).__name__)
    return _each(model, "multilabel", asked)


def _chain(model, asked):
    """Each link reads what those before it predicted: predict_proba, or margins where there is none."""
    if hasattr(model, "predict_proba"):
        return Reading(model.predict_proba, _of(model, "predict_proba"), "probs", "multilabel")
    return Reading(model.decision_function, _of(model, "decision_function"), "margin", "multilabel")


_READERS = {
    **dict.fromkeys(
        ("LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis", "HistGradientBoostingClassifier"), _logits
    ),
    "LogisticRegression": _logistic,
    "SGDClassifier": _sgd,
    "GradientBoostingClassifier": _boosting,
    "AdaBoostClassifier": _ada_boost,
    "NearestCentroid": _centroid,
    "MLPClassifier": _mlp,
    "_BaseNB": _bayes,
    **dict.fromkeys(("Perceptron", "PassiveAggressiveClassifier", "LinearSVC", "OneVsOneClassifier"), _margin),
    **dict.fromkeys(("SVC", "NuSVC"), _support_vectors),
    **dict.fromkeys(("RidgeClassifier", "RidgeClassifierCV"), _ridge),
    "Pipeline": _pipeline,
    "RFE": _selected,
    "StackingClassifier": _stack,
    "BaseSearchCV": _search,
    **dict.fromkeys(("BaseThresholdClassifier", "SelfTrainingClassifier"), _fitted),
    "FrozenEstimator": _frozen,
    "OneVsRestClassifier": _rest,
    "MultiOutputClassifier": _several,
    "ClassifierChain": _chain,
}
