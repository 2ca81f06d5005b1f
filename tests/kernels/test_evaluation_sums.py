"""What evaluation sums up, by vectors along rows of float32: each row alone, and against the formula in float64."""

import numpy as np
import pytest
from test_kernels import assert_same_bits, special_rows

import lastlayer as ll
from lastlayer.kernels.cpu import evaluation_sums32 as kernel
from lastlayer.measure.rows import EvaluationSums
from lastlayer.measure.signs import extremes

CLASSES = 40
COLUMNS = slice(0, 7)


def rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(n, CLASSES)) * 3).astype(np.float32)
    z[: n // 4] += rng.uniform(0, 60) * np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, n // 4)]
    special = special_rows(CLASSES, np.float32)
    z[:: max(1, n // len(special))][: len(special)] = special[: len(z[:: max(1, n // len(special))])]
    return z, rng.integers(0, CLASSES, n), rng.choice([0.0, 1.0, 0.3], n)


def test_a_row_has_the_same_bits_alone_and_in_any_block(monkeypatch):
    z, y, w = rows()
    whole = EvaluationSums.of(z, y, w)[COLUMNS]
    for i in range(0, len(z), 7):
        assert_same_bits(EvaluationSums.of(z[[i]], y[[i]], w[[i]])[COLUMNS], [column[[i]] for column in whole])
    monkeypatch.setattr(kernel, "ENTRIES", 16 * CLASSES)
    assert_same_bits(EvaluationSums.of(np.asfortranarray(z), y, w)[COLUMNS], whole)


@pytest.mark.parametrize("classes", [CLASSES, 300])
def test_a_block_of_many_tiles_some_with_limits_equals_the_formula(monkeypatch, classes):
    monkeypatch.setattr(kernel, "ENTRIES", 16 * classes)
    rng = np.random.default_rng(1)
    z = (rng.normal(size=(103, classes)) * 3).astype(np.float32)
    z[:48:3] *= 4.0
    special = special_rows(classes, np.float32)
    z[32:40], z[70 : 70 + len(special)] = special[-8:], special
    found = EvaluationSums.of(
        z, y := rng.integers(0, classes, len(z)), w := rng.choice([0.0, 1.0, 0.3], len(z)), 15, False
    )
    with ll.formulas():
        for name, a, b in zip(found._fields, found, EvaluationSums.of(z, y, w, 15, False), strict=True):
            difference = 1e-7 if name in ("log_odds", "undone_gain") else 1e-12  # these two pass 0
            np.testing.assert_allclose(a, b, rtol=3e-6, atol=difference, err_msg=name)


def test_finite_rows_too_far_apart_for_float32_are_rows_like_any_other():
    z = np.full((3, CLASSES), -np.inf, np.float32)
    z[:, 0], z[:, 1], z[1, 2:] = 3e38, -3e38, 0.0
    z[2, 0] = -np.inf
    y, w = np.array([0, 1, 1]), np.ones(3)
    found = EvaluationSums.of(z, y, w, 15, False)
    assert found.top.tolist() == [0, 0, 1]
    assert found.nll.tolist() == [0.0, 2 * float(z[1, 0]), 0.0]
    assert found.confidence.tolist() == [1.0, 1.0, 1.0]
    assert found.classwise[:, 0, 0].tolist() == [1.0, 2.0, *[3.0] * (CLASSES - 2)]
    assert found.classwise[:, -1, 0].tolist() == [2.0, 1.0, *[0.0] * (CLASSES - 2)]
    assert found.softmaxed == 0


def test_sums_of_any_cut_are_those_of_the_whole_to_1e12():
    z, y, w = rows()
    whole = EvaluationSums.of(z, y, w)
    parts = [EvaluationSums.of(z[a:b], y[a:b], w[a:b]) for a, b in ((0, 1), (1, 150), (150, 151), (151, 400))]
    for name in ("classwise", "cross", "class_odds", "curve", "curve_nll", "softmaxed"):
        together = sum(getattr(part, name) for part in parts)
        np.testing.assert_allclose(together, getattr(whole, name), rtol=1e-12, atol=1e-12, err_msg=name)
    assert (np.max([part.peak for part in parts], axis=0) == whole.peak).all()


def test_log_odds_of_every_class_are_in_the_cell_of_the_formula_or_beside_it():
    z, y, _ = rows()
    keep = np.isfinite(z).all(1) & (np.abs(z).max(1) < 100)
    z, y, w = z[keep], y[keep], np.ones(keep.sum())
    found = EvaluationSums.of(z, y, w).class_odds
    with ll.formulas():
        want = EvaluationSums.of(z, y, w).class_odds
    assert (found.sum(-1) == want.sum(-1)).all()
    moved = np.abs(np.cumsum(found - want, -1))
    assert moved.max() <= 1
    assert moved.sum() <= 1e-3 * want.sum()


def test_a_confident_row_keeps_its_log_odds():
    """The sum is anchored at the second largest entry, so that nothing underflows however far the first is."""
    z = np.full((3, CLASSES), -200.0, np.float32)
    z[:, 0], z[:, 1] = [50.0, 150.0, 900.0], 0.0
    found = EvaluationSums.of(z, np.zeros(3, int), np.ones(3))
    np.testing.assert_allclose(found.log_odds, [50.0, 150.0, 900.0], rtol=1e-7)
    np.testing.assert_allclose(found.nll[:2], np.exp([-50.0, -150.0]), rtol=1e-6)


@pytest.mark.parametrize("zeros", [[0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]])
def test_zeros_of_either_sign_are_a_tie(zeros):
    table = np.full((2, CLASSES), -1.0, np.float32)
    table[0, [3, 7]], table[1, 5] = zeros, 2.0
    found = extremes(table)
    assert found[2].tolist() == [True, False]
    with ll.formulas():
        for a, b in zip(found, extremes(table), strict=True):
            assert np.array_equal(a, b)
