"""Logistic regression by Firth's method: finite coefficients, with less bias, whatever separates the classes."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np

from lastlayer._check import DataError
from lastlayer._convex import Minimum, minimise
from lastlayer.parallel import single_products
from lastlayer.train import _encode
from lastlayer.train._covariance import refuse_undetermined
from lastlayer.train._estimates import ChiSquared, Inference, log_normal_tails
from lastlayer.train._newton import inverted
from lastlayer.train._objective import Frame, binary_rows, dense, design
from lastlayer.train._problem import Certificate, Penalty, Problem
from lastlayer.train.inference import feature_names
from lastlayer.train.linear_classifier import LinearClassifier
from lastlayer.transform.sigmoid import sigmoid

SEARCHES = 60  # fits with a coefficient held, to find one end of an interval
EXACT = 1e-9  # of the root of a ratio of likelihoods, at the end of an interval
TIGHT = 1e-10  # the slope at which fits with a coefficient held end

NOTES = (
    "Firth's method: p-values are of ratios of the penalised likelihood, z their signed roots, and intervals of its "
    "profile, which is not symmetric.",
)


class FirthClassifier(LinearClassifier):
    """Two classes, by the likelihood times Jeffreys' prior: finite coefficients for separated or rare classes.

        F(b) = sum_i w_i loss(offset_i + x_i b, y_i) - log det(X' W X) / 2,   W = diag(w_i p_i (1 - p_i))

    Its gradient is that of the likelihood with ``h_i (p_i - 1/2)`` added to each row, h the leverages (Firth 1993;
    Heinze and Schemper 2002): the first-order bias of the coefficients is gone, and no gap between classes makes them
    infinite. Weights count rows. The fit ends where no slope of the mean loss, by a standardised feature, is above
    ``tol``.

    ``coef_`` is ``(1, features)``, ``intercept_`` ``(1,)``, ``log_likelihood_`` the penalised one, ``covariance_`` the
    inverse of ``X' diag((w_i + h_i) p_i (1 - p_i)) X`` for the coefficients and the intercept, as R's logistf has it:
    the prior acts like h_i more rows. `inference` gives tests and intervals of the profile.
    Predicted probabilities are drawn a little towards 1/2, which `calibrate.fit` corrects on held-out rows.

    >>> model = FirthClassifier().fit([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]], [0, 0, 0, 1, 1, 1])
    >>> model.coef_.round(6), model.intercept_.round(6)
    (array([[3.89182]]), array([-1.94591]))
    """

    ordinal = False  # what `LinearClassifier` asks of itself when it predicts
    _multilabel = False

    def __init__(self, *, fit_intercept=True, tol=1e-10, max_iter=1000):
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X, y, sample_weight=None, offset=None) -> Self:
        """Fit to rows; ``offset`` ``(n,)`` are logits that come on top."""
        if not self.tol > 0:
            raise ValueError(f"FirthClassifier: tol is a number above 0; it is {self.tol!r}.")
        began = time.perf_counter()
        X = _encode.features(self, X, reset=True)
        likelihood = _likelihood(self, X, y, sample_weight, offset)
        fitted = likelihood.best(self.tol, self.max_iter)
        coef = likelihood.turn @ fitted.point.parameters
        self.classes_ = likelihood.classes
        self.coef_ = coef[None, : X.shape[1]]
        self.intercept_ = coef[X.shape[1] :] if self.fit_intercept else np.zeros(1)
        self.covariance_ = likelihood.turn @ fitted.point.inverse @ likelihood.turn.T
        self.log_likelihood_ = -float(fitted.point.value)
        self.certificate_ = Certificate(
            solver="firth",
            passes=fitted.passes,
            objective=float(fitted.point.value),
            gradient=fitted.gradient,
            gap=None,
            converged=fitted.converged,
            escapes=False,
            seconds=time.perf_counter() - began,
        )
        self.n_iter_ = np.array([fitted.passes])
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        tags.classifier_tags.multi_class = False
        return tags


class _Point(NamedTuple):
    """F at ``base + basis @ at``, as `minimise` wants it: an L-BFGS that starts from the information."""

    at: np.ndarray
    value: float
    gradient: np.ndarray
    scale: float
    step: Callable[[np.ndarray], np.ndarray]
    inverse: np.ndarray  # of the information with what the prior adds to each row, by ``at``
    parameters: np.ndarray
    slope: np.ndarray  # of F by all the parameters
    exact: bool = False


class _Likelihood(NamedTuple):
    """Standardised rows with a column of ones, and what is asked of them."""

    table: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    frame: Frame
    classes: np.ndarray
    names: list[str]

    @property
    def width(self):
        return len(self.frame.scale)

    @property
    def turn(self):
        """From parameters to the coefficients and the intercept as the features came."""
        return self.frame.jacobian(self.table.shape[1] - self.width)

    def best(self, tol=TIGHT, most=1000):
        """The least F of all."""
        size = self.table.shape[1]
        return self.fit(np.zeros(size), np.eye(size), np.zeros(size), tol, most)

    def fit(self, base, basis, start, tol=TIGHT, most=1000):
        """The least F at ``base + basis @ at``."""
        if not len(start):
            return Minimum(self._point(base, basis, start), 1, True, False, 0.0)
        with single_products():
            return minimise(lambda at: self._point(base + basis @ at, basis, at), start, tol, most, rises=True)

    def _point(self, parameters, basis, at):
        from scipy.linalg import solve_triangular

        with np.errstate(all="ignore"):  # a step too far may overflow; `minimise` shortens it
            z = self.table @ parameters + self.offset
            loss, slope, bend = binary_rows(z, self.target, self.weight)
            rows = self.table * np.sqrt(bend)[:, None]
            information = rows.T @ rows
        try:
            lower = np.linalg.cholesky(information)
        except np.linalg.LinAlgError:
            slope = np.full(len(parameters), np.nan)
            return _Point(at, np.inf, slope[: len(at)], 1.0, np.zeros_like, information, parameters, slope)
        leverage = np.square(solve_triangular(lower, rows.T, lower=True, check_finite=False)).sum(0)
        gradient = (slope + leverage * (sigmoid(z) - 0.5)) @ self.table
        # the determinant in the units that came: the scales are part of it
        value = loss - np.log(np.diag(lower)).sum() - np.log(self.frame.scale).sum()
        augmented = rows.T @ (rows * (1 + leverage / self.weight)[:, None])
        inverse = inverted(basis.T @ augmented @ basis) if len(at) else np.zeros((0, 0))
        return _Point(
            at, value, basis.T @ gradient, self.weight.sum(), inverse.__matmul__, inverse, parameters, gradient
        )


def _likelihood(model, X, y, sample_weight, offset) -> _Likelihood:
    target = _encode.target(X, y)
    if target.family != "binary":
        raise ValueError(
            f"Only binary classification is supported. The type of the target is "
            f"{'multiclass' if target.family == 'multinomial' else 'multilabel'}; FirthClassifier takes two classes: "
            "fit one class against the rest, or LinearClassifier with a penalty."
        )
    weight = _encode.weights(sample_weight, X.shape[0])
    _encode.class_weights(None, target, weight)
    used = weight > 0
    offset = _encode.offsets(offset, X.shape[0], 1)
    width, names = X.shape[1], feature_names(model)
    nothing = Penalty(np.zeros(width), np.zeros(width))
    X = X[np.flatnonzero(used)]
    problem = Problem(X, target.values[used], weight[used], None, "binary", 1, bool(model.fit_intercept), nothing)
    frame = Frame.of(problem)
    table = design(dense(X), frame, problem.intercept)
    _refuse_rank(table, names)
    offset = np.zeros(len(table)) if offset is None else offset[used]
    return _Likelihood(table, problem.target, problem.weight, offset, frame, target.classes, names)


def _refuse_rank(table, names):
    if table.shape[1] > len(table):
        raise DataError(
            f"{table.shape[1]} coefficients for {len(table)} rows: Jeffreys' prior is 0 everywhere.",
            field="X",
            fix="fewer features, or LinearClassifier with a penalty, C=1.0.",
        )
    gram = table.T @ table
    if round((inverted(gram) * gram).sum()) < len(gram):
        refuse_undetermined(gram, 1, names)


class _Profile:
    """F with one coefficient held, in its own units: the signed root of twice what that costs."""

    def __init__(self, likelihood: _Likelihood, best: _Point, coef, j):
        self.likelihood, self.best, self.coef = likelihood, best, coef[j]
        width, size = likelihood.width, len(coef)
        self.basis = np.eye(size)[:, np.arange(size) != j]
        self.direction = np.eye(size)[j]
        if j < width:
            self.direction = self.direction * likelihood.frame.scale[j]
        else:  # of standardised features it is another intercept, which moves with their coefficients
            self.basis[width] = likelihood.frame.centre / likelihood.frame.scale
        row = likelihood.turn[j] @ best.inverse
        self.error = float(np.sqrt(row @ likelihood.turn[j]))
        others = np.arange(size) != j
        self.ahead = row[others] / self.error**2  # how the others move with it
        self.known = self.coef, best.parameters[others]

    def root(self, value) -> tuple[float, float]:
        """The root with the coefficient at ``value``, negative below the estimate, and its slope."""
        last, others = self.known
        start = others + (value - last) * self.ahead
        fitted = self.likelihood.fit(value * self.direction, self.basis, start)
        self.known = value, fitted.point.at
        root = np.sign(value - self.coef) * np.sqrt(2 * max(fitted.point.value - self.best.value, 0.0))
        return float(root), float(fitted.point.slope @ self.direction / root) if root else 1 / self.error

    def end(self, target) -> float:
        """The value whose root is ``target``: Newton's method, halving where that leaves what is known."""
        low, high = (self.coef, np.inf) if target > 0 else (-np.inf, self.coef)
        value = self.coef + target * self.error
        for _ in range(SEARCHES):
            root, slope = self.root(value)
            if abs(root - target) <= EXACT:
                return value
            low, high = (value, high) if root < target else (low, value)
            ahead = value - (root - target) / slope if slope > 0 else np.nan
            farther = 2 * value - self.coef
            if not low < ahead < high:
                ahead = (low + high) / 2 if np.isfinite(low + high) else farther
            value = ahead if abs(ahead - self.coef) <= 4 * abs(value - self.coef) else farther
        return value


