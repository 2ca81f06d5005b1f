"""Distillation: values and gradients against 120 digits, agreement down to rounding, masks, mixes and wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import reference
import reference_distillation
from arrays import JAX_JIT_64, TORCH
from lastlayer.loss.distillation import distill

KINDS = ["forward", "reverse", "jensen_shannon"]
STUDENT = np.array([[2.0, 1.0, 0.5, -1.0], [0.0, 0.25, -0.5, 3.0], [1.5, 1.5, 1.5, 1.5]])
TEACHER = np.array([[1.0, 2.0, 0.0, -3.0], [0.125, 0.25, -0.5, 3.0], [8.0, 0.0, -8.0, 1.0]])


def exact(student, teacher, **settings):
    return float(reference_distillation.distill(reference.exact(student), reference.exact(teacher), **settings)[0])


def exact_gradient(student, teacher, **settings):
    """Central differences of 1e-30, of 120 digits."""
    row, slopes = reference.exact(student), []
    for i in range(len(row)):
        ends = []
        for step in (reference.STEP, -reference.STEP):
            moved = [v + step if k == i else v for k, v in enumerate(row)]
            ends.append(reference_distillation.distill(moved, reference.exact(teacher), **settings)[0])
        slopes.append(float((ends[0] - ends[1]) / (2 * reference.STEP)))
    return np.array(slopes)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind, temperature, differentiable):
    def loss(x, y):
        return distill(x, y, kind=kind, temperature=temperature)

    settings = {"kind": kind, "temperature": temperature}
    want = [exact(x, y, **settings) for x, y in zip(STUDENT, TEACHER, strict=True)]
    np.testing.assert_allclose(differentiable.run(loss, STUDENT, TEACHER), want, rtol=32 * differentiable.eps)
    slopes = differentiable.gradient(loss, STUDENT, TEACHER)
    for got, x, y in zip(slopes, STUDENT, TEACHER, strict=True):
        exactly = exact_gradient(x, y, **settings)
        np.testing.assert_allclose(got, exactly, rtol=0, atol=32 * differentiable.eps * np.abs(exactly).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9, 1e-12])
def test_tails_of_two_rows_that_nearly_agree(kind, step, library):
    """sum q (log q - log p), as torch.nn.functional.kl_div has it, is rounding noise below 1e-8, often negative."""
    if library.dtype == "float32":
        step = float(np.float32(step))
    teacher = np.array([0.0, 0.0, 0.0])
    student = np.array([step, 0.0, -2 * step])
    want = exact(student, teacher, kind=kind)
    np.testing.assert_allclose(
        library.numpy(distill(library.of([student]), library.of([teacher]), kind=kind)), [want], rtol=8 * library.eps
    )
    p, q = np.exp(student) / np.exp(student).sum(), np.full(3, 1 / 3)
    if step <= 1e-9:
        assert abs((q * (np.log(q) - np.log(p))).sum() / exact(student, teacher) - 1) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_tails_a_constant_between_two_rows_that_nearly_agree_costs_no_digit(kind, library):
    step = 2.0**-20
    student, teacher = np.array([8 + step, 8.0, 8 - 2 * step]), np.zeros(3)
    got = library.numpy(distill(library.of([student]), library.of([teacher]), kind=kind))
    np.testing.assert_allclose(got, [exact(student, teacher, kind=kind)], rtol=8 * library.eps)


@pytest.mark.parametrize("library", [TORCH, JAX_JIT_64], indirect=True, ids=str)
def test_tails_of_scores_up_to_700(library):
    """log(softmax) is -inf at 746 in float64; exp(log q - log p) overflows where q alone does not."""
    student, teacher = (
        np.array([[700.0, 0.0, -700.0], [0.0, 700.0, 3.0]]),
        np.array([[-700.0, 1.0, 700.0], [2.0, 690.0, 3.0]]),
    )
    for kind in KINDS:
        got = library.numpy(distill(library.of(student), library.of(teacher), kind=kind))
        want = []
        for x, y in zip(student, teacher, strict=True):
            with mpmath.workdps(1300):
                want.append(exact(x, y, kind=kind))
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_empty_nan_and_infinite_rows(kind, differentiable):
    inf, nan = np.inf, np.nan
    student = np.array(
        [[1.0, -inf, 0.0], [1.0, -inf, 0.0], [-inf] * 3, [0.0, 0.0, 0.0], [nan, 0.0, 0.0], [inf, 0.0, 0.0]]
    )
    teacher = np.array([[0.5, -inf, 2.0], [0.0, 1.0, 0.0], [0.0] * 3, [-inf] * 3, [0.0] * 3, [inf, 3.0, 0.0]])
    without = distill(student[:1, [0, 2]], teacher[:1, [0, 2]], kind=kind)[0]
    got = differentiable.run(lambda x, y: distill(x, y, kind=kind), student, teacher)
    np.testing.assert_allclose(got[0], without, rtol=8 * differentiable.eps)
    if kind == "forward":
        assert got[1] == inf
    else:
        assert np.isfinite(got[1])
    assert np.isnan(got[2:5]).all()
    assert got[5] == 0
    rows = [0, 2, 3, 5]
    slopes = differentiable.gradient(lambda x, y: distill(x, y, kind=kind), student[rows], teacher[rows])
    assert (slopes[1:] == 0).all()
    assert slopes[0, 1] == 0
    np.testing.assert_allclose(slopes[0].sum(), 0, atol=8 * differentiable.eps)


def test_a_class_the_teacher_lacks_costs_inf_in_reverse(library):
    got = library.numpy(distill(library.of([[1.0, 0.0]]), library.of([[1.0, -np.inf]]), kind="reverse"))
    np.testing.assert_array_equal(got, [np.inf])


def test_a_class_that_one_of_them_lacks_costs_the_other_what_it_puts_there(differentiable):
    """By the definition, with 0 log 0 = 0, where that is finite: p has mass on the class that q lacks, or q on p's."""
    full, lacking = np.array([[1.0, 0.0, 0.5]]), np.array([[0.5, 2.0, -np.inf]])
    p, q = (np.exp(z[0]) / np.exp(z[0]).sum() for z in (full, lacking))
    middle = (p + q) / 2

    def divergence(a, b):
        return (a[a > 0] * np.log(a[a > 0] / b[a > 0])).sum()

    between, onto = (divergence(p, middle) + divergence(q, middle)) / 2, divergence(q, p)
    for kind, student, teacher, want, slope in (
        ("forward", full, lacking, onto, p - q),
        ("reverse", lacking, full, onto, q * (np.log(np.where(q > 0, q, 1) / p) - onto)),
        ("jensen_shannon", full, lacking, between, None),
        ("jensen_shannon", lacking, full, between, None),
    ):

        def loss(x, y, kind=kind):
            return distill(x, y, kind=kind)

        got, slopes = differentiable.run(loss, student, teacher), differentiable.gradient(loss, student, teacher)
        np.testing.assert_allclose(got, [want], rtol=8 * differentiable.eps)
        assert np.isfinite(slopes).all()
        if slope is not None:
            np.testing.assert_allclose(slopes[0], slope, rtol=0, atol=8 * differentiable.eps)


