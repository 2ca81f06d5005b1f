"""Penalties of a batch: by hand, in the tail, rows left out, and the wrong calls."""

import inspect

import numpy as np
import pytest

from arrays import TORCH, TORCH_32
from lastlayer.loss.penalty import confidence_penalty, dca, mmce, soft_ece

ROWS = np.random.default_rng(4).normal(0, 2, (9, 4))
TARGET = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0])
BATCH = {
    "mmce": (mmce, {}),
    "mmce, weighted": (mmce, {"weighted": True}),
    "soft_ece": (soft_ece, {}),
    "soft_ece, l1": (soft_ece, {"norm": "l1", "bins": 5, "temperature": 0.1}),
    "dca": (dca, {}),
}


def expected(name, rows, target):
    """The definitions with loops, in float64."""
    p = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
    r, hit = p.max(-1), (p.argmax(-1) == target).astype(float)
    n, right = len(r), hit.sum()
    if name == "dca":
        return abs(hit.mean() - r.mean())
    if name.startswith("mmce"):
        share = np.where(hit == 1, right, n - right) if "weighted" in name else np.full(n, n)
        pairs = [
            (hit[i] - r[i]) * (hit[j] - r[j]) * np.exp(-abs(r[i] - r[j]) / 0.4) / share[i] / share[j]
            for i in range(n)
            for j in range(n)
        ]
        return np.sqrt(sum(pairs))
    bins, heat, power = (5, 0.1, 1) if "l1" in name else (15, 0.01, 2)
    middles = (np.arange(bins) + 0.5) / bins
    u = np.exp(-((r[:, None] - middles) ** 2) / heat)
    u = u / u.sum(-1, keepdims=True)
    mass = u.sum(0)
    errors = abs((u * r[:, None]).sum(0) / mass - (u * hit[:, None]).sum(0) / mass)
    return (mass / n * errors**power).sum() ** (1 / power)


@pytest.mark.parametrize("name", BATCH)
def test_values_are_one_number_by_the_definition(name, library):
    penalty, settings = BATCH[name]
    got = library.run(lambda z, y: penalty(z, y, **settings), ROWS, TARGET)
    assert got.shape == ()
    np.testing.assert_allclose(got, expected(name, ROWS, TARGET), rtol=128 * library.eps)
    folded = library.run(
        lambda z, y: penalty(z, y, **settings), ROWS.reshape(3, 3, 4), TARGET.reshape(3, 3)
    )  # a batch of any shape
    np.testing.assert_allclose(folded, got, rtol=8 * library.eps)


@pytest.mark.parametrize("name", BATCH)
def test_gradients_take_the_hits_as_constants(name, differentiable):
    penalty, settings = BATCH[name]
    slopes = differentiable.gradient(lambda z, y: penalty(z, y, **settings), ROWS, TARGET)
    for i, j in ((0, 0), (3, 1), (8, 2)):
        step = np.zeros_like(ROWS)
        step[i, j] = 1e-5
        want = (expected(name, ROWS + step, TARGET) - expected(name, ROWS - step, TARGET)) / 2e-5
        np.testing.assert_allclose(slopes[i, j], want, rtol=1e-5, atol=1e-8 + 64 * differentiable.eps)


@pytest.mark.parametrize("name", BATCH)
def test_rows_that_do_not_count_are_left_out(name, differentiable):
    penalty, settings = BATCH[name]
    rows = np.concatenate([[[np.nan] * 4, [-np.inf] * 4], ROWS])
    target, valid = np.array([-100, 9, *TARGET]), np.array([False] * 2 + [True] * 9)

    def call(z, y):
        return penalty(z, y, valid=valid, **settings)

    np.testing.assert_allclose(
        differentiable.run(call, rows, target),
        differentiable.run(lambda z, y: penalty(z, y, **settings), ROWS, TARGET),
        rtol=8 * differentiable.eps,
    )
    slopes = differentiable.gradient(call, rows, target)
    assert (slopes[:2] == 0).all()
    assert slopes[2:].any(-1).all()
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_hard_bins_are_the_limit_and_empty_ones_add_nothing(norm, differentiable):
    p = np.exp(ROWS) / np.exp(ROWS).sum(-1, keepdims=True)
    r, hit = p.max(-1), p.argmax(-1) == TARGET
    inside = [(r * 15).astype(int) == j for j in range(15)]
    gaps = [((hit - r)[rows].sum(), rows.sum()) for rows in inside if rows.any()]
    assert len(gaps) < 15
    want = sum(abs(gap) for gap, _ in gaps) / 9 if norm == "l1" else np.sqrt(sum(gap**2 / n for gap, n in gaps) / 9)

    def loss(x, y):
        return soft_ece(x, y, norm=norm, temperature=1e-6)

    np.testing.assert_allclose(differentiable.run(loss, ROWS, TARGET), want, rtol=1e-5)
    assert np.isfinite(differentiable.gradient(loss, ROWS, TARGET)).all()


@pytest.mark.parametrize("name", BATCH)
def test_gaps_that_cancel_are_no_error_and_have_no_slope(name, differentiable):
    penalty, settings = BATCH[name]
    rows, target = np.zeros((2, 2)), np.array([0, 1])
    value = differentiable.run(lambda x, y: penalty(x, y, **settings), rows, target)
    if differentiable.compiled:  # XLA's softmax of a tie may be a unit beside one half
        assert value <= 1e-7
        return
    assert value == 0
    assert (differentiable.gradient(lambda x, y: penalty(x, y, **settings), rows, target) == 0).all()


