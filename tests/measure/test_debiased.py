"""Debiased calibration errors against their formulas, and against the truth of simulated models."""

import numpy as np
import pytest
from scipy.stats import foldnorm
from tasks import GUO, decisions, densenet, every_task, sample

import lastlayer as ll
from lastlayer.measure.debiased import debiased_calibration_error


def equal_count_bins(confidence, hits, bins):
    order = np.argsort(confidence)
    return [(confidence[part], hits[part]) for part in np.array_split(order, bins)]


def l2_plainly(parts):
    n = sum(len(c) for c, _ in parts)
    total = 0.0
    for c, h in parts:
        frequency = h.mean()
        total += len(c) / n * ((frequency - c.mean()) ** 2 - frequency * (1 - frequency) / (len(c) - 1))
    return np.sqrt(max(total, 0.0))


def l1_plainly(parts):
    n = sum(len(c) for c, _ in parts)
    total = 0.0
    for c, h in parts:
        gap, error = abs(h.mean() - c.mean()), np.sqrt(h.mean() * (1 - h.mean()) / (len(c) - 1))
        total += len(c) / n * (2 * gap - (foldnorm(gap / error, scale=error).mean() if error else gap))
    return max(total, 0.0)


@every_task
@pytest.mark.parametrize(("norm", "plainly"), [("l2", l2_plainly), ("l1", l1_plainly)])
def test_the_formula_with_bins_of_equal_counts(task, norm, plainly):
    rows = sample(task, n=300, seed=1, sharpness=2.0)
    confidence, hits = decisions(task, *rows)
    want = plainly(equal_count_bins(confidence.ravel(), hits.ravel(), 10))
    assert debiased_calibration_error(*rows[:2], bins=10, norm=norm) == pytest.approx(want, abs=1e-12)
    columns = zip(rows[2].T, rows[3].T, strict=True)
    by_class = [plainly(equal_count_bins(p, y, 10)) for p, y in columns]
    found = debiased_calibration_error(*rows[:2], bins=10, norm=norm, over="classwise")
    assert found == pytest.approx(np.mean(by_class), abs=1e-12)


def test_a_bin_of_one_row_adds_nothing():
    z, y = np.array([2.0, 2.0, 2.0, 2.0, -0.5]), np.array([1, 1, 1, 0, 1])
    p = 1 / (1 + np.exp(-2.0))
    want = np.sqrt(max(0.0, 0.8 * ((0.75 - p) ** 2 - 0.75 * 0.25 / 3)))
    assert debiased_calibration_error(z, y, scheme="width") == pytest.approx(want, abs=1e-15)


def test_the_square_has_no_bias_where_the_plain_one_has():
    """Of a calibrated model at 390 rows: plain, 15 bins show over 0.05; corrected, the mean square is 0."""
    squares, plain = [], []
    for seed in range(300):
        z, y, p, occurs = sample("multiclass", n=390, seed=seed)
        confidence, hits = decisions("multiclass", z, y, p, occurs)
        parts = equal_count_bins(confidence, hits, 15)
        gaps = [(h.mean() - c.mean()) ** 2 - h.mean() * (1 - h.mean()) / (len(h) - 1) for c, h in parts]
        shares = [len(h) / 390 for _, h in parts]
        found = float(debiased_calibration_error(z, y))
        assert found == pytest.approx(np.sqrt(max(np.dot(shares, gaps), 0.0)), abs=1e-9)
        squares.append(np.dot(shares, gaps))
        plain.append(float(ll.calibration_error(z, y, scheme="mass", norm="l2")))
    assert abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(300)
    assert np.mean(plain) > 0.05


def test_l1_loses_two_fifths_of_what_chance_adds():
    found = [debiased_calibration_error(*sample("binary", n=600, seed=s)[:2], norm="l1") for s in range(200)]
    plain = [ll.calibration_error(*sample("binary", n=600, seed=s)[:2], scheme="mass") for s in range(200)]
    assert 0.5 < np.mean(found) / np.mean(plain) < 0.68


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("sharpness", [1.0, 1.5, 3.0])
def test_the_interval_covers_the_error_of_these_bins(norm, sharpness):
    z, y, *_ = sample("binary", n=200_000, seed=99, sharpness=sharpness)
    truth = float(debiased_calibration_error(z, y, norm=norm))
    covered = 0
    for seed in range(200):
        found = debiased_calibration_error(*sample("binary", n=1000, seed=seed, sharpness=sharpness)[:2], norm=norm)
        assert found.low <= found <= found.high
        covered += found.low <= truth + 0.002 and truth <= found.high
    assert covered >= 180


def test_a_weight_of_all_rows_changes_nothing_and_0_leaves_out():
    z, y, *_ = sample("multiclass", n=300, sharpness=2.0)
    want = debiased_calibration_error(z, y)
    heavy = debiased_calibration_error(z, y, weight=np.full(300, 7.0))
    assert (heavy, heavy.low, heavy.high) == pytest.approx((want, want.low, want.high), rel=1e-12)
    spoiled = np.concatenate([z, np.full((1, 4), np.nan)])
    left_out = debiased_calibration_error(spoiled, np.append(y, 0), weight=np.append(np.ones(300), 0.0))
    assert left_out == pytest.approx(want, rel=1e-12)
    assert np.isnan(debiased_calibration_error(spoiled, np.append(y, 0)))


@pytest.mark.parametrize("wrong", [{"scheme": "equal"}, {"norm": "max"}, {"over": "all"}, {"bins": 0}])
def test_what_it_does_not_know_is_refused(wrong):
    with pytest.raises(ValueError, match=f"debiased_calibration_error: {next(iter(wrong))} is"):
        debiased_calibration_error([[0.0, 1.0]], [0], **wrong)


def test_real_logits_after_temperature_scaling(shared_data):
    """Above the plain l2 it cannot be; a temperature leaves an error that chance does not explain."""
    z, y = densenet(shared_data, GUO)
    found, plain = debiased_calibration_error(z, y), ll.calibration_error(z, y, scheme="mass", norm="l2")
    confidence = np.array(ll.softmax(z)).max(1)
    hits = (z.argmax(1) == y).astype(float)
    parts = np.array_split(np.argsort(ll.log_odds(z)), 15)
    want = l2_plainly([(confidence[part], hits[part]) for part in parts])
    assert found == pytest.approx(want, abs=1e-4)  # 10,000 rows are no multiple of 15: one row per bin may differ
    assert 0 < found < plain
