"""The streamed loss of a last layer, on NumPy: it is `cross_entropy` of its logits, which never exist."""

import math
import tracemalloc

import numpy as np
import pytest

import lastlayer as ll
from lastlayer import parallel
from lastlayer.linear import head, linear_cross_entropy, linear_cross_entropy_grad, plan
from lastlayer.linear.products import NumpyProducts

SHAPES = [(37, 9, 300), (5, 3, 1), (1, 4, 2), (64, 16, 1000)]
SMALL = 16_000  # bytes: several blocks of the classes, and several groups of rows


def problem(n, width, classes, dtype="float64"):
    rng = np.random.default_rng(n * classes)
    features, weight = rng.normal(size=(n, width)), rng.normal(size=(classes, width))
    bias, cotangent = rng.normal(size=classes), rng.normal(size=n)
    target = rng.integers(0, classes, n)
    return *(a.astype(dtype) for a in (features, weight)), target, bias.astype(dtype), cotangent


def settings_of(name, n, classes):
    rng = np.random.default_rng(classes)
    class_weight = rng.uniform(0.2, 2.0, classes)
    class_weight[0] = 0.0
    return {
        "plain": {},
        "smoothed": {"label_smoothing": 0.1},
        "uniform": {"label_smoothing": 1.0},
        "capped": {"softcap": 3.0, "temperature": 0.7, "label_smoothing": 0.3},
        "z_loss": {"z_loss": 0.01},
        "weighed": {"class_weight": class_weight, "z_loss": 0.1, "label_smoothing": 0.2},
        "valid": {"valid": rng.random(n) < 0.7},
    }[name]


NAMES = ["plain", "smoothed", "uniform", "capped", "z_loss", "weighed", "valid"]


def of_formula(features, weight, target, bias, cotangent, **settings):
    """The loss by its formula in float64, and its gradients by autograd."""
    torch = pytest.importorskip("torch")
    leaves = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (features, weight, bias)]
    given = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    loss = ll.cross_entropy(leaves[0] @ leaves[1].T + leaves[2], torch.from_numpy(target), **given)
    (loss * torch.from_numpy(cotangent)).sum().backward()
    return loss.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", ["64MiB", SMALL])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_are_those_of_the_formula(shape, name, memory, dtype):
    features, weight, target, bias, cotangent = problem(*shape, dtype)
    settings = settings_of(name, shape[0], shape[2])
    wanted = of_formula(features, weight, target, bias, cotangent, **settings)
    found = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias, memory=memory, **settings)
    room = 2e-6 if dtype == "float32" else 1e-13
    for part, want in zip(found, wanted, strict=True):
        assert part.dtype == dtype and part.shape == want.shape
        np.testing.assert_allclose(part, want, rtol=0, atol=room * max(np.abs(want).max(), 1e-30))
    alone = linear_cross_entropy(features, weight, target, bias=bias, memory=memory, **settings)
    np.testing.assert_allclose(alone, wanted[0], rtol=room, atol=room)


def test_the_small_budget_has_blocks_and_groups():
    found = plan((64, 16), (1000, 16), memory=SMALL)
    assert found.tile[0] < 64 and found.tile[1] < 1000


def test_the_gradient_is_p_minus_onehot_by_hand():
    features, weight = np.array([[1.0, 2.0]]), np.array([[0.0, 0.0], [math.log(3.0), 0.0]])
    found = linear_cross_entropy_grad(features, weight, np.array([0]), np.array([2.0]))
    np.testing.assert_allclose(found.loss, [math.log(4.0)], rtol=1e-15)
    np.testing.assert_allclose(found.features, [[1.5 * math.log(3.0), 0.0]], rtol=1e-15)
    np.testing.assert_allclose(found.weight, [[-1.5, -3.0], [1.5, 3.0]], rtol=1e-15)
    assert found.bias is None


