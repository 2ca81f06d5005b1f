"""Calibrated rows to judge by: each one's calibrator has not seen it."""

import numpy as np

from lastlayer.calibrate.rows import Rows
from lastlayer.calibrate.selection import fit
from lastlayer.outputs import wanted


def out_of_fold(outputs, method="auto", *, by=None, folds=5, seed=0):
    """These `Outputs`, each row calibrated by a calibrator that was fitted to the other folds.

        calibrated[fold k] = fit(outputs[all folds but k]).apply(outputs[fold k])

    Measures of them say what calibration does to rows that it has not seen, without a second set of labelled rows;
    `fit` to all of them is the calibrator to keep, one like these. ``method`` and ``by`` are those of `fit`; with
    ``"auto"`` the choice is made anew without each fold. Folds are those of `fit`: a row that repeats, or an id, is
    in one fold. A row that no calibrator is fitted to (a nan, weight 0) is calibrated without the first fold.

    >>> from lastlayer import Outputs
    >>> z = np.random.default_rng(0).normal(size=(2000, 3))
    >>> y = (z + np.random.default_rng(1).gumbel(size=z.shape)).argmax(1)
    >>> outputs = Outputs(2.5 * z, "logits", target=y)
    >>> np.unique(np.round(outputs.logits[:, 0] / out_of_fold(outputs, "temperature").logits[:, 0], 2))
    array([2.38, 2.45, 2.47, 2.48, 2.52])
    """
    outputs = wanted("calibrate.out_of_fold", outputs)
    rows = Rows.of(outputs)
    kept = rows.several_folds(folds, seed)
    fold = np.full(len(outputs), kept.min())
    fold[rows.positions] = kept
    logits = np.empty(outputs.scores.shape)
    for k in np.unique(kept):
        out = fold == k
        calibrator = fit(outputs.rows(~out), method, by=by, folds=folds, seed=seed)
        logits[out] = calibrator.apply(outputs.rows(out)).logits
    return outputs.with_logits(logits)
