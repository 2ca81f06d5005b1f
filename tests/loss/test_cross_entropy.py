"""Cross-entropy of classes: the field's known failures, the parameters, and the wrong calls."""

import inspect

import numpy as np
import pytest

import lastlayer as ll

TAIL = np.log1p(np.exp(-20.0))  # 2.0612e-9


def test_a_confident_right_answer_costs_its_tail_and_learns_from_it(differentiable):
    """PyTorch and JAX give a loss and a target gradient of exactly 0 in float32, and 2.06e-9 on the other class."""
    loss = differentiable.run(ll.cross_entropy, [[20.0, 0.0]], [0])
    slope = differentiable.gradient(ll.cross_entropy, [[20.0, 0.0]], [0])
    np.testing.assert_allclose(loss, [2.0612e-9], rtol=1e-4)
    np.testing.assert_allclose(loss, [TAIL], rtol=2 * differentiable.eps)
    np.testing.assert_allclose(slope, [[-2.0611536e-9, 2.0611536e-9]], rtol=1e-7)
    assert abs(slope.sum()) <= differentiable.eps * slope.max()  # a unit in the last place of either


def test_no_share_on_a_masked_class_costs_nothing(library):
    """0 * inf is nan in torch and optax (optax#896)."""
    got = library.run(ll.cross_entropy, [[1.0, 0.0, -np.inf]], [[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(got, [0.8132616875182228], rtol=4 * library.eps)


def test_label_smoothing_leaves_masked_classes_out(library):
    """torch gives inf; Megatron smooths over classes that are not there."""
    masked = library.run(lambda z, y: ll.cross_entropy(z, y, label_smoothing=0.1), [[2.0, 0.5, -np.inf]], [0])
    without = library.run(lambda z, y: ll.cross_entropy(z, y, label_smoothing=0.1), [[2.0, 0.5]], [0])
    assert np.isfinite(masked).all()
    np.testing.assert_allclose(masked, without, rtol=4 * library.eps)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_label_smoothing_is_the_mixture_of_two_targets(smoothing, library):
    rows = np.random.default_rng(0).normal(0, 3, (5, 4))
    target = np.array([0, 3, 2, 2, 1])
    got = library.run(lambda z, y: ll.cross_entropy(z, y, label_smoothing=smoothing), rows, target)
    logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    mixed = (1 - smoothing) * np.eye(4)[target] + smoothing / 4
    np.testing.assert_allclose(got, -(mixed * logs).sum(-1), rtol=16 * library.eps)


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_half_precision_over_50_000_classes(package):
    """torch stores the loss in bfloat16: an error of 0.065 at 50,000 classes (kernels.md 1.1; Modalities#464)."""
    xp = pytest.importorskip("jax.numpy" if package == "jax" else package, reason=f"pip install {package}")
    rows = (
        xp.asarray(np.random.default_rng(0).normal(0, 3, (4, 50_000)).astype(np.float32)).astype(xp.bfloat16)
        if (package == "jax")
        else xp.from_numpy(np.random.default_rng(0).normal(0, 3, (4, 50_000))).to(xp.bfloat16)
    )
    exact = np.asarray(rows.astype("float32") if package == "jax" else rows.double()).astype(np.float64)
    target = np.array([0, 10, 49_999, 7])
    want = np.log(np.exp(exact).sum(-1)) - exact[np.arange(4), target]
    got = ll.cross_entropy(rows, target)
    assert str(got.dtype).endswith("float32")
    assert np.abs(np.asarray(got, dtype=np.float64) - want).max() <= 1e-5


def test_class_weight_scales_rows_and_nothing_else(library):
    """In torch the weights also change what label smoothing learns (pytorch#104776)."""
    rows = np.random.default_rng(1).normal(0, 2, (4, 3))
    target, weight = np.array([0, 1, 2, 1]), np.array([1.0, 0.5, 4.0])
    plain = library.run(lambda z, y: ll.cross_entropy(z, y, label_smoothing=0.2), rows, target)
    got = library.run(lambda z, y: ll.cross_entropy(z, y, label_smoothing=0.2, class_weight=weight), rows, target)
    np.testing.assert_allclose(got, weight[target] * plain, rtol=4 * library.eps)
    onehot = library.run(
        lambda z, y: ll.cross_entropy(z, y, label_smoothing=0.2, class_weight=weight), rows, np.eye(3)[target]
    )
    np.testing.assert_allclose(onehot, got, rtol=16 * library.eps)


def test_the_weights_of_a_distribution_scale_its_row_and_nothing_else(library):
    """By the mean weight under it: the best logits stay those of the distribution itself."""
    rows, weight = np.random.default_rng(1).normal(0, 2, (3, 3)), np.array([1.0, 0.5, 4.0])
    q = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0.125, 0.125, 0.75]])
    got = library.run(lambda z, y: ll.cross_entropy(z, y, class_weight=weight), rows, q)
    plain = library.run(ll.cross_entropy, rows, q)
    np.testing.assert_allclose(got, (q * weight).sum(-1) * plain, rtol=8 * library.eps)


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_weighting_by_class_is_pytorch_s_convention(kind, smoothing, library):
    """-sum_k w_k q_k log p_k of the smoothed target q."""
    rows, weight = np.random.default_rng(1).normal(0, 2, (4, 3)), np.array([1.0, 0.0, 4.0])
    onehot = np.eye(3)[[0, 1, 2, 1]]
    settings = {"label_smoothing": smoothing, "class_weight": weight, "weighting": "class"}
    target = np.array([0, 1, 2, 1]) if kind == "index" else onehot
    got = library.run(lambda z, y: ll.cross_entropy(z, y, **settings), rows, target)
    logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    want = -(weight * ((1 - smoothing) * onehot + smoothing / 3) * logs).sum(-1)
    want = np.where(onehot @ weight == 0, 0, want)  # a row of weight 0 is left out, smoothed or not
    np.testing.assert_allclose(got, want, rtol=16 * library.eps, atol=library.eps)


