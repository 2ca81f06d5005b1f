"""Cross-entropy of a top-k teacher: what each treatment of the remainder means, its tails, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import reference
from arrays import JAX_JIT, TORCH
from lastlayer.loss import top_k_cross_entropy

ROWS = np.array([[2.0, 1.0, 0.5, -1.0, 0.0], [30.0, -10.0, 0.0, 5.0, 1.0], [0.0, 0.0, 0.0, 60.0, 0.0]])
INDEX = np.array([[0, 2], [0, 3], [3, 1]])
PROBS = np.array([[0.5, 0.25], [0.875, 0.0625], [0.75, 0.125]])


def exact(row, index, probs, remainder, temperature=1):
    """The definition, with 120 digits."""
    p = reference.softmax([v / mpmath.mpf(temperature) for v in reference.exact(row)])
    q, left = reference.exact(probs), 1 - mpmath.fsum(reference.exact(probs))
    named = mpmath.fsum(share * -mpmath.log(p[i]) for share, i in zip(q, index, strict=True) if share)
    others = [k for k in range(len(p)) if k not in list(index) and p[k]]
    if remainder == "renormalize":
        return named / mpmath.fsum(q)
    if remainder == "even":
        return named + left * mpmath.fsum(-mpmath.log(p[k]) for k in others) / len(others)
    return named - left * mpmath.log(mpmath.fsum(p[k] for k in others))


def of(library, rows, index, probs, **settings):
    return library.numpy(top_k_cross_entropy(library.of(rows), library.of(index), library.of(probs), **settings))


@pytest.mark.parametrize("temperature", [1, 2, 0.75])
@pytest.mark.parametrize("remainder", ["together", "even", "renormalize"])
def test_values(remainder, temperature, library):
    got = of(library, ROWS, INDEX, PROBS, remainder=remainder, temperature=temperature)
    want = [float(exact(*row, remainder, temperature)) for row in zip(ROWS, INDEX, PROBS, strict=True)]
    np.testing.assert_allclose(got, want, rtol=5 * library.eps)


@pytest.mark.parametrize("offset", [0.0, 1024.0])
def test_the_remainder_is_exact_in_both_tails(offset, library):
    """1 - sum(p) is 0 for a sure student, and the remainder's share of a student sure of the rest is all of it."""
    rows = np.array([[40.0, 39.0, 0.0, 1.0], [-40.0, -41.0, 0.5, 0.0]]) + offset
    index, probs = np.array([[0, 1], [0, 1]]), np.array([[0.5, 0.25], [0.0, 0.0]])
    got = of(library, rows, index, probs)
    want = [float(exact(*row, "together")) for row in zip(rows, index, probs, strict=True)]
    assert want[1] < 1e-17  # all of the mass on what is sure: log1p(exp(-40.5)...)
    np.testing.assert_allclose(got, want, rtol=8 * library.eps)


@pytest.mark.parametrize("temperature", [0.7, np.array([[0.75], [0.75], [0.75], [0.75]])])
def test_tails_keep_what_a_temperature_rounds(temperature, library):
    """What is sure costs exp(-d / T): at a distance of 57, rounding d / T alone would take 30 units of it."""
    rows = np.array([[40.1, 0.3, -0.2, -7.0], [40.1, 0.3, -0.2, 40.0], [0.3, -0.1, 40.1, 2.0], [-0.1, 0.3, 31.3, 40.1]])
    rows = rows.astype(library.dtype).astype(float)
    index, probs = np.array([[0], [0], [1], [1]]), np.array([[1.0], [0.5], [0.0], [0.0]])
    kept = temperature if isinstance(temperature, float) else library.of(temperature)
    got = of(library, rows, index, probs, temperature=kept)
    number = float(np.ravel(temperature)[0])
    want = [float(exact(*row, "together", number)) for row in zip(rows, index, probs, strict=True)]
    assert max(want[0], want[2], want[3]) < 1e-20
    np.testing.assert_allclose(got, want, rtol=5 * library.eps)


def test_naming_every_class_is_cross_entropy(library):
    rows, q = ROWS[:, :4], np.array([[0.5, 0.25, 0.125, 0.125]] * 3)
    every = np.array([[2, 0, 1, 3]] * 3)
    want = library.run(ll.cross_entropy, rows, q[0][np.argsort(every, -1)])
    for remainder in ("together", "even", "renormalize"):
        np.testing.assert_allclose(of(library, rows, every, q, remainder=remainder), want, rtol=4 * library.eps)


def test_together_learns_the_partition_and_even_the_spread_out_teacher(differentiable):
    """The gradients: p - q on the named; on the others p - r p / (sum of p over them), or p - r / how many."""
    p = np.exp(ROWS[:1]) / np.exp(ROWS[:1]).sum()
    others = np.array([False, True, False, True, True])
    named = np.array([0.5, 0, 0.25, 0, 0])
    targets = {
        "together": named + others * 0.25 * p[0] / p[0, others].sum(),
        "even": named + others * 0.25 / 3,
        "renormalize": named / 0.75,
    }
    for remainder, q in targets.items():

        def loss(x, index, remainder=remainder):
            return top_k_cross_entropy(x, index, PROBS[:1], remainder=remainder)

        got = differentiable.gradient(loss, ROWS[:1], INDEX[:1])
        np.testing.assert_allclose(got, p - q, rtol=0, atol=4 * differentiable.eps)


