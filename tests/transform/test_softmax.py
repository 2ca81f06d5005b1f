"""softmax, log_softmax and logsumexp: the field's known failures, bases, temperatures and the other parameters."""

import inspect

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import reference
from arrays import Library

NUMPY_32 = Library("numpy-float32", "numpy", np.array, dtype="float32")


def test_gradient_of_logsumexp_keeps_classes_far_below(differentiable):
    """SciPy, PyTorch and JAX lose the largest entry's complement; autograd through `max` gives nan at huge gaps."""
    row = [100.0, -100.0, 0.0] if differentiable.dtype == "float32" else [800.0, -800.0, 0.0]
    got = differentiable.gradient(ll.logsumexp, [row])[0]
    assert got[0] == 1
    assert got[1] == 0  # exp(-200) and exp(-1600) are below every float
    middle = np.exp(-100.0) if differentiable.dtype == "float32" else 0.0
    if differentiable.package == "jax":  # XLA flushes subnormal numbers
        assert got[2] <= np.finfo(np.float32).tiny
    else:
        np.testing.assert_allclose(got[2], middle, rtol=1e-7, atol=1e-45)


def test_log_softmax_keeps_the_tail_of_a_certain_class(library):
    """scipy.special.log_softmax and torch.log_softmax give exactly 0 (pytorch#113708, scipy#19521)."""
    got = library.run(ll.log_softmax, [20.0, 0.0])
    np.testing.assert_allclose(got, [-np.log1p(np.exp(-20)), -20 - np.log1p(np.exp(-20))], rtol=2 * library.eps)
    assert library.of([20.0, 0.0]).dtype == library.of([0.5]).dtype


def test_log_softmax_is_x_minus_logsumexp_also_for_large_offsets(library):
    """pytorch#56340: the two differed by the rounding of the offset."""
    offset = 2.0**20
    np.testing.assert_array_equal(
        library.run(ll.log_softmax, np.array([0.5, 0.25, -1.0]) + offset),
        library.run(ll.log_softmax, [0.5, 0.25, -1.0]),
    )


@pytest.mark.parametrize("base", [2, 3, 0.5, 10.0])
def test_base(base, library):
    got = library.run(lambda z: ll.softmax(z, base=base), [[3.0, 1.0, -np.inf], [0.0, 0.0, 0.0]])
    weights = np.array([base**3.0, base**1.0, 0.0])
    np.testing.assert_allclose(got, [weights / weights.sum(), [1 / 3] * 3], rtol=8 * library.eps)
    logs = library.run(lambda z: ll.log_softmax(z, base=base), [3.0, 1.0, -np.inf])
    np.testing.assert_allclose(logs[:2], np.log(got[0, :2]), rtol=8 * library.eps)
    assert logs[2] == -np.inf


def test_a_base_below_1_gives_an_infinite_logit_nothing():
    np.testing.assert_allclose(ll.softmax([np.inf, 0.0, 1.0], base=0.5), [0, 2 / 3, 1 / 3], rtol=1e-15)


@pytest.mark.parametrize("temperature", [0.25, 2, 100.0])
def test_temperature(temperature, library):
    rows = np.array([[3.0, 1.0, -np.inf], [1000.5, 1000.0, 999.0]])
    got = library.run(lambda z: ll.softmax(z, temperature=temperature), rows)
    weights = np.exp((rows - rows.max(-1, keepdims=True)) / temperature)
    np.testing.assert_allclose(got, weights / weights.sum(-1, keepdims=True), rtol=16 * library.eps)


def test_a_temperature_costs_no_digits_of_an_offset():
    """x / temperature rounds at the size of x: a row at 1e6 would keep ten digits of sixteen."""
    row = np.array([0.5, 0.25, -1.0])
    offset = 2.0**30
    np.testing.assert_array_equal(ll.softmax(row + offset, temperature=0.7), ll.softmax(row, temperature=0.7))
    np.testing.assert_array_equal(ll.log_softmax(row + offset, base=3), ll.log_softmax(row, base=3))


def test_a_temperature_for_each_row(library):
    rows = np.array([[3.0, 1.0, -np.inf], [2.0, 4.0, 0.0]])
    each = library.of(np.array([[0.5], [2.0]]))
    got = library.run(lambda z: ll.softmax(z, temperature=each), rows)
    for i, temperature in enumerate((0.5, 2.0)):
        alone = library.run(lambda z, t=temperature: ll.softmax(z, temperature=t), rows[i])
        np.testing.assert_array_equal(got[i], alone)
    columns = library.run(lambda z: ll.softmax(z, temperature=np.array([[0.5, 2.0]]), axis=0), rows.T)
    np.testing.assert_array_equal(columns, got.T)


def test_the_gradient_in_the_temperature(differentiable):
    """d/dT sum_i c_i p_i = -sum_i c_i p_i (z_i - sum_j p_j z_j) / T^2, with a masked class, which has no part in it."""
    row, weights = np.array([1.0, 3.0, -np.inf, 0.5]), np.array([1.0, -2.0, 5.0, 0.25])
    got = differentiable.gradient(lambda t: ll.softmax(differentiable.of(row), temperature=t), 2.0, cotangent=weights)
    p = np.exp(row / 2) / np.exp(row / 2).sum()
    z = np.where(np.isfinite(row), row, 0)
    want = -(weights * p * (z - (p * z).sum())).sum() / 4
    np.testing.assert_allclose(got, want, rtol=32 * differentiable.eps)


