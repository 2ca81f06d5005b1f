"""entropy, log_odds, top2_gap, energy and max_logit where the usual formulas give nan, 1 or another row's class."""

import numpy as np
import pytest

import lastlayer as ll
import reference
from lastlayer.transform import energy, max_logit


def test_entropy_with_a_masked_class(library):
    """-sum(p * log p) is nan there; torch's Categorical clamps the logits instead."""
    np.testing.assert_allclose(library.run(ll.entropy, [1.0, -np.inf, 0.0]), 0.5822031088882, rtol=2e-7)


def test_entropy_of_a_sure_row_is_not_0(library):
    """With p = exp(-40) on the other class: p (40 + 1)."""
    np.testing.assert_allclose(library.run(ll.entropy, [40.0, 0.0]), 41 * np.exp(-40), rtol=4 * library.eps)


def test_entropy_of_equal_classes(library):
    np.testing.assert_allclose(library.run(ll.entropy, np.full((2, 7), 3.0)), np.log([7.0, 7.0]), rtol=4 * library.eps)


def test_log_odds_tell_sure_rows_apart(library):
    rows = [[50.0, 0.0], [60.0, 0.0], [1000.0, -1000.0]]
    np.testing.assert_array_equal(library.run(ll.log_odds, rows), [50, 60, 2000])


def test_log_odds_keep_their_digits_far_from_0(library):
    """z_k - logsumexp(others) would round at the size of z: here at 0.06 in float32."""
    near = library.run(ll.log_odds, [[0.5, 0.25, -1.0]])
    np.testing.assert_array_equal(library.run(ll.log_odds, np.array([[0.5, 0.25, -1.0]]) + 2.0**19), near)


def test_log_odds_of_a_named_class(library):
    rows = np.array([[1.0, 2.0, -np.inf], [0.0, 0.0, 0.0]])
    got = library.run(ll.log_odds, rows, np.array([0, 2]))
    np.testing.assert_allclose(got, [-1, -np.log(2)], rtol=4 * library.eps)
    np.testing.assert_array_equal(library.run(ll.log_odds, rows, np.array([2, 2]))[0], -np.inf)
    np.testing.assert_array_equal(library.run(lambda z: ll.log_odds(z, 1), rows)[0], 1)


def test_log_odds_of_what_is_no_class():
    rows = np.zeros((2, 3))
    for index in (3, -1, np.array([0, 5])):
        with pytest.raises(ValueError, match=r"log_odds: index (3|-1|5) is not one of the 3 classes"):
            ll.log_odds(rows, index)


def test_a_lone_class_is_certain(library):
    rows = [[2.0, -np.inf], [-np.inf, -5.0]]
    np.testing.assert_array_equal(library.run(ll.log_odds, rows), [np.inf, np.inf])
    np.testing.assert_array_equal(library.run(ll.top2_gap, rows), [np.inf, np.inf])
    np.testing.assert_array_equal(library.run(ll.log_odds, [[3.0]]), [np.inf])


def test_top2_gap_of_a_tie_is_0(library):
    np.testing.assert_array_equal(library.run(ll.top2_gap, [[2.0, 1.0, 2.0], [3.0, 1.0, 2.5]]), [0, 0.5])


def test_the_gap_of_a_lone_class_has_no_slope_at_a_masked_one(differentiable):
    np.testing.assert_array_equal(differentiable.gradient(ll.top2_gap, [[-np.inf, 2.0]]), [[0, 1]])


@pytest.mark.parametrize("temperature", [1, 0.5, 3.0])
def test_energy(temperature, library):
    rows = np.array([[3.0, 1.0, -np.inf], [1000.0, 999.0, 1000.5], [-np.inf] * 3, [np.inf, 0.0, 0.0], [np.nan, 0, 0]])
    got = library.run(lambda z: energy(z, temperature=temperature), rows)
    want = [
        -temperature * np.log(np.exp(3 / temperature) + np.exp(1 / temperature)),
        -1000.5 - temperature * np.log(np.exp(np.array([-0.5, -1.5, 0.0]) / temperature).sum()),
        np.inf,
        -np.inf,
        np.nan,
    ]
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)


def test_the_gradient_of_energy_is_minus_softmax(differentiable):
    rows, heat = np.array([[3.0, 1.0, -np.inf], [-np.inf] * 3]), 2.0
    got = differentiable.gradient(lambda z: energy(z, temperature=heat), rows)
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(got, [[-p, p - 1, 0], [0, 0, 0]], rtol=4 * differentiable.eps)


def test_energy_takes_a_temperature_per_row(library):
    rows = np.array([[3.0, 1.0], [3.0, 1.0]])
    got = library.run(lambda z: energy(z, temperature=np.array([[1.0], [2.0]])), rows)
    alone = [library.run(lambda z, t=t: energy(z, temperature=t), rows)[0] for t in (1.0, 2.0)]
    np.testing.assert_allclose(got, alone, rtol=2 * library.eps)


def test_max_logit(differentiable):
    rows = np.array([[3.0, 5.0, 5.0], [-np.inf, -2.0, -np.inf], [np.inf, 0.0, np.inf], [-np.inf] * 3])
    np.testing.assert_array_equal(differentiable.run(max_logit, rows), [5.0, -2.0, np.inf, -np.inf])
    slopes = differentiable.gradient(max_logit, rows)
    np.testing.assert_array_equal(slopes, [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    spoilt = differentiable.run(max_logit, [[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(spoilt, [np.nan, 3.0])


def test_entropy_is_not_flushed_where_each_probability_is(differentiable):
    """At 87.9 below, exp is subnormal in float32 and 0 under XLA; times the distance it is a normal number."""
    row = np.array([-17.490335, 70.41274]).astype(np.float32).astype(float)
    (want,) = reference.entropy(reference.exact(row))
    assert float(want) > np.finfo(np.float32).tiny
    np.testing.assert_allclose(differentiable.run(ll.entropy, row), float(want), rtol=4 * differentiable.eps)