@pytest.mark.parametrize("temperature", [0.5, 3, 0.7])
def test_temperature_divides_the_logits_and_keeps_the_tail(temperature, differentiable):
    def loss(z, y):
        return ll.cross_entropy(z, y, temperature=temperature)

    rows, target = np.array([[20.0, 0.0], [1.0, 2.0]]), np.array([0, 0])
    want = np.log1p(np.exp(-np.array([20.0, -1.0]) / temperature))
    np.testing.assert_allclose(differentiable.run(loss, rows, target), want, rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(loss, rows, target)
    np.testing.assert_allclose(slopes[:, 1], -np.expm1(-want) / temperature, rtol=8 * differentiable.eps)
    np.testing.assert_allclose(slopes[:, 0], -slopes[:, 1], rtol=2 * differentiable.eps)


def test_a_temperature_per_row(library):
    rows, target = np.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), np.array([0, 0, 0])
    heat = np.array([[1.0], [2.0], [-1.0]])
    got = library.run(lambda z, y: ll.cross_entropy(z, y, temperature=heat), rows, target)
    alone = library.run(lambda z, y: ll.cross_entropy(z, y, temperature=2.0), rows, target)[1]
    plain = library.run(ll.cross_entropy, rows, target)[0]
    np.testing.assert_allclose(got, [plain, alone, np.nan], rtol=4 * library.eps)