def test_without_cotangent_the_gradients_are_those_of_the_mean_over_valid_rows():
    features, weight, target, bias, _ = problem(9, 4, 6)
    valid = np.arange(9) % 3 > 0
    mean = linear_cross_entropy_grad(features, weight, target, bias=bias, valid=valid)
    given = linear_cross_entropy_grad(features, weight, target, np.full(9, 1 / 6), bias=bias, valid=valid)
    for found, want in zip(mean, given, strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("memory", ["64MiB", 20_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sure_row_keeps_its_tail(dtype, memory):
    classes, margin = 500, 60.0
    weight = np.zeros((classes, 1), dtype)
    weight[7] = margin
    found = linear_cross_entropy_grad(
        np.ones((20, 1), dtype), weight, np.full(20, 7), np.ones(20), memory=memory, bias=np.zeros(classes, dtype)
    )
    rest = (classes - 1) * math.exp(-margin)
    np.testing.assert_allclose(found.loss, np.full(20, rest), rtol=1e-5)
    np.testing.assert_allclose(found.bias[7], -20 * rest, rtol=1e-5)
    np.testing.assert_allclose(found.bias[8], 20 * math.exp(-margin), rtol=1e-5)


@pytest.mark.parametrize("memory", ["64MiB", 20_000])
def test_special_values_are_those_of_cross_entropy(memory):
    classes = 300
    features = np.array([[1.0], [np.nan], [0.0], [2.0]])
    weight = np.linspace(-1, 1, classes)[:, None]
    bias = np.zeros(classes)
    bias[:100] = -np.inf
    target = np.array([200, 200, 50, 250])
    found = linear_cross_entropy_grad(features, weight, target, np.ones(4), bias=bias, memory=memory)
    with np.errstate(invalid="ignore"):
        want = ll.cross_entropy(features @ weight.T + bias, target)
    np.testing.assert_allclose(found.loss, want, rtol=1e-13)  # row 1 is nan, row 2 infinite
    assert np.isnan(found.features[1]).all() and np.isfinite(found.features[[0, 2, 3]]).all()
    nothing = linear_cross_entropy_grad(
        features[:1], weight, target[:1], np.ones(1), bias=np.full(classes, -np.inf), memory=memory
    )
    assert np.isnan(nothing.loss).all()
    assert all((part == 0).all() for part in nothing[1:])


@pytest.mark.parametrize("memory", ["64MiB", 20_000])
def test_a_bias_of_infinity_is_the_limit(memory):
    features, weight, target, bias, cotangent = problem(8, 3, 300)
    bias[[5, 250]] = np.inf
    target[:4] = [5, 250, 5, 7]
    found = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias, memory=memory)
    np.testing.assert_allclose(found.loss[:4], [math.log(2)] * 3 + [np.inf], rtol=1e-15)
    want = of_formula(features, weight, target, bias, cotangent)
    np.testing.assert_allclose(found.weight, want[2], rtol=0, atol=1e-13)


def test_rows_that_do_not_count_are_never_looked_at():
    features, weight, target, bias, _ = problem(12, 4, 50)
    valid = np.arange(12) % 2 == 0
    features[1], target[3] = np.nan, -100
    found = linear_cross_entropy_grad(features, weight, target, np.ones(12), bias=bias, valid=valid)
    kept = linear_cross_entropy_grad(features[valid], weight, target[valid], np.ones(6), bias=bias)
    assert (found.loss[~valid] == 0).all() and (found.features[~valid] == 0).all()
    np.testing.assert_array_equal(found.loss[valid], kept.loss)
    np.testing.assert_array_equal(found.weight, kept.weight)
    none = linear_cross_entropy_grad(features, weight, target, np.ones(12), bias=bias, valid=np.zeros(12, bool))
    assert all((part == 0).all() for part in none)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("memory", [2**20, 2**22])
def test_the_logits_never_exist(memory, gradients):
    features, weight, target, *_ = problem(512, 8, 16384)
    call = linear_cross_entropy_grad if gradients else linear_cross_entropy
    call(features[:2], weight, target[:2], memory=memory)  # what is loaded on first use
    tracemalloc.start()
    try:
        call(features, weight, target, memory=memory)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    outputs = (features.nbytes + weight.nbytes) * gradients
    scratch = 6 * 2**20  # of the formulas of tiles, a range of rows on each thread
    assert peak < memory + outputs + scratch < features.shape[0] * weight.shape[0] * 8 / 4


def test_no_gradient_is_made_where_only_the_loss_is_asked_for(monkeypatch):
    def refuse(*args):
        raise AssertionError("a product for a gradient")

    features, weight, target, *_ = problem(64, 16, 1000)
    monkeypatch.setattr(NumpyProducts, "rows", refuse)
    monkeypatch.setattr(NumpyProducts, "columns", refuse)
    assert linear_cross_entropy(features, weight, target, memory=SMALL).shape == (64,)


@pytest.mark.parametrize("memory", ["64MiB", SMALL])
def test_the_bits_do_not_depend_on_threads_or_layout(monkeypatch, memory):
    features, weight, target, bias, cotangent = problem(300, 16, 4000, "float32")
    want = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias, memory=memory)
    swapped = features.astype(">f4")
    frozen = np.asfortranarray(weight)
    frozen.flags.writeable = False
    again = linear_cross_entropy_grad(swapped, frozen, target.astype(np.int32), cotangent, bias=bias, memory=memory)
    monkeypatch.setattr(parallel, "workers", lambda: 1)
    alone = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias, memory=memory)
    for found in (*zip(again, want, strict=True), *zip(alone, want, strict=True)):
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("memory", ["64MiB", SMALL])
def test_the_bits_do_not_depend_on_the_threads_of_blas(memory):
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    features, weight, target, bias, cotangent = problem(300, 16, 4000, "float32")
    with limits(1):
        one = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias, memory=memory)
    with limits(2):
        two = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias, memory=memory)
    for found, want in zip(one, two, strict=True):
        np.testing.assert_array_equal(found, want)


