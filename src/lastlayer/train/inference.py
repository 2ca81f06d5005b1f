"""Standard errors, tests and intervals of a fitted classifier: what may be published of its coefficients."""

import functools
import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer.train._estimates import ChiSquared, Inference, log_normal_tails
from lastlayer.train._problem import Penalty, Problem

FEWEST = 20  # resamples of a bootstrap
STRANGE = 1e-4  # a slope of the mean loss, by a standardised feature, that no finished fit has
FAR = 0.01  # standard errors to the minimum that are worth a note

METHODS = {
    "hessian": "inverse Hessian",
    "robust": "robust sandwich, HC{small}",
    "cluster": "clusters, {groups} of them, CR{small}",
}
PENALISED = "sandwich, the Hessian of the losses between that with the penalty"
SHRUNKEN = (
    "Penalised: standard errors and intervals are of the shrunken estimate; how far it is shrunken is not in them."
)
WEIGHED = (
    "Weights say how important a row is, and the inverse Hessian takes them for numbers of rows; covariance='robust' "
    "does not."
)
RESAMPLED = "Intervals are percentiles of fits to rows drawn again: they have no p-value."
REFERENCE = "Each class against {first!r}: differences of the fitted coefficients, whose own level is arbitrary."


class _Rows(NamedTuple):
    """A fit and the rows it was made from."""

    model: Any
    problem: Problem
    coef: np.ndarray
    intercept: np.ndarray  # of the problem: class weights are in it
    shift: np.ndarray  # what the model's own intercepts have besides
    names: list[str]
    weighted: bool


def inference(
    model,
    X,
    y,
    sample_weight=None,
    offset=None,
    *,
    covariance="auto",
    clusters=None,
    small_sample=True,
    level=0.95,
    bootstrap=None,
    seed=0,
) -> Inference:
    """Standard errors, z, p and intervals of the coefficients of a fitted `LinearClassifier` or `FirthClassifier`.

        cov = H^-1 M H^-1,   z = coef / se,   p = 2 (1 - Phi(|z|)),   odds ratio = exp(coef)

    The rows are those of ``fit``. ``covariance`` is "hessian" (M: the Hessian of the losses, so H^-1 without a
    penalty), "robust" (squares of the rows' slopes: Huber 1967, White 1982), or "cluster" (of the sums over
    ``clusters``: Liang and Zeger 1986); "auto" is "cluster" where they are given, "robust" where weights say how
    important a row is, else "hessian". ``small_sample`` makes HC1 of HC0 and CR1 of CR0.

    Several classes are reported against the first one: the differences of their coefficients. Labels are reported
    each for itself; thresholds of an ordinal follow its coefficients, of which exp is the ratio of the odds to be above
    any grade. With a penalty everything is of the shrunken estimate, and says so. After an l1 penalty, or at a bound,
    a coefficient has no normal distribution: ``bootstrap=200`` draws rows (clusters) again with ``seed``, fits, and
    gives percentile intervals. Of Firth's method p-values and intervals are those of its profile likelihood.

    ValueError where the covariance does not fit the model; DataError where the rows are not those of the fit, or where
    columns make each other up.

    >>> from lastlayer.train import LinearClassifier
    >>> X, y = np.repeat([[0.0], [1.0]], 10, axis=0), np.repeat([1, 0, 1, 0], [6, 4, 8, 2])
    >>> found = inference(LinearClassifier(C=np.inf).fit(X, y), X, y)
    >>> found.coef.round(3), found.se.round(3), found.rows[0].odds_ratio.__round__(3)
    (array([0.981, 0.405]), array([1.021, 0.645]), 2.667)
    """
    from sklearn.utils.validation import check_is_fitted

    from lastlayer.train import firth
    from lastlayer.train.linear_classifier import LinearClassifier

    one_of("inference", "covariance", covariance, ("auto", *METHODS))
    if not 0 < level < 1:
        raise ValueError(f"inference: level is a share between 0 and 1, such as 0.95; it is {level!r}.")
    if not isinstance(model, LinearClassifier):
        raise TypeError(
            f"inference: model is a LinearClassifier or FirthClassifier, not {type(model).__name__}. Of a pipeline "
            "give the last step, model[-1], and the features as that step sees them, model[:-1].transform(X)."
        )
    check_is_fitted(model)
    if isinstance(model, firth.FirthClassifier):
        if covariance not in ("auto", "hessian") or clusters is not None or bootstrap is not None:
            raise ValueError("inference: of Firth's method there is the profile likelihood alone, covariance='auto'.")
        return firth.profiled(model, X, y, sample_weight, offset, level)
    rows = _rows(model, X, y, sample_weight, offset)
    if covariance == "auto":
        important = rows.weighted and model.weights == "importance"
        covariance = "cluster" if clusters is not None else "robust" if important else "hessian"
    if (covariance == "cluster") != (clusters is not None):
        raise ValueError("inference: covariance='cluster' and clusters, a name for each row, come together.")
    if clusters is not None:
        from lastlayer.train._covariance import numbered

        clusters = numbered(clusters, len(rows.problem.target))
    if bootstrap is not None:
        return _resampled(rows, clusters, level, bootstrap, seed)
    return _normal(rows, covariance, clusters, small_sample, level)


