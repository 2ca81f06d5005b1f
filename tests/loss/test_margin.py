"""Losses with a margin: by hand, at the ends of the cosine where published ones are nan, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import reference
import reference_margin
from arrays import JAX_JIT, TORCH, TORCH_32
from lastlayer.loss import cross_entropy
from lastlayer.loss.margin import am_softmax, arcface, multiclass_hinge

COSINES = np.array([[0.9, 0.1, -0.3], [-0.2, 0.75, 0.5], [0.5, 0.25, -1.0], [-0.95, 0.1, 0.2], [0.999, -0.5, 0.0]])
COSINES = COSINES.astype(np.float32).astype(np.float64)
TARGET = np.array([0, 2, 1, 0, 0])
EACH = {"multiclass_hinge": multiclass_hinge, "am_softmax": am_softmax, "arcface": arcface}


def exact(loss, rows, target, **settings):
    formula = getattr(reference_margin, loss.__name__)
    pairs = zip(rows, target, strict=True)
    return [float(formula(reference.exact(row), y, **settings)[0]) for row, y in pairs]


def test_hinges_by_hand(library):
    rows, target = [[2.0, 1.5, 1.25], [0.0, 1.0, 3.0], [5.0, 1.0, 0.0]], [0, 1, 0]
    for kind, margin, want in (
        ("crammer_singer", 1.0, [0.5, 3, 0]),
        ("weston_watkins", 1.0, [0.75, 3, 0]),
        ("crammer_singer", 2.5, [2, 4.5, 0]),
        ("weston_watkins", 2.5, [3.75, 6, 0]),
        ("weston_watkins", 0.0, [0, 2, 0]),
    ):
        got = library.run(lambda z, y, k=kind, m=margin: multiclass_hinge(z, y, kind=k, margin=m), rows, target)
        np.testing.assert_array_equal(got, want)


def test_gradients_of_hinges(differentiable):
    rows, target = [[2.0, 1.5, 1.25], [0.0, 1.0, 3.0], [5.0, 4.0, 4.0], [1.0, 1.0, 1.0]], [0, 1, 0, 1]
    got = differentiable.gradient(multiclass_hinge, rows, target)
    np.testing.assert_array_equal(got, [[-1, 1, 0], [0, -1, 1], [0, 0, 0], [1, -1, 0]])
    got = differentiable.gradient(lambda z, y: multiclass_hinge(z, y, kind="weston_watkins"), rows, target)
    np.testing.assert_array_equal(got, [[-2, 1, 1], [0, -1, 1], [0, 0, 0], [1, -2, 1]])


@pytest.mark.parametrize("kind", ["crammer_singer", "weston_watkins"])
def test_special_rows_of_hinges(kind, differentiable):
    rows = [[1.0, -np.inf, 0.5], [1.0, -np.inf, 0.5], [-np.inf] * 3, [np.nan, 0.0, 9.0], [-np.inf, 2.0, -np.inf]]
    target = [0, 1, 0, 1, 1]

    def loss(z, y):
        return multiclass_hinge(z, y, kind=kind)

    got, slopes = differentiable.run(loss, rows, target), differentiable.gradient(loss, rows, target)
    np.testing.assert_array_equal(got, [0.5, np.inf, np.nan, np.nan, 0])
    np.testing.assert_array_equal(slopes[[0, 2, 4]], [[-1, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert np.isnan(slopes[3]).all()


def test_tails_a_hinge_whose_margin_is_nearly_met_keeps_its_digits(library):
    """margin - (z_t - z_k) in float32, as torch.nn.MultiMarginLoss has it, loses the last digits that are left."""
    margin, rows = 0.1, np.float32([[100.1, 100.0], [1000.1, 1000.0]]).astype(np.float64)
    rows = rows[exact(multiclass_hinge, rows, [0, 0], margin=margin) > np.float64(0)]
    assert len(rows)
    want = exact(multiclass_hinge, rows, [0] * len(rows), margin=margin)
    got = library.run(lambda z, y: multiclass_hinge(z, y, margin=margin), rows, [0] * len(rows))
    np.testing.assert_allclose(got, want, rtol=2 * library.eps)
    published = np.float32(margin) - (np.float32(rows[:, 0]) - np.float32(rows[:, 1]))
    assert (abs(published / want - 1) > 1e-6).any()


def test_tails_am_softmax_keeps_what_its_margin_and_scale_round(library):
    """60.1 times a lead of 1.1 costs exp(-66): rounding the product or either number is 10 to 60 units of it."""
    cosine = np.array([[0.9, -0.9]]).astype(library.dtype)
    got = library.run(lambda c, y: am_softmax(c, y, margin=0.7, scale=60.1), cosine, [0])
    (own, other), margin, scale = reference.exact(cosine[0]), mpmath.mpf(0.7), mpmath.mpf(60.1)
    want = float(mpmath.log1p(mpmath.exp(scale * (other - own + margin))))
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)


@pytest.mark.parametrize("settings", [{}, {"margin": 0.2, "scale": 10.0}, {"margin": 0.0, "scale": 64.0}])
@pytest.mark.parametrize("loss", [am_softmax, arcface], ids=lambda loss: loss.__name__)
def test_cosines_by_the_textbook(loss, settings, library):
    got = library.run(lambda c, y: loss(c, y, **settings), COSINES, TARGET)
    np.testing.assert_allclose(got, exact(loss, COSINES, TARGET, **settings), rtol=8 * library.eps)


@pytest.mark.parametrize("loss", [am_softmax, arcface], ids=lambda loss: loss.__name__)
def test_gradients_of_cosines(loss, differentiable):
    row = type("Row", (), {"exact": getattr(reference_margin, loss.__name__), "exact_slope": None})
    row.function, row.settings = loss, {}
    want = [[float(v) for v in reference.gradient(row, c, [1.0], int(y))] for c, y in zip(COSINES, TARGET, strict=True)]
    got, tiny = differentiable.gradient(loss, COSINES, TARGET), float(np.finfo(differentiable.dtype).tiny)
    np.testing.assert_allclose(got, want, rtol=32 * differentiable.eps, atol=tiny)


def test_without_a_margin_they_are_cross_entropy(library):
    want = library.run(lambda c, y: cross_entropy(16.0 * c, y), COSINES, TARGET)
    for loss in (am_softmax, arcface):
        got = library.run(lambda c, y, loss=loss: loss(c, y, margin=0.0, scale=16.0), COSINES, TARGET)
        np.testing.assert_allclose(got, want, rtol=8 * library.eps)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_tails_arcface_through_acos_has_no_gradient_at_a_cosine_of_1(sign, differentiable):
    """cos(acos(c) + m): the slope of acos is infinite there, that of sqrt(1 - c^2) too, and 0 * inf is nan."""
    rows = [[sign, 0.25, -0.5]]
    got = differentiable.run(arcface, rows, [0])
    np.testing.assert_allclose(got, exact(arcface, rows, [0]), rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(arcface, rows, [0])
    assert np.isfinite(slopes).all()
    assert slopes[0, 0] < 0
    if differentiable is TORCH and sign == 1:
        torch = pytest.importorskip("torch")
        c = TORCH.of(rows).requires_grad_()
        wide = torch.cat([torch.cos(torch.acos(c[:, :1]) + 0.5), c[:, 1:]], -1)
        (published,) = torch.autograd.grad(torch.nn.functional.cross_entropy(64 * wide, torch.tensor([0])), c)
        assert not torch.isfinite(published).all()


def test_tails_a_face_that_is_found_keeps_its_loss_and_slope(differentiable):
    """logsumexp - z in float32 is 0 from a lead of 17 on, which a scale of 64 makes of a quarter."""
    rows = np.float32([[0.95, 0.125, -0.25], [0.999, -0.5, -0.25]]).astype(np.float64)
    for loss in (am_softmax, arcface):
        want = exact(loss, rows, [0, 0], scale=64.0)
        got = differentiable.run(lambda c, y, loss=loss: loss(c, y, scale=64.0), rows, [0, 0])
        np.testing.assert_allclose(got, want, rtol=8 * differentiable.eps)
        slopes = differentiable.gradient(lambda c, y, loss=loss: loss(c, y, scale=64.0), rows, [0, 0])
        assert (slopes[:, 0] < 0).all()
    if differentiable is TORCH_32:
        torch = pytest.importorskip("torch")
        lowered = 64 * (torch.tensor(rows, dtype=torch.float32) - torch.tensor([0.35, 0, 0]))
        assert (torch.logsumexp(lowered, -1) - lowered[:, 0] == 0).all()


def test_arcface_falls_with_the_cosine_of_the_target_everywhere(library):
    c = np.linspace(-1, 1, 401)
    rows = np.stack([c, np.full(401, 0.25)], axis=-1)
    for margin in (0.5, 1.0, 1.5):
        got = library.run(lambda z, y, m=margin: arcface(z, y, margin=m, scale=8.0), rows, np.zeros(401, int))
        assert (np.diff(got) <= 0).all()


def test_masked_and_empty_rows_of_cosines(differentiable):
    rows = [[0.5, -np.inf, 0.25], [-np.inf, 0.5, 0.25], [-np.inf] * 3, [np.nan, 0.5, 0.0]]
    for loss in (am_softmax, arcface):
        got = differentiable.run(loss, rows, [0, 0, 0, 1])
        alone = exact(loss, [[0.5, 0.25]], [0])[0]
        np.testing.assert_allclose(got, [alone, np.inf, np.nan, np.nan], rtol=8 * differentiable.eps)
        slopes = differentiable.gradient(loss, rows, [0, 0, 0, 1])
        assert slopes[0, 1] == 0
        assert slopes[0, 0] < 0
        assert slopes[1, 0] < 0
        assert (slopes[2] == 0).all()


@pytest.mark.parametrize("name", EACH)
def test_a_row_that_does_not_count_costs_nothing_whatever_it_holds(name, differentiable):
    rows, target = np.array([[np.nan, np.inf, 7.0], [0.25, 0.5, 0.0]]), np.array([-100, 0])

    def loss(z, y):
        return EACH[name](z, y, valid=np.array([False, True]))

    got, slopes = differentiable.run(loss, rows, target), differentiable.gradient(loss, rows, target)
    assert got[0] == 0
    assert got[1] > 0
    assert (slopes[0] == 0).all()
    assert slopes[1].any()


@pytest.mark.parametrize("name", EACH)
def test_half_precision(name):
    """Unit features in half precision have cosines that are 1 but for rounding: 1 + 1 / 512 and the like."""
    got = EACH[name](np.float16([[1.002, 0.5]]), np.array([0]))
    assert got.dtype == np.float32
    assert np.isfinite(got).all()


@pytest.mark.parametrize("loss", [am_softmax, arcface], ids=lambda loss: loss.__name__)
def test_second_derivatives(loss):
    torch = pytest.importorskip("torch", reason="pip install torch")
    c, target = TORCH.of(COSINES[[0, 1, 3]]).requires_grad_(), torch.tensor(TARGET[[0, 1, 3]])
    assert torch.autograd.gradcheck(lambda z: loss(z, target, scale=4.0), c)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target, scale=4.0), c)


@pytest.mark.parametrize(
    ("name", "settings", "row", "target", "sentence"),
    [
        ("multiclass_hinge", {"margin": -0.1}, [0.0, 0.5], [0], "margin is finite and not below 0; -0.1"),
        ("multiclass_hinge", {"margin": np.nan}, [0.0, 0.5], [0], "margin is finite"),
        ("multiclass_hinge", {"kind": "crammer"}, [0.0, 0.5], [0], "Did you mean 'crammer_singer'"),
        ("multiclass_hinge", {}, [0.0, 0.5], [2], "target 2 is not one of the 2 classes"),
        ("am_softmax", {"margin": -0.1}, [0.0, 0.5], [0], "margin is finite and not below 0"),
        ("am_softmax", {"scale": 0.0}, [0.0, 0.5], [0], "scale is a finite number above 0, not 0.0"),
        ("am_softmax", {}, [0.0, 0.5], [-100], "valid=target != -100"),
        ("arcface", {"margin": -0.1}, [0.0, 0.5], [0], "between 0 and pi/2 in radians, not -0.1"),
        ("arcface", {"margin": 1.6}, [0.0, 0.5], [0], "between 0 and pi/2 in radians"),
        ("arcface", {"margin": np.nan}, [0.0, 0.5], [0], "between 0 and pi/2 in radians"),
        ("arcface", {"scale": np.inf}, [0.0, 0.5], [0], "scale is a finite number above 0"),
        ("arcface", {}, [1.25, 0.5], [0], "cosines are between -1 and 1, and one is 1.25"),
        ("arcface", {}, [0.25, -30.0], [0], "cosines are between -1 and 1, and one is -30"),
        ("arcface", {}, [0.25, 0.5], [0, 1], "one target per row of logits"),
    ],
)
def test_wrong_calls(name, settings, row, target, sentence):
    with pytest.raises(ValueError, match=f"{name}: .*{sentence}"):
        inspect.unwrap(EACH[name])(np.array([row]), np.array(target), **settings)


def test_where_nobody_may_look_a_wrong_row_is_nan():
    JAX_JIT.require()
    for loss in EACH.values():
        got = JAX_JIT.run(loss, [[0.0, 0.5], [0.0, 0.5]], np.array([2, 0]))
        np.testing.assert_array_equal(np.isnan(got), [True, False])
    got = JAX_JIT.run(arcface, [[0.0, 1.5], [0.0, 0.5]], np.array([0, 0]))
    np.testing.assert_array_equal(np.isnan(got), [True, False])


def test_rounding_above_1_is_1(library):
    rows = [[1 + 4 * library.eps, 0.5], [1.0, 0.5]]
    got = library.run(lambda c, y: arcface(c, y, scale=4.0), rows, [0, 0])
    np.testing.assert_allclose(got[0], got[1], rtol=64 * library.eps)


def test_the_reference_widens_an_angle():
    angle = mpmath.mpf("0.7")
    lead = mpmath.cos(angle + mpmath.mpf(0.5))
    got = reference_margin.arcface([mpmath.cos(angle), mpmath.mpf(0)], 0, scale=2)[0]
    assert abs(got - mpmath.log(1 + mpmath.exp(-2 * lead))) < mpmath.mpf(10) ** -100
