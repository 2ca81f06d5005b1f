"""Losses for imbalance and hard rows: by hand, in the tails where published ones fail, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import reference
import reference_imbalance
from arrays import JAX_JIT, TORCH, TORCH_32
from lastlayer.kernels import formulas
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.loss.focal import asymmetric, binary_focal, focal, poly
from lastlayer.loss.imbalance import balanced_softmax, class_balanced_weights, ldam, logit_adjusted

ROWS = np.array([[2.0, 1.0, 0.5], [30.0, -10.0, 0.0], [0.0, 0.0, 60.0], [-3.0, 5.0, 4.0]])
TARGET = np.array([0, 0, 1, 2])
COUNTS = [900, 90, 10]
LOGITS = np.array([-700.0, -60.0, -9.4, -2.95, -2.9, 0.0, 1.0, 9.4, 17.0, 40.0, 60.0, 200.0])
LOGITS = LOGITS.astype(np.float32).astype(np.float64)
SOFTMAX = {
    "focal": (focal, {}),
    "poly": (poly, {}),
    "logit_adjusted": (logit_adjusted, {"prior": COUNTS}),
    "balanced_softmax": (balanced_softmax, {"counts": COUNTS}),
    "ldam": (ldam, {"counts": COUNTS}),
}
ELEMENTWISE = {"binary_focal": (binary_focal, {}), "asymmetric": (asymmetric, {})}


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def sure_right(loss, library, **settings):
    """Value and slope of one true label at each of `LOGITS`, with what both should be."""
    target = np.ones(len(LOGITS), int)
    row = type("Row", (), {"exact": getattr(reference_imbalance, loss.__name__), "exact_slope": None})
    row.settings, row.function = settings, loss
    with mpmath.workdps(2000):
        want = reference.value(row, LOGITS, target), reference.gradient(row, LOGITS, np.ones(len(LOGITS)), target)

    def call(z, y):
        return loss(z, y, **settings)

    got = library.run(call, LOGITS, target), library.gradient(call, LOGITS, target)
    return got, [np.array([float(v) for v in side]) for side in want]


def test_values_by_the_textbook(library):
    """In float64, through probabilities, where nothing is extreme."""
    rows, target = ROWS[[0, 3]], np.array([1, 2])
    p = softmax(rows)[[0, 1], target]
    n = np.array(COUNTS)
    raised = softmax(rows + 0.5 * np.log(n))[[0, 1], target]
    weighed = softmax(rows + np.log(n))[[0, 1], target]
    margin = 0.5 * (n.min() / n) ** 0.25
    moved = softmax(4 * (rows - np.eye(3)[target] * margin))[[0, 1], target]
    for got, want in (
        (library.run(lambda z, y: focal(z, y, gamma=1.5), rows, target), (1 - p) ** 1.5 * -np.log(p)),
        (library.run(lambda z, y: poly(z, y, epsilon=2.0), rows, target), -np.log(p) + 2 * (1 - p)),
        (library.run(lambda z, y: logit_adjusted(z, y, COUNTS, tau=0.5), rows, target), -np.log(raised)),
        (library.run(lambda z, y: balanced_softmax(z, y, COUNTS), rows, target), -np.log(weighed)),
        (library.run(lambda z, y: ldam(z, y, COUNTS, scale=4.0), rows, target), -np.log(moved)),
    ):
        np.testing.assert_allclose(got, want, rtol=32 * library.eps)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0, 2.7, 5.0])
def test_every_gamma(gamma, library):
    got = library.run(lambda z, y: focal(z, y, gamma=gamma), ROWS, TARGET)
    want = [
        reference_imbalance.focal(reference.exact(row), y, mpmath.mpf(gamma))[0]
        for row, y in zip(ROWS, TARGET, strict=True)
    ]
    np.testing.assert_allclose(
        got, [float(v) for v in want], rtol=(8 + 4 * gamma) * library.eps, atol=np.finfo(library.dtype).tiny
    )


def test_gamma_0_is_cross_entropy_to_the_last_bit(differentiable):
    def plain(z, y):
        return focal(z, y, gamma=0.0)

    def same(found, want):  # XLA fuses the two formulas differently: there to a unit in the last place
        np.testing.assert_array_max_ulp(found, want, maxulp=1 if differentiable.compiled else 0, dtype=found.dtype)

    for measure in (differentiable.run, differentiable.gradient):
        with formulas():
            same(measure(plain, ROWS, TARGET), measure(cross_entropy, ROWS, TARGET))
    got = differentiable.run(lambda z, y: binary_focal(z, y, gamma=0.0), LOGITS, np.ones(12, int))
    with formulas():
        same(got, differentiable.run(binary_cross_entropy, LOGITS, np.ones(12, int)))


def test_class_weight_and_alpha_scale(differentiable):
    weight = [0.0, 2.0, 3.0]
    rows = np.array([[np.nan, 0.0, 1.0], *ROWS[2:]])
    got = differentiable.run(lambda z, y: focal(z, y, class_weight=weight), rows, TARGET[1:])
    plain = differentiable.run(focal, ROWS, TARGET)
    np.testing.assert_allclose(got, [0, 2 * plain[2], 3 * plain[3]], rtol=2 * differentiable.eps)
    slopes = differentiable.gradient(lambda z, y: focal(z, y, class_weight=weight), rows, TARGET[1:])
    assert (slopes[0] == 0).all()
    both = np.array([1, 0])
    shared = differentiable.run(lambda z, y: binary_focal(z, y, alpha=0.25), [1.0, 1.0], both)
    plain = differentiable.run(binary_focal, [1.0, 1.0], both)
    np.testing.assert_allclose(shared, plain * [0.25, 0.75], rtol=2 * differentiable.eps)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.3])
def test_tails_focal_of_torchvision_has_no_gradient_for_a_sure_answer(gamma, differentiable):
    """1 - p is 0 there from a logit of 17 (float32) or 37 (float64) on; here to where the loss underflows."""
    got, want = sure_right(binary_focal, differentiable, gamma=gamma)
    tiny = float(np.finfo(differentiable.dtype).tiny)
    for ours, exact in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=24 * differentiable.eps, atol=tiny)
    if differentiable is TORCH_32:
        torch = pytest.importorskip("torch")
        z = torch.tensor(20.0, requires_grad=True)
        published = (1 - torch.sigmoid(z)) ** gamma * torch.nn.functional.softplus(-z)
        assert published == 0
        assert differentiable.gradient(lambda x, y: binary_focal(x, y, gamma=gamma), [20.0], [1])[0] < 0


def test_tails_focal_of_mmcv_1488_is_nan_in_half_precision_at_9_4():
    """log(1 - p) of a p that rounds to 1: -inf, times 0."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([9.4], dtype=torch.float16)
    p = torch.sigmoid(z)
    assert torch.isnan(0 * torch.log(1 - p)).all()
    got = binary_focal(z, torch.tensor([0]))
    assert got.dtype == torch.float32
    exact = reference_imbalance.binary_focal(reference.exact(z.float()), [0])
    np.testing.assert_allclose(got, [float(exact[0])], rtol=8 * TORCH_32.eps)