def feature_names(model) -> list[str]:
    """The names of the features of a fit, or x0, x1, ..."""
    return [str(n) for n in getattr(model, "feature_names_in_", [f"x{j}" for j in range(model.n_features_in_)])]


def _rows(model, X, y, sample_weight, offset):
    """What `LinearClassifier.fit` minimised."""
    from lastlayer.train import _encode

    X = _encode.features(model, X, reset=False)
    target = _encode.target(X, y, model.ordinal)
    if not np.array_equal(target.classes, model.classes_):
        raise _other_rows(f"its classes are {model.classes_.tolist()}, theirs {target.classes.tolist()}")
    problem, factors = _encode.problem(model, X, target, sample_weight, offset, model._penalty(X.shape[1]))
    shift = np.zeros_like(model.intercept_) + _encode.prior_shift(model, target, factors)
    weighted = bool((problem.weight != 1).any())
    names = feature_names(model)
    return _Rows(model, problem, model.coef_, model.intercept_ + shift, -shift, names, weighted)


def _other_rows(why):
    return DataError(
        f"the model was not fitted to these rows: {why}.",
        field="X, y",
        fix="give inference what fit was given: X, y, sample_weight, offset.",
    )


def _normal(rows: _Rows, covariance, clusters, small_sample, level):
    """Errors and intervals of a normal distribution."""
    from scipy.special import ndtri

    from lastlayer.train import _covariance

    _refuse_corners(rows)
    counts = rows.model.weights == "frequency"
    problem = replace(rows.problem, penalty=replace(rows.problem.penalty, low=None, high=None))
    found = _covariance.sandwich(
        problem, rows.coef, rows.intercept, covariance, clusters, small_sample, counts, rows.names
    )
    if found.gradient > max(STRANGE, 10 * rows.model.certificate_.gradient):
        raise _other_rows(f"the mean loss has a slope of {found.gradient:.1e} there")
    terms = _terms(rows)
    coef = terms.turn @ _flat(problem, rows.coef, rows.intercept + rows.shift)
    spread = terms.turn @ found.covariance @ terms.turn.T
    error = np.sqrt(np.diag(spread))
    z = np.divide(coef, error, out=np.full(len(coef), np.nan), where=error > 0)  # a constant column has neither
    half = float(-ndtri((1 - level) / 2)) * error
    method = METHODS[covariance].format(
        small=int(small_sample), groups=None if clusters is None else len(np.unique(clusters))
    )
    if covariance == "hessian" and _penalised(problem):
        method = PENALISED
    notes = []
    if rows.weighted and not counts and covariance == "hessian":
        notes.append(WEIGHED)
    if found.distance > FAR:
        notes.append(f"The fit ended {found.distance:.2g} standard errors from its minimum: fit with a smaller tol.")
    return _record(
        rows, terms, method, level, notes,
        loss=found.loss, df=found.df, likely=covariance == "hessian", coef=coef, covariance=spread, z=z,
        log_p=log_normal_tails(z), low=coef - half, high=coef + half,
    )  # fmt: skip


