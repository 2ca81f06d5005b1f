"""gumbel_softmax and straight_through: random choices with a gradient, and the edges that gave others nan."""

import inspect

import numpy as np
import pytest

from arrays import DIFFERENTIABLE, JAX, TORCH
from lastlayer import _random
from lastlayer.transform import softmax
from lastlayer.transform.relaxed import gumbel_softmax, straight_through

Z = np.array([[2.0, 1.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [-3.0, 4.0, 1.0, -2.0]])
KEY = 42
NOISE = _random.gumbel("test", KEY, Z, np)
SEEDS = np.resize([1.0, -0.5, 0.25, 2.0, 0.75], Z.shape)


def textbook(z, noise, temperature):
    weights = np.exp((z + noise) / temperature)
    return weights / weights.sum(-1, keepdims=True)


def slopes(p, seeds, temperature):
    """The gradient of ``sum(seeds * p)`` for ``p = softmax(z / temperature)``, in closed form."""
    return p * (seeds - (seeds * p).sum(-1, keepdims=True)) / temperature


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1, 3.0])
def test_it_is_softmax_of_logits_plus_noise(temperature, library):
    got = library.run(lambda z: gumbel_softmax(z, KEY, temperature=temperature), Z)
    assert got.dtype == library.dtype
    np.testing.assert_allclose(got, textbook(Z, NOISE, temperature), rtol=64 * library.eps)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_gradient_with_the_noise_held_fixed(temperature, differentiable):
    got = differentiable.gradient(lambda z: gumbel_softmax(z, KEY, temperature=temperature), Z, cotangent=SEEDS)
    want = slopes(textbook(Z, NOISE, temperature), SEEDS, temperature)
    np.testing.assert_allclose(got, want, rtol=0, atol=64 * differentiable.eps)


def test_torch_differentiates_twice():
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.from_numpy(Z.copy()).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: gumbel_softmax(z, KEY, temperature=0.7), z)
    assert torch.autograd.gradgradcheck(lambda z: gumbel_softmax(z, KEY, temperature=0.7), z)


def test_the_gradient_in_the_temperature(differentiable):
    """d/dT sum_i c_i p_i = -sum_i c_i p_i (y_i - sum_j p_j y_j) / T^2 with y = z + g."""
    temperature = np.array([[0.5], [2.0], [1.0]])
    z = differentiable.of(Z)
    got = differentiable.gradient(lambda t: gumbel_softmax(z, KEY, temperature=t), temperature, cotangent=SEEDS)
    p, y = textbook(Z, NOISE, temperature), Z + NOISE
    want = -(SEEDS * p * (y - (p * y).sum(-1, keepdims=True))).sum(-1, keepdims=True) / temperature**2
    np.testing.assert_allclose(got, want, rtol=0, atol=64 * differentiable.eps)


def test_a_temperature_and_a_key_for_each_row(library):
    temperatures, keys = np.array([[0.5], [2.0], [1.0]]), np.array([3, 2**40, 5])
    each = library.of(temperatures)
    got = library.run(lambda z: gumbel_softmax(z, keys, temperature=each), Z)
    for i in range(3):
        alone = library.run(lambda z, i=i: gumbel_softmax(z, int(keys[i]), temperature=float(temperatures[i, 0])), Z[i])
        np.testing.assert_allclose(got[i], alone, rtol=16 * library.eps)
    columns = library.run(lambda z: gumbel_softmax(z, keys, temperature=temperatures.T, axis=0), Z.T)
    np.testing.assert_array_equal(columns.T, got)


def test_other_rows_and_further_classes_leave_the_draw(library):
    whole = library.run(lambda z: gumbel_softmax(z, KEY), Z)
    first = library.run(lambda z: gumbel_softmax(z, KEY), Z[:1])
    masked = library.run(lambda z: gumbel_softmax(z, KEY), np.pad(Z, ((0, 2), (0, 3)), constant_values=-np.inf))
    np.testing.assert_allclose(first[0], whole[0], rtol=4 * library.eps)
    np.testing.assert_allclose(masked[:3, :4], whole, rtol=4 * library.eps)
    assert (masked[:3, 4:] == 0).all()


