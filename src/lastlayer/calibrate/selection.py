"""Which calibrator: the simplest that cross-validation cannot tell from the best."""

import math
import time
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer.calibrate.by_group_and_label import ByGroup, ByLabel
from lastlayer.calibrate.calibrator import Calibrator, FittedOn, Trial
from lastlayer.calibrate.registry import METHODS
from lastlayer.calibrate.rows import ROWS_AT_LEAST, Rows
from lastlayer.outputs import wanted
from lastlayer.state import WeightedSum

LEVEL = 0.05  # one-sided, over all the methods that are tested against the best
WORSE, AS_GOOD = "significantly worse", "as good as the best"
NO_BETTER = "no better than a simpler one"


def fit(outputs, method="auto", *, by=None, folds=5, seed=0) -> Calibrator:
    """Fit a calibrator to labelled `Outputs` that the model was not trained on.

        auto = the simplest method whose cross-validated NLL is not significantly above the best, nor above a simpler's

    The test is one-sided, on paired differences per row, at 5 % for all methods together (Bonferroni: the best of many
    is lucky as well). Folds follow from the hash of a row's id (of its content where there is none) and the ``seed``,
    so that the order of the rows says nothing. What a method tunes, it tunes within the rows it is fitted to, so the
    cross-validation is nested. Identity is the simplest of all and stays whenever nothing helps significantly, or would
    be worse on the rows of the fit. Rows that no calibrator can mend (a nan, a probability of 0 on the target) and rows
    of weight 0 are left out; the certificate counts them.

    ``outputs`` may be a list of shards, which are never joined, and whose scores may be memory maps: fits read blocks.
    ``by`` names a grouping, each group of which gets a calibrator of its own (one that could not be fitted alone, for
    want of rows or classes, that of all rows), or is ``"label"``: one for each label of multilabel rows.

    >>> from lastlayer import Outputs
    >>> z = np.random.default_rng(0).normal(size=(2000, 3))
    >>> y = (z + np.random.default_rng(1).gumbel(size=z.shape)).argmax(1)
    >>> round(fit(Outputs(2.5 * z, "logits", target=y), "temperature").temperature, 2)
    2.46
    """
    parts = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if not parts:
        raise ValueError("calibrate.fit: the list of outputs is empty; give at least one.")
    parts = [wanted("calibrate.fit", part) for part in parts]
    one_of("calibrate.fit", "method", method, ("auto", *METHODS))
    if not (isinstance(folds, int) and folds >= 2):
        raise ValueError(f"calibrate.fit: folds is an integer of at least 2, not {folds!r}.")

    def fitted_to(rows, serving):
        return _choose(rows, serving, folds, seed) if method == "auto" else METHODS[method].calibrator.solve(rows)

    rows = Rows.of(*parts)
    if by is None:
        fitted = fitted_to(rows, _serving(rows, method))
    elif by == "label" and rows.task == "multilabel" and by not in parts[0].groups:
        fitted = ByLabel.of(rows, lambda label: fitted_to(label, _serving(label, method)))
    else:
        groups = _grouping(parts, by)[rows.positions]
        everyone = fitted_to(rows, _serving(rows, method))
        fitted = ByGroup.of(rows, by, groups, everyone, lambda part: fitted_to(part, _serving(part, method)))
    fitted_on = FittedOn.of(rows.hashes(), float(rows.weight.sum()), rows.task, rows.source)
    return replace(fitted, classes=rows.classes, fitted_on=fitted_on)


def _grouping(parts, by):
    for part in parts:
        if by not in part.groups:
            raise DataError(
                f"there is no grouping {by!r}" + (f" among {', '.join(part.groups)}." if part.groups else "."),
                file=part.source,
                field="groups",
                fix=f"give a column group_{by} (in Python: groups={{{by!r}: values}}), or leave out by.",
            )
    return np.concatenate([part.groups[by] for part in parts])


def _choose(rows, serving, folds, seed):
    if len(rows) < ROWS_AT_LEAST * folds:
        raise DataError(
            f"{len(rows)} labelled rows are too few to choose a method by {folds}-fold cross-validation.",
            file=rows.source,
            fix=f"give at least {ROWS_AT_LEAST * folds} rows, or name the method (method='temperature').",
        )
    fold = rows.several_folds(folds, seed)
    present = np.unique(fold)
    losses, seconds, untried = {}, {}, {}
    for name in serving:
        start = time.perf_counter()
        reason = _hindrance(METHODS[name], rows, fold, present)
        try:
            if reason is None:
                losses[name] = held_out_losses(METHODS[name].calibrator, rows, fold, present)
                seconds[name] = time.perf_counter() - start
        except DataError as problem:
            reason = problem.message.rstrip(".")
        if reason is not None:
            untried[name] = Trial(name, math.inf, math.inf, math.inf, math.inf, 0.0, f"not tried: {reason}")
    tried = {trial.method: trial for trial in compare(losses, rows.weight, seconds)}
    return _first_that_helps([untried.get(name) or tried[name] for name in serving], rows)


def _hindrance(method, rows, fold, present):
    """Why a method cannot be cross-validated on these rows; None where it can."""
    free = method.calibrator.free_parameters(len(rows.classes))
    for k in present:
        rest = rows.take(fold != k)
        if len(rest) < max(free, ROWS_AT_LEAST):
            return f"{len(rest)} rows outside a fold for {free} parameters"
        if rest.one_class or (method.per_class and rows.task == "multiclass" and rest.unseen):
            return "a class with too few rows"
    return None


