"""KS and Kuiper calibration errors by a plain loop; their p-values against simulated Brownian motion and real tests."""

import numpy as np
import pytest
from scipy.stats import kstest
from tasks import GUO, decisions, densenet, every_task, sample

import lastlayer as ll
from lastlayer.measure.cumulative import (
    brownian_maximum,
    brownian_range,
    ks_calibration_error,
    kuiper_calibration_error,
)


def drift(p, hits):
    """Partial sums of hits minus probabilities, where the probability changes, and 0 before the first."""
    values, total = [0.0], 0.0
    for p_level in np.unique(p):
        total += (hits[p == p_level] - p_level).sum()
        values.append(total / len(p))
    return np.array(values)


@every_task
def test_both_errors_are_those_of_a_plain_loop(task):
    rows = sample(task, n=200, seed=5, sharpness=2.0)
    confidence, hits = (a.ravel() for a in decisions(task, *rows))
    path = drift(confidence, hits)
    ks, kuiper = ks_calibration_error(*rows[:2]), kuiper_calibration_error(*rows[:2])
    assert ks.error == pytest.approx(np.abs(path).max(), abs=1e-13)
    assert kuiper.error == pytest.approx(np.ptp(path), abs=1e-13)
    if task != "multilabel":
        scale = np.sqrt((confidence * (1 - confidence)).sum()) / len(hits)
        assert ks.statistic == pytest.approx(np.abs(path).max() / scale, rel=1e-12)
        assert kuiper.statistic == pytest.approx(np.ptp(path) / scale, rel=1e-12)
        assert ks.p_value == brownian_maximum(ks.statistic)
    else:
        assert np.isnan([ks.statistic, ks.p_value]).all()


def test_classwise_is_the_mean_error_and_the_least_p_value_times_the_classes():
    z, y, p, occurs = sample("multiclass", n=300, seed=6, sharpness=1.3)
    found = ks_calibration_error(z, y, over="classwise")
    paths = [drift(p[:, k], occurs[:, k]) for k in range(4)]
    assert found.error == pytest.approx(np.mean([np.abs(path).max() for path in paths]), abs=1e-13)
    scales = np.sqrt((p * (1 - p)).sum(0)) / 300
    tails = [brownian_maximum(np.abs(path).max() / s) for path, s in zip(paths, scales, strict=True)]
    assert found.p_value == pytest.approx(min(1.0, 4 * min(tails)), rel=1e-9)


@pytest.mark.parametrize("measure", [ks_calibration_error, kuiper_calibration_error])
def test_tied_rows_are_one_level_in_any_order(measure):
    z, y = np.round(sample("binary", n=100, seed=7)[0]), sample("binary", n=100, seed=7)[1]
    want = measure(z, y)
    order = np.random.default_rng(1).permutation(100)
    found = measure(z[order], y[order])
    assert found.error == pytest.approx(want.error, abs=1e-15)
    assert found.p_value == pytest.approx(want.p_value, rel=1e-9)


@pytest.mark.parametrize("measure", [ks_calibration_error, kuiper_calibration_error])
def test_p_values_of_calibrated_models_are_uniform(measure):
    """At 5 % and 20 %, and as a whole; a path of 2,000 steps stays a little inside Brownian motion."""
    found = [measure(*sample("binary", n=2000, seed=s)[:2], over="classwise").p_value for s in range(400)]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08
    assert 0.14 <= np.mean(np.array(found) <= 0.2) <= 0.26
    assert kstest(found, "uniform").statistic < 0.09
    tilted = [measure(*sample("binary", n=2000, seed=s, sharpness=1.5)[:2]).p_value for s in range(20)]
    assert max(tilted) < 1e-3


@pytest.mark.parametrize(("tail", "extent"), [(brownian_maximum, "max"), (brownian_range, "range")])
def test_tails_are_those_of_simulated_brownian_motion(tail, extent):
    rng = np.random.default_rng(0)
    steps = rng.choice([-1.0, 1.0], size=(4000, 2500)) / 50
    path = np.cumsum(steps, 1)
    top, bottom = np.maximum(path.max(1), 0), np.minimum(path.min(1), 0)
    seen = np.maximum(top, -bottom) if extent == "max" else top - bottom
    for x in (0.6, 1.0, 1.5, 2.0, 2.8):
        # a walk of 2,500 steps falls short of the motion between its steps by 0.58 / 50 at each end
        low, high = tail(x + 0.04), tail(x)
        error = 3 * np.sqrt(high * (1 - high) / 4000) + 1e-3
        assert low - error <= (seen >= x).mean() <= high + error


