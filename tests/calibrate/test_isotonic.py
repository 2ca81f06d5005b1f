"""Isotonic regression against a plain pool-adjacent-violators loop and published losses, and its prior by hand."""

from fractions import Fraction

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate.isotonic import Isotonic


def pooled(z, y, weight):
    """The level of each distinct score, by pooling neighbours one pair at a time, in fractions; prior at both ends."""
    scores = sorted(set(z))
    blocks = [[Fraction(1, 2), Fraction(1), []]]
    for s in scores:
        hits = sum((Fraction(w) * Fraction(t) for x, t, w in zip(z, y, weight, strict=True) if x == s), Fraction(0))
        blocks.append([hits, sum(Fraction(w) for x, w in zip(z, weight, strict=True) if x == s), [s]])
    blocks.append([Fraction(1, 2), Fraction(1), []])
    k = 0
    while k < len(blocks) - 1:
        (h1, n1, s1), (h2, n2, s2) = blocks[k], blocks[k + 1]
        if h1 * n2 >= h2 * n1:
            blocks[k : k + 2] = [[h1 + h2, n1 + n2, s1 + s2]]
            k = max(k - 1, 0)
        else:
            k += 1
    return {s: np.log(float(h / (n - h))) for h, n, block in blocks for s in block}


@pytest.mark.parametrize("seed", range(40))
def test_it_is_pool_adjacent_violators_with_a_prior_row_at_each_end(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 60))
    z = rng.integers(-8, 8, n).astype(float) if seed % 2 else rng.normal(size=n)
    y = np.r_[0, 1, (z[2:] + 2 * rng.logistic(size=n - 2) > 0).astype(int)]
    weight = rng.integers(1, 4, n).astype(float)
    calibrator = fit(Outputs(z, "logits", target=y, weight=weight), "isotonic")
    wanted = pooled(z.tolist(), y.tolist(), weight.tolist())
    assert calibrator(z) == pytest.approx(np.array([wanted[s] for s in z.tolist()]), rel=1e-12, abs=1e-12)
    assert np.isin(calibrator.knots, z).all()


def test_a_pure_end_block_gets_half_a_row_of_each_class():
    z = np.r_[np.arange(10.0), np.arange(20.0, 30.0)]
    calibrator = fit(Outputs(z, "logits", target=z > 15), "isotonic")
    assert calibrator.knots.tolist() == [0, 9, 20, 29]
    assert calibrator.levels == pytest.approx([-np.log(21), -np.log(21), np.log(21), np.log(21)])
    assert float(calibrator(14.5)) == pytest.approx(0, abs=1e-12)  # halfway between two blocks
    assert calibrator(np.array([-1e9, 1e9, -np.inf, np.inf])) == pytest.approx(np.log(21) * np.array([-1, 1, -1, 1]))


def test_scores_without_order_get_one_level():
    z, y = np.arange(20.0), np.r_[np.ones(10), np.zeros(10)].astype(int)
    calibrator = fit(Outputs(z, "logits", target=y), "isotonic")
    assert calibrator.knots.tolist() == [0, 19] and calibrator.levels.tolist() == [0, 0]
    constant = fit(Outputs(np.ones(20), "logits", target=y), "isotonic")
    assert constant.knots.tolist() == [1] and constant(np.array([0.0, 1.0, 2.0])).tolist() == [0, 0, 0]


def test_published_loss_of_ten_classes(shared_data):
    valid, test = densenet.multiclass(shared_data)
    calibrator = fit(valid, "isotonic")
    assert simulated.nll(calibrator.apply(test)) <= 0.2351  # CalArena 0.327316, the bar 0.33
    assert calibrator.certificate.nll_after == pytest.approx(0.165044, abs=2e-3)  # NN_calibration, without a prior


def test_published_loss_of_animals_against_machines(shared_data):
    valid, test = densenet.binary(shared_data)
    assert simulated.nll(fit(valid, "isotonic").apply(test)) <= 0.034480


def test_rows_whose_probability_rounds_to_one_are_told_apart():
    z = np.repeat([40.0, 60.0, 80.0], 50)
    y = np.r_[np.arange(50) % 5 == 0, np.arange(50) % 5 < 3, np.arange(50) % 10 > 0].astype(int)
    calibrator = fit(Outputs(z, "logits", target=y), "isotonic")
    assert calibrator(np.array([40.0, 60.0, 80.0])) == pytest.approx(np.log([10.5 / 40.5, 30 / 20, 45.5 / 5.5]))


@pytest.mark.parametrize(
    ("knots", "levels"),
    [([1.0, 0.0], [0.0, 1.0]), ([0.0, 1.0], [1.0, 0.0]), ([], []), ([0.0, 0.0], [0.0, 0.0]), ([0.0], [np.nan])],
)
def test_a_curve_rises(knots, levels):
    with pytest.raises(ValueError, match="Isotonic: knots ascend"):
        Isotonic(knots, levels)
