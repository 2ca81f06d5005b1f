"""Spiegelhalter's test and calibration slopes against plain formulas, scikit-learn's regression and simulation."""

import mpmath
import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from tasks import GUO, decisions, densenet, every_task, sample

import lastlayer as ll
from lastlayer.measure.recalibration import calibration_slope, spiegelhalter


def test_spiegelhalter_of_two_classes_is_the_formula_of_1986():
    z, y, p, occurs = sample("binary", n=100, seed=1)
    p, occurs = p[:, 0], occurs[:, 0]
    want = ((occurs - p) * (1 - 2 * p)).sum() / np.sqrt(((1 - 2 * p) ** 2 * p * (1 - p)).sum())
    found = spiegelhalter(z, y)
    assert found.z == pytest.approx(want, rel=1e-12)
    assert spiegelhalter(np.stack([np.zeros(100), z], 1), y).z == pytest.approx(want, rel=1e-12)


def test_spiegelhalter_of_more_is_the_brier_score_against_its_expectation():
    z, y, p, _ = sample("multiclass", n=100, seed=2)
    square = (p**2).sum(1)
    by_class = 1 - 2 * p + square[:, None]  # the Brier score if class k comes true
    expected = (p * by_class).sum(1)
    variance = (p * (by_class - expected[:, None]) ** 2).sum(1)
    seen = by_class[np.arange(100), y]
    want = (seen - expected).sum() / np.sqrt(variance.sum())
    assert spiegelhalter(z, y).z == pytest.approx(want, rel=1e-11)
    assert ll.brier(z, y) == pytest.approx(seen.mean(), rel=1e-12)


def test_spiegelhalter_keeps_the_tail_where_probabilities_round_to_1():
    """All of 4 rows right: z is minus the root of n times p / (1 - p), 1e-10 at a gap of 46."""
    with mpmath.workdps(60):
        tail = mpmath.exp(-46) / (1 + mpmath.exp(-46))
        want = float(-mpmath.sqrt(4 * tail / (1 - tail)))
    assert spiegelhalter([46.0] * 4, [1] * 4).z == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_spiegelhalter_of_true_probabilities_is_normal(task):
    found = [spiegelhalter(*sample(task, n=500, seed=s)[:2]) for s in range(400)]
    assert kstest([f.z for f in found], "norm").pvalue > 0.01
    assert kstest([f.p_value for f in found], "uniform").pvalue > 0.01
    assert spiegelhalter(*sample(task, n=500, seed=0, sharpness=2.0)[:2]).z > 5
    assert spiegelhalter(*sample(task, n=500, seed=0, sharpness=0.5)[:2]).z < -3


def test_spiegelhalter_at_its_edges():
    assert spiegelhalter([np.inf, 1.0], [0, 1]).z > 2
    assert spiegelhalter([np.inf], [0]) == (np.inf, 0)
    assert spiegelhalter([np.inf], [1]) == (0, 1)
    assert np.isnan(spiegelhalter([np.nan, 1.0], [0, 1]).z)
    assert spiegelhalter([np.nan, 1.0], [0, 1], weight=[0, 1]).z == spiegelhalter([1.0], [1]).z
    z, y, *_ = sample("multiclass", n=50)
    assert spiegelhalter(z, y, weight=np.full(50, 3.0)).z == pytest.approx(spiegelhalter(z, y).z, rel=1e-12)
    with pytest.raises(ValueError, match="spiegelhalter: labels are not exclusive"):
        spiegelhalter(*sample("multilabel")[:2])


def regression(x, y, w=None):
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(x.reshape(-1, 1), y, sample_weight=w)
    return fit.coef_[0, 0], fit.intercept_[0]


@every_task
def test_the_line_is_scikit_learns(task):
    rows = sample(task, n=400, seed=3, sharpness=1.7)
    z, y, p, occurs = rows
    odds = np.log(p) - np.log1p(-p)
    found = calibration_slope(z, y)
    assert (found.slope, found.intercept) == pytest.approx(regression(odds.ravel(), occurs.ravel()), abs=2e-5)
    confidence, hits = (a.ravel() for a in decisions(task, *rows))
    found = calibration_slope(z, y, over="top")
    want = regression(np.log(confidence) - np.log1p(-confidence), hits)
    assert (found.slope, found.intercept) == pytest.approx(want, abs=2e-5)
    w = np.random.default_rng(0).choice([0.0, 0.5, 2.0], 400)
    each = np.repeat(w, p.shape[1])
    want = regression(odds.ravel()[each > 0], occurs.ravel()[each > 0], each[each > 0])
    found = calibration_slope(z, y, weight=w)
    assert (found.slope, found.intercept) == pytest.approx(want, abs=2e-5)