def test_batches_of_any_shape():
    features, weight, target, bias, cotangent = problem(24, 5, 30)
    flat = linear_cross_entropy_grad(features, weight, target, cotangent, bias=bias)
    shaped = linear_cross_entropy_grad(
        features.reshape(2, 3, 4, 5), weight, target.reshape(2, 3, 4), cotangent.reshape(2, 3, 4), bias=bias
    )
    assert shaped.loss.shape == (2, 3, 4) and shaped.features.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(shaped.features.reshape(24, 5), flat.features)
    one = linear_cross_entropy(features[0], weight, target[0], bias=bias)
    assert one.shape == () and one == linear_cross_entropy(features[:1], weight, target[:1], bias=bias)[0]


def test_no_rows():
    found = linear_cross_entropy_grad(np.zeros((0, 3)), np.ones((4, 3)), np.zeros(0, int), bias=np.ones(4))
    assert found.loss.shape == (0,) and found.features.shape == (0, 3)
    assert (found.weight == 0).all() and (found.bias == 0).all()


def test_half_precision_and_integers_are_computed_wider():
    features, weight, target, *_ = problem(6, 4, 5)
    half = linear_cross_entropy_grad(features.astype(np.float16), weight.astype(np.float16), target)
    assert (half.loss.dtype, half.features.dtype, half.weight.dtype) == (np.float32, np.float16, np.float16)
    whole = np.arange(6).reshape(3, 2)
    want = ll.cross_entropy((whole @ np.eye(2)).astype(float), np.array([0, 1, 1]))
    np.testing.assert_allclose(linear_cross_entropy(whole, np.eye(2, dtype=int), np.array([0, 1, 1])), want)


@pytest.mark.parametrize("name", ["array_api_strict", "jax"])
def test_other_libraries_take_the_formula(name):
    pytest.importorskip(name)
    features, weight, target, bias, _ = problem(6, 4, 9)
    if name == "jax":
        import jax
        import jax.numpy as jnp

        def loss(x, w):
            return linear_cross_entropy(x, w, jnp.asarray(target), bias=jnp.asarray(bias)).mean()

        with jax.enable_x64(True):
            found = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(features), jnp.asarray(weight))
            want = linear_cross_entropy_grad(features, weight, target, bias=bias)[1:3]
            for a, b in zip(found, want, strict=True):
                np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12, atol=1e-15)
        return
    import array_api_strict as xp

    found = linear_cross_entropy(*(xp.asarray(a) for a in (features, weight, target)), bias=xp.asarray(bias))
    want = linear_cross_entropy(features, weight, target, bias=bias)
    np.testing.assert_allclose(np.from_dlpack(found), want, rtol=1e-13)


