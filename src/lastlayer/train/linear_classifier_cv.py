"""Logistic regression whose penalty is chosen by cross-validation, all folds and penalties fitted at once."""

import warnings
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from lastlayer._check import DataError, one_of
from lastlayer.measure.scores import accuracy, average_precision, brier, nll, roc_auc
from lastlayer.outputs import Outputs
from lastlayer.parallel import single_products
from lastlayer.train import _encode, many
from lastlayer.train._folds import joined, refuse_unlearnt, splits
from lastlayer.train._problem import Problem
from lastlayer.train._solve import solve
from lastlayer.train.linear_classifier import LinearClassifier

RANGE_OF_C = -4, 4  # powers of ten, as scikit-learn's

# What a larger value of is better, by scikit-learn's names.
SCORES: dict[str, Any] = {
    "neg_log_loss": lambda *said: -_measured(nll, *said),
    "neg_brier_score": lambda *said: -_measured(brier, *said),
    "accuracy": lambda *said: _measured(accuracy, *said),
    "roc_auc": lambda *said: _measured(roc_auc, *said),
    "average_precision": lambda *said: _measured(average_precision, *said),
}
TASKS: dict[str, Any] = {"binary": "binary", "multinomial": "multiclass", "multilabel": "multilabel"}


class Path(NamedTuple):
    """Fits of all the rows, one for each of ``Cs``: ``coef`` is ``(Cs, outputs, features)``."""

    Cs: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray  # (Cs, outputs)
    passes: np.ndarray
    converged: np.ndarray


class LinearClassifierCV(LinearClassifier):
    """A `LinearClassifier` with the C of the best score on rows that were held out.

    Every fold and every C are the columns of one product (`train.many`), so that fifty fits cost a few. ``Cs`` is a
    list, or how many from 1e-4 to 1e4; ``cv`` a number of folds, which are stratified, the fold of each row, or one of
    scikit-learn's splitters. ``scoring`` is "neg_log_loss", "neg_brier_score", "accuracy", "roc_auc",
    "average_precision", or a function of the `Outputs` of a fold's held-out rows; the largest mean over the folds wins,
    and of equal ones the smallest C. Binary, multinomial and multilabel, with the squared penalty alone; everything
    else as in `LinearClassifier`, which this is, fitted to all rows with ``C_``.

    Attributes have scikit-learn's shapes: ``Cs_``, ``C_``, ``scores_`` ``(folds, 1, Cs)``, ``coefs_paths_``
    ``(folds, 1, Cs, outputs, features + 1)`` with the intercept last, ``n_iter_`` ``(folds, 1, Cs)``, the 1 standing
    for one ratio of L1. `out_of_fold` are the logits of each row from the fit that has not seen it.

    >>> X = np.arange(40.0)[:, None]
    >>> y = X[:, 0] + 12 * np.sin(X[:, 0]) > 20
    >>> model = LinearClassifierCV(Cs=[0.001, 0.1, 10.0], cv=4).fit(X, y)
    >>> float(model.C_), model.scores_.shape
    (0.001, (4, 1, 3))
    >>> model.out_of_fold
    Outputs(40 rows, binary, logits float64, labelled, groups fold)
    """

    ordinal = False
    weights = "importance"
    warm_start = False

    def __init__(
        self,
        Cs: Any = 10,
        *,
        cv: Any = 5,
        scoring: Any = "neg_log_loss",
        fit_intercept=True,
        class_weight=None,
        prior="population",
        tol=1e-6,
        max_iter=1000,
    ):
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.prior = prior
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X, y, sample_weight=None, offset=None, groups=None) -> Self:
        """Choose C on held-out rows, and fit to all of them; ``groups`` are told to the splitter ``cv``."""
        problem, target, factors = self._problem(X, y, sample_weight, offset)
        Cs, weight = self._grid(), _encode.weights(sample_weight, len(target.values))
        named = target.values if target.family == "multilabel" else target.classes[target.values.astype(np.int64)]
        folds = splits("LinearClassifierCV", self.cv, named, groups)
        rows = np.stack([np.bincount(fold.train, minlength=len(weight)) for fold in folds]) * 1.0
        refuse_unlearnt(folds, named, weight)
        found = many.solve(problem, rows * problem.weight, self._ridges(Cs, problem), self.tol, self.max_iter)
        intercept = found.intercept - _encode.prior_shift(self, target, factors)
        given = None if sample_weight is None else weight

        held = [_Held.of(problem, target, given, fold.test) for fold in folds]

        def logits(k, fits):
            """What fits of fold k say of the rows it is tested on."""
            return held[k].logits(found.coef[k, fits], intercept[k, fits])

        with single_products():
            count = range(len(folds))
            scores = np.array([[self._score(held[k], z, k) for z in logits(k, slice(None))] for k in count])
            mean = scores.mean(0)
            best = int(np.where(mean == mean.max(), Cs, np.inf).argmin())
            outputs = [held[k].outputs(logits(k, [best])[0]) for k in count]
            self._out_of_fold = folds, outputs, len(weight)
        start = found.coef[:, best].mean(0), found.intercept[:, best].mean(0)
        chosen = replace(problem, penalty=_squared(Cs[best], problem.features.shape[1]))
        self._keep(solve(chosen, start, self.tol, self.max_iter), target, factors)
        _warn(found.converged.all() and self.certificate_.converged, found.gradient.max())
        self.Cs_, self.C_ = Cs, Cs[best]
        self.scores_, self.n_iter_ = scores[:, None], found.passes[:, None]
        paths = np.concatenate([found.coef, intercept[..., None]], -1) if self.fit_intercept else found.coef
        self.coefs_paths_ = paths[:, None]
        return self

    @property
    def out_of_fold(self) -> Outputs:
        """Logits of each row from the fit at ``C_`` that has not seen it, their fold being the group "fold"."""
        check_is_fitted(self)
        return joined(*self._out_of_fold, "LinearClassifierCV, out of fold")

    def path(self, X, y, sample_weight=None, offset=None) -> Path:
        """Fits of all the rows for every C, as the columns of one product."""
        problem, target, factors = self._problem(X, y, sample_weight, offset)
        Cs = self._grid()
        found = many.solve(problem, problem.weight[None], self._ridges(Cs, problem), self.tol, self.max_iter)
        _warn(found.converged.all(), found.gradient.max())
        intercept = found.intercept - _encode.prior_shift(self, target, factors)
        return Path(Cs, found.coef[0], intercept[0], found.passes[0], found.converged[0])

    def _problem(self, X, y, sample_weight, offset):
        """The problem of all the rows at C = 1, the target, and the factors of its classes."""
        self._refuse_settings()
        X = _encode.features(self, X, reset=True)
        target = _encode.target(X, y)
        problem, factors = _encode.problem(self, X, target, sample_weight, offset, _squared(1.0, X.shape[1]))
        return problem, target, factors

    def _refuse_settings(self):
        super()._refuse_settings()
        if not callable(self.scoring):
            one_of("LinearClassifierCV", "scoring", self.scoring, tuple(SCORES))

    def _grid(self):
        if isinstance(self.Cs, int | np.integer) and self.Cs >= 1:
            return np.logspace(*RANGE_OF_C, self.Cs)
        Cs = np.asarray(self.Cs, np.float64)
        if Cs.ndim != 1 or not len(Cs) or not (Cs > 0).all():
            raise ValueError(
                f"LinearClassifierCV: Cs are numbers above 0 (np.inf: no penalty), or how many; they are {self.Cs!r}."
            )
        return Cs

    def _penalty(self, width):
        return _squared(self.C_, width)

    def _ridges(self, Cs, problem):
        return np.stack([_squared(C, problem.features.shape[1]).l2 for C in Cs])

    def _score(self, held, logits, k):
        measure: Any = self.scoring if callable(self.scoring) else SCORES[self.scoring]
        said = (held.outputs(logits),) if callable(self.scoring) else (held, logits)
        score = float(measure(*said))
        if np.isnan(score):
            raise DataError(
                f"the score of fold {k} is nan, as where its rows are of one class.",
                field="cv",
                fix="give folds that each hold rows of every class, or scoring='neg_log_loss'.",
            )
        return score


