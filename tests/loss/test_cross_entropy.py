"""Cross-entropy, its binary twin and the mean: the field's known failures, the parameters, and the wrong calls."""

import inspect

import numpy as np
import pytest

import lastlayer as ll
from arrays import JAX_JIT

TAIL = np.log1p(np.exp(-20.0))  # 2.0612e-9


def test_a_confident_right_answer_costs_its_tail_and_learns_from_it(differentiable):
    """PyTorch and JAX give a loss and a target gradient of exactly 0 in float32, and 2.06e-9 on the other class."""
    loss = differentiable.run(ll.cross_entropy, [[20.0, 0.0]], [0])
    slope = differentiable.gradient(ll.cross_entropy, [[20.0, 0.0]], [0])
    np.testing.assert_allclose(loss, [2.0612e-9], rtol=1e-4)
    np.testing.assert_allclose(loss, [TAIL], rtol=2 * differentiable.eps)
    np.testing.assert_allclose(slope, [[-2.0611536e-9, 2.0611536e-9]], rtol=1e-7)
    assert slope.sum() == 0


def test_a_confident_right_binary_answer_costs_its_tail_and_learns_from_it(differentiable):
    """pytorch#195529: one of the two branches is 0 in each."""
    loss = differentiable.run(ll.binary_cross_entropy, [20.0, -20.0], [1, 0])
    slope = differentiable.gradient(ll.binary_cross_entropy, [20.0, -20.0], [1, 0])
    np.testing.assert_allclose(loss, [TAIL, TAIL], rtol=2 * differentiable.eps)
    np.testing.assert_allclose(slope, [-2.0611536e-9, 2.0611536e-9], rtol=1e-7)


def test_an_infinite_logit_of_the_right_sign_costs_nothing(library):
    """torch.binary_cross_entropy_with_logits gives nan (pytorch#49844)."""
    np.testing.assert_array_equal(library.run(ll.binary_cross_entropy, [np.inf, -np.inf], [1, 0]), [0, 0])


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
