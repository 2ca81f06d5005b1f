"""Decompositions of scores: by a plain loop over bins, by pooling adjacent violators by hand, and their sums."""

import itertools

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from tasks import GUO, densenet, every_task, sample

import lastlayer as ll
from lastlayer.measure.decompose import brier_decomposition, score_decomposition


@every_task
@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize("debias", [False, True])
def test_the_parts_add_up_to_the_brier_score(task, scheme, debias):
    z, y, *_ = sample(task, n=200, seed=1)
    w = np.random.default_rng(0).choice([0.0, 0.5, 2.0], 200)
    for weight in (None, w):
        parts = brier_decomposition(z, y, scheme=scheme, debias=debias, weight=weight)
        assert parts.brier == pytest.approx(ll.brier(z, y, weight=weight), abs=1e-13)
        whole = parts.reliability - parts.resolution + parts.uncertainty
        whole += parts.within_bin_variance - parts.within_bin_covariance
        assert whole == pytest.approx(parts.brier, abs=1e-15)


def murphy(p, y, edges):
    """Reliability, resolution, uncertainty and the terms within bins, by a loop."""
    base, parts = y.mean(), np.zeros(5)
    parts[2] = base * (1 - base)
    for low, high in itertools.pairwise(edges):
        inside = (p > low) & (p <= high)
        if inside.any():
            share, c, h = inside.mean(), p[inside].mean(), y[inside].mean()
            parts[0] += share * (c - h) ** 2
            parts[1] += share * (h - base) ** 2
            parts[3] += share * ((p[inside] - c) ** 2).mean()
            parts[4] += share * 2 * ((p[inside] - c) * (y[inside] - h)).mean()
    return parts


@every_task
def test_each_part_is_its_definition(task):
    z, y, p, occurs = sample(task, n=200, seed=2)
    want = sum(murphy(p[:, k], occurs[:, k], np.linspace(0, 1, 11)) for k in range(p.shape[1]))
    assert tuple(brier_decomposition(z, y, bins=10)) == pytest.approx(tuple(want), abs=1e-13)


def test_the_debiased_reliability_of_a_calibrated_model_is_0_on_average():
    found = [brier_decomposition(*sample("binary", n=300, seed=s)[:2], debias=True).reliability for s in range(300)]
    plain = [brier_decomposition(*sample("binary", n=300, seed=s)[:2]).reliability for s in range(300)]
    # Within bins 1 / 15 wide probabilities and frequencies differ a little even so.
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300) + 1e-5
    assert np.mean(plain) > 0.005


def test_debiasing_by_hand():
    """Two bins of 4 rows: 1/4 and 3/4 hits. The chance in each is 3/16/3, and of the whole 1/4/7."""
    z, y = np.repeat([-1.0, 1.0], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0])
    plain, parts = brier_decomposition(z, y), brier_decomposition(z, y, debias=True)
    assert parts.reliability == pytest.approx(plain.reliability - 1 / 16, abs=1e-15)
    assert parts.resolution == pytest.approx(1 / 16 - 1 / 16 + 1 / 28, abs=1e-15)
    assert parts.uncertainty == pytest.approx(1 / 4 + 1 / 28, abs=1e-15)


@every_task
@pytest.mark.parametrize("score", ["nll", "brier"])
def test_isotonic_parts_are_scikit_learns(task, score):
    z, y, p, occurs = sample(task, n=200, seed=3, sharpness=2.0)
    if task == "multiclass" and score == "nll":
        with pytest.raises(ValueError, match="isotonic maps of several classes give no distribution"):
            score_decomposition(z, y)
        return
    parts = score_decomposition(z, y, score=score)
    best, base = np.zeros(200), np.zeros(200)
    for k in range(p.shape[1]):
        q = IsotonicRegression().fit_transform(p[:, k], occurs[:, k])
        share = occurs[:, k].mean()
        for total, prob in ((best, q), (base, np.full(200, share))):
            own = np.where(occurs[:, k] == 1, prob, 1 - prob)
            total += -np.log(own) if score == "nll" else (1 - own) ** 2
    plain = ll.nll(z, y) if score == "nll" else ll.brier(z, y)
    assert parts.score == pytest.approx(plain, abs=1e-12)
    assert parts.miscalibration == pytest.approx(plain - best.mean(), abs=1e-10)
    assert parts.discrimination == pytest.approx((base - best).mean(), abs=1e-10)
    assert parts.score == pytest.approx(parts.miscalibration - parts.discrimination + parts.uncertainty, abs=1e-12)
    assert parts.miscalibration > 0 and parts.discrimination > 0
    assert parts.refinement == pytest.approx(best.mean(), abs=1e-10)


def test_a_calibrator_of_other_rows_takes_a_score_apart():
    """Overconfident by a factor of 2: what dividing by it saves is the miscalibration, and doubling it does harm."""
    z, y, *_ = sample("multiclass", n=4000, seed=4, sharpness=2.0)
    parts = score_decomposition(z, y, recalibrated=z / 2)
    assert parts.miscalibration == pytest.approx(ll.nll(z, y) - ll.nll(z / 2, y), abs=1e-12)
    assert parts.miscalibration.low > 0
    shares = np.bincount(y) / len(y)
    assert parts.uncertainty == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-12)
    assert score_decomposition(z, y, recalibrated=2 * z).miscalibration.high < 0


def test_impossible_targets_and_rows_that_are_not_known():
    parts = score_decomposition([np.inf, -1.0, 1.0], [0, 0, 1])
    assert parts.score == np.inf and parts.miscalibration == np.inf and np.isfinite(parts.discrimination)
    assert np.isnan(score_decomposition([np.nan, 1.0], [0, 1]).miscalibration)
    kept = score_decomposition([np.nan, -1.0, 1.0], [0, 0, 1], weight=[0, 1, 1])
    assert kept.discrimination == pytest.approx(np.log(2), abs=1e-12)
    assert np.isnan(brier_decomposition([np.nan, 1.0], [0, 1]).reliability)
    with pytest.raises(ValueError, match="score_decomposition: score is one of 'nll', 'brier'"):
        score_decomposition([1.0], [1], score="spherical")
    with pytest.raises(ValueError, match="brier_decomposition: bins is at least 1"):
        brier_decomposition([1.0], [1], bins=0)


def test_real_logits(shared_data):
    """The Brier score of the published table, .127379, and what a temperature takes off it is all calibration."""
    z, y = densenet(shared_data)
    before, after = brier_decomposition(z, y), brier_decomposition(*densenet(shared_data, GUO))
    assert before.brier == pytest.approx(0.127379, abs=1e-6)
    assert before.brier - after.brier == pytest.approx(0.127379 - 0.109975, abs=2e-6)
    assert after.reliability < before.reliability / 3
    parts = score_decomposition(z, y, recalibrated=z / GUO)
    assert parts.miscalibration == pytest.approx(0.430059 - 0.225086, abs=2e-6)
    assert parts.uncertainty == pytest.approx(np.log(10), abs=1e-12)
