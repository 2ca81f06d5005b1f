"""Venn-Abers predictors against refits: the row itself added to an isotonic regression, once with each target."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import fit
from lastlayer.calibrate.venn_abers import VennAbers


def refitted(outputs, score, target):
    """The isotonic probability at ``score`` of the rows and one row more there, of this target."""
    from sklearn.isotonic import IsotonicRegression

    z, y = np.r_[outputs.scores, score], np.r_[outputs.target, target]
    weight = np.r_[np.ones(len(outputs)) if outputs.weight is None else outputs.weight, 1.0]
    return float(IsotonicRegression().fit(z, y, sample_weight=weight).predict([score])[0])


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_refit_with_the_row_itself(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 40))
    z = rng.integers(-6, 6, n).astype(float) if seed % 2 else rng.normal(size=n)
    y = np.r_[0, 1, (z[2:] + 2 * rng.logistic(size=n - 2) > 0).astype(int)]
    weight = rng.uniform(0.1, 3.0, n) if seed % 3 == 0 else None
    outputs = Outputs(z, "logits", target=y, weight=weight)
    scores = np.unique(np.r_[z, (z[1:] + z[:-1]) / 2, z.min() - 1, z.max() + 1])
    low, high = fit(outputs, "venn_abers").interval(scores)
    assert low == pytest.approx([refitted(outputs, s, 0) for s in scores], abs=1e-12)
    assert high == pytest.approx([refitted(outputs, s, 1) for s in scores], abs=1e-12)
    assert (low < high).all()
    merged = high / (1 - low + high)
    assert fit(outputs, "venn_abers")(scores) == pytest.approx(np.log(merged / (1 - merged)), abs=1e-9)


def test_published_loss_of_ten_classes(shared_data):
    valid, test = densenet.multiclass(shared_data)
    assert simulated.nll(fit(valid, "venn_abers").apply(test)) == pytest.approx(0.229333, abs=1e-4)  # CalArena


def test_loss_of_animals_against_machines(shared_data):
    valid, test = densenet.binary(shared_data)
    assert simulated.nll(fit(valid, "venn_abers").apply(test)) == pytest.approx(0.031071, abs=1e-5)
    # CalArena has 0.030732, of float32 probabilities: 1 in every third row, and ties widen the outer blocks.
    rounded = [
        Outputs((1 / (1 + np.exp(-part.scores))).astype(np.float32), "margin", target=part.target)
        for part in (valid, test)
    ]
    calibrated = fit(rounded[0], "venn_abers").apply(rounded[1])
    assert simulated.nll(replace(calibrated, kind="logits")) == pytest.approx(0.030732, abs=1e-4)


def test_rounding_of_weights_leaves_levels_that_rise():
    outputs = simulated.binary(0, n=3000)
    weight = np.random.default_rng(0).uniform(0.1, 1.0, 3000)
    calibrator = fit(Outputs(outputs.scores, "logits", target=outputs.target, weight=weight), "venn_abers")
    low, high = calibrator.interval(np.sort(outputs.scores))
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all() and high[-1] <= 1


def test_the_interval_holds_the_truth_on_average():
    fitted, fresh = simulated.binary(0, n=2000, temperature=3.0), simulated.binary(1, n=20000, temperature=3.0)
    low, high = fit(fitted, "venn_abers").interval(fresh.scores)
    assert low.mean() - 0.01 <= fresh.target.mean() <= high.mean() + 0.01
    assert high.mean() - low.mean() < 0.02


def test_infinite_and_missing_scores():
    calibrator = fit(simulated.binary(0, n=100), "venn_abers")
    low, high = calibrator.interval(np.array([np.inf, -np.inf, np.nan]))
    assert high[0] == 1 and low[1] == 0 and np.isnan([low[2], high[2]]).all()
    assert np.isfinite(calibrator(np.array([np.inf, -np.inf]))).all()


def test_a_target_that_is_a_probability_is_refused():
    outputs = simulated.binary(0, n=50)
    with pytest.raises(DataError, match=r"positive or negative; these targets are probabilities.*isotonic"):
        fit(replace(outputs, target=0.1 + 0.8 * outputs.target), "venn_abers")
    fit(replace(outputs, target=outputs.target.astype(float)), "venn_abers")


@pytest.mark.parametrize(
    "wrong",
    [
        ([0.0], [1.0], [0.0], [1.0]),
        ([0.0], [0.0], [0.0], [0.0]),
        ([0.0, 1.0], [0.5, 0.1], [0.0], [1.0]),
        ([1.0, 0.0], [0.1, 0.5], [0.0], [1.0]),
        ([], [], [0.0], [1.0]),
    ],
)
def test_levels_rise_within_zero_and_one(wrong):
    with pytest.raises(ValueError, match=r"VennAbers: (low|high)_edges ascend"):
        VennAbers(*wrong)