def test_jensen_shannon_is_symmetric_and_at_most_log_2(library):
    x, y = library.of(STUDENT * 40), library.of(TEACHER * 40)
    there, back = (library.numpy(distill(a, b, kind="jensen_shannon")) for a, b in ((x, y), (y, x)))
    np.testing.assert_allclose(there, back, rtol=16 * library.eps)
    assert (there <= np.log(2) * (1 + 4 * library.eps)).all()
    assert there[0] > 0.69  # the two are sure of different classes


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(differentiable):
    def slope(**settings):
        return differentiable.gradient(lambda x, y: distill(x, y, **settings), STUDENT, TEACHER)

    cold = slope(temperature=8.0, rescale=False)
    np.testing.assert_allclose(slope(temperature=8.0), 64 * cold, rtol=8 * differentiable.eps)
    assert np.abs(cold).max() < 0.05 < np.abs(slope(temperature=8.0)).max()


def test_a_temperature_per_row(library):
    heat = np.array([[1.0], [2.0], [4.0]])
    got = library.numpy(distill(library.of(STUDENT), library.of(TEACHER), temperature=library.of(heat)))
    each = [exact(x, y, temperature=t) for x, y, t in zip(STUDENT, TEACHER, heat[:, 0], strict=True)]
    np.testing.assert_allclose(got, each, rtol=32 * library.eps)


@pytest.mark.parametrize("hard", [0.25, 1.0])
def test_a_mix_with_the_hard_target(hard, differentiable):
    target, valid = np.array([1, 3, -100]), np.array([True, True, False])

    def mixed(x, y):
        return distill(x, y, temperature=2.0, target=target, hard=hard, valid=valid)

    soft = differentiable.run(lambda x, y: distill(x, y, temperature=2.0, valid=valid), STUDENT, TEACHER)
    own = differentiable.run(lambda x: ll.cross_entropy(x, target, valid=valid), STUDENT)
    got = differentiable.run(mixed, STUDENT, TEACHER)
    np.testing.assert_allclose(got, (1 - hard) * soft + hard * own, rtol=8 * differentiable.eps)
    assert got[2] == 0


@pytest.mark.parametrize("held", [np.nan, np.inf, -np.inf])
def test_an_ignored_row_costs_nothing_whatever_it_holds(held, differentiable):
    student, valid = STUDENT.copy(), np.array([True, False, True])
    student[1] = held
    for kind in KINDS:

        def loss(x, y, kind=kind):
            return distill(x, y, kind=kind, valid=valid)

        assert differentiable.run(loss, student, TEACHER)[1] == 0
        slopes = differentiable.gradient(loss, student, TEACHER)
        assert (slopes[1] == 0).all()
        assert slopes[[0, 2]].any(-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_and_the_teacher_s_gradient(kind):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x, y = (TORCH.of(rows[[0, 1]] / 2).requires_grad_() for rows in (STUDENT, TEACHER))

    def loss(a, b):
        return distill(a, b, kind=kind, temperature=1.5)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_half_precision_is_computed_in_float32():
    got = distill(STUDENT.astype(np.float16), TEACHER.astype(np.float16))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, distill(STUDENT, TEACHER), rtol=1e-6)


@pytest.mark.parametrize(
    ("teacher", "settings", "sentence"),
    [
        (np.zeros((3, 5)), {}, r"the same classes.*logits are \(3, 4\), teacher is \(3, 5\)"),
        (TEACHER, {"kind": "backward"}, "kind is one of 'forward', 'reverse', 'jensen_shannon', not 'backward'"),
        (TEACHER, {"temperature": -1.0}, "temperature is a finite number above 0"),
        (TEACHER, {"hard": 0.5}, "hard is 0.5 without one"),
        (TEACHER, {"target": np.array([0, 1, 2])}, "hard is 0.0 with one"),
        (TEACHER, {"target": np.array([0, 1, 2]), "hard": 1.5}, "hard is 1.5 with one"),
        (TEACHER, {"valid": np.array([True])}, r"one valid per row of logits, \(3,\)"),
    ],
)
def test_wrong_calls(teacher, settings, sentence):
    with pytest.raises(ValueError, match=f"^distill: .*{sentence}"):
        inspect.unwrap(distill)(STUDENT, teacher, **settings)