def _refuse_corners(rows):
    """An l1 penalty, or a coefficient at its bound: there the estimate has no normal distribution."""
    penalty = rows.problem.penalty
    at_bound = np.zeros(rows.coef.shape, bool)
    for bound in (penalty.low, penalty.high):
        if bound is not None:
            at_bound |= rows.coef == bound
    if penalty.l1.any() or at_bound.any():
        why = "an l1 penalty" if penalty.l1.any() else f"bounds, which {int(at_bound.sum())} coefficients are at,"
        raise ValueError(
            f"inference: after {why} the estimates have no normal distribution, and what was selected looks surer than "
            "it is. bootstrap=200 gives percentile intervals, labelled so; or fit without it on other rows."
        )


class _Terms(NamedTuple):
    """What is reported: a matrix from coefficients and intercepts, and a name of each of its rows."""

    turn: np.ndarray
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    slope: np.ndarray


def _terms(rows: _Rows):
    classes, problem = [str(name) for name in rows.model.classes_], rows.problem
    width = len(rows.names)
    if problem.family == "ordinal":
        ends = [f"{low} | {high}" for low, high in itertools.pairwise(classes)]
        each, outputs, turn = [*rows.names, *ends], [""], np.eye(1)
    else:
        each = [*rows.names, "intercept"] if problem.intercept else rows.names
        outputs, turn = [""], np.eye(1)
    if problem.family == "multinomial":
        outputs = classes[1:]
        turn = np.concatenate([-np.ones((len(outputs), 1)), np.eye(len(outputs))], axis=1)
    elif problem.family == "multilabel":
        outputs, turn = classes, np.eye(len(classes))
    slope = np.tile(np.arange(len(each)) < width, len(outputs))
    names = tuple(each) * len(outputs)
    return _Terms(np.kron(turn, np.eye(len(each))), names, tuple(np.repeat(outputs, len(each)).tolist()), slope)


def _flat(problem, coef, intercept):
    """Coefficients and intercepts as `Fit.inverse` orders them."""
    if problem.family == "ordinal":
        return np.concatenate([coef[0], intercept])
    return (np.column_stack([coef, intercept]) if problem.intercept else coef).ravel()


def _record(rows: _Rows, terms, method, level, notes, loss, df, likely, **estimates):
    """The `Inference`; without ``likely`` there is no likelihood to compare."""
    problem, model = rows.problem, rows.model
    counts = model.weights == "frequency"
    n = float(problem.weight.sum()) if counts else float(np.count_nonzero(problem.weight))
    penalised = _penalised(problem)
    likely = likely and (counts or not rows.weighted)
    comparable = likely and not penalised
    null, _ = _fit_without(problem, np.ones(len(rows.names), bool))
    log_likelihood = -loss
    slopes = len(rows.names) * (problem.outputs - (problem.family == "multinomial"))
    if problem.family == "multinomial":
        notes = [REFERENCE.format(first=str(model.classes_[0])), *notes]
    if penalised:
        notes = [*notes, SHRUNKEN]
    return Inference(
        names=terms.names,
        outputs=terms.outputs,
        title=_title(rows, n),
        method=method,
        level=level,
        n=n,
        slope=terms.slope,
        log_likelihood=log_likelihood,
        null_log_likelihood=null,
        df=df,
        lr=ChiSquared.of("likelihood ratio", rows.names, max(2 * (log_likelihood - null), 0.0), slopes)
        if comparable
        else None,
        aic=2 * (df - log_likelihood) if likely else None,
        bic=df * np.log(n) - 2 * log_likelihood if likely else None,
        notes=tuple(notes),
        without=functools.partial(_fit_without, problem) if comparable else None,
        **estimates,
    )


def _penalised(problem):
    penalty = problem.penalty
    return bool(penalty.l2.any()) or not penalty.smooth


def _title(rows, n):
    classes = [str(name) for name in rows.model.classes_]
    kind = {
        "binary": f"log-odds of {classes[1]!r} against {classes[0]!r}" if len(classes) == 2 else "",
        "multinomial": f"{len(classes)} classes",
        "multilabel": f"{len(classes)} labels",
        "ordinal": f"{len(classes)} grades, log-odds to be above each",
    }[rows.problem.family]
    return f"Logistic regression, {n:,.10g} rows: {kind}"