@pytest.mark.parametrize("classes", [3, 10, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("package", ["numpy", "torch"])
def test_a_row_with_its_own_key_has_its_bits_whatever_its_neighbours(package, dtype, classes):
    of = np.asarray if package == "numpy" else pytest.importorskip("torch", reason="pip install torch").from_numpy
    z, keys = np.random.default_rng(classes).normal(0, 4, (7, classes)).astype(dtype), np.arange(7) * 2**40
    whole = np.asarray(gumbel_softmax(of(z), keys, temperature=0.5))
    backwards = np.asarray(gumbel_softmax(of(z[::-1].copy()), keys[::-1].copy(), temperature=0.5))
    columns = np.asarray(gumbel_softmax(of(np.ascontiguousarray(z.T)).T, keys, temperature=0.5))
    np.testing.assert_array_equal(backwards[::-1], whole)
    np.testing.assert_array_equal(columns, whole)
    for i in range(7):
        np.testing.assert_array_equal(np.asarray(gumbel_softmax(of(z[i]), int(keys[i]), temperature=0.5)), whole[i])


def test_a_constant_in_the_row_changes_no_bit(library):
    """In float32, 2^20 + noise would keep three digits of the noise."""
    np.testing.assert_array_equal(
        library.run(lambda z: gumbel_softmax(z, KEY), Z + 2.0**20), library.run(lambda z: gumbel_softmax(z, KEY), Z)
    )


def test_a_class_far_below_wins_its_share():
    """FlashInfer's noise ends at 15.9: 20.4 nats below the largest logit no class could win. The words come by hand."""
    top, lowest = np.array([2**32 - 1], np.uint32), np.array([0], np.uint32)
    most = _random.from_words(top, top, np.dtype("float32"), np)
    least = _random.from_words(lowest, lowest, np.dtype("float32"), np)
    assert 45 < most[0] < 45.1
    assert -3.9 < least[0] < -3.8
    assert softmax(np.array([0 + least[0], -40 + most[0]], np.float32)).argmax() == 1


def test_the_largest_entry_follows_softmax_at_every_temperature():
    z = np.broadcast_to(np.array([2.0, 1.0, 0.0, -2.0]), (50_000, 4))
    hot, cold = (gumbel_softmax(z, KEY, temperature=t).argmax(-1) for t in (5.0, 0.1))
    np.testing.assert_array_equal(hot, cold)
    share = np.bincount(hot, minlength=4) / len(z)
    p = softmax(z[0])
    assert (abs(share - p) < 3.5 * np.sqrt(p * (1 - p) / len(z))).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_special_values(temperature, library):
    """pytorch #22586, #41663 and #101620: nan out of finite or masked logits."""
    inf, nan = np.inf, np.nan
    rows = np.array([[1.0, -inf, 0.0], [-inf, -inf, -inf], [inf, 0.0, inf], [nan, 1.0, 2.0], [-inf, 5.0, -inf]])
    got = library.run(lambda z: gumbel_softmax(z, KEY, temperature=temperature), rows)
    noise = _random.gumbel("test", KEY, rows, np)
    assert got[0, 1] == 0
    np.testing.assert_allclose(got[0].sum(), 1, rtol=4 * library.eps)
    assert np.isnan(got[1]).all()
    pair = textbook(np.zeros(2), noise[2, [0, 2]], temperature)  # the limit of (t, 0, t)
    np.testing.assert_allclose(got[2], [pair[0], 0, pair[1]], rtol=64 * library.eps)
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[4], [0, 1, 0])


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gradients_of_special_values(temperature, differentiable):
    inf, nan = np.inf, np.nan
    rows = np.array([[1.0, -inf, 0.0], [-inf, -inf, -inf], [inf, 0.0, inf], [nan, 1.0, 2.0]])
    seeds = np.array([1.0, 3.0, -2.0])
    got = differentiable.gradient(lambda z: gumbel_softmax(z, KEY, temperature=temperature), rows, cotangent=seeds)
    noise = _random.gumbel("test", KEY, rows, np)
    kept = [0, 2]
    for row, z in ((0, np.array([1.0, 0.0])), (2, np.zeros(2))):
        want = slopes(textbook(z, noise[row, kept], temperature), seeds[kept], temperature)
        np.testing.assert_allclose(got[row, kept], want, rtol=0, atol=64 * differentiable.eps)
        assert got[row, 1] == 0
    assert (got[1] == 0).all()
    assert np.isnan(got[3]).all()


@pytest.mark.parametrize("temperature", [0, 0.0, -1, np.inf, np.nan])
def test_a_temperature_that_is_not_above_0(temperature):
    """pytorch #184031: tau=0 gave nan without a word."""
    with pytest.raises(ValueError, match="gumbel_softmax: temperature is a finite number above 0, not"):
        gumbel_softmax(Z, KEY, temperature=temperature)


def test_a_row_whose_temperature_is_not_above_0_is_nan(library):
    got = library.run(lambda z: gumbel_softmax(z, KEY, temperature=np.array([[1.0], [0.0], [-1.0]])), Z)
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).all()