def test_parts_of_blocks_merge_to_those_of_the_whole():
    rng = np.random.default_rng(0)
    z = rng.normal(scale=5, size=(40, 60))
    z[:10, :30], z[10:20, 30:], z[20:25] = -np.inf, -np.inf, -np.inf
    z[30, [3, 50]] = z[30].max() + 1
    target = rng.integers(0, 60, 40)
    with np.errstate(all="ignore"):
        whole = head.Parts.of(z, target, True)
        merged = head.Parts.of(z[:, :30].copy(), target, True).merge(head.Parts.of(z[:, 30:].copy(), target - 30, True))
    for name, found, want in zip(head.Parts._fields, merged, whole, strict=True):
        there = whole.largest > -np.inf
        np.testing.assert_allclose(found[there], want[there], rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(merged.largest, whole.largest)


def sentences():
    x, w, y = np.zeros((4, 3)), np.zeros((10, 3)), np.zeros(4, int)
    return {
        r"features \(\*batch, width\) meet weight .* features are \(4, 2\), weight is \(10, 3\)": (x[:, :2], w, y, {}),
        r"weight is \(3,\)": (x, w[0], y, {}),
        r"one target per row of features, \(4,\); target is \(3,\)": (x, w, y[:3], {}),
        r"target 10 of row 2 is not one of the 10 classes": (x, w, np.array([0, 9, 10, 11]), {}),
        r"target -100 of row 1 .* valid=target != -100": (x, w, np.array([0, -100, 1, 1]), {}),
        r"one bias per class, \(10,\); bias is \(4,\)": (x, w, y, {"bias": np.zeros(4)}),
        r"one valid per row of features": (x, w, y, {"valid": np.ones(3, bool)}),
        r"one class_weight per class": (x, w, y, {"class_weight": np.ones(3)}),
        r"class weights are finite and not below 0; one is -1": (x, w, y, {"class_weight": -np.ones(10)}),
        r"label_smoothing is between 0 and 1": (x, w, y, {"label_smoothing": 1.5}),
        r"z_loss is a finite factor": (x, w, y, {"z_loss": -1.0}),
        r"temperature is a finite number above 0": (x, w, y, {"temperature": 0.0}),
        r"softcap is a finite number above 0": (x, w, y, {"softcap": -1.0}),
        r"weight \(0, 3\) has no classes": (x, w[:0], y, {}),
        r"weight \(10, 0\) has no width": (x[:, :0], w[:, :0], y, {}),
        r"smallest budget that works is memory=": (x, w, y, {"memory": 10}),
        r"memory is a number of bytes": (x, w, y, {"memory": "lots"}),
    }


@pytest.mark.parametrize("sentence", sentences())
@pytest.mark.parametrize("call", [linear_cross_entropy, linear_cross_entropy_grad])
def test_a_wrong_call_gets_a_sentence(call, sentence):
    features, weight, target, settings = sentences()[sentence]
    with pytest.raises(ValueError, match=f"{call.__name__}: .*{sentence}"):
        call(features, weight, target, **settings)


def test_a_wrong_type_gets_a_sentence():
    x, w, y = np.zeros((4, 3)), np.zeros((10, 3)), np.zeros(4, int)
    with pytest.raises(TypeError, match="target is the index of a class, an integer, not float64"):
        linear_cross_entropy(x, w, y.astype(float))
    with pytest.raises(TypeError, match="features are real numbers, not bool"):
        linear_cross_entropy(x > 0, w, y)
    with pytest.raises(TypeError, match="temperature is one number here"):
        linear_cross_entropy(x, w, y, temperature=np.ones((4, 1)))
    with pytest.raises(ValueError, match="one cotangent per row of features"):
        linear_cross_entropy_grad(x, w, y, np.ones(3))
