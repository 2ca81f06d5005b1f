"""Risk against coverage: by enumeration of every order of tied rows, and the published figures of DenseNet-40."""

import itertools

import numpy as np
import pytest
from tasks import densenet, sample

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.measure.selective import (
    augrc,
    aurc,
    excess_aurc,
    failure_auroc,
    risk_at_coverage,
    risk_coverage,
)

EVERY = (aurc, augrc, excess_aurc, failure_auroc)


def orders(confidence):
    """Every order of the rows that goes down in confidence."""
    levels = [np.flatnonzero(confidence == c) for c in np.unique(confidence)[::-1]]
    for parts in itertools.product(*(itertools.permutations(level) for level in levels)):
        yield np.concatenate([np.array(part) for part in parts])


def mean_over_orders(confidence, wrong, of):
    return np.mean([of(wrong[order]) for order in orders(confidence)], axis=0)


def area(wrong):
    return (np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean()


def generalised_area(wrong):
    """Trapezoids from no row to all."""
    steps = np.append(0.0, np.cumsum(wrong)) / len(wrong)
    return ((steps[:-1] + steps[1:]) / 2).mean()


def tied():
    rng = np.random.default_rng(0)
    confidence = np.array([3.0, 3, 3, 3, 2, 1, 1, 1, 0.5])
    wrong = np.array([0, 0, 1, 0, 1, 0, 1, 1, 0])
    order = rng.permutation(9)
    target = np.where(wrong == 1, 0, 1)
    return confidence[order], target[order], wrong[order].astype(float)


def test_ties_are_the_expectation_over_their_order():
    confidence, target, wrong = tied()
    want = mean_over_orders(confidence, wrong, area)
    assert aurc(confidence, target) == pytest.approx(want, abs=1e-14)
    assert augrc(confidence, target) == pytest.approx(mean_over_orders(confidence, wrong, generalised_area), abs=1e-14)
    assert excess_aurc(confidence, target) == pytest.approx(want - area(np.sort(wrong)), abs=1e-14)
    risks = mean_over_orders(confidence, wrong, lambda e: np.cumsum(e) / np.arange(1, 10))
    for k in range(1, 10):
        found = risk_at_coverage(confidence, target, coverage=k / 9)
        assert found == pytest.approx(risks[k - 1], abs=1e-14)
        assert found.n == k


def test_the_curve_has_a_point_for_each_level():
    confidence, target, _ = tied()
    curve = risk_coverage(confidence, target)
    assert curve.threshold.tolist() == [3, 2, 1, 0.5]
    np.testing.assert_allclose(curve.coverage, np.array([4, 5, 8, 9]) / 9)
    np.testing.assert_allclose(curve.risk, [1 / 4, 2 / 5, 4 / 8, 4 / 9])
    for coverage, risk, low, high in zip(*curve[:4], strict=True):
        point = risk_at_coverage(confidence, target, coverage=coverage)
        assert (point, point.low, point.high) == pytest.approx((risk, low, high), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_augrc_is_its_closed_form(seed):
    """Traub et al. 2024, eq. 7."""
    z, y, *_ = sample("multiclass", n=300, seed=seed)
    z = np.round(z)  # ties
    accuracy, auroc = ll.accuracy(z, y), failure_auroc(z, y)
    want = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert augrc(z, y) == pytest.approx(want, abs=1e-13)


def test_confidence_is_the_log_odds_of_the_predicted_class_or_what_is_given():
    z, y, p, _ = sample("multiclass", n=200, seed=1)
    for measure in EVERY:
        assert measure(z, y) == measure(z, y, confidence=ll.log_odds(z))
        assert measure(z, y, confidence=p.max(1)) == pytest.approx(measure(z, y), abs=1e-12)
    assert aurc(z, y, confidence=-p.max(1)) > aurc(z, y)
    with pytest.raises(ValueError, match=r"aurc: one confidence per row. There are 200, confidence is \(3,\)"):
        aurc(z, y, confidence=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="coverage is a share above 0"):
        risk_at_coverage(z, y, coverage=0.0)
    with pytest.raises(ValueError, match="augrc: labels are not exclusive"):
        augrc(*sample("multilabel")[:2])
    with pytest.raises(DataError):
        aurc(z, np.full((200, 4), 0.25))


@pytest.mark.parametrize("measure", EVERY)
def test_the_order_of_rows_and_a_weight_of_all_change_nothing(measure):
    z, y, *_ = sample("multiclass", n=200, seed=2)
    z, order = np.round(z), np.random.default_rng(0).permutation(200)
    want = measure(z, y)
    spoiled = np.concatenate([z, [[np.nan] * 4]])
    for found in (
        measure(z[order], y[order]),
        measure(z, y, weight=np.full(200, 4.0)),
        measure(spoiled, np.append(y, 0), weight=np.append(np.ones(200), 0.0)),
    ):
        assert (found, found.low, found.high) == pytest.approx((want, want.low, want.high), abs=1e-12)
    assert np.isnan(measure(spoiled, np.append(y, 0)))


def test_weights_weigh():
    """A weight that differs is a share of rows: of the risk at a coverage exactly, of areas to the last row's part."""
    z, y, *_ = sample("binary", n=300, seed=3)
    w = np.random.default_rng(1).integers(1, 4, 300)
    many = np.repeat(z, w), np.repeat(y, w)
    for coverage in (0.1, 0.55, 1.0):
        found = risk_at_coverage(z, y, coverage=coverage, weight=w)
        assert found == pytest.approx(risk_at_coverage(*many, coverage=coverage), abs=1e-12)
    assert augrc(z, y, weight=w) == pytest.approx(augrc(*many), abs=1e-12)
    assert aurc(z, y, weight=w) == pytest.approx(aurc(*many), abs=2e-3)
    assert failure_auroc(z, y, weight=w) == pytest.approx(failure_auroc(*many), abs=1e-12)


@pytest.mark.parametrize("measure", [aurc, augrc, excess_aurc])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_intervals_cover(measure, sharpness):
    truth = float(measure(*sample("multiclass", n=300_000, seed=50, sharpness=sharpness)[:2]))
    found = [measure(*sample("multiclass", n=600, seed=s, sharpness=sharpness)[:2]) for s in range(200)]
    assert sum(m.low <= truth <= m.high for m in found) >= 181  # 90.5 %, 2.9 standard errors below 95
    widths = np.mean([m.high - m.low for m in found]) / (2 * 1.96)
    assert widths == pytest.approx(np.std([float(m) for m in found]), rel=0.15)


def test_all_right_and_all_wrong():
    z = np.array([3.0, 2.0, 1.0])
    right, wrong = np.ones(3, int), np.zeros(3, int)
    assert [float(m(z, right)) for m in (aurc, augrc, excess_aurc)] == [0, 0, 0]
    assert [float(m(z, wrong)) for m in (aurc, augrc, excess_aurc)] == [1, 0.5, 0]
    assert np.isnan(failure_auroc(z, right)) and np.isnan(failure_auroc(z, wrong))


def test_published_figures_of_densenet40(shared_data):
    """Areas of several confidences on the same rows; of the probability, 811 of which are 1, one order of many."""
    z, y = densenet(shared_data)
    with ll.formulas():  # a unit in the last place decides which probabilities are equal
        p = np.array(ll.softmax(z))
    assert len(np.unique(ll.log_odds(z))) == 10_000
    confidences = {
        "gap": (ll.top2_gap(z), 0.009119, 0.92839),
        "entropy": (-np.array(ll.entropy(z)), 0.009035, 0.92937),
        "largest logit": (z.max(1), 0.013795, 0.88368),
        "energy": (np.array(ll.logsumexp(z)), 0.013931, 0.88217),
    }
    for confidence, want, auroc in confidences.values():
        assert aurc(z, y, confidence=confidence) == pytest.approx(want, abs=1e-6)
        assert failure_auroc(z, y, confidence=confidence) == pytest.approx(auroc, abs=1e-5)
    assert failure_auroc(z, y) == pytest.approx(0.92905, abs=1e-5)
    assert failure_auroc(z, y, confidence=p.max(1)) == pytest.approx(0.92907, abs=1e-5)
    wrong = (z.argmax(1) != y).astype(float)
    as_filed = area(wrong[np.argsort(-p.max(1), kind="stable")])
    assert as_filed == pytest.approx(0.009065, abs=3e-6)  # by the order of the file among equal probabilities
    assert aurc(z, y, confidence=p.max(1)) == pytest.approx(0.009033, abs=1e-6)
    assert aurc(z, y) == pytest.approx(area(wrong[np.argsort(-np.array(ll.log_odds(z)))]), abs=1e-12)