def test_tails_clamped_focal_of_gliner2_155_is_no_clamp_in_bfloat16():
    """1 - 1e-6 is 1 in bfloat16, so the logarithm behind the clamp is -inf all the same."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([12.0], dtype=torch.bfloat16)
    p = torch.sigmoid(z).clamp(1e-6, 1 - 1e-6)
    assert torch.isinf(torch.log(1 - p)).all()
    np.testing.assert_allclose(binary_focal(z, torch.tensor([0])), [12.0], rtol=1e-4)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.375, 1e-30])
def test_tails_asymmetric_of_asl_stops_at_its_epsilon(margin, differentiable):
    """max(1 - p + margin, 1e-8) with p in float32 loses the positives' tail, and 1 - p itself."""
    settings = {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": margin}
    target = np.arange(24) % 2
    z = np.repeat(LOGITS, 2)
    row = type("Row", (), {"exact": reference_imbalance.asymmetric, "exact_slope": None})
    row.settings, row.function = settings, asymmetric

    def call(x, y):
        return asymmetric(x, y, **settings)

    tiny = float(np.finfo(differentiable.dtype).tiny)
    if margin != 1e-30 or differentiable is TORCH:
        with mpmath.workdps(2000):
            want, slopes = reference.value(row, z, target), reference.gradient(row, z, np.ones(24), target)
        want, slopes = ([float(v) for v in side] for side in (want, slopes))
        np.testing.assert_allclose(
            differentiable.run(call, z, target), want, rtol=32 * differentiable.eps, atol=4 * tiny
        )
        np.testing.assert_allclose(
            differentiable.gradient(call, z, target), slopes, rtol=64 * differentiable.eps, atol=4 * tiny
        )


def test_the_kink_of_the_margin():
    """Just above p = margin the fourth power of p - margin keeps its digits; just below the loss is 0."""
    edge = float(mpmath.log(mpmath.mpf(0.05) / (1 - mpmath.mpf(0.05))))
    z = edge + np.array([-1e-9, 1e-12, 1e-6])
    got = TORCH.run(asymmetric, z, np.zeros(3, int)), TORCH.gradient(asymmetric, z, np.zeros(3, int))
    p = [1 / (1 + mpmath.exp(-v)) - mpmath.mpf(0.05) for v in reference.exact(z)]
    np.testing.assert_allclose(got[0][1:], [float(v**4 * -mpmath.log(1 - v)) for v in p[1:]], rtol=1e-14)
    np.testing.assert_array_equal([got[0][0], got[1][0]], [0, 0])


def test_tails_logit_adjusted_keeps_what_the_sum_with_the_prior_rounds(differentiable):
    """z + log(prior) rounds to 40 units of the loss at a distance of 40."""
    rows, target = np.array([[1024.0, 984.0, 986.0], [-40.0, 0.125, -37.0]]), np.array([0, 1])
    got = differentiable.run(lambda z, y: logit_adjusted(z, y, [0.7, 0.2, 0.1]), rows, target)
    want = [
        reference_imbalance.logit_adjusted(reference.exact(row), y, reference.exact([0.7, 0.2, 0.1]))[0]
        for row, y in zip(rows, target, strict=True)
    ]
    np.testing.assert_allclose(got, [float(v) for v in want], rtol=6 * differentiable.eps)


def test_tails_logit_adjusted_keeps_what_adding_the_prior_rounds(library):
    """Of a sure row the loss is exp(-38): the rounding of a sum at that distance is 20 units of it."""
    rows, prior = np.array([[40.1, 0.3]]).astype(library.dtype), [0.1, 0.9]
    got = library.run(lambda z, y: logit_adjusted(z, y, prior), rows, [0])
    first, second = reference.exact(rows[0])
    want = float(mpmath.log1p(mpmath.mpf(0.9) / mpmath.mpf(0.1) * mpmath.exp(second - first)))
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)