def profiled(model, X, y, sample_weight, offset, level) -> Inference:
    """Tests and intervals of the profile of the penalised likelihood (Heinze and Schemper 2002)."""
    from scipy.special import ndtri

    X = _encode.features(model, X, reset=False)
    likelihood = _likelihood(model, X, y, sample_weight, offset)
    best = likelihood.best().point
    coef = likelihood.turn @ best.parameters
    if not np.allclose(coef, np.append(model.coef_[0], model.intercept_)[: len(coef)], rtol=1e-3, atol=1e-6):
        raise DataError(
            "the model was not fitted to these rows: their coefficients differ.",
            field="X, y",
            fix="give inference what fit was given: X, y, sample_weight, offset.",
        )
    profiles = [_Profile(likelihood, best, coef, j) for j in range(len(coef))]
    half = float(-ndtri((1 - level) / 2))
    ends = np.array([[profile.end(sign * half) for sign in (-1, 1)] for profile in profiles])
    z = np.array([-profile.root(0.0)[0] for profile in profiles])
    log_likelihood = -float(best.value)

    without = functools.partial(_fit_without, likelihood, best.parameters)
    null, df = without(np.ones(likelihood.width, bool))
    return Inference(
        names=(*likelihood.names, "intercept")[: len(coef)],
        outputs=("",) * len(coef),
        title=f"Firth's logistic regression, {likelihood.weight.sum():,.10g} rows: log-odds of "
        f"{str(model.classes_[1])!r} against {str(model.classes_[0])!r}",
        method="inverse information, of the rows and the prior",
        level=level,
        n=float(likelihood.weight.sum()),
        coef=coef,
        covariance=likelihood.turn @ best.inverse @ likelihood.turn.T,
        z=z,
        log_p=log_normal_tails(z),
        low=ends[:, 0],
        high=ends[:, 1],
        slope=np.arange(len(coef)) < likelihood.width,
        log_likelihood=log_likelihood,
        null_log_likelihood=null,
        df=float(len(coef)),
        lr=ChiSquared.of("likelihood ratio", likelihood.names, max(2 * (log_likelihood - null), 0.0), df),
        aic=None,
        bic=None,
        notes=NOTES,
        without=without,
    )


def _fit_without(likelihood: _Likelihood, start, dropped) -> tuple[float, int]:
    """The penalised log-likelihood with the features ``dropped`` held at 0, and how many those are."""
    kept = np.append(~dropped, np.ones(len(start) - len(dropped), bool))
    fitted = likelihood.fit(np.zeros(len(start)), np.eye(len(start))[:, kept], start[kept])
    return -float(fitted.point.value), int(dropped.sum())
