"""Rows by rank: ties, tails and prefixes against sorting in Python and against each other."""

import math

import numpy as np
import pytest

from lastlayer.decide import _sorted_rows
from lastlayer.decide.conformal_scores import APS, LAC, RAPS, SAPS, Margin, TopK


def tied(n=200, classes=6):
    return np.random.default_rng(0).integers(0, 3, (n, classes)).astype(np.float32)


def in_order(row):
    return sorted(range(len(row)), key=lambda k: (-row[k], k))


def test_equal_logits_stand_in_the_order_of_their_index():
    beside_nan = np.array([[2.0, 2.0, 1.0], [np.nan, 1.0, 0.0]])  # which ties with nothing, not even itself
    assert _sorted_rows.rank_of(beside_nan, np.array([1, 0]))[0] == 1
    z = tied()
    target = np.random.default_rng(1).integers(0, 6, len(z))
    every = _sorted_rows.ranks(z, np)
    for row, found in zip(z, every, strict=True):
        assert np.argsort(found).tolist() == in_order(row)
    assert _sorted_rows.rank_of(z, target).tolist() == every[np.arange(len(z)), target].tolist()


def test_a_prefix_is_cut_through_ties_by_index():
    z, size = tied(), np.random.default_rng(2).integers(0, 7, 200)
    members = _sorted_rows.likeliest(z, size, _sorted_rows.ranked(z, np))
    for row, k, inside in zip(z, size, members, strict=True):
        assert np.flatnonzero(inside).tolist() == sorted(in_order(row)[:k])
    distinct = np.random.default_rng(3).normal(size=(200, 6))
    members = _sorted_rows.likeliest(distinct, size, _sorted_rows.ranked(distinct, np))
    np.testing.assert_array_equal(members, _sorted_rows.ranks(distinct, np) < size[:, None])


@pytest.mark.parametrize("score", [LAC(), APS(), RAPS(), SAPS(), TopK(), Margin()], ids=lambda s: s.name)
def test_the_score_of_one_class_is_that_of_all_classes_to_the_bit(score):
    z, target = tied() * 7.3, np.random.default_rng(1).integers(0, 6, 200)
    z[:20, 2] = -np.inf
    by_rank, share = _sorted_rows.ranked(z, np), np.random.default_rng(4).random(200)
    every = np.take_along_axis(score.at(by_rank, share).T, _sorted_rows.ranks(z, np), axis=1)
    one = score.at(by_rank, share, _sorted_rows.rank_of(z, target))
    assert one.tobytes() == every[np.arange(200), target].tobytes()


@pytest.mark.parametrize("classes", [1, 2, 3, 64, 65, 200])
def test_tails_by_single_steps_and_by_doubled_ones(classes, monkeypatch):
    z = 20 * np.random.default_rng(0).normal(size=(30, classes))
    z[0] *= 100
    z[1, classes // 2 :] = -np.inf
    z[1, 0] = 0.0
    with np.errstate(all="ignore"):
        single = _sorted_rows.ranked(z, np).after
        monkeypatch.setattr(_sorted_rows, "readable", lambda x: False)
        doubled = _sorted_rows.ranked(z, np)
    np.testing.assert_allclose(doubled.after, single, rtol=1e-13, atol=0)
    for row, found in zip(z, single.T, strict=True):
        ordered = np.sort(row[row > -np.inf])[::-1].tolist()
        for r, value in enumerate(ordered):
            exact = math.fsum(math.exp(v - value) for v in ordered[r + 1 :])
            assert found[r] == pytest.approx(exact, rel=1e-12, abs=0)


def test_a_lone_class_is_always_the_likeliest():
    by_rank = _sorted_rows.ranked(np.zeros((3, 1)), np)
    for score in (LAC(), APS(False), RAPS(randomized=False), SAPS(randomized=False), TopK(), Margin()):
        with np.errstate(all="ignore"):
            assert not np.isnan(score.at(by_rank, np.zeros(3))).any()
