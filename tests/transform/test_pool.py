"""pool: the two means and their tails, special values by model and weight, derivatives and refusals."""

import inspect

import mpmath
import numpy as np
import pytest

from arrays import JAX_JIT, JAX_JIT_64, TORCH, TORCH_32, Library
from lastlayer.transform.pool import pool
from lastlayer.transform.softmax import log_softmax, logsumexp

NUMPY, NUMPY_32 = Library("numpy", "numpy", np.array), Library("numpy-float32", "numpy", np.array, dtype="float32")
HOWS = pytest.mark.parametrize("how", ["log", "linear"])


def models(seed=0, shape=(3, 4, 5)):
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32).astype(np.float64)


def stacked(how="log", weights=None):
    """`pool` of the models along the first axis of one array."""
    return lambda z: pool([z[k, ...] for k in range(z.shape[0])], how, weights)


def exact(rows, how, weights):
    """The textbook formula for one row of each model, with 60 digits."""
    with mpmath.workdps(60):
        w = [mpmath.mpf(float(v)) for v in weights]
        w = [v / mpmath.fsum(w) for v in w]
        rows = [[mpmath.mpf(float(v)) for v in row] for row in rows]
        if how == "linear":
            sums = [mpmath.fsum(mpmath.exp(v) for v in row) for row in rows]
            probs = [[mpmath.exp(v) / total for v in row] for row, total in zip(rows, sums, strict=True)]
            return [mpmath.log(mpmath.fdot(w, column)) for column in zip(*probs, strict=True)]
        mean = [mpmath.fdot(w, column) for column in zip(*rows, strict=True)]
        normaliser = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in mean))
        return [v - normaliser for v in mean]


@HOWS
def test_one_model_is_log_softmax(how, library):
    x = models(shape=(1, 4, 5))
    want = library.run(log_softmax, x[0])
    np.testing.assert_allclose(library.run(stacked(how), x), want, rtol=8 * library.eps)


@HOWS
def test_a_model_pooled_with_itself_is_itself(how, library):
    x = np.stack([models()[0]] * 3)
    want = library.run(log_softmax, x[0])
    np.testing.assert_allclose(library.run(stacked(how, [1, 5, 0.5]), x), want, rtol=16 * library.eps)


def test_the_log_pool_of_z_and_half_z_is_a_temperature(library):
    z = models()[0]
    want = library.run(log_softmax, 0.75 * z)
    np.testing.assert_allclose(library.run(lambda z: pool([z, z / 2]), z), want, rtol=16 * library.eps)


def test_the_linear_pool_is_the_mean_of_the_probabilities(library):
    x, w = models(), np.array([0.5, 0.25, 0.25])
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    want = np.log((w[:, None, None] * p).sum(0))
    np.testing.assert_allclose(library.run(stacked("linear", w), x), want, rtol=16 * library.eps)


@HOWS
def test_the_result_is_normalised_and_weights_are(how, library):
    x = models()
    got = library.run(stacked(how, [1.0, 2.0, 3.0]), x)
    np.testing.assert_allclose(library.run(logsumexp, got), 0, atol=4 * library.eps)
    np.testing.assert_allclose(got, library.run(stacked(how, [100, 200, 300]), x), rtol=16 * library.eps)


def test_a_sure_mixture_keeps_its_tail(library):
    """log(mean of p) is exactly 0 from a margin of 37 on in float64, of 17 in float32."""
    got = library.run(stacked("linear"), [[40.0, 0.0], [42.0, 0.0]])
    tail = (np.exp(-40) + np.exp(-42)) / 2
    np.testing.assert_allclose(got, [-tail, np.log(tail)], rtol=4 * library.eps)


@HOWS
@pytest.mark.parametrize("library", [NUMPY, NUMPY_32, TORCH, TORCH_32, JAX_JIT, JAX_JIT_64], indirect=True, ids=str)
@pytest.mark.parametrize("weights", [None, (0.3, 0.7, 0.1)])
def test_values_to_8_units_in_the_last_place(how, weights, library):
    """Margins of 0 to 80, near ties, and rows far from 0; XLA must not fuse what carries its rounding error."""
    rng = np.random.default_rng(7)
    x = rng.normal(0, 1, (3, 40, 4))
    x[:, :, 0] += np.linspace(0, 80, 40)
    x[1] = x[1] / 2 + 1000
    x[2, ::2] = x[2, ::2, ::-1]
    x = x.astype(np.float32).astype(np.float64)
    got = library.run(stacked(how, weights), x)
    for i in range(40):
        want = exact(x[:, i], how, weights or (1, 1, 1))
        for ours, theirs in zip(got[i], want, strict=True):
            size = float(np.spacing(np.array(abs(float(theirs)), library.dtype)))
            assert abs(float(mpmath.mpf(float(ours)) - theirs)) <= 8 * size, (i, how)


