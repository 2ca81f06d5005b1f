"""Smooth calibration error against its definition: the sum over reflections and a fine quadrature."""

import numpy as np
import pytest
from scipy.optimize import brentq
from tasks import GUO, decisions, densenet, every_task, sample

import lastlayer as ll
from lastlayer.measure import smooth
from lastlayer.measure.smooth import smooth_calibration_error


def error_at(s, p, residuals):
    """Definition 3: the integral over t of |mean of residual times kernel|, reflected three times at both ends."""
    t = (np.arange(2000) + 0.5) / 2000
    curve = np.zeros(len(t))
    for k in range(-3, 4):
        for image in (2 * k + p, 2 * k - p):
            curve += np.exp(-(((t[:, None] - image) / s) ** 2) / 2) @ residuals
    return np.abs(curve).mean() / (s * np.sqrt(2 * np.pi) * len(p))


def plainly(p, hits):
    return brentq(lambda s: error_at(s, p, hits - p) - s, 1e-2, 1.0, xtol=1e-7)


@every_task
def test_the_width_at_which_the_error_is_the_width(task):
    rows = sample(task, n=40, seed=3, sharpness=2.0)
    confidence, hits = decisions(task, *rows)
    found = smooth_calibration_error(*rows[:2])
    assert found == pytest.approx(plainly(confidence.ravel(), hits.ravel()), abs=5e-6)
    assert found.bound < 1e-5
    columns = zip(rows[2].T, rows[3].T, strict=True)
    want = np.mean([plainly(p, y) for p, y in columns])
    assert smooth_calibration_error(*rows[:2], over="classwise") == pytest.approx(want, abs=5e-6)


def test_probabilities_at_0_and_1_keep_all_of_their_mass():
    z, y = np.repeat([800.0, -800.0, 1.0], [60, 20, 20]), np.repeat([1, 0, 1, 0], [50, 20, 20, 10])
    p = np.where(z > 0, 1 / (1 + np.exp(-np.abs(z))), 0.0)
    assert smooth_calibration_error(z, y, over="classwise") == pytest.approx(plainly(p, y), abs=5e-6)


def test_one_confidence_has_the_gap_itself():
    """All the mass of the residuals has one sign, whatever the width: the error is |hits - p|."""
    z, y = np.zeros((8, 2)), np.array([0, 0, 0, 0, 0, 0, 1, 1])
    assert smooth_calibration_error(z, y) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("cells", [8, 16, 32, 64])
def test_a_grid_changes_the_error_by_no_more_than_its_bound(cells):
    _, y, p, _ = sample("binary", n=300, seed=1)
    residuals = (y[:, None] - p) / 300
    coarse, fine = (smooth._Spectrum.of(p, residuals, n).error(0.06) for n in (cells, 2**14))
    bound = np.abs(residuals).sum() * 0.968 / (4 * (cells * 0.06) ** 2)
    assert bound / 1000 < abs(coarse - fine) <= bound


def test_an_error_below_every_width_has_that_width_as_bound():
    z = np.full(10, 14.0)  # right every time, and a millionth unsure
    found = smooth_calibration_error(z, np.ones(10, int))
    assert found == pytest.approx(8.3e-7, rel=0.01)
    assert found.bound == pytest.approx(200 / 2**20)
    assert smooth_calibration_error(np.full(10, np.inf), np.ones(10, int)) == 0


def test_the_order_of_rows_and_a_weight_of_all_change_nothing():
    z, y, *_ = sample("multiclass", n=400, seed=2, sharpness=2.0)
    want = smooth_calibration_error(z, y)
    order = np.random.default_rng(0).permutation(400)
    for found in (
        smooth_calibration_error(z[order], y[order]),
        smooth_calibration_error(z, y, weight=np.full(400, 5.0)),
        smooth_calibration_error(np.concatenate([z, z[:1] * np.nan]), np.append(y, 0), weight=[1.0] * 400 + [0.0]),
    ):
        assert (found, found.low, found.high) == pytest.approx((want, want.low, want.high), rel=1e-9)
    repeated = smooth_calibration_error(np.repeat(z, 3, 0), np.repeat(y, 3))
    assert repeated == pytest.approx(want, rel=1e-9)
    z[0] = np.nan
    assert np.isnan(smooth_calibration_error(z, y))
    with pytest.raises(ValueError, match="smooth_calibration_error: over is"):
        smooth_calibration_error(z, y, over="all")


def test_the_interval_covers_the_error_of_an_overconfident_model():
    truth = float(smooth_calibration_error(*sample("binary", n=300_000, seed=9, sharpness=3.0)[:2]))
    found = [smooth_calibration_error(*sample("binary", n=1000, seed=s, sharpness=3.0)[:2]) for s in range(100)]
    covered = sum(m.low <= truth <= m.high for m in found)
    assert 90 <= covered
    spread = np.std([float(m) for m in found])
    assert np.mean([m.high - m.low for m in found]) / (2 * 1.96) == pytest.approx(spread, rel=0.2)


def test_real_logits(shared_data):
    """Of the raw model nearly every residual has one sign, so it is the mean gap between confidence and accuracy."""
    z, y = densenet(shared_data)
    gap = np.array(ll.softmax(z)).max(1).mean() - (z.argmax(1) == y).mean()
    assert smooth_calibration_error(z, y) == pytest.approx(gap, abs=1e-5)
    cooler, y = densenet(shared_data, GUO)
    confidence, hits = np.array(ll.softmax(cooler)).max(1), (cooler.argmax(1) == y).astype(float)
    nodes = np.round(confidence * 4000).astype(int)  # 0.00025 apart: a fortieth of the width found
    mass = np.bincount(nodes, hits - confidence, 4001)
    mirrored = np.concatenate([mass[:0:-1], mass, mass[-2::-1]])
    mirrored[[4000, 8000]] *= 2  # what lies on an end is its own image
    lags = np.arange(-4000, 4001) / 4000

    def error(s):
        kernel = np.exp(-((lags / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi))
        curve = np.abs(np.convolve(mirrored, kernel, "valid"))
        return (curve.sum() - (curve[0] + curve[-1]) / 2) / 4000 / len(y)

    assert smooth_calibration_error(cooler, y) == pytest.approx(brentq(lambda s: error(s) - s, 5e-3, 0.1), abs=2e-5)


def test_the_error_moves_with_the_width_and_with_each_row_as_its_slopes_say():
    z, y, p, _ = sample("binary", n=300, seed=1)
    residuals = y[:, None] - p
    spectrum = smooth._Spectrum.of(p, residuals / 300, 2**14)
    slope, influence = spectrum.slopes(0.06, p)
    assert slope == pytest.approx((spectrum.error(0.0601) - spectrum.error(0.0599)) / 2e-4, rel=1e-3)
    for i in (0, 100, 299):
        more = residuals / 300
        more[i] += 1e-6
        moved = smooth._Spectrum.of(p, more, 2**14).error(0.06) - spectrum.error(0.06)
        assert moved == pytest.approx(1e-6 * influence[i, 0], rel=1e-3)
    found = smooth_calibration_error(z, y, over="classwise")
    slope, influence = spectrum.slopes(float(found), p)
    error = (residuals * influence).std(ddof=1) / np.sqrt(300) / (1 - slope)
    assert slope < -0.1
    assert found.high == pytest.approx(found + 1.959964 * error, abs=1e-4 * error + found.bound)