def held_out_losses(calibrator, rows, fold, present):
    """The loss of each row under the calibrator fitted to the other folds."""
    losses = np.empty(len(rows))
    for k in present:
        out = fold == k
        losses[out] = rows.take(out).losses(calibrator.solve(rows.take(~out)))
    return losses


def compare(losses, weight, seconds):
    """A `Trial` per method, in order, each tested against the best by the differences row by row."""
    means = {name: WeightedSum.of(loss, weight).value() for name, loss in losses.items()}
    best = min(means, key=lambda name: means[name].mean)
    significant = NormalDist().inv_cdf(1 - LEVEL / max(len(means) - 1, 1))
    trials: list[Trial] = []
    for name, mean in means.items():
        with np.errstate(invalid="ignore"):
            apart = WeightedSum.of(losses[name] - losses[best], weight).value()
        worse = not apart.mean <= significant * apart.error if np.isfinite(apart.mean) else True
        # One row that is lost far out makes a mean so uncertain that nothing is significant.
        beaten = any(trial.nll < mean.mean for trial in trials)
        trials.append(
            Trial(
                method=name,
                nll=float(mean.mean),
                error=float(mean.error),
                difference=float(apart.mean),
                difference_error=float(apart.error),
                seconds=seconds[name],
                verdict=WORSE if worse else NO_BETTER if beaten else AS_GOOD,
            )
        )
    return trials


def _first_that_helps(trials, rows):
    """Fit in order of complexity, until one is as good as the best held out and not worse than identity on the fit."""
    for i, trial in enumerate(trials):
        if trial.verdict != AS_GOOD:
            continue
        fitted = METHODS[trial.method].calibrator.solve(rows)
        certificate = fitted.certificate
        if certificate is not None and certificate.nll_after <= certificate.nll_before:
            trials[i] = replace(trial, verdict="chosen")
            return replace(fitted, selection=tuple(trials))
        trials[i] = replace(trial, verdict="worse than identity on the rows of the fit")
    if trials[0].method != "identity":  # margins: there is nothing to fall back on
        raise DataError(
            "no method gives these margins a better likelihood than they have as logits.",
            file=rows.source,
            fix="look at the margins: do larger ones go with the positive class?",
        )
    fitted = METHODS["identity"].calibrator.solve(rows)
    trials[0] = replace(trials[0], verdict="chosen: nothing else helps")
    return replace(fitted, selection=tuple(trials))


def _serving(rows, method):
    """The methods for rows of this task and kind; a ``method`` that is not among them, or ill served, is refused."""
    if len(rows) < ROWS_AT_LEAST or rows.one_class:
        only = rows.classes[int(rows.target.flat[0] > 0)] if rows.task == "binary" else "of one class"
        what = f"all {only}" if rows.one_class else "of all classes"
        raise DataError(
            f"{len(rows)} labelled rows, {what}, are too few to fit to.",
            file=rows.source,
            fix=f"give at least {ROWS_AT_LEAST} rows, of two classes or more.",
        )
    serving = [name for name, row in METHODS.items() if rows.task in row.tasks]
    if method not in ("auto", *serving):
        raise DataError(
            f"{method} is not for {rows.task} outputs; these methods are: {', '.join(serving)}.",
            file=rows.source,
            field="task",
            fix="name one of them, or none (method='auto').",
        )
    if rows.kind == "margin":
        able = [name for name in serving if METHODS[name].margins]
        if not able or method not in ("auto", *able):
            raise DataError(
                "these scores are margins, of unknown scale and zero, "
                + (f"and {method} moves no zero." if able else "and no method here moves a zero."),
                file=rows.source,
                field="kind",
                fix=f"use another (method={able[0]!r})." if able else "say kind='logits' if softmax of them is meant.",
            )
        serving = able
    if method == "auto":
        width = len(rows.classes) if rows.task == "multiclass" else 2
        serving = [name for name in serving if width <= METHODS[name].auto]
    elif METHODS[method].calibrator.free_parameters(len(rows.classes)) > len(rows):
        free = METHODS[method].calibrator.free_parameters(len(rows.classes))
        raise DataError(
            f"{method} has {free} free parameters for {len(rows.classes)} classes, and there are {len(rows)} rows.",
            file=rows.source,
            fix=f"give at least {free} labelled rows, or use a method whose parameters are held (method='matrix').",
        )
    if rows.task == "multiclass" and rows.unseen and (method == "auto" or METHODS[method].per_class):
        _refuse_unseen(rows, method)
    return serving


def _refuse_unseen(rows, method):
    """A class without rows: no method with parameters of each class can be fitted, and `auto` tries those without.

    But a class of which the model expects rows has been lost on the way, or the classes stand in another order.
    """
    names = rows.unseen if method != "auto" else rows.lost
    if not names:
        return
    what = f"{method} has parameters of each class" if method != "auto" else "the model expects rows of it"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise DataError(
        f"class {', '.join(names[:5])}{more} has no row, and {what}.",
        file=rows.source,
        field="target",
        fix="give rows of every class, or a method that has one temperature for all (method='temperature').",
    )