def test_a_masked_class_of_the_log_pool_is_masked_in_any_model(library):
    x = [[0.0, 1.0, 2.0], [-np.inf, 1.0, 2.0]]
    np.testing.assert_allclose(
        library.run(stacked(), x), [-np.inf, -np.log1p(np.exp(1)), -np.log1p(np.exp(-1))], rtol=8 * library.eps
    )


def test_a_masked_class_of_the_mixture_is_masked_in_all(library):
    x = [[0.0, 0.0, -np.inf], [-np.inf, 0.0, -np.inf]]
    np.testing.assert_allclose(
        library.run(stacked("linear"), x), [np.log(0.25), np.log(0.75), -np.inf], rtol=4 * library.eps
    )


def test_infinite_logits_are_their_limit(library):
    x = [[np.inf, 0.0, np.inf], [0.0, 0.0, 0.0]]
    half = np.log(0.5)
    np.testing.assert_allclose(library.run(stacked(), x), [half, -np.inf, half], rtol=4 * library.eps)
    want = np.log([5 / 12, 1 / 6, 5 / 12])
    np.testing.assert_allclose(library.run(stacked("linear"), x), want, rtol=4 * library.eps)


@HOWS
@pytest.mark.parametrize("held", [np.nan, np.inf, -np.inf])
def test_a_model_of_weight_0_is_not_looked_at(how, held, differentiable):
    x = models(shape=(2, 3, 4))
    x[1] = held
    want = differentiable.run(log_softmax, x[0])
    np.testing.assert_allclose(differentiable.run(stacked(how, [2, 0]), x), want, rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(stacked(how, [2, 0]), x, cotangent=np.array([1.0, -1.0, 2.0, 0.5]))
    assert (slopes[1] == 0).all()
    assert np.isfinite(slopes[0]).all() and slopes[0].any()


@HOWS
def test_a_model_of_weight_0_is_far_above_the_others_and_not_looked_at(how, differentiable):
    x = np.array([[[800.0, 0.0]], [[0.0, 0.0]]])
    np.testing.assert_allclose(differentiable.run(stacked(how, [1, 0]), x), [[0, -800]], rtol=4 * differentiable.eps)
    assert np.isfinite(differentiable.gradient(stacked(how, [1, 0]), x)).all()


@HOWS
def test_a_nan_beside_a_masked_class_is_nan(how, library):
    x = np.array([[[np.nan, 0.0, 1.0]], [[0.0, -np.inf, -np.inf]]])
    assert np.isnan(library.run(stacked(how), x)).all()


@HOWS
def test_an_empty_or_spoilt_row_of_any_model_is_nan_alone(how, differentiable):
    x = models(shape=(2, 4, 3))
    before, slopes = differentiable.run(stacked(how), x), differentiable.gradient(stacked(how), x)
    x[0, 1], x[1, 2, 0] = -np.inf, np.nan
    after = differentiable.run(stacked(how), x)
    spoilt = differentiable.gradient(stacked(how), x)
    assert np.isnan(after[[1, 2]]).all()
    np.testing.assert_array_equal(after[[0, 3]], before[[0, 3]])
    assert (spoilt[:, 1] == 0).all()
    np.testing.assert_array_equal(spoilt[:, [0, 3]], slopes[:, [0, 3]])


def test_a_row_of_which_every_class_is_masked_by_one_model_is_empty(differentiable):
    x = [[[0.0, -np.inf]], [[-np.inf, 0.0]]]
    assert np.isnan(differentiable.run(stacked(), x)).all()
    assert (differentiable.gradient(stacked(), x) == 0).all()
    half = np.log(0.5)
    np.testing.assert_allclose(differentiable.run(stacked("linear"), x), [[half, half]], rtol=4 * differentiable.eps)


def test_the_gradient_of_a_sure_mixture(differentiable):
    """d log p_0 / d z_k0 = w_k p_k (1 - p_k) / p: the tail, not 1 - 1."""
    margins = np.array([40.0, 42.0])
    x = np.stack([np.stack([margins, 0 * margins], -1)], 1)
    got = differentiable.gradient(stacked("linear"), x, cotangent=np.array([1.0, 0.0]))
    tails = np.exp(-margins) / 2
    np.testing.assert_allclose(got[:, 0, 0], tails, rtol=8 * differentiable.eps)
    np.testing.assert_allclose(got[:, 0, 1], -tails, rtol=8 * differentiable.eps)


def test_the_gradient_of_a_sure_log_pool(differentiable):
    x = np.array([[[40.0, 0.0]], [[42.0, 0.0]]])
    got = differentiable.gradient(stacked(), x, cotangent=np.array([1.0, 0.0]))
    np.testing.assert_allclose(got[:, 0], [[np.exp(-41) / 2, -np.exp(-41) / 2]] * 2, rtol=8 * differentiable.eps)


@HOWS
def test_derivatives(how):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(models(3, (3, 2, 4)))
    x[1, 0, 2] = -torch.inf
    weights = torch.tensor([0.3, 1.0, 0.7], dtype=torch.float64, requires_grad=True)

    def free(a, w):
        y = pool(list(a.unbind()), how, w)
        return torch.where(torch.isfinite(y), y, torch.zeros_like(y))

    kept = torch.where(torch.isfinite(x), x, torch.zeros_like(x)).requires_grad_()
    assert torch.autograd.gradcheck(free, (kept, weights))
    assert torch.autograd.gradgradcheck(free, (kept, weights))
    (slope,) = torch.autograd.grad(free(x.requires_grad_(), weights).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad((slope * slope).sum(), x)
    assert slope.isfinite().all() and curvature.isfinite().all()
    assert slope[1, 0, 2] == 0 and curvature[1, 0, 2] == 0
    mapped = torch.func.vmap(torch.func.grad(lambda a: free(a, [1, 2, 3]).sum()), in_dims=1, out_dims=1)
    rows = kept.detach()
    whole = TORCH.gradient(lambda a: free(a, [1, 2, 3]), rows.numpy())
    np.testing.assert_array_equal(mapped(rows), whole)


@HOWS
def test_jax_maps_and_agrees(how):
    jax = pytest.importorskip("jax", reason="pip install jax")
    x = models(4)
    x[0, 0, 1] = -np.inf

    def free(a):
        y = pool(list(a), how, [1, 2, 3])
        return jax.numpy.where(jax.numpy.isfinite(y), y, 0).sum()

    mapped = jax.jit(jax.vmap(jax.grad(free), in_axes=1, out_axes=1))(JAX_JIT.of(x))
    whole = stacked(how, [1, 2, 3])
    slopes = TORCH.gradient(whole, x, cotangent=np.where(np.isfinite(whole(x)), 1.0, 0.0))
    np.testing.assert_allclose(mapped, slopes, rtol=1e-5, atol=2e-6)


@HOWS
def test_a_row_has_its_bits_whatever_its_neighbours(how):
    x = models(5, (3, 6, 137))
    for library in (NUMPY, NUMPY_32, TORCH):
        whole = library.run(stacked(how), x)
        np.testing.assert_array_equal(library.run(stacked(how), x[:, ::-1])[::-1], whole)
        np.testing.assert_array_equal(library.run(stacked(how), x[:, 2]), whole[2])
    fortran = [np.asfortranarray(row) for row in x]
    np.testing.assert_array_equal(pool(fortran, how), stacked(how)(x))


def test_what_is_no_ensemble_is_refused():
    formula = inspect.unwrap(pool)
    z = np.zeros((2, 3))
    with pytest.raises(TypeError, match="pool: logits is a list, one array per model, not ndarray"):
        formula(z)
    with pytest.raises(ValueError, match="pool: the list is empty"):
        formula([])
    with pytest.raises(ValueError, match=r"one shape; model 0 is \(2, 3\), model 2 is \(3, 2\)"):
        formula([z, z, z.T])
    with pytest.raises(ValueError, match=r"how is one of 'log', 'linear', not 'lineal'\. Did you mean 'linear'"):
        formula([z], "lineal")
    for weights in ([1.0], [1.0, 2.0, 3.0], 1.0, [[1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"pool: one weight per model, \(2,\); weights is \("):
            formula([z, z], "log", weights)
    for weights in ([0, 0], [1, -1], [np.nan, 1], [np.inf, 1]):
        with pytest.raises(ValueError, match="pool: weights are finite and not negative, and not all 0; they are"):
            formula([z, z], "log", weights)
    torch = pytest.importorskip("torch", reason="pip install torch")
    with pytest.raises(TypeError, match="arrays of one library"):
        formula([z, torch.zeros(2, 3)])


@HOWS
def test_jax_poisons_what_it_may_not_refuse(how):
    JAX_JIT.require()
    for weights in ([0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]):
        got = JAX_JIT.run(lambda z, w: pool([z, z + 1], how, w), [[0.0, 1.0]], np.array(weights))
        assert np.isnan(got).all()


@HOWS
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(how, half):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = [TORCH.of(z).to(getattr(torch, half)) for z in models()]
    got = pool(x, how)
    assert torch.equal(got, pool([z.float() for z in x], how).to(x[0].dtype))
    assert pool([x[0], x[1].float()], how).dtype == torch.float32


@HOWS
def test_the_dtype_stays(how, library):
    x = [library.of(z) for z in models()]
    assert pool(x, how, np.array([1.0, 2.0, 3.0])).dtype == x[0].dtype
    np.testing.assert_array_equal(pool([[1.0, 2.0], [3.0, 4.0]], how), pool(list(np.array([[1.0, 2.0], [3, 4]])), how))
