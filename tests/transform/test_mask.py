"""mask: bool and packed, what it removes, and what it refuses."""

import inspect

import numpy as np
import pytest

from arrays import TORCH
from lastlayer.transform.mask import mask
from lastlayer.transform.softmax import log_softmax

ROWS = np.array([[2.0, 1.0, 0.5], [np.nan, np.inf, -1.0]])


def packed(allowed):
    """The words of a bool mask, bit by bit as the format says: bit ``i % 32`` of word ``i // 32``."""
    *batch, classes = allowed.shape
    words = np.zeros((*batch, -(-classes // 32)), np.uint32)
    for i in range(classes):
        words[..., i // 32] |= allowed[..., i].astype(np.uint32) << np.uint32(i % 32)
    return words.view(np.int32)


@pytest.mark.parametrize(
    ("allowed", "want"),
    [
        ([True, False, True], [[2, -np.inf, 0.5], [np.nan, -np.inf, -1]]),
        ([[True, True, False], [False, False, True]], [[2, 1, -np.inf], [-np.inf, -np.inf, -1]]),
        ([[True], [False]], [[2, 1, 0.5], [-np.inf] * 3]),
        (True, ROWS),
    ],
    ids=["one for all rows", "one per row", "whole rows", "a number"],
)
def test_what_is_not_allowed_is_masked_whatever_it_held(allowed, want, library):
    np.testing.assert_array_equal(library.run(mask, ROWS, np.array(allowed)), want)


@pytest.mark.parametrize("classes", [1, 31, 32, 33, 64, 100])
def test_a_packed_mask_is_the_bool_mask(classes, library):
    """31 to 33: the sign bit and the word after it."""
    rng = np.random.default_rng(classes)
    allowed, x = rng.random((4, classes)) < 0.5, rng.normal(size=(4, classes))
    allowed[0], allowed[1] = True, False
    wanted = library.run(mask, x, allowed)
    np.testing.assert_array_equal(np.isfinite(wanted), allowed)
    np.testing.assert_array_equal(library.run(mask, x, packed(allowed)), wanted)
    np.testing.assert_array_equal(library.run(mask, x, packed(allowed)[3]), library.run(mask, x, allowed[3]))


def test_the_sign_bit_is_class_31_alone(library):
    words = np.array([np.iinfo(np.int32).min, 1], np.int32)
    got = library.run(mask, np.zeros((1, 40)), words)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(got)), [31, 32])


def test_bits_beyond_the_classes_are_ignored(library):
    np.testing.assert_array_equal(library.run(mask, [[1.0, 2.0]], np.array([-3], np.int32)), [[1, -np.inf]])


def test_a_packed_mask_broadcasts_over_the_batch(library):
    x = np.zeros((2, 3, 4))
    words = np.array([[[0b0001]], [[0b1000]]], np.int32)
    got = np.isfinite(library.run(mask, x, words))
    np.testing.assert_array_equal(got[:, 0], [[1, 0, 0, 0], [0, 0, 0, 1]])
    assert (got == got[:, :1]).all()


@pytest.mark.parametrize("words", [False, True], ids=["bool", "packed"])
def test_the_gradient_is_0_where_a_class_is_removed_and_1_elsewhere(words, differentiable):
    allowed = np.array([[True, False, True], [False, False, True]])
    got = differentiable.gradient(mask, ROWS, packed(allowed) if words else allowed, np.array([np.inf, np.nan, 2.0]))
    np.testing.assert_array_equal(got, [[np.inf, 0, 2], [0, 0, 2]])


def test_a_row_with_no_class_left_is_empty(differentiable):
    rows, none = np.array([[1.0, 2.0]]), np.array([False, False])
    assert np.isnan(differentiable.run(lambda z, a: log_softmax(mask(z, a)), rows, none)).all()
    assert (differentiable.gradient(lambda z, a: log_softmax(mask(z, a)), rows, none) == 0).all()


def test_torch_maps_it_over_rows_and_masks():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 70)))
    allowed = np.random.default_rng(1).random((5, 70)) < 0.5
    words = torch.from_numpy(packed(allowed))
    np.testing.assert_array_equal(torch.func.vmap(mask)(x, words), mask(x, allowed))
    assert torch.autograd.gradcheck(lambda z: mask(z, words).exp(), x.requires_grad_())


def test_what_is_no_mask_is_refused(library):
    x = library.of(np.zeros((2, 3)))
    formula = inspect.unwrap(mask)  # past the shape hints that the test run enforces
    for wrong in (np.array([1, 0, 1]), np.array([1.0, 0.0, 1.0]), np.array([5], np.uint8)):
        with pytest.raises(
            TypeError, match=rf"mask: allowed is bool, .*not {wrong.dtype}\. Write allowed.astype\(bool"
        ):
            formula(x, wrong)
    with pytest.raises(ValueError, match=r"logits \(2, 3\) has 3 classes, allowed is \(4,\)"):
        formula(x, library.of(np.array([True] * 4)))
    with pytest.raises(ValueError, match=r"3 classes take 1 words of int32, allowed \(2, 2\) has 2"):
        formula(x, library.of(np.zeros((2, 2), np.int32)))
    with pytest.raises(ValueError, match=r"3 classes take 1 words of int32, allowed \(\) has 0"):
        formula(x, library.of(np.array(5, np.int32)))


@pytest.mark.parametrize("shape", [(2, 1, 3), (3, 3), (1, 2, 3)])
def test_a_mask_does_not_make_logits_larger(shape):
    with pytest.raises(ValueError, match=r"mask: allowed broadcasts to logits. logits \(2, 3\)"):
        mask(np.zeros((2, 3)), np.ones(shape, bool))
    with pytest.raises(ValueError, match=r"mask: allowed broadcasts to logits. logits \(2, 3\)"):
        mask(np.zeros((2, 3)), np.ones((*shape[:-1], 1), np.int32))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_stays(half):
    torch = pytest.importorskip("torch", reason="pip install torch")
    got = mask(TORCH.of([1.5, 2.0]).to(getattr(torch, half)), np.array([True, False]))
    assert str(got.dtype) == f"torch.{half}"
    assert got.tolist() == [1.5, -np.inf]