def test_the_only_right_row_may_be_left_out_of_weighted_rows(differentiable):
    """Then nobody shares the gap of the right rows, and 0 / 0 would be nan."""
    rows, target = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), np.array([1, 0, 0])

    def loss(x, y):
        return mmce(x, y, weighted=True, valid=np.array([True, True, False]))

    want = expected("mmce, weighted", rows[:2], target[:2])
    np.testing.assert_allclose(differentiable.run(loss, rows, target), want, rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(loss, rows, target)
    assert np.isfinite(slopes).all() and slopes[:2].all() and not slopes[2].any()


@pytest.mark.parametrize("name", BATCH)
def test_nothing_left_is_nan_without_a_gradient(name, differentiable):
    penalty, settings = BATCH[name]
    assert np.isnan(differentiable.run(lambda z, y: penalty(z, y, **settings), ROWS[:0], TARGET[:0]))
    none = np.zeros(9, bool)

    def call(z, y):
        return penalty(z, y, valid=none, **settings)

    assert np.isnan(differentiable.run(call, ROWS, TARGET))
    assert (differentiable.gradient(call, ROWS, TARGET) == 0).all()


@pytest.mark.parametrize("name", BATCH)
def test_a_nan_or_an_empty_row_makes_the_batch_nan(name, library):
    penalty, settings = BATCH[name]
    for held in (np.nan, -np.inf):
        rows = ROWS.copy()
        rows[2] = held
        assert np.isnan(library.run(lambda z, y: penalty(z, y, **settings), rows, TARGET))


@pytest.mark.parametrize("name", BATCH)
def test_tails_published_penalties_see_no_gap_in_a_sure_right_batch(name, differentiable):
    """1 - softmax is 0 there; here both rows are exp(-distance) from it, also where its square underflows."""
    penalty, settings = BATCH[name]
    far = 60.0 if differentiable.dtype == "float32" else 600.0
    for distance in (40.0, far):
        rows, target = np.array([[distance, 0.0], [0.0, distance]]), np.array([0, 1])

        def call(z, y):
            return penalty(z, y, **settings)

        gap = np.exp(-distance)
        bound = 32 * differentiable.eps
        np.testing.assert_allclose(differentiable.run(call, rows, target), gap, rtol=bound)
        slopes = differentiable.gradient(call, rows, target)
        np.testing.assert_allclose(slopes, gap / 2 * np.array([[-1, 1], [1, -1]]), rtol=bound)
    if differentiable is TORCH_32:
        torch = pytest.importorskip("torch")
        assert (1 - torch.softmax(torch.tensor(rows, dtype=torch.float32), -1).amax(-1) == 0).all()


@pytest.mark.parametrize("name", BATCH)
def test_half_precision_comes_out_in_float32(name):
    torch = pytest.importorskip("torch", reason="pip install torch")
    penalty, settings = BATCH[name]
    rows = torch.from_numpy(ROWS).to(torch.bfloat16)
    got = penalty(rows, torch.from_numpy(TARGET), **settings)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected(name, rows.double().numpy(), TARGET), rtol=1e-5)


@pytest.mark.parametrize("name", BATCH)
def test_second_derivatives(name):
    torch = pytest.importorskip("torch", reason="pip install torch")
    penalty, settings = BATCH[name]
    x = TORCH.of(ROWS[:4]).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: penalty(z, TARGET[:4], **settings), x)


def test_the_confidence_penalty_is_per_row_and_leaves_out_what_does_not_count(differentiable):
    rows = np.array([[1.0, 0.0], [np.nan, 0.0]])

    def call(z):
        return confidence_penalty(z, valid=np.array([True, False]))

    p = 1 / (1 + np.exp(-1.0))
    want = p * np.log(p) + (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(differentiable.run(call, rows), [want, 0], rtol=8 * differentiable.eps)
    slope = p * (1 - p)  # of the negative entropy in the distance of two logits, times the distance
    np.testing.assert_allclose(differentiable.gradient(call, rows), [[slope, -slope], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("penalty", "settings", "sentence"),
    [
        (mmce, {"width": 0.0}, "width is a finite number above 0, not 0.0"),
        (soft_ece, {"bins": 0}, "bins is a whole number, 1 or more, not 0"),
        (soft_ece, {"bins": 2.5}, "bins is a whole number, 1 or more, not 2.5"),
        (soft_ece, {"temperature": -1.0}, "temperature is a finite number above 0"),
        (soft_ece, {"norm": "max"}, "norm is one of 'l1', 'l2'"),
        (dca, {"valid": np.array([True])}, r"one valid per row of logits, \(9,\); valid is \(1,\)"),
        (mmce, {"target": TARGET[:4]}, r"one target per row of logits, \(9,\); target is \(4,\)"),
        (dca, {"target": TARGET + 1}, "target 4 is not one of the 4 classes"),
    ],
)
def test_wrong_calls(penalty, settings, sentence):
    with pytest.raises(ValueError, match=f"^{penalty.__name__}: .*{sentence}"):
        inspect.unwrap(penalty)(ROWS, **{"target": TARGET, **settings})  # past the shape hints
