"""Points of reliability diagrams against plain loops, and their intervals against scipy's and simulation."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from tasks import decisions, every_task, sample

import lastlayer as ll
from lastlayer.measure.reliability import reliability


@every_task
def test_bins_of_the_predicted_class_are_a_plain_loop(task):
    rows = sample(task, n=200, seed=1)
    confidence, hits = (a.ravel() for a in decisions(task, *rows))
    found = reliability(*rows[:2], bins=10)
    assert len(found) == 10
    for (low, high), row in zip(itertools.pairwise(np.linspace(0, 1, 11)), found, strict=True):
        inside = (confidence > low) & (confidence <= high)
        assert (row.low, row.high, row.share) == pytest.approx((low, high, inside.mean()), abs=1e-12)
        if inside.any():
            assert row.confidence == pytest.approx(confidence[inside].mean(), abs=1e-12)
            assert row.accuracy == pytest.approx(hits[inside].mean(), abs=1e-12)
            if task != "multilabel":
                ends = binomtest(int(hits[inside].sum()), int(inside.sum())).proportion_ci(method="wilson")
                assert (row.accuracy.low, row.accuracy.high) == pytest.approx((ends.low, ends.high), abs=1e-12)
                assert row.accuracy.n == inside.sum()
        else:
            assert np.isnan(row.confidence) and np.isnan(row.accuracy)


def test_the_bins_are_those_of_the_calibration_error():
    z, y, *_ = sample("multiclass", n=300, seed=2)
    for scheme in ("width", "mass"):
        error = sum(b.share * abs(b.accuracy - b.confidence) for b in reliability(z, y, scheme=scheme) if b.share)
        assert error == pytest.approx(ll.calibration_error(z, y, scheme=scheme), abs=1e-12)


def test_one_class_and_the_two_sides_of_a_binary_task():
    z, y, p, occurs = sample("multiclass", n=300, seed=3)
    row = reliability(z, y, of=2, bins=1)[0]
    assert (row.confidence, float(row.accuracy)) == pytest.approx((p[:, 2].mean(), occurs[:, 2].mean()), abs=1e-12)
    z, y, p, _ = sample("binary", n=300, seed=4)
    (positive,), (negative,) = reliability(z, y, of=1, bins=1), reliability(z, y, of=0, bins=1)
    assert positive.confidence == pytest.approx(p.mean(), abs=1e-12)
    assert (negative.confidence, float(negative.accuracy)) == pytest.approx((1 - p.mean(), 1 - y.mean()), abs=1e-12)
    for of in (4, -1, 1.0, True):
        with pytest.raises(ValueError, match="reliability: of is None or the index of one of 4 classes"):
            reliability(*sample("multiclass")[:2], of=of)


def test_bins_of_equal_mass_go_from_least_to_largest():
    z, y, p, _ = sample("binary", n=200, seed=5)
    rows = reliability(z, y, of=1, bins=10, scheme="mass")
    order = np.sort(p[:, 0]).reshape(10, 20)
    assert rows[0].low == pytest.approx(order[0, 0], abs=1e-15)
    assert [row.high for row in rows] == pytest.approx(order[:, -1].tolist(), abs=1e-15)
    assert [row.low for row in rows[1:]] == [row.high for row in rows[:-1]]
    assert {row.accuracy.n for row in rows} == {20}
    tied = reliability([0.0] * 8 + [1.0] * 2, [0, 1] * 5, of=1, bins=5, scheme="mass")
    assert [round(row.share, 12) for row in tied] == [0.8, 0, 0, 0, 0.2]
    assert all(row.low <= row.high for row in tied)


def test_intervals_at_once_are_bonferronis():
    z, y, *_ = sample("multiclass", n=300, seed=6)
    each, together = reliability(z, y, bins=10), reliability(z, y, bins=10, at_once=True)
    occupied = sum(row.share > 0 for row in each)
    level = 1 - 0.05 / occupied
    for a, b in zip(each, together, strict=True):
        if a.share:
            k = round(a.accuracy * a.accuracy.n)
            ends = binomtest(k, a.accuracy.n).proportion_ci(level, method="wilson")
            assert (b.accuracy.low, b.accuracy.high) == pytest.approx((ends.low, ends.high), abs=1e-9)
    assert norm.ppf(1 - 0.025 / occupied) > 2.5


def test_intervals_at_once_hold_at_once():
    """Of a calibrated model, whose frequencies are its confidences but for the rows drawn."""
    missed = {False: 0, True: 0}
    for seed in range(200):
        z, y, *_ = sample("binary", n=2000, seed=seed)
        for at_once in missed:
            rows = reliability(z, y, of=1, bins=10, at_once=at_once)
            missed[at_once] += any(not r.accuracy.low <= r.confidence <= r.accuracy.high for r in rows)
    assert missed[True] <= 18 and missed[False] > 40


def test_weights_and_rows_left_out():
    z, y, *_ = sample("binary", n=100, seed=7)
    want = reliability(z, y)
    found = reliability(np.append(z, np.nan), np.append(y, 0), weight=np.append(np.full(100, 2.0), 0.0))
    for a, b in zip(want, found, strict=True):
        assert a[:4] == pytest.approx(b[:4], nan_ok=True)
        assert (a.accuracy.low, a.accuracy.high) == pytest.approx((b.accuracy.low, b.accuracy.high))
    with pytest.raises(ValueError, match="reliability: bins is at least 1"):
        reliability(z, y, bins=0)
    with pytest.raises(ValueError, match="reliability: scheme is"):
        reliability(z, y, scheme="equal")