@pytest.mark.parametrize("x", [0.5, 1.0, 2.0])
def test_tails_agree_with_their_other_series(x):
    """The theta functions' transforms: Feller 1971, X.5, and his range of 1951, which converge from the other side."""
    k = np.arange(50)
    odd = (2 * k + 1) ** 2 * np.pi**2
    inside = (4 / np.pi * (-1.0) ** k / (2 * k + 1) * np.exp(-odd / (8 * x * x))).sum()
    assert brownian_maximum(x) == pytest.approx(1 - inside, abs=1e-12)
    inside = (8 * (1 / x**2 + 1 / odd) * np.exp(-odd / (2 * x * x))).sum()
    assert brownian_range(x) == pytest.approx(1 - inside, abs=1e-12)


def test_tails_go_from_1_to_0():
    for tail in (brownian_maximum, brownian_range):
        assert tail(0.0) == pytest.approx(1, abs=1e-10) and tail(0.0) <= 1
        assert 0 < tail(12.0) < 1e-30
        assert tail(np.inf) == 0
        values = [tail(x) for x in np.linspace(0, 6, 200)]
        assert (np.diff(values) <= 1e-10).all()


def test_rows_that_cannot_err_and_rows_that_are_not_known():
    sure = ks_calibration_error([np.inf, -np.inf], [1, 0])
    assert (sure.error, sure.statistic, sure.p_value) == (0, 0, 1)
    wrong = ks_calibration_error([np.inf, -np.inf], [0, 0])
    assert (wrong.error, wrong.statistic, wrong.p_value) == (0.5, np.inf, 0)
    assert np.isnan(ks_calibration_error([np.nan, 1.0], [0, 0]).error)
    assert ks_calibration_error([np.nan, 1.0], [0, 1], weight=[0, 1]).error == pytest.approx(1 / (1 + np.e))


def test_a_weight_of_all_changes_nothing_and_weights_are_shares():
    z, y, *_ = sample("binary", n=100, seed=8)
    want = kuiper_calibration_error(z, y)
    heavy = kuiper_calibration_error(z, y, weight=np.full(100, 3.0))
    assert heavy.error == pytest.approx(want.error, rel=1e-12)
    assert heavy.statistic == pytest.approx(want.statistic, rel=1e-12)
    w = np.random.default_rng(2).integers(0, 4, 100)
    repeated = kuiper_calibration_error(np.repeat(z, w), np.repeat(y, w))
    assert kuiper_calibration_error(z, y, weight=w).error == pytest.approx(repeated.error, rel=1e-12)


@pytest.mark.parametrize("measure", [ks_calibration_error, kuiper_calibration_error])
def test_the_interval_covers_the_error_of_an_overconfident_model(measure):
    truth = float(measure(*sample("binary", n=300_000, seed=9, sharpness=3.0)[:2]).error)
    found = [measure(*sample("binary", n=1000, seed=s, sharpness=3.0)[:2]).error for s in range(200)]
    assert sum(m.low <= truth <= m.high for m in found) >= 180


def test_published_ks_errors_of_densenet40(shared_data):
    """Gupta et al. 2021: 5.493 % before and 0.900 % after temperature scaling (0.8992 with the digits kept)."""
    assert ks_calibration_error(*densenet(shared_data)).error == pytest.approx(0.054931, abs=1e-6)
    after = ks_calibration_error(*densenet(shared_data, GUO))
    assert after.error == pytest.approx(0.008992, abs=1e-6)
    assert after.p_value < 1e-3  # what temperature scaling leaves is no accident
    z, y = densenet(shared_data)
    p = np.array(ll.softmax(z)).max(1)
    assert np.abs(drift(p, (z.argmax(1) == y).astype(float))).max() == pytest.approx(0.054931, abs=1e-6)


def test_the_interval_is_that_of_the_mean_up_to_where_the_gap_is_largest():
    """Half of the rows too low by far, then half too high by less: the path turns after the first level."""
    z, y = np.repeat([-1.0, 1.0], 20), np.tile([1, 1, 1, 0], 10)
    y[20:] = np.tile([1, 0], 10)
    p = 1 / (1 + np.exp(-z))
    part = np.where(z < 0, y - p, 0.0)
    error = part.std(ddof=1) / np.sqrt(40)
    found = ks_calibration_error(z, y, over="classwise").error
    assert found == pytest.approx(part.mean(), abs=1e-14)
    assert (found.low, found.high) == pytest.approx(
        (part.mean() - 1.959964 * error, part.mean() + 1.959964 * error), abs=1e-6
    )
    turned = kuiper_calibration_error(z, y, over="classwise").error
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high), abs=1e-12)
