"""Which calibrator: the simplest that cross-validation cannot tell from the best."""

import time
from dataclasses import replace

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer.calibrate.calibrator import Calibrator, FittedOn, Trial
from lastlayer.calibrate.registry import METHODS
from lastlayer.calibrate.rows import ROWS_AT_LEAST, Rows
from lastlayer.outputs import wanted
from lastlayer.state import WeightedSum

SIGNIFICANT = 1.6448536269514722  # one-sided 5 %
WORSE = "significantly worse"


def fit(outputs, method="auto", *, folds=5, seed=0) -> Calibrator:
    """Fit a calibrator to labelled `Outputs` that the model was not trained on.

        auto = the simplest method whose cross-validated NLL is not significantly above the best

    The test is one-sided, at 5 %, on paired differences per row; folds follow from the hash of a row's id (of its
    content where there is none) and the ``seed``, so that the order of the rows says nothing. Identity is the simplest
    of all and stays whenever nothing helps significantly, or would be worse on the rows of the fit. Rows that no
    calibrator can mend (a nan, a probability of 0 on the target) and rows of weight 0 are left out; the certificate
    counts them.

    >>> from lastlayer import Outputs
    >>> z = np.random.default_rng(0).normal(size=(2000, 3))
    >>> y = (z + np.random.default_rng(1).gumbel(size=z.shape)).argmax(1)
    >>> round(fit(Outputs(2.5 * z, "logits", target=y)).temperature, 2)
    2.46
    """
    outputs = wanted("calibrate.fit", outputs)
    one_of("calibrate.fit", "method", method, ("auto", *METHODS))
    if not (isinstance(folds, int) and folds >= 2):
        raise ValueError(f"calibrate.fit: folds is an integer of at least 2, not {folds!r}.")
    serving = _serving(outputs, method)
    rows = Rows.of(outputs)
    if method == "auto":
        fitted = _choose(rows, serving, folds, seed, outputs.source)
    else:
        fitted = METHODS[method].calibrator.solve(rows)
    fitted_on = FittedOn(len(rows), float(rows.weight.sum()), rows.task, outputs.source, rows.content())
    return replace(fitted, classes=outputs.classes, fitted_on=fitted_on)


def _choose(rows, names, folds, seed, source):
    if len(rows) < ROWS_AT_LEAST * folds:
        raise DataError(
            f"{len(rows)} labelled rows are too few to choose a method by {folds}-fold cross-validation.",
            file=source,
            fix=f"give at least {ROWS_AT_LEAST * folds} rows, or name the method (method='temperature').",
        )
    fold = rows.folds(folds, seed)
    present = np.unique(fold)
    if len(present) < 2:
        raise DataError(
            "all rows fall into one fold: their ids (or the rows themselves) repeat.",
            file=source,
            field=None if rows.ids is None else "id",
            fix="give each row its own id, or none.",
        )
    losses, seconds = {}, {}
    for name in names:
        start = time.perf_counter()
        losses[name] = held_out_losses(METHODS[name].calibrator, rows, fold, present)
        seconds[name] = time.perf_counter() - start
    trials = compare(losses, rows.weight, seconds)
    return _first_that_helps(trials, rows)


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
    trials = []
    for name, mean in means.items():
        with np.errstate(invalid="ignore"):
            apart = WeightedSum.of(losses[name] - losses[best], weight).value()
        worse = not apart.mean <= SIGNIFICANT * apart.error if np.isfinite(apart.mean) else True
        trials.append(
            Trial(
                method=name,
                nll=float(mean.mean),
                error=float(mean.error),
                difference=float(apart.mean),
                difference_error=float(apart.error),
                seconds=seconds[name],
                verdict=WORSE if worse else "as good as the best",
            )
        )
    return trials


def _first_that_helps(trials, rows):
    """Fit in order of complexity, until one is as good as the best held out and not worse than identity on the fit."""
    for i, trial in enumerate(trials):
        if trial.verdict == WORSE:
            continue
        fitted = METHODS[trial.method].calibrator.solve(rows)
        certificate = fitted.certificate
        if certificate is not None and certificate.nll_after <= certificate.nll_before:
            trials[i] = replace(trial, verdict="chosen")
            return replace(fitted, selection=tuple(trials))
        trials[i] = replace(trial, verdict="worse than identity on the rows of the fit")
    fitted = METHODS["identity"].calibrator.solve(rows)
    trials[0] = replace(trials[0], verdict="chosen: nothing else helps")
    return replace(fitted, selection=tuple(trials))


def _serving(outputs, method):
    """The methods for outputs of this task and kind; a ``method`` that is not among them is refused."""
    serving = [name for name, row in METHODS.items() if outputs.task in row.tasks]
    if method != "auto":
        one_of(f"calibrate.fit of {outputs.task} outputs", "method", method, serving)
    if outputs.kind != "margin":
        return serving
    able = [name for name in serving if METHODS[name].margins]
    if method in able or (able and method == "auto"):
        return able
    raise DataError(
        "these scores are margins, of unknown scale and zero, "
        + (f"and {method} moves no zero." if able else "and no method here moves a zero."),
        file=outputs.source,
        field="kind",
        fix=f"use method={able[0]!r}." if able else "say kind='logits' if softmax or sigmoid of them is meant.",
    )