def test_masked_classes(differentiable):
    rows = np.array([[1.0, -np.inf, 0.0, 0.5], [1.0, -np.inf, 0.0, -np.inf], [1.0, -np.inf, 0.0, -np.inf]])
    index, probs = np.array([[0, 1], [0, 2], [0, 1]]), np.array([[0.5, 0.0], [0.5, 0.25], [0.5, 0.25]])
    for remainder in ("together", "even"):

        def loss(x, y, remainder=remainder):
            return top_k_cross_entropy(x, y, probs, remainder=remainder)

        got = differentiable.run(loss, rows, index)
        without = of(differentiable, rows[:1, [0, 2, 3]], np.array([[0]]), probs[:1, :1], remainder=remainder)
        np.testing.assert_allclose(got[0], without[0], rtol=4 * differentiable.eps)
        assert got[1] == np.inf  # a remainder with nobody to bear it
        assert got[2] == np.inf  # a share on a masked class
        slopes = differentiable.gradient(lambda x, y, loss=loss: loss(x, y)[:1], rows[:1].repeat(3, 0), index)
        assert np.isfinite(slopes).all()
        assert slopes[0, 1] == 0


def test_empty_nan_and_infinite_rows(library):
    rows = np.array([[-np.inf] * 3, [np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0], [0.0, 0.0, 0.0]])
    got = of(library, rows, np.array([[0]] * 4), np.array([[1.0], [0.5], [1.0], [1.0]]))
    np.testing.assert_allclose(got, [np.nan, np.nan, 0, np.log(3)], rtol=2 * library.eps)


def test_an_ignored_row_costs_nothing_whatever_it_holds(differentiable):
    rows = np.array([[np.nan, 1.0, 2.0], [1.0, 2.0, 3.0]])
    index, probs = np.array([[-100, -100], [0, 1]]), np.array([[np.nan, 5.0], [0.5, 0.25]])
    valid = np.array([False, True])
    for remainder in ("together", "even", "renormalize"):

        def loss(x, y, remainder=remainder):
            return top_k_cross_entropy(x, y, probs, remainder=remainder, valid=valid)

        assert differentiable.run(loss, rows, index)[0] == 0
        slopes = differentiable.gradient(loss, rows, index)
        assert (slopes[0] == 0).all()
        assert np.isfinite(slopes).all()
        assert slopes[1].any()


def test_a_sum_that_rounding_brings_above_1_leaves_no_remainder(library):
    probs = np.array([[0.7, 0.2, 0.1]]) * (1 + library.eps)
    got = of(library, ROWS[:1], np.array([[0, 1, 2]]), probs)
    want = float(
        mpmath.fsum(
            share * -mpmath.log(p)
            for share, p in zip(probs[0], reference.softmax(reference.exact(ROWS[0])), strict=False)
        )
    )
    np.testing.assert_allclose(got, [want], rtol=8 * library.eps)
    every = np.array([[0.5, 0.5 + 2 * library.eps]])  # with nobody to bear it, even a remainder of -eps would be -inf
    got = of(library, np.array([[0.0, 0.0]]), np.array([[0, 1]]), every)
    np.testing.assert_allclose(got, [np.log(2)], rtol=8 * library.eps)


@pytest.mark.parametrize(
    ("index", "probs", "settings", "sentence"),
    [
        ([[0, 9]], [[0.5, 0.1]], {}, "index 9 is not one of the 5 classes"),
        ([[0, 0]], [[0.5, 0.1]], {}, "names each class of a row once; one is named twice"),
        ([[0, 1]], [[0.9, 0.3]], {}, "not negative and sum to 1 at most"),
        ([[0, 1]], [[0.9, -0.3]], {}, "not negative and sum to 1 at most"),
        ([[0, 1]], [[0.9, np.nan]], {}, "not negative and sum to 1 at most"),
        ([0, 1], [0.5, 0.1], {}, r"logits are \(1, 5\), index is \(2,\)"),
        ([[0, 1]], [[0.5]], {}, r"probs are \(1, 1\)"),
        ([[0, 1]], [[0.5, 0.1]], {"remainder": "evn"}, "Did you mean 'even'"),
        ([[0, 1]], [[0.5, 0.1]], {"temperature": 0.0}, "temperature is a finite number above 0"),
        ([[0, 1]], [[0.5, 0.1]], {"valid": np.array([True, True])}, "one valid per row of logits"),
    ],
)
def test_wrong_calls(index, probs, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(top_k_cross_entropy)(
            ROWS[:1], np.array(index), np.array(probs), **settings
        )  # past the shape hints


def test_where_nobody_may_look_a_wrong_row_is_nan():
    JAX_JIT.require()
    index = np.array([[0, 0], [0, 9], [0, 1], [0, 1]])
    probs = np.array([[0.5, 0.1], [0.5, 0.1], [0.9, 0.3], [0.5, 0.25]])
    got = JAX_JIT.run(lambda x, y: top_k_cross_entropy(x, y, probs), ROWS[[0, 0, 0, 0]], index)
    assert np.isnan(got[:3]).all()
    assert np.isfinite(got[3])


def test_second_derivatives():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(ROWS[:1] / 2).requires_grad_()
    for remainder in ("together", "even", "renormalize"):

        def loss(z, remainder=remainder):
            return top_k_cross_entropy(z, INDEX[:1], PROBS[:1], remainder=remainder, temperature=1.5)

        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)