def test_class_balanced_weights_near_1(library):
    counts = np.array([1_000_000, 3, 50])
    for beta in (0.0, 0.9, 0.999, 1 - 1e-12):
        got = library.numpy(class_balanced_weights(library.of(counts.astype(float)), beta=beta))
        want = reference_imbalance.class_balanced_weights(reference.exact(counts), mpmath.mpf(beta))
        np.testing.assert_allclose(got, [float(v) for v in want], rtol=8 * library.eps)
    np.testing.assert_allclose(class_balanced_weights([4, 4], beta=0.5), [1, 1], rtol=1e-15)
    np.testing.assert_array_equal(class_balanced_weights([1, 4], beta=0.0), [1, 1])


@pytest.mark.parametrize("name", SOFTMAX)
def test_special_rows(name, differentiable):
    loss, settings = SOFTMAX[name]

    def call(z, y):
        return loss(z, y, **settings)

    rows = np.array([[-np.inf] * 3, [0.0, -np.inf, 1.0], [np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0], [np.inf, 0.0, 1.0]])
    got = differentiable.run(call, rows, np.array([0, 1, 0, 0, 1]))
    np.testing.assert_array_equal(got, [np.nan, np.inf, np.nan, 0, np.inf])
    slopes = differentiable.gradient(call, rows, np.array([0, 1, 0, 0, 1]))
    assert (slopes[0] == 0).all()
    assert np.isfinite(slopes[[1, 3, 4]]).all()
    assert slopes[1, 1] < 0


@pytest.mark.parametrize("name", [*SOFTMAX, *ELEMENTWISE])
def test_what_does_not_count_costs_nothing_whatever_it_holds(name, differentiable):
    loss, settings = (SOFTMAX | ELEMENTWISE)[name]
    single = name in ELEMENTWISE
    logits = np.array([np.nan, -np.inf, 1.0]) if single else np.array([[np.nan] * 3, [-np.inf] * 3, ROWS[0]])
    target, valid = np.array([-100, 7, 1]), np.array([False, False, True])

    def call(z, y):
        return loss(z, y, valid=valid, **settings)

    losses, slopes = differentiable.run(call, logits, target), differentiable.gradient(call, logits, target)
    assert (losses[:2] == 0).all()
    assert (slopes[:2] == 0).all()
    alone = differentiable.run(lambda z, y: loss(z, y, **settings), logits[2:], target[2:])
    np.testing.assert_allclose(losses[2:], alone, rtol=4 * differentiable.eps)
    assert slopes[2].any()