@pytest.mark.parametrize("key", [1.5, True, -1, np.zeros(5, int)])
def test_no_key(key):
    with pytest.raises((TypeError, ValueError), match=r"gumbel_softmax: .*key is"):
        gumbel_softmax(Z, key)


@pytest.mark.parametrize("function", [lambda z: gumbel_softmax(z, KEY), straight_through])
@pytest.mark.parametrize(("package", "half"), [("torch", "bfloat16"), ("torch", "float16"), ("jax.numpy", "bfloat16")])
def test_half_precision_is_computed_in_float32(function, package, half):
    xp = pytest.importorskip(package, reason=f"pip install {package.partition('.')[0]}")
    probs = xp.asarray(softmax(Z).tolist(), dtype=getattr(xp, half))
    got, wide = function(probs), function(xp.asarray(probs, dtype=xp.float32))
    assert got.dtype == probs.dtype
    assert bool((got == xp.asarray(wide, dtype=got.dtype)).all())


def test_jax_maps_over_keys_and_gradients():
    jax = pytest.importorskip("jax", reason="pip install jax")
    keys, z = jax.random.split(jax.random.key(1), 3), JAX.of(Z)
    np.testing.assert_allclose(jax.jit(jax.vmap(gumbel_softmax))(z, keys), gumbel_softmax(z, keys), rtol=1e-6)

    def score(z, key):
        return (gumbel_softmax(z, key, temperature=0.5) * SEEDS[0]).sum()

    mapped = jax.jit(jax.vmap(jax.grad(score)))(z, keys)
    want = slopes(np.asarray(gumbel_softmax(z, keys, temperature=0.5), float), SEEDS[0], 0.5)
    np.testing.assert_allclose(mapped, want, rtol=0, atol=1e-5)


def test_torch_maps_over_keys_and_gradients():
    torch = pytest.importorskip("torch", reason="pip install torch")
    keys, z = torch.tensor([1, 2**40, 3]), TORCH.of(Z)
    mapped = torch.func.vmap(torch.func.grad(lambda z, key: (gumbel_softmax(z, key)[..., 0]).sum()))(z, keys)
    want = slopes(gumbel_softmax(Z, keys), np.eye(4)[0], 1)
    np.testing.assert_allclose(mapped, want, rtol=0, atol=1e-14)


# probabilities, the one-hot of the first largest
CHOICES = [
    ([0.2, 0.5, 0.3], [0.0, 1.0, 0.0]),
    ([0.4, 0.2, 0.4], [1.0, 0.0, 0.0]),
    ([1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]),
    ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0]),
    ([1e-30, 2e-30, 0.0], [0.0, 1.0, 0.0]),
    ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ([np.nan, 0.5, 0.5], [np.nan] * 3),
    ([np.nan] * 3, [np.nan] * 3),
    ([np.inf, 0.0, 0.0], [np.nan] * 3),
]


def test_straight_through_is_exactly_the_onehot(library):
    probs, want = (np.array(part) for part in zip(*CHOICES, strict=True))
    got = library.run(straight_through, probs)
    assert got.dtype == library.dtype
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(library.run(lambda p: straight_through(p, axis=0), probs.T), want.T)


