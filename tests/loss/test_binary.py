"""Binary and multilabel cross-entropy: the field's known failures, the parameters, and the wrong calls."""

import inspect

import numpy as np
import pytest

import lastlayer as ll
from arrays import JAX_JIT
from lastlayer.loss import multilabel_cross_entropy

TAIL = np.log1p(np.exp(-20.0))  # 2.0612e-9


def test_a_confident_right_binary_answer_costs_its_tail_and_learns_from_it(differentiable):
    """pytorch#195529: one of the two branches is 0 in each."""
    loss = differentiable.run(ll.binary_cross_entropy, [20.0, -20.0], [1, 0])
    slope = differentiable.gradient(ll.binary_cross_entropy, [20.0, -20.0], [1, 0])
    np.testing.assert_allclose(loss, [TAIL, TAIL], rtol=2 * differentiable.eps)
    np.testing.assert_allclose(slope, [-2.0611536e-9, 2.0611536e-9], rtol=1e-7)


def test_an_infinite_logit_of_the_right_sign_costs_nothing(library):
    """torch.binary_cross_entropy_with_logits gives nan (pytorch#49844)."""
    np.testing.assert_array_equal(library.run(ll.binary_cross_entropy, [np.inf, -np.inf], [1, 0]), [0, 0])


@pytest.mark.parametrize("weight", [2.0, [2.0, 0.5, 1.0]])
def test_pos_weight_scales_the_positive_part(weight, library):
    logits, target = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]), np.array([[1, 0, 1], [1, 1, 0]])
    got = library.run(lambda z, y: ll.binary_cross_entropy(z, y, pos_weight=np.array(weight)), logits, target)
    cost = np.log1p(np.exp(-np.where(target, logits, -logits)))
    np.testing.assert_allclose(got, np.where(target, np.array(weight) * cost, cost), rtol=8 * library.eps)


def test_binary_targets_may_be_bool_integers_or_shares(library):
    logits = [0.5, -1.5]
    want = library.run(ll.binary_cross_entropy, logits, [1, 0])
    np.testing.assert_array_equal(library.run(ll.binary_cross_entropy, logits, [True, False]), want)
    np.testing.assert_array_equal(library.run(ll.binary_cross_entropy, logits, [1.0, 0.0]), want)
    half = library.run(ll.binary_cross_entropy, logits, [0.5, 0.5])
    np.testing.assert_allclose(half, np.log1p(np.exp(logits)) - np.array(logits) / 2, rtol=8 * library.eps)


def test_a_traced_binary_target_that_is_no_share_poisons_its_row():
    JAX_JIT.require()
    got = JAX_JIT.run(ll.binary_cross_entropy, [0.0, 0.0, 0.0], [1, -1, 2])
    np.testing.assert_allclose(got, [np.log(2), np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": np.array([1, -1])}, "target is 0, 1 or between, not -1; for -1/.1 write target > 0"),
        ({"target": np.array([1, 0, 1])}, r"one target per logit, \(2,\); target is \(3,\)"),
        ({"target": np.array([1, 0]), "valid": np.array([True])}, r"one valid per logit, \(2,\); valid is \(1,\)"),
        ({"target": np.array([1, 0]), "pos_weight": np.ones((3, 1))}, "pos_weight is a number or one per label"),
    ],
)
def test_wrong_binary_calls(settings, sentence):
    with pytest.raises(ValueError, match=f"^binary_cross_entropy: {sentence}"):
        inspect.unwrap(ll.binary_cross_entropy)(np.zeros(2), **settings)


@pytest.mark.parametrize("weight", [None, np.array([2.0, 0.5, 1.0])])
def test_a_multilabel_row_costs_the_sum_over_its_labels(weight, differentiable):
    logits, target = np.array([[1.0, -2.0, 40.0], [0.0, 3.0, -1.0]]), np.array([[1, 0, 1], [1, 1, 0]])
    valid = np.array([[True, True, True], [False, True, True]])

    def loss(z, y):
        return multilabel_cross_entropy(z, y, pos_weight=weight, valid=valid)

    cost = np.log1p(np.exp(-np.where(target, logits, -logits)))
    cost = valid * np.where(target, 1.0 if weight is None else weight, 1.0) * cost
    np.testing.assert_allclose(differentiable.run(loss, logits, target), cost.sum(-1), rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(loss, logits, target)
    assert slopes[1, 0] == 0
    np.testing.assert_allclose(slopes[0, 2], -1 / (1 + np.exp(40.0)), rtol=1e-6)


def test_a_multilabel_row_is_a_row():
    with pytest.raises(ValueError, match=r"^multilabel_cross_entropy: logits have a last axis of labels"):
        inspect.unwrap(multilabel_cross_entropy)(np.float64(1.0), 1)