def test_softcap_comes_before_temperature(library):
    rows, target = np.array([[100.0, 3.0, -np.inf, -20.0]]), np.array([1])
    got = library.run(lambda z, y: ll.cross_entropy(z, y, softcap=30.0, temperature=2.0), rows, target)
    capped = 30 * np.tanh(rows[0, [0, 1, 3]] / 30) / 2
    np.testing.assert_allclose(got, [np.log(np.exp(capped).sum()) - capped[1]], rtol=16 * library.eps)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_z_loss_adds_the_square_of_what_softmax_divides_by(temperature, differentiable):
    rows, target = np.array([[3.0, -1.0, 0.5], [1000.0, 999.0, 1001.0]]), np.array([0, 2])

    def loss(z, y):
        return ll.cross_entropy(z, y, z_loss=0.25, temperature=temperature)

    z = rows / temperature
    normaliser = z.max(-1) + np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1))
    plain = normaliser - z[[0, 1], target]
    want = plain + 0.25 * normaliser**2
    np.testing.assert_allclose(differentiable.run(loss, rows, target), want, rtol=8 * differentiable.eps)
    p = np.exp(z - z.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    slopes = (p - np.eye(3)[target] + 0.5 * normaliser[:, None] * p) / temperature
    size = np.abs(slopes).max()
    np.testing.assert_allclose(
        differentiable.gradient(loss, rows, target), slopes, rtol=0, atol=8 * size * differentiable.eps
    )


def test_targets_of_every_integer_type(library):
    rows = np.random.default_rng(2).normal(0, 2, (3, 4))
    want = library.run(ll.cross_entropy, rows, np.array([0, 3, 1]))
    for dtype in (np.int32, np.int16, np.uint8):
        np.testing.assert_array_equal(library.run(ll.cross_entropy, rows, np.array([0, 3, 1], dtype=dtype)), want)
    np.testing.assert_array_equal(library.numpy(ll.cross_entropy(library.of(rows), [0, 3, 1])), want)
    np.testing.assert_array_equal(library.numpy(ll.cross_entropy(library.of(rows), np.array([0, 3, 1]))), want)


def test_targets_of_another_library_join_numpy_logits():
    torch = pytest.importorskip("torch", reason="pip install torch")
    rows = np.random.default_rng(2).normal(0, 2, (3, 4))
    got = ll.cross_entropy(rows, torch.tensor([0, 3, 1]), valid=torch.tensor([True, False, True]))
    np.testing.assert_array_equal(got, ll.cross_entropy(rows, [0, 3, 1], valid=[True, False, True]))


def test_the_gradient_in_a_distribution_is_the_cost_of_each_class(differentiable):
    """Also where its share is 0, but not where its cost is infinite."""
    row, shares = np.array([1.0, 0.0, -np.inf]), np.array([1.0, 0.0, 0.0])
    got = differentiable.gradient(lambda q: ll.cross_entropy(differentiable.of(row), q), shares)
    np.testing.assert_allclose(got, [0.3132616875182228, 1.3132616875182228, 0], rtol=4 * differentiable.eps)


def test_a_row_of_a_longer_batch(library):
    rows = np.random.default_rng(3).normal(0, 2, (2, 3, 4))
    target = np.array([[0, 1, 2], [3, 3, 0]])
    got = library.run(ll.cross_entropy, rows, target)
    flat = library.run(ll.cross_entropy, rows.reshape(6, 4), target.reshape(6))
    np.testing.assert_array_equal(got.reshape(6), flat)
    assert library.run(ll.cross_entropy, rows[0, 0], np.array(0)).shape == ()


WRONG = [
    (
        (np.zeros((8, 10)), np.zeros(7, int)),
        {},
        r"one target per row of logits. logits \(8, 10\) has rows \(8,\), target is \(7,\)",
    ),
    ((np.zeros((8, 10)), np.zeros((8, 10), int)), {}, "A target that is a distribution is floating: target.astype"),
    ((np.zeros((8, 10)), np.zeros(8)), {}, "class indices are integers: target.astype"),
    ((np.zeros((2, 3)), np.array([0, -100])), {}, "target -100 is not one of the 3 classes.*valid=target != -100"),
    ((np.zeros((2, 3)), np.array([0, 3])), {}, "target 3 is not one of the 3 classes"),
    ((np.zeros((2, 3)), np.array([0, -1])), {}, "target -1 is not one of the 3 classes"),
    ((np.zeros((2, 3)), np.array([0, 1])), {"label_smoothing": 1.5}, "label_smoothing is between 0 and 1, not 1.5"),
    (
        (np.zeros((2, 3)), np.array([0, 1])),
        {"class_weight": [1.0, 2.0]},
        r"one class_weight per class, \(3,\); class_weight is \(2,\)",
    ),
    (
        (np.zeros((2, 3)), np.array([0, 1])),
        {"valid": [[True], [True]]},
        r"one valid per row of logits, \(2,\); valid is \(2, 1\)",
    ),
    (([[0.0, 1.0]], [0]), {"weighting": "classes"}, "weighting is one of 'row', 'class'.*Did you mean 'class'"),
    (
        ([[0.0, 1.0]], [0]),
        {"class_weight": np.array([1.0, -1.0])},
        "class weights are finite and not below 0; one is -1",
    ),
    (([[0.0, 1.0]], [0]), {"class_weight": np.array([np.nan, 1.0])}, "finite and not below 0; one is nan"),
    (([[0.0, 1.0]], [0]), {"z_loss": -1.0}, "z_loss is a finite factor, not below 0; -1.0 came"),
    (([[0.0, 1.0]], [0]), {"softcap": 0.0}, "softcap is a finite number above 0, not 0.0"),
    (([[0.0, 1.0]], [0]), {"temperature": -2.0}, "temperature is a finite number above 0, not -2.0"),
    (([[0.0, 1.0]], [0]), {"temperature": np.ones((1, 2))}, r"one per row as temperature\[:, None\].*\(1, 2\)"),
]


@pytest.mark.parametrize(("args", "settings", "sentence"), WRONG)
def test_wrong_calls(args, settings, sentence):
    formula = inspect.unwrap(ll.cross_entropy)  # past the shape hints that the test run enforces
    with pytest.raises(ValueError, match=f"^cross_entropy: .*{sentence}"):
        formula(*args, **settings)


def test_a_target_on_the_cpu_is_checked_in_torch_too():
    torch = pytest.importorskip("torch", reason="pip install torch")
    with pytest.raises(ValueError, match="target -1 is not one of the 2 classes"):
        ll.cross_entropy(torch.zeros(2, 2), torch.tensor([0, -1]))


def test_a_read_only_target_joins_torch_logits():
    """torch.asarray warns about memory that nobody may write, and warnings are errors here."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    target = np.array([1, 0])
    target.flags.writeable = False
    np.testing.assert_allclose(ll.cross_entropy(torch.zeros(2, 2), target), np.log([2.0, 2.0]), rtol=1e-6)
