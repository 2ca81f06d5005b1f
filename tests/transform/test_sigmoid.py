"""Single logits: the tails and the slopes that the usual formulas lose."""

import numpy as np
import pytest

import lastlayer as ll
from lastlayer.transform import log1mexp


def test_the_slope_of_softplus_at_0_is_one_half(differentiable):
    """max(z, 0) + log1p(exp(-|z|)) gives 0 or 1 there under autograd."""
    assert differentiable.gradient(ll.softplus, [0.0])[0] == 0.5


def test_softplus_of_both_zeros_is_the_same():
    np.testing.assert_array_equal(ll.softplus([0.0, -0.0]), np.log([2.0, 2.0]))


def test_sigmoid_of_a_very_negative_logit_is_not_lost(library):
    """1 - sigmoid(-z) would be 0 from z = -17 (float32) or -37 (float64) on."""
    np.testing.assert_allclose(library.run(ll.sigmoid, [-80.0]), np.exp([-80.0]), rtol=2 * library.eps)


def test_log_sigmoid_of_a_large_logit_is_not_0(library):
    np.testing.assert_allclose(library.run(ll.log_sigmoid, [80.0]), -np.exp([-80.0]), rtol=2 * library.eps)


def test_logit_undoes_sigmoid(library):
    z = np.array([-20.0, -1.0, -0.01, 0.0, 0.01, 1.0])
    np.testing.assert_allclose(library.run(lambda z: ll.logit(ll.sigmoid(z)), z), z, rtol=0, atol=8 * library.eps)


def test_logit_near_one_half_keeps_its_digits(library):
    """log(p) - log(1 - p) cancels there: two numbers near -0.693 for a difference of 4 eps."""
    p = 0.5 + library.eps
    assert library.run(ll.logit, [p])[0] == pytest.approx(4 * library.eps, rel=4 * library.eps)


def test_log1mexp_is_the_logarithm_of_the_other_probability(library):
    z = np.array([-30.0, -1.0, 0.0, 1.0, 30.0])
    other = library.run(lambda z: log1mexp(ll.log_sigmoid(z)), z)
    np.testing.assert_allclose(other, library.run(lambda z: ll.log_sigmoid(-z), z), rtol=64 * library.eps)


@pytest.mark.parametrize("cap", [0.0, -1.0, np.inf, np.nan])
def test_no_cap(cap):
    with pytest.raises(ValueError, match="softcap: cap is a finite number above 0"):
        ll.softcap([1.0], cap)


def test_softcap_bounds_and_keeps_small_logits(library):
    got = library.run(lambda z: ll.softcap(z, 30.0), [-1e6, -0.01, 0.0, 0.01, 1e6])
    np.testing.assert_allclose(got, [-30, -0.01, 0, 0.01, 30], rtol=1e-6)