@pytest.mark.parametrize("name", SOFTMAX)
def test_where_nobody_may_look_a_wrong_target_is_nan(name):
    JAX_JIT.require()
    loss, settings = SOFTMAX[name]
    got = JAX_JIT.run(lambda z, y: loss(z, y, **settings), ROWS[:2], np.array([3, 0]))
    np.testing.assert_array_equal(np.isnan(got), [True, False])


def test_soft_binary_targets_mix_the_two_costs(library):
    for loss in (binary_focal, asymmetric):
        mixed = library.run(loss, [1.5], np.array([0.25]))
        parts = library.run(loss, [1.5, 1.5], np.array([1.0, 0.0]))
        np.testing.assert_allclose(mixed, [0.25 * parts[0] + 0.75 * parts[1]], rtol=4 * library.eps)


@pytest.mark.parametrize(
    ("loss", "args", "settings", "sentence"),
    [
        (focal, (ROWS, TARGET), {"gamma": -1.0}, "gamma is finite and not below 0; -1.0 came"),
        (
            focal,
            (ROWS, TARGET),
            {"class_weight": [1, 2]},
            r"one class_weight per class, \(3,\); class_weight is \(2,\)",
        ),
        (focal, (ROWS, TARGET), {"class_weight": [1, -2, 0]}, "class_weight is finite and not below 0.*not -2"),
        (focal, (ROWS, TARGET[:2]), {}, r"one target per row of logits, \(4,\); target is \(2,\)"),
        (focal, (ROWS, TARGET + 2), {}, "target 3 is not one of the 3 classes|target 4"),
        (focal, (ROWS, TARGET * 1.0), {}, r"an integer: target.astype\(int\)"),
        (binary_focal, (LOGITS[:1], [1]), {"gamma": np.inf}, "gamma is finite"),
        (binary_focal, (LOGITS[:1], [1]), {"alpha": 1.5}, "alpha.* between 0 and 1, not 1.5"),
        (binary_focal, (LOGITS[:1], [-1]), {}, "target is 0, 1 or between, not -1; for -1/[+]1 write target > 0"),
        (asymmetric, (LOGITS[:1], [1]), {"margin": 1.0}, "margin is a probability, at least 0 and below 1, not 1.0"),
        (asymmetric, (LOGITS[:1], [1]), {"margin": -0.1}, "margin is a probability"),
        (asymmetric, (LOGITS[:1], [1]), {"gamma_negative": -4.0}, "gamma_negative is finite and not below 0"),
        (asymmetric, (LOGITS[:1], [1]), {"gamma_positive": -4.0}, "gamma_positive is finite and not below 0"),
        (poly, (ROWS, TARGET), {"epsilon": -1.0}, "epsilon is a finite number above -1, not -1.0"),
        (logit_adjusted, (ROWS, TARGET, [0.5, 0.5]), {}, r"one prior per class, \(3,\); prior is \(2,\)"),
        (logit_adjusted, (ROWS, TARGET, [0.5, 0.5, 0.0]), {}, "prior is finite and above 0 for each class, not 0"),
        (logit_adjusted, (ROWS, TARGET, COUNTS), {"tau": np.nan}, "tau is a finite number, not nan"),
        (balanced_softmax, (ROWS, TARGET, [3, 0, 1]), {}, "counts is finite and above 0 for each class, not 0"),
        (ldam, (ROWS, TARGET, [3, -1, 1]), {}, "counts is finite and above 0 for each class, not -1"),
        (ldam, (ROWS, TARGET, COUNTS), {"max_margin": -0.5}, "max_margin is finite and not below 0"),
        (ldam, (ROWS, TARGET, COUNTS), {"scale": 0.0}, "scale is a finite number above 0"),
        (class_balanced_weights, (COUNTS,), {"beta": 1.0}, "beta is at least 0 and below 1, not 1.0"),
        (class_balanced_weights, ([3, 0],), {}, "counts is finite and above 0 for each class, not 0"),
        (class_balanced_weights, ([3, np.inf],), {}, "counts is finite and above 0 for each class, not inf"),
        (class_balanced_weights, (3,), {}, r"one number per class, \(classes,\); they are \(\)"),
    ],
)
def test_wrong_calls(loss, args, settings, sentence):
    formula = inspect.unwrap(loss)  # past the shape hints that the test run enforces
    with pytest.raises(ValueError, match=f"^{loss.__name__}: .*({sentence})"):
        formula(*(np.array(a) for a in args), **settings)