def test_straight_through_is_exact_where_hard_plus_soft_minus_soft_is_not(differentiable):
    probs = np.random.default_rng(0).dirichlet(np.ones(7), 500)
    soft = probs.astype(differentiable.dtype)
    hard = (np.arange(7) == soft.argmax(-1)[:, None]).astype(soft.dtype)
    assert (((hard + soft) - soft) != hard).any()
    np.testing.assert_array_equal(differentiable.run(straight_through, probs), hard)


def test_straight_through_has_slope_1(differentiable):
    probs = np.array([row for row, _ in CHOICES])
    seeds = np.array([1.0, -0.5, 3.0])
    got = differentiable.gradient(straight_through, probs, cotangent=seeds)
    np.testing.assert_array_equal(got[:6], np.broadcast_to(seeds, (6, 3)))
    assert np.isnan(got[6:]).all()


def test_straight_through_maps_and_runs_forward():
    torch = pytest.importorskip("torch", reason="pip install torch")
    jax = pytest.importorskip("jax", reason="pip install jax")
    probs, weights = softmax(Z), np.arange(4.0)
    for mapped in (
        torch.func.vmap(torch.func.grad(lambda p: (straight_through(p) * TORCH.of(weights)).sum()))(TORCH.of(probs)),
        jax.jit(jax.vmap(jax.grad(lambda p: (straight_through(p) * weights).sum())))(JAX.of(probs)),
        jax.jvp(straight_through, (JAX.of(probs),), (JAX.of(np.broadcast_to(weights, (3, 4))),))[1],
    ):
        np.testing.assert_array_equal(np.asarray(mapped), np.broadcast_to(weights, (3, 4)))


@pytest.mark.parametrize("differentiable", DIFFERENTIABLE, indirect=True, ids=str)
def test_the_hard_sample_has_the_gradient_of_the_soft_one(differentiable):
    """What `hard=True` is elsewhere."""

    def hard(z):
        return straight_through(gumbel_softmax(z, KEY, temperature=0.5))

    np.testing.assert_array_equal(differentiable.run(hard, Z), np.eye(4)[(Z + NOISE).argmax(-1)])
    got = differentiable.gradient(hard, Z, cotangent=SEEDS)
    soft = differentiable.gradient(lambda z: gumbel_softmax(z, KEY, temperature=0.5), Z, cotangent=SEEDS)
    np.testing.assert_allclose(got, soft, rtol=8 * differentiable.eps)


@pytest.mark.parametrize(("empty", "value"), [("zero", 0.0), ("nan", np.nan)])
def test_an_empty_row_stays_empty_and_has_no_gradient(empty, value, differentiable):
    rows = np.array([[-np.inf, -np.inf], [1.0, 0.0]])
    seeds = np.array([1.0, -1.0])

    def hard(z):
        return straight_through(softmax(z, empty=empty))

    np.testing.assert_array_equal(differentiable.run(hard, rows), [[value, value], [1, 0]])
    assert (differentiable.gradient(hard, rows, cotangent=seeds)[0] == 0).all()


def test_a_second_derivative_goes_through_the_onehot():
    """f = sum(w * onehot^2) has slope 2 w onehot, and as the one-hot passes slopes on, curvature 2 w."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    probs = TORCH.of([0.2, 0.5, 0.3]).requires_grad_()
    weights = TORCH.of([1.0, 2.0, 3.0])
    (slope,) = torch.autograd.grad((weights * straight_through(probs) ** 2).sum(), probs, create_graph=True)
    np.testing.assert_array_equal(slope.detach(), [0, 4, 0])
    (curvature,) = torch.autograd.grad(slope.sum(), probs)
    np.testing.assert_array_equal(curvature, [2, 4, 6])


@pytest.mark.parametrize("function", [lambda z: inspect.unwrap(gumbel_softmax)(z, 1), inspect.unwrap(straight_through)])
def test_what_is_no_row_is_refused(function):
    with pytest.raises(ValueError, match="this is a single number"):
        function(3.0)
    with pytest.raises(ValueError, match="the last axis is empty"):
        function(np.zeros((2, 0)))


def test_no_rows_give_no_rows(library):
    assert library.run(lambda z: gumbel_softmax(z, KEY), np.zeros((0, 3))).shape == (0, 3)
    assert library.run(straight_through, np.zeros((0, 3))).shape == (0, 3)
