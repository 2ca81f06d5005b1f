"""A number with its interval."""

import copy
import json
import pickle

import numpy as np
import pytest
from scipy.stats import binomtest

from lastlayer.measure.metric import Z95, Metric, normal, on_logit_scale, wilson


def test_a_metric_is_its_value_and_survives_copies():
    metric = Metric(0.25, 0.2, 0.3, 100, bound=0.01)
    assert metric == metric.value == 0.25
    assert metric + 1 == 1.25
    assert repr(metric) == "Metric(0.25, low=0.2, high=0.3, n=100)"
    for twin in (copy.copy(metric), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert type(twin) is Metric
        assert (twin.value, twin.low, twin.high, twin.n, twin.bound) == (0.25, 0.2, 0.3, 100, 0.01)


def test_to_dict_is_strict_json():
    assert Metric(0.5, 0.25, 1.0, 4).to_dict() == {"value": 0.5, "low": 0.25, "high": 1.0, "n": 4}
    assert Metric(0.5, 0.25, 1.0, 4, bound=0.125).to_dict()["bound"] == 0.125
    record = Metric(np.inf, 0.0, np.inf, 4).to_dict()
    assert record == {"value": None, "low": 0.0, "high": None, "n": 4}
    json.dumps(record, allow_nan=False)
    assert Metric(np.nan, 0.0, 1.0, 0).to_dict()["value"] is None


@pytest.mark.parametrize("hits,n", [(0, 1), (0, 20), (1, 20), (13, 20), (20, 20), (70, 1000)])
def test_wilson_is_the_score_interval(hits, n):
    want = binomtest(hits, n).proportion_ci(method="wilson")
    found = wilson(hits / n, n, n)
    assert (found.value, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((want.low, want.high), abs=1e-12)


def test_wilson_without_rows_knows_nothing():
    found = wilson(np.nan, 0.0, 0)
    assert np.isnan(found)
    assert (found.low, found.high) == (0, 1)


def test_normal_stays_in_range_and_an_unknown_error_leaves_all_of_it():
    assert (normal(1.0, 0.5, 9).low, normal(1.0, 0.5, 9).high) == (1 - Z95 / 2, 1 + Z95 / 2)
    assert (normal(0.1, 0.5, 9, 0.0, 1.0).low, normal(0.1, 0.5, 9, 0.0, 1.0).high) == (0.0, 1.0)
    for value, error in ((0.3, np.inf), (np.inf, np.inf), (np.inf, np.nan), (np.nan, np.nan)):
        metric = normal(value, error, 1, 0.0)
        assert (metric.low, metric.high) == (0.0, np.inf)


def test_on_logit_scale_is_symmetric_in_log_odds_and_adds_the_bound():
    def logit(p):
        return np.log(p / (1 - p))

    area = on_logit_scale(0.9, 0.02, 100, 40)
    assert logit(area.high) - logit(0.9) == pytest.approx(logit(0.9) - logit(area.low))
    assert logit(area.high) - logit(0.9) == pytest.approx(Z95 * 0.02 / (0.9 * 0.1))
    wider = on_logit_scale(0.9, 0.02, 100, 40, bound=0.01)
    assert (wider.low, wider.high) == pytest.approx((area.low - 0.01, area.high + 0.01))
    assert wider.bound == 0.01


def test_on_logit_scale_at_the_ends_is_the_exact_interval_of_no_event():
    room = 1 - 0.025 ** (1 / 40)  # of no event in 40 trials, one side 2.5 %
    top, bottom = on_logit_scale(1.0, 0.0, 100, 40), on_logit_scale(0.0, 0.0, 100, 40)
    assert (top.low, top.high) == pytest.approx((1 - room, 1.0))
    assert (bottom.low, bottom.high) == pytest.approx((0.0, room))
    assert binomtest(0, 40).proportion_ci(0.95, "exact").high == pytest.approx(room)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_end_that_is_the_share_is_not_past_it_by_rounding(share):
    for n in range(1, 3000):
        found = wilson(share, n, n)
        assert found.low <= share <= found.high