def _squared(C, width):
    return _encode.penalty(C, 0.0, None, None, None, width)


class _Held(NamedTuple):
    """Rows that a fold is tested on."""

    features: Any
    offset: np.ndarray | None
    target: np.ndarray
    weight: np.ndarray | None
    classes: list[str]
    task: Any

    @classmethod
    def of(cls, problem: Problem, target: _encode.Target, weight, rows):
        return cls(
            problem.features[rows],
            None if problem.offset is None else problem.offset[rows],
            target.values[rows].astype(np.int64),
            None if weight is None else weight[rows],
            [str(name) for name in target.classes],
            TASKS[target.family],
        )

    def logits(self, coef, intercept):
        """What fits say of them, ``(fits, rows, outputs)``, or ``(fits, rows)`` where the task is binary."""
        fits, outputs, width = coef.shape
        model = LinearClassifier()
        model.coef_, model.intercept_ = coef.reshape(-1, width), intercept.ravel()
        z = model._scores(self.features, None).reshape(-1, fits, outputs)
        if self.offset is not None:
            z += self.offset.reshape(len(z), 1, -1).astype(z.dtype)
        z = np.ascontiguousarray(z.transpose(1, 0, 2))
        return z[..., 0] if self.task == "binary" else z

    def outputs(self, logits) -> Outputs:
        """Logits of a fit with their targets."""
        return Outputs(logits, "logits", target=self.target, classes=self.classes, weight=self.weight, task=self.task)


def _measured(measure, held, logits):
    return measure(logits, held.target, weight=held.weight).value


def _warn(converged, largest):
    if not converged:
        warnings.warn(
            f"LinearClassifierCV: some fits stopped at a largest slope of {largest:.1e}, above tol; raise max_iter or "
            "tol.",
            ConvergenceWarning,
            stacklevel=3,
        )
