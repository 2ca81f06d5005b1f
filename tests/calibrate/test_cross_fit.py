"""Out-of-fold calibration: a row's calibrator has not seen it."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer._check import DataError
from lastlayer.calibrate import fit, out_of_fold
from lastlayer.calibrate.rows import Rows


@pytest.mark.parametrize("make", [simulated.multiclass, simulated.binary, simulated.multilabel])
def test_each_fold_is_calibrated_by_the_others(make):
    outputs = make(3, n=600, temperature=2.0)
    found = out_of_fold(outputs, "temperature", folds=3, seed=5)
    fold = Rows.of(outputs).folds(3, 5)
    assert len(np.unique(fold)) == 3 and found.kind == "logits"
    for k in range(3):
        part = outputs.rows(fold == k)
        expected = fit(outputs.rows(fold != k), "temperature").apply(part).logits
        np.testing.assert_array_equal(found.logits[fold == k], expected)


def test_a_target_says_nothing_about_its_own_row():
    """With ids the folds stay where they are when a target changes; its row's logits then stay as well."""
    outputs = simulated.binary(1, n=400, temperature=3.0)
    outputs = replace(outputs, ids=np.arange(400))
    before = out_of_fold(outputs, "isotonic").logits
    for row in (0, 17, 399):
        target = outputs.target.copy()
        target[row] = 1 - target[row]
        after = out_of_fold(replace(outputs, target=target), "isotonic").logits
        assert after[row] == before[row] and (after != before).any()


def test_the_rows_of_a_fit_flatter_it():
    """Twenty small samples: what is said of unseen rows is near the truth, and of the rows of the fit below it."""
    seen, unseen, fresh = [], [], []
    for seed in range(20):
        outputs = simulated.binary(seed, n=200)
        calibrator = fit(outputs, "beta")
        seen.append(simulated.nll(calibrator.apply(outputs)) - simulated.nll(outputs))
        unseen.append(simulated.nll(out_of_fold(outputs, "beta")) - simulated.nll(outputs))
        more = simulated.binary(seed + 1000, n=5000)
        fresh.append(simulated.nll(calibrator.apply(more)) - simulated.nll(more))
    assert np.mean(seen) < 0 < np.mean(fresh)
    assert abs(np.mean(unseen) - np.mean(fresh)) < 0.5 * (np.mean(fresh) - np.mean(seen))


def test_auto_chooses_anew_and_rows_that_cannot_be_fitted_are_calibrated():
    outputs = simulated.multiclass(4, n=600, temperature=2.0)
    scores = outputs.scores.copy()
    scores[5] = np.nan
    weight = np.ones(600)
    weight[7] = 0
    found = out_of_fold(replace(outputs, scores=scores, weight=weight)).logits
    assert np.isnan(found[5]).all() and np.isfinite(np.delete(found, 5, axis=0)).all()
    ratio = np.delete(scores, 5, axis=0) / np.delete(found, 5, axis=0)
    assert 1.7 < np.median(ratio) < 2.4 and len(np.unique(ratio.round(6))) <= 5


def test_what_is_refused():
    outputs = simulated.binary(0, n=100)
    with pytest.raises(DataError, match="one fold"):
        out_of_fold(replace(outputs, ids=np.zeros(100, int)), "temperature")
    with pytest.raises(DataError, match="no target"):
        out_of_fold(replace(outputs, target=None))
