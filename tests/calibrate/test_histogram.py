"""Histogram binning and scaling-binning: bins, frequencies and means written out by hand, and published losses."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate.histogram import Histogram
from lastlayer.calibrate.rows import Rows
from lastlayer.calibrate.scaling_binning import ScalingBinning


def test_a_bin_has_the_frequency_of_its_rows_and_half_a_row_of_each_class():
    z, y = np.arange(20.0), (np.arange(20) % 4 == 0).astype(int)
    calibrator = Histogram.solve(Rows.of(Outputs(z, "logits", target=y)), bins=4)
    assert calibrator.edges.tolist() == [4, 9, 14]
    hits = np.array([2, 1, 1, 1])
    assert calibrator.levels == pytest.approx(np.log((hits + 0.5) / (5 - hits + 0.5)))
    assert calibrator(np.array([4.0, 4.5, 9.0, 9.5, np.inf, -np.inf])) == pytest.approx(
        calibrator.levels[[0, 1, 1, 2, 3, 0]]
    )


def test_bins_of_equal_width_have_edges_in_probability():
    outputs = simulated.binary(0, n=500)
    calibrator = Histogram.solve(Rows.of(outputs), bins=5, spacing="width")
    p = 1 / (1 + np.exp(-outputs.scores))
    cell = np.ceil(5 * p).astype(int) - 1
    hits, rows = np.bincount(cell, outputs.target, 5), np.bincount(cell, minlength=5)
    assert 1 / (1 + np.exp(-calibrator.edges)) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert calibrator.levels == pytest.approx(np.log((hits + 0.5) / (rows - hits + 0.5)))


def test_a_bin_without_rows_is_one_half():
    outputs = Outputs(np.r_[np.full(10, -9.0), np.full(10, 9.0)], "logits", target=np.arange(20) > 9)
    assert Histogram.solve(Rows.of(outputs), bins=3, spacing="width").levels[1] == 0


def test_scores_that_repeat_share_a_bin():
    z = np.r_[np.zeros(18), 1.0, 2.0]
    calibrator = Histogram.solve(Rows.of(Outputs(z, "logits", target=np.arange(20) % 2)), bins=10)
    assert calibrator.edges.tolist() == [0]


def test_published_losses_of_binning(shared_data):
    valid, test = densenet.binary(shared_data)
    assert simulated.nll(fit(valid, "histogram").apply(test)) <= 0.045078
    assert simulated.nll(fit(valid, "scaling_binning").apply(test)) <= 0.045078
    ten, _ = densenet.multiclass(shared_data)
    assert fit(ten, "histogram").certificate.nll_after == pytest.approx(0.263463, abs=1e-3)  # NN_calibration, 15 bins


def test_scaling_binning_has_the_mean_of_platt_in_each_bin():
    outputs = simulated.binary(1, n=400, temperature=2.0)
    outputs = replace(outputs, weight=np.random.default_rng(0).uniform(0.5, 2.0, 400))
    calibrator, line = ScalingBinning.solve(Rows.of(outputs), bins=8), fit(outputs, "platt")
    p = 1 / (1 + np.exp(-(line.slope * outputs.scores + line.intercept)))
    cell = np.searchsorted(calibrator.edges, outputs.scores)
    mean = np.bincount(cell, p * outputs.weight) / np.bincount(cell, outputs.weight)
    assert len(calibrator.edges) == 7
    assert calibrator.levels == pytest.approx(np.log(mean / (1 - mean)), rel=1e-10)
    assert np.bincount(cell, outputs.weight) == pytest.approx(outputs.weight.sum() / 8, abs=2.0)


def test_scaling_binning_of_rows_that_separate_stays_finite_and_says_so():
    z = np.r_[np.arange(10.0), np.arange(20.0, 30.0)]
    calibrator = fit(Outputs(z, "logits", target=z > 15), "scaling_binning")
    assert np.isfinite(calibrator.levels).all() and np.abs(calibrator.levels).max() > 1000
    assert calibrator.certificate.bound.startswith("slope <=")


def test_wrong_bins_are_refused():
    rows = Rows.of(simulated.binary(0, n=20))
    for solve in (Histogram.solve, ScalingBinning.solve):
        for bins in (0, 1.5):
            with pytest.raises(ValueError, match="bins is an integer of at least 1"):
                solve(rows, bins=bins)
    with pytest.raises(ValueError, match="spacing is one of"):
        Histogram.solve(rows, spacing="mas")
    for made in (Histogram, ScalingBinning):
        with pytest.raises(ValueError, match=rf"{made.__name__}: edges ascend"):
            made([1.0, 0.0], [0.0, 0.0, 0.0])
        with pytest.raises(ValueError, match=rf"{made.__name__}: levels"):
            made([1.0], [0.0])
