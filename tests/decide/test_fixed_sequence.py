"""Thresholds tested in sequence: the exact test and its bound against SciPy, the start, the promise on hard laws."""

import numpy as np
import pytest
from scipy import stats

from lastlayer.decide import clopper_pearson
from lastlayer.decide._fixed_sequence import Steps, fewest_rows, highest_risk, p_value


@pytest.mark.parametrize("draw", [1.0, 0.3, 1e-6])
def test_the_p_value_is_the_randomised_binomial_test(draw):
    errors, accepted = np.array([0, 0, 1, 7, 40, 5]), np.array([0, 30, 30, 600, 5000, 5])
    written_out = stats.binom.cdf(errors - 1, accepted, 0.02) + draw * stats.binom.pmf(errors, accepted, 0.02)
    np.testing.assert_allclose(p_value(errors, accepted, 0.02, draw), written_out, rtol=1e-10)


@pytest.mark.parametrize(("errors", "accepted"), [(0, 10), (0, 600), (7, 600), (99, 100), (100, 100), (3, 1_000_000)])
@pytest.mark.parametrize("draw", [0.9, 0.3, 0.06])
def test_the_highest_risk_is_where_the_test_stops_passing(errors, accepted, draw):
    high = highest_risk(errors, accepted, 0.95, draw)
    assert high <= clopper_pearson(errors, accepted, 0.95).high
    if high < 1:
        assert float(p_value(errors, accepted, high, draw)) == pytest.approx(0.05, rel=1e-9)
    else:
        assert p_value(errors, accepted, 1.0, draw) >= 0.05


def test_without_a_draw_the_highest_risk_is_that_of_clopper_and_pearson():
    assert highest_risk(7, 600, 0.95) == clopper_pearson(7, 600, 0.95).high
    assert highest_risk(0, 20, 0.95, draw=0.04) == 0.0  # no error, and a draw that passes whatever the risk
    assert highest_risk(20, 20, 0.95, draw=0.5) == 1.0


def test_a_draw_makes_the_test_exact():
    rng = np.random.default_rng(0)
    errors, draws = rng.binomial(600, 0.02, 200_000), rng.random(200_000)
    passed = (p_value(errors, 600, 0.02, draws) <= 0.05).mean()
    assert passed == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 200_000))


def test_fewest_rows_pass_without_an_error():
    for risk in (0.005, 0.02, 0.3):
        rows = fewest_rows(risk, 0.95)
        assert (1 - risk) ** rows <= 0.05 < (1 - risk) ** (rows - 1)


def drawn(rng, law, rows):
    """Confidences and whether they are wrong."""
    confidence, rate = LAWS[law]
    c = confidence(rng, rows)
    return c, rng.random(rows) < rate(c)


def half_normal(mean, deviation):
    return lambda rng, rows: np.abs(rng.normal(mean, deviation, rows))


def wrong_at(sharpness):
    return lambda c: 1 / (1 + np.exp(sharpness * c))


LAWS = {
    "calibrated": (half_normal(3, 4), wrong_at(1.0)),
    "too sure": (half_normal(3, 4), wrong_at(0.7)),
    "poor": (half_normal(0, 2), wrong_at(1.0)),
    "ties": (lambda rng, rows: np.round(half_normal(3, 4)(rng, rows)), wrong_at(0.7)),
    "three values": (
        lambda rng, rows: rng.choice([1.0, 3.0, 6.0], rows, p=[0.3, 0.3, 0.4]),
        lambda c: np.where(c > 5, 0.004, np.where(c > 2, 0.05, 0.3)),
    ),
    "wrong at the top": (half_normal(3, 4), lambda c: np.where(c > 9, 0.06, wrong_at(1.0)(c))),
    "waves": (half_normal(3, 4), lambda c: np.minimum(wrong_at(1.0)(c) + 0.03 * (np.sin(3 * c) > 0), 1)),
    "all alike, just too often": (half_normal(3, 4), lambda c: np.full(len(c), 0.0205)),
    "all alike but for a band": (half_normal(3, 4), lambda c: np.where((c > 3) & (c < 4.5), 0.0, 0.03)),
}


