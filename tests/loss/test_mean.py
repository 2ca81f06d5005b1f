"""The mean of losses: what is left out, and the wrong calls."""

import inspect

import numpy as np
import pytest

import lastlayer as ll


def test_mean_leaves_out_what_does_not_count(differentiable):
    losses, valid = np.array([1.0, 3.0, np.nan, np.inf]), np.array([True, True, False, True])
    weight = np.array([1.0, 3.0, 5.0, 0.0])

    def average(x):
        return ll.mean(x, valid=valid, weight=weight)

    assert differentiable.run(average, losses) == 2.5
    np.testing.assert_array_equal(differentiable.gradient(average, losses), [0.25, 0.75, 0, 0])


def test_mean_of_nothing(differentiable):
    losses, none = np.array([1.0, np.nan]), np.array([False, False])
    assert np.isnan(differentiable.run(lambda x: ll.mean(x, valid=none), losses))
    assert differentiable.run(lambda x: ll.mean(x, valid=none, empty="zero"), losses) == 0
    assert (differentiable.gradient(lambda x: ll.mean(x, valid=none, empty="zero"), losses) == 0).all()
    assert np.isnan(ll.mean(np.zeros(0)))
    with pytest.raises(ValueError, match="mean: no row counts"):
        ll.mean(losses, valid=none, empty="raise")


def test_mean_refuses_weights_that_would_broadcast():
    formula = inspect.unwrap(ll.mean)
    with pytest.raises(ValueError, match=r"mean: one weight per loss, \(3,\); weight is \(3, 1\)"):
        formula(np.zeros(3), weight=np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"mean: one valid per loss, \(3,\); valid is \(1,\)"):
        formula(np.zeros(3), valid=np.array([True]))