@pytest.mark.parametrize("library", [NUMPY_32], indirect=True, ids=str)
def test_a_temperature_does_not_widen_the_result(library):
    assert ll.softmax(library.of([[1.0, 2.0]]), temperature=np.array([[2.0]])).dtype == np.float32


def test_a_temperature_that_is_not_above_0():
    with pytest.raises(ValueError, match="softmax: temperature is a finite number above 0, not 0"):
        ll.softmax([1.0, 2.0], temperature=0)
    assert np.isnan(ll.softmax([1.0, -np.inf], temperature=np.array(-1.0))).all()


@pytest.mark.parametrize("shape", [(2,), (3,), (2, 3)])
def test_a_temperature_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"one per row as temperature\[:, None\]. logits are \(2, 3\), temperature is"):
        ll.softmax(np.zeros((2, 3)), temperature=np.ones(shape))


@pytest.mark.parametrize("base", [1, 0, -2, np.inf, np.nan])
def test_no_base(base):
    with pytest.raises(ValueError, match="base is a finite number above 0 and not 1"):
        ll.softmax([1.0, 2.0], base=base)


def test_out_receives_the_result():
    x = np.array([[2.0, 1.0], [0.0, 0.0]])
    out = np.empty_like(x)
    assert ll.softmax(x, out=out) is out
    np.testing.assert_array_equal(out, ll.softmax(x))
    assert ll.softmax(x, out=x) is x  # in place
    np.testing.assert_array_equal(x, out)


def test_empty_is_a_word():
    with pytest.raises(
        ValueError, match=r"softmax: empty is one of 'nan', 'uniform', 'zero', not 'zeros'\. Did you mean 'zero'"
    ):
        ll.softmax([1.0], empty="zeros")


@pytest.mark.parametrize("function", [ll.softmax, ll.log_softmax, ll.logsumexp, ll.entropy, ll.log_odds, ll.top2_gap])
def test_what_is_no_row_is_refused(function):
    formula = inspect.unwrap(function)  # past the shape hints that the test run enforces
    with pytest.raises(ValueError, match="this is a single number"):
        formula(3.0)
    with pytest.raises(ValueError, match="the last axis is empty"):
        formula(np.zeros((2, 0)))
    with pytest.raises(TypeError, match="not booleans"):
        formula(np.array([True, False]))
    with pytest.raises(TypeError, match="real numbers, not complex"):
        formula(np.array([1j, 2.0]))


def test_no_rows_give_no_rows():
    assert ll.softmax(np.zeros((0, 3))).shape == (0, 3)
    assert ll.logsumexp(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("margin", [86.0, 90.0, 95.0])
def test_a_sum_that_is_normal_is_not_flushed_though_each_term_is(margin, differentiable):
    """XLA flushes exp(-90) in float32; 50,000 of them are a normal number."""
    row = np.zeros(50_000)
    row[7] = margin
    want = 49_999 * np.exp(-margin)
    assert want > np.finfo(np.float32).tiny
    got = differentiable.run(ll.cross_entropy, [row], [7])
    np.testing.assert_allclose(got, [want], rtol=8 * differentiable.eps)
    slope = differentiable.gradient(ll.cross_entropy, [row], [7])[0, 7]
    np.testing.assert_allclose(slope, -want, rtol=8 * differentiable.eps)


@pytest.mark.parametrize("temperature", [0.7, 3, 1.9])
@pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
def test_another_temperature_or_base_costs_no_digits_of_the_tail(temperature, base, library):
    """Rounding a scaled difference of 80 alone would cost 40 units; the bar is 8."""
    row = np.array([0.0, 10.25, 17.5, 80.0])
    rate = mpmath.log(mpmath.mpf(base)) / mpmath.mpf(temperature) if base != np.e else 1 / mpmath.mpf(temperature)
    weights = [mpmath.exp((v - 80) * rate) for v in reference.exact(row)]
    want = [float(w / mpmath.fsum(weights)) for w in weights]
    got = library.run(lambda z: ll.softmax(z, temperature=temperature, base=base), row)
    normal = np.array(want) > np.finfo(library.dtype).tiny
    np.testing.assert_allclose(got[normal], np.array(want)[normal], rtol=8 * library.eps / 2)
    surprise = float(mpmath.log(mpmath.fsum(weights)))
    got = library.run(lambda z: ll.log_softmax(z, temperature=temperature, base=base), row)[3]
    np.testing.assert_allclose(-got, surprise, rtol=4 * library.eps, atol=np.finfo(library.dtype).tiny)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_order_of_the_bytes_changes_nothing(dtype):
    x = np.random.default_rng(0).normal(scale=8, size=(50, 12)).astype(dtype)
    with ll.formulas():
        for function in (ll.softmax, ll.log_softmax, ll.logsumexp):
            got, want = function(x.astype(x.dtype.newbyteorder())), function(x)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