def promise(law, rows, risk, runs):
    """How often the true risk of the threshold that is found exceeds the target, and what it is on average."""
    c, _ = drawn(np.random.default_rng(77), law, 1_000_000)
    c = np.sort(c)[::-1]
    true = np.cumsum(LAWS[law][1](c)) / np.arange(1, len(c) + 1)
    rng, realised = np.random.default_rng(5), []
    for _ in range(runs):
        steps = Steps.counted(*drawn(rng, law, rows))
        last = steps.reached(risk, 0.95)
        if last is not None:
            realised.append(true[np.searchsorted(-c, -steps.log_odds[last], side="right") - 1])
    realised = np.array([*realised, *[0.0] * (runs - len(realised))])
    return (realised > risk).mean(), realised.mean() / risk


CASES = [
    ("calibrated", 2000, 0.02, 0.6),
    ("too sure", 600, 0.1, 0.7),
    ("ties", 600, 0.1, 0.5),
    ("three values", 2000, 0.03, 0.3),
    ("poor", 20_000, 0.02, 0.5),
    ("wrong at the top", 3000, 0.04, 0.7),
    ("wrong at the top", 3000, 0.02, 0.2),
    ("waves", 3000, 0.04, 0.7),
    ("waves", 3000, 0.03, 0.5),
    ("all alike, just too often", 3000, 0.02, 0.0),
    ("all alike but for a band", 3000, 0.02, 0.0),
    ("all alike but for a band", 3000, 0.025, 0.0),
]


@pytest.mark.parametrize(("law", "rows", "risk", "least"), CASES)
def test_the_risk_is_exceeded_as_rarely_as_promised(law, rows, risk, least):
    exceeded, realised = promise(law, rows, risk, 100)
    assert exceeded <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
    assert realised >= least


@pytest.mark.slow
@pytest.mark.parametrize(("law", "rows", "risk", "least"), CASES)
def test_the_risk_is_exceeded_as_rarely_as_promised_in_a_thousand_runs(law, rows, risk, least):
    exceeded, realised = promise(law, rows, risk, 1000)
    assert exceeded <= 0.05
    assert realised >= least


def test_a_poor_model_has_its_threshold_where_few_rows_are_sure():
    # One row in ten can be accepted: a start at a fixed share of a quarter would have found nothing.
    steps = Steps.counted(*drawn(np.random.default_rng(0), "poor", 20_000))
    last = steps.reached(0.02, 0.95)
    assert 0.04 < steps.accepted[last] / steps.usable < 0.12


def test_the_start_knows_nothing_of_the_rows_above_it():
    rng = np.random.default_rng(0)
    for law in ("calibrated", "poor", "ties"):
        c, wrong = drawn(rng, law, 5000)
        steps = Steps.counted(c, wrong)
        start = steps._start(0.02, 0.95)
        above = c >= steps.log_odds[start]
        for share in (0.0, 0.5, 1.0):
            other = np.where(above, rng.random(5000) < share, wrong)
            assert Steps.counted(c, other)._start(0.02, 0.95) == start
        assert steps.accepted[start] >= fewest_rows(0.02, 0.95)


def test_the_start_goes_up_where_rows_below_it_are_wrong():
    c = np.repeat(np.arange(10.0, 0, -1), 500)
    calm = np.repeat([2, 2, 2, 2, 2, 2, 40, 100, 200, 250], 500)
    place = np.tile(np.arange(500), 10)
    deep = Steps.counted(c, place < calm)
    early = Steps.counted(c, place < np.where(c >= 9, 2, np.maximum(calm, 40)))
    assert deep.accepted[deep._start(0.02, 0.95)] > early.accepted[early._start(0.02, 0.95)] >= 149
