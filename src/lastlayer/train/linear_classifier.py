"""Logistic regression, with scikit-learn's conventions and objective, solved to a certificate."""

import warnings
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from lastlayer._check import DataError, one_of
from lastlayer.loss.ordinal import cumulative_link
from lastlayer.outputs import Outputs
from lastlayer.parallel import over_ranges, single_products
from lastlayer.train import _encode
from lastlayer.train._problem import Certificate, Fit
from lastlayer.train._solve import solve
from lastlayer.train.inference import feature_names
from lastlayer.train.separation import refuse_separated
from lastlayer.transform.sigmoid import log_sigmoid, sigmoid
from lastlayer.transform.softmax import log_softmax, softmax

RANGE = 2**15  # rows of one range of the pool


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Logits that are linear in the features: logistic regression of two classes, several, labels, or grades.

        sum_i w_i loss(offset_i + B x_i + b, y_i) + sum_kj f_j ((1 - l1_ratio) B_kj^2 / 2 + l1_ratio |B_kj|) / C

    is scikit-learn's objective, reached on features in any units. ``y`` says what is fitted: two classes are binary,
    more are multinomial, a table ``(n, labels)`` of 0 and 1 is multilabel; with ``ordinal`` sorted classes are grades
    of one score (proportional odds: ``intercept_`` are the thresholds). ``C=np.inf`` is no penalty; ``penalty_factor``
    f is 1 of each feature, ``low`` and ``high`` bound the coefficients, ``low=0`` making all of them non-negative.

    ``class_weight`` weighs the rows of a class, or "balanced". What that does to the intercept is taken back
    (``prior="population"``: King and Zeng 2001, eq. 7), so that probabilities are those of the rows that came;
    ``prior="weighted"`` leaves it, as scikit-learn does. ``weights`` says what ``sample_weight`` are, which matters for
    standard errors: "importance", or "frequency" where a row stands for so many. The fit ends where no slope of the
    mean loss, by a standardised feature, is above ``tol``; ``max_iter`` is the most passes over the rows.

    Features are float32 or float64, dense in any order or sparse, and are not copied; sums are float64. ``coef_`` is
    ``(outputs, features)``, ``intercept_`` ``(outputs,)``, ``certificate_`` what proves the minimum. Without a penalty
    columns that others make up get the least coefficients; classes that can be separated are refused, as their
    coefficients are infinite.

    ``l1_ratio`` and bounds are solved by proximal Newton, a coordinate at a time; coefficients that nothing holds are
    refused there too, where classes are separated in a direction that the bounds allow.

    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["no", "no", "yes", "yes"])
    >>> model = LinearClassifier().fit(X, y)
    >>> model.predict(X), model.decision_function([[1.5]]).round(3)
    (array(['no', 'no', 'yes', 'yes'], dtype='<U3'), array([0.]))
    """

    def __init__(
        self,
        C=1.0,
        *,
        l1_ratio=0.0,
        penalty_factor=None,
        low=None,
        high=None,
        fit_intercept=True,
        class_weight=None,
        prior="population",
        ordinal=False,
        weights="importance",
        tol=1e-6,
        max_iter=1000,
        warm_start=False,
    ):
        self.C = C
        self.l1_ratio = l1_ratio
        self.penalty_factor = penalty_factor
        self.low = low
        self.high = high
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.prior = prior
        self.ordinal = ordinal
        self.weights = weights
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X, y, sample_weight=None, offset=None) -> Self:
        """Fit to rows; ``offset`` are logits that come on top, ``(n,)``, or ``(n, K)`` of several outputs."""
        self._refuse_settings()
        X = _encode.features(self, X, reset=True)
        target = _encode.target(X, y, self.ordinal)
        problem, factors = _encode.problem(self, X, target, sample_weight, offset, self._penalty(X.shape[1]))
        fitted = solve(problem, self._start(target, problem), self.tol, self.max_iter)
        if fitted.certificate.escapes:
            refuse_separated(problem, feature_names(self), [str(name) for name in target.classes])
        warn_unless_converged(fitted.certificate)
        return self._keep(fitted, target, factors)

    def decision_function(self, X, offset=None) -> np.ndarray:
        """Logits: ``(n,)`` for two classes, else ``(n, K)``; of an ordinal, log-probabilities."""
        check_is_fitted(self)
        X = _encode.features(self, X, reset=False)
        offset = _encode.offsets(offset, X.shape[0], len(self.coef_))
        logits = self._scores(X, offset)
        if self.ordinal:
            grades = np.arange(len(self.classes_))
            score = np.repeat(logits, len(grades), axis=1)
            return -cumulative_link(score, np.broadcast_to(grades, score.shape), self.intercept_).astype(X.dtype)
        return logits[:, 0] if len(self.coef_) == 1 else logits

    def predict_proba(self, X, offset=None) -> np.ndarray:
        """Probabilities: ``(n, K)`` of classes, ``(n, labels)`` of labels, exact in both tails."""
        logits = self.decision_function(X, offset)
        if logits.ndim == 1:
            return np.stack([sigmoid(-logits), sigmoid(logits)], axis=1)
        return sigmoid(logits) if self._task == "multilabel" else softmax(logits)

    def predict_log_proba(self, X, offset=None) -> np.ndarray:
        """Logarithms of `predict_proba`; of labels, those of 1."""
        logits = self.decision_function(X, offset)
        if logits.ndim == 1:
            return np.stack([log_sigmoid(-logits), log_sigmoid(logits)], axis=1)
        return log_sigmoid(logits) if self._task == "multilabel" else log_softmax(logits)

    def predict(self, X, offset=None) -> np.ndarray:
        """The class of the largest logit; of labels, 1 where the logit is above 0."""
        logits = self.decision_function(X, offset)
        if self._task == "multilabel":
            return (logits > 0).astype(np.int64)
        return self.classes_[(logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(1)]

    def outputs(self, X, y=None, *, groups=None, sample_weight=None, ids=None, offset=None) -> Outputs:
        """Logits of rows with their classes and, from ``y``, their target: for `calibrate.fit` and `check`."""
        logits = self.decision_function(X, offset)
        return Outputs(
            logits,
            "logits",
            target=None if y is None else self._index(y),
            classes=[str(name) for name in self.classes_],
            groups=groups,
            weight=sample_weight,
            ids=ids,
            task=self._task,
        )

    @property
    def _task(self):
        if self._multilabel:
            return "multilabel"
        return "binary" if len(self.classes_) == 2 and not self.ordinal else "multiclass"

    def _penalty(self, width):
        return _encode.penalty(self.C, self.l1_ratio, self.penalty_factor, self.low, self.high, width)

    def _refuse_settings(self):
        one_of("LinearClassifier", "prior", self.prior, ("population", "weighted"))
        one_of("LinearClassifier", "weights", self.weights, ("importance", "frequency"))
        if self.ordinal and self.class_weight is not None:
            raise ValueError(
                "LinearClassifier: class_weight changes the odds of each step of an ordinal differently, which one "
                "score cannot hold; weigh rows with sample_weight."
            )
        if not self.tol > 0:
            raise ValueError(f"LinearClassifier: tol is a number above 0; it is {self.tol!r}.")
        if not self.max_iter >= 1:
            raise ValueError(f"LinearClassifier: max_iter is at least 1; it is {self.max_iter!r}.")

    def _start(self, target, problem):
        """Where the last fit ended, if there was one of the same shape."""
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        coef, intercept = np.asarray(self.coef_, np.float64), np.asarray(self.intercept_, np.float64)
        fits = coef.shape == (problem.outputs, problem.features.shape[1])
        steps = len(target.classes) - 1 if problem.family == "ordinal" else problem.outputs
        return (coef, intercept) if fits and intercept.shape == (steps,) else None

    def _keep(self, fitted: Fit, target, factors):
        self.coef_, self.intercept_ = fitted.coef, fitted.intercept - _encode.prior_shift(self, target, factors)
        self.classes_ = target.classes
        self.certificate_: Certificate = fitted.certificate
        self.inverse_hessian_ = fitted.inverse
        self.n_iter_ = np.array([fitted.certificate.passes])
        self._multilabel = target.family == "multilabel"
        return self

    def _scores(self, X, offset):
        """``B x + b`` in float64, put down in the dtype of the features."""
        intercept = np.zeros(1) if self.ordinal else self.intercept_
        logits = np.empty((X.shape[0], len(self.coef_)), X.dtype)
        turned = np.ascontiguousarray(self.coef_.T)

        def work(a, b):
            part = X[a:b] @ turned + intercept
            logits[a:b] = part if offset is None else part + offset[a:b].reshape(part.shape)

        with single_products():  # BLAS threads beside ours: 44 ms in place of 1
            for _ in over_ranges(work, len(logits), RANGE):
                pass
        return logits

    def _index(self, y):
        """Labels as `Outputs` counts them."""
        y = np.asarray(y)
        if self._multilabel:
            return y
        index = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        unknown = np.flatnonzero(self.classes_[index] != y)
        if len(unknown):
            raise DataError(
                f"class {y[unknown].tolist()[0]!r} was not among the {len(self.classes_)} classes of the fit.",
                field="target",
                rows=unknown,
                fix="leave those rows out, or fit with rows of that class.",
            )
        return index

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags


def warn_unless_converged(certificate: Certificate):
    if not certificate.converged:
        warnings.warn(
            f"LinearClassifier: after {certificate.passes} passes the largest slope is {certificate.gradient:.1e}, "
            "above tol; raise max_iter or tol.",
            ConvergenceWarning,
            stacklevel=3,
        )
