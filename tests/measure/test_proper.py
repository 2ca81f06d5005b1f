"""Spherical and ranked probability scores against their definitions, by hand and in mpmath."""

import mpmath
import numpy as np
import pytest
from tasks import every_task, sample

import lastlayer as ll
from lastlayer.measure.proper import ranked_probability_score, spherical_score


@every_task
def test_spherical_score_is_one_less_the_cosine(task):
    z, y, p, occurs = sample(task, n=50)
    if task == "multiclass":
        want = (1 - p[np.arange(50), y] / np.sqrt((p**2).sum(1))).mean()
    else:
        own = np.where(occurs == 1, p, 1 - p)
        want = (1 - own / np.sqrt(p**2 + (1 - p) ** 2)).sum(1).mean()
    assert spherical_score(z, y) == pytest.approx(want, abs=1e-14)


@pytest.mark.parametrize("gap", [30.0, 200.0])
def test_spherical_score_of_a_confident_right_row_is_its_tail(gap):
    with mpmath.workdps(400):
        tail = mpmath.exp(-mpmath.mpf(gap))
        want = float(1 - 1 / mpmath.sqrt(1 + 2 * tail**2))
    assert spherical_score([[gap, 0.0, 0.0]], [0]) == pytest.approx(want, rel=1e-13)
    assert spherical_score([[gap, 0.0, 0.0]], [1]) == pytest.approx(1.0)


def test_both_are_proper():
    """Of a known distribution the expectation is least at that distribution."""
    q = np.array([[0.5, 0.3, 0.2]])
    for score in (spherical_score, ranked_probability_score):
        at_truth = score(np.log(q), q)
        for moved in ([0.6, 0.2, 0.2], [0.4, 0.4, 0.2], [0.5, 0.25, 0.25]):
            assert score(np.log([moved]), q) > at_truth


def test_the_expectation_over_a_distribution_is_that_over_its_classes():
    z, q = np.array([[1.0, 0.0, -1.0]]), np.array([[0.2, 0.5, 0.3]])
    each = [float(spherical_score(z, [k])) for k in range(3)]
    assert spherical_score(z, q) == pytest.approx(np.dot(q[0], each), abs=1e-15)


def test_ranked_probability_score_by_hand():
    """0.5, 0.3, 0.2 has cumulative 0.5, 0.8: 0.25 + 0.04, 0.25 + 0.04, 0.25 + 0.64."""
    z = np.log([[0.5, 0.3, 0.2]])
    assert [round(float(ranked_probability_score(z, [y])), 12) for y in range(3)] == [0.29, 0.29, 0.89]


def test_ranked_probability_score_of_two_classes_is_half_the_brier_score():
    z, y, *_ = sample("binary", n=50)
    assert ranked_probability_score(z, y) == pytest.approx(ll.brier(z, y), abs=1e-15)
    both = np.stack([np.zeros(50), z], 1)
    assert ranked_probability_score(both, y) == pytest.approx(ll.brier(both, y) / 2, abs=1e-15)


def test_further_misses_cost_more_than_near_ones():
    z = np.array([[5.0, 0.0, 0.0, 0.0]])
    costs = [float(ranked_probability_score(z, [y])) for y in range(4)]
    assert costs == sorted(costs) and np.diff(costs).min() > 0.9


def test_labels_have_no_order():
    with pytest.raises(ValueError, match="labels have no order"):
        ranked_probability_score(*sample("multilabel")[:2])


@pytest.mark.parametrize("score", [spherical_score, ranked_probability_score])
def test_weights_and_rows_that_are_not_known(score):
    z, y, *_ = sample("multiclass", n=60)
    w = np.random.default_rng(0).integers(0, 4, 60)
    assert score(z, y, weight=w) == pytest.approx(score(np.repeat(z, w, 0), np.repeat(y, w)), rel=1e-12)
    z[3] = np.nan
    assert np.isnan(score(z, y))
    assert not np.isnan(score(z, y, weight=np.arange(60) != 3))


def test_masked_classes_have_no_probability():
    z = np.array([[0.0, -np.inf, 0.0]])
    assert spherical_score(z, [1]) == pytest.approx(1, abs=1e-15)
    assert spherical_score(z, [0]) == pytest.approx(1 - 0.5 / np.sqrt(0.5), abs=1e-15)
    assert ranked_probability_score(z, [1]) == pytest.approx(0.5)