def test_in_the_large_makes_the_mean_probability_the_frequency():
    z, y, *_ = sample("binary", n=400, seed=4)
    d = calibration_slope(z + 1.0, y).in_the_large
    assert (1 / (1 + np.exp(-(z + 1.0 + d)))).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert d.high < 0


@pytest.mark.parametrize("sharpness", [1.0, 2.5])
def test_intervals_of_slope_and_intercept_cover(sharpness):
    """Of a true model slope 1 and intercept 0; of one too sure by 2.5, slope 0.4 and a line all the same."""
    found = [calibration_slope(*sample("binary", n=500, seed=s, sharpness=sharpness)[:2]) for s in range(200)]
    for name, truth in (("slope", 1 / sharpness), ("intercept", 0.0), ("in_the_large", 0.0)):
        covered = sum(getattr(f, name).low <= truth <= getattr(f, name).high for f in found)
        assert covered >= 181


def test_intervals_cover_where_labels_of_a_row_move_together():
    """One label ten times: the slope is known as well as from one."""
    once, ten = [], []
    for s in range(20):
        z, y, *_ = sample("binary", n=300, seed=s)
        once.append(calibration_slope(z, y).slope)
        ten.append(calibration_slope(np.tile(z[:, None], 10), np.tile(y[:, None], 10)).slope)
    for a, b in zip(once, ten, strict=True):
        assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-9)


def test_separated_rows_and_rows_of_one_kind():
    apart = calibration_slope([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
    assert apart.slope == np.inf and np.isnan(apart.intercept) and np.isfinite(apart.in_the_large)
    assert calibration_slope([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0]).slope == -np.inf
    one_kind = calibration_slope([1.0, 2.0], [1, 1])
    assert np.isnan(one_kind.slope) and one_kind.in_the_large == np.inf
    assert calibration_slope([1.0, 2.0], [0, 0]).in_the_large == -np.inf
    same = calibration_slope([1.0, 1.0, 1.0, 1.0], [1, 0, 1, 1])
    assert np.isnan(same.slope) and same.in_the_large == pytest.approx(np.log(3) - 1)


def test_infinite_log_odds_say_nothing_or_everything():
    z, y, *_ = sample("binary", n=100, seed=5)
    want = calibration_slope(z, y)
    found = calibration_slope(np.append(z, [np.inf, -np.inf]), np.append(y, [1, 0]))
    assert (found.slope, found.intercept) == pytest.approx((want.slope, want.intercept), rel=1e-9)
    wrong = calibration_slope(np.append(z, np.inf), np.append(y, 0))
    assert np.isnan([wrong.slope, wrong.intercept, wrong.in_the_large]).all()
    assert np.isnan(calibration_slope(np.append(z, np.nan), np.append(y, 0)).slope)
    left_out = calibration_slope(np.append(z, np.nan), np.append(y, 0), weight=np.append(np.ones(100), 0.0))
    assert left_out.slope == pytest.approx(want.slope, rel=1e-12)


def test_a_huge_scale_and_shift_still_converge():
    z, y, *_ = sample("binary", n=400, seed=6, sharpness=1.5)
    want = calibration_slope(z, y)
    assert calibration_slope(z * 1e6, y).slope == pytest.approx(want.slope / 1e6, rel=1e-8)
    assert calibration_slope(z + 500.0, y).slope == pytest.approx(want.slope, rel=1e-8)


def test_real_logits(shared_data):
    """Temperature scaling multiplies the slope by the temperature, and leaves the classes 10 % too sure."""
    before, after = (calibration_slope(*densenet(shared_data, t)).slope for t in (1.0, GUO))
    assert before == pytest.approx(0.3068, abs=1e-3)
    assert after.high < 1 and after > 0.85
    assert spiegelhalter(*densenet(shared_data)).z > 50