def _fit_without(problem: Problem, dropped) -> tuple[float, int]:
    """The log-likelihood without the features ``dropped``, and how many coefficients those are."""
    from lastlayer.train._solve import solve

    if dropped.all():  # a column of zeros: nothing moves with it
        features, penalty = np.zeros((len(problem.target), 1)), Penalty(np.ones(1), np.zeros(1))
    else:
        kept = np.flatnonzero(~dropped)
        features = problem.features[:, kept]
        penalty = Penalty(problem.penalty.l2[kept], problem.penalty.l1[kept])
    fitted = solve(replace(problem, features=features, penalty=penalty), tol=1e-10)
    free = problem.outputs - (problem.family == "multinomial")
    return -fitted.certificate.objective, int(dropped.sum()) * free


def _resampled(rows: _Rows, clusters, level, times, seed):
    """Percentile intervals of fits to rows, or clusters, drawn with replacement."""
    from lastlayer.train._solve import solve

    if not (isinstance(times, int) and times >= FEWEST):
        raise ValueError(f"inference: bootstrap is a number of resamples, at least {FEWEST}; it is {times!r}.")
    rng, problem, terms = np.random.default_rng(seed), rows.problem, _terms(rows)
    draws, lost = [], 0
    for _ in range(times):
        weight = _drawn(rng, problem.weight, clusters, rows.model.weights == "frequency")
        one = replace(problem, weight=weight)
        if not _complete(one):
            lost += 1
            continue
        fitted = solve(one, (rows.coef, rows.intercept), rows.model.tol, rows.model.max_iter)
        if fitted.certificate.escapes or not fitted.certificate.converged:
            lost += 1
            continue
        draws.append(terms.turn @ _flat(problem, fitted.coef, fitted.intercept + rows.shift))
    if len(draws) < FEWEST:
        raise DataError(
            f"of {times} resamples only {len(draws)} could be fitted: classes are lost or separated in the others.",
            field="y",
            fix="more rows of the rare class, or FirthClassifier.",
        )
    notes = [RESAMPLED]
    if lost:
        notes.append(f"{lost} of {times} resamples lost a class or had no finite fit, and were left out.")
    coef = terms.turn @ _flat(problem, rows.coef, rows.intercept + rows.shift)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    nothing = np.full(len(coef), np.nan)
    unit = "rows" if clusters is None else f"{len(np.unique(clusters))} clusters"
    return _record(
        rows, terms, f"bootstrap of {unit}, {len(draws)} fits, seed {seed}", level, notes,
        loss=_loss(rows), df=np.nan, likely=False, coef=coef, covariance=np.atleast_2d(np.cov(draws, rowvar=False)),
        z=nothing, log_p=nothing, low=low, high=high,
    )  # fmt: skip


def _drawn(rng, weight, clusters, counts):
    """Weights of rows that were drawn again: each has its own times how often it came."""
    if clusters is not None:
        groups = clusters.max() + 1
        return weight * rng.multinomial(groups, np.full(groups, 1 / groups))[clusters]
    if counts:
        return rng.multinomial(round(weight.sum()), weight / weight.sum()).astype(np.float64)
    return weight * rng.multinomial(len(weight), np.full(len(weight), 1 / len(weight)))


def _complete(problem):
    """Whether each class, and both sides of each label, have a row."""
    target, weight = problem.target, problem.weight
    if problem.family in ("binary", "multilabel"):
        return bool(np.all((weight @ target > 0) & (weight @ (1 - target) > 0)))
    classes = problem.outputs if problem.family == "multinomial" else int(target.max()) + 1
    return bool((np.bincount(target, weight, classes) > 0).all())


def _loss(rows: _Rows):
    """The losses of the rows, without the penalty."""
    penalty = rows.problem.penalty
    pull = (penalty.l2 * np.square(rows.coef) / 2 + penalty.l1 * np.abs(rows.coef)).sum()
    return rows.model.certificate_.objective - float(pull)
