"""Losses of preferences: the definitions with 120 digits over the whole range, their tails, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest
from mpmath import mpf

import reference
from arrays import JAX_JIT, TORCH, TORCH_32
from lastlayer.loss.preference import dpo, ipo, kto, orpo, simpo

# chosen, rejected, reference of the chosen, of the rejected
SUMS = np.array(
    [
        [-10.25, -12.5, -11.0, -11.0],
        [-700.0, -0.001, -1.0, -699.5],
        [-0.001, -700.0, -699.5, -1.0],
        [-3000.125, -2999.75, -3000.5, -2999.0],
        [-1e-20, -40.0, -1e-10, -0.5],
        [-300.2, -300.2, -300.1, -300.1],
    ]
)
# chosen, rejected
AVERAGES = np.array(
    [
        [-0.5, -0.7],
        [-0.7, -0.5],
        [-1e-20, -2.0],
        [-2.0, -1e-20],
        [-1e-20, -3e-20],
        [-3e-20, -1e-20],
        [-3e-9, -1e-20],
        [-80.0, -0.25],
        [-0.25, -80.0],
        [-0.3, -40.1],
        [-1e-3, -1e-3],
    ]
)
FAR = np.array([[-700.0, -0.25], [-0.25, -700.0], [-700.0, -699.0]])


def softplus(v):
    return mpmath.log1p(mpmath.exp(v))


def gain(row):
    return (row[0] - row[2]) - (row[1] - row[3])


def exact_dpo(row, beta, s=0.0):
    h = mpf(beta) * gain(row)
    return (1 - mpf(s)) * softplus(-h) + mpf(s) * softplus(h)


def exact_ipo(row, beta):
    return (gain(row) - 1 / (2 * mpf(beta))) ** 2


def exact_kto(row, beta, good, kl, weights):
    h = mpf(beta) * (row[0] - row[1] - mpf(kl))
    return mpf(weights[0]) / (1 + mpmath.exp(h)) if good else mpf(weights[1]) / (1 + mpmath.exp(-h))


def exact_orpo(row, beta):
    odds = [mpmath.exp(v) / (1 - mpmath.exp(v)) for v in row]
    return mpf(beta) * softplus(-mpmath.log(odds[0] / odds[1])) - row[0]


def exact_simpo(row, lengths, beta, gamma):
    return softplus(mpf(gamma) - mpf(beta) * (row[0] / lengths[0] - row[1] / lengths[1]))


LENGTHS = np.array([3, 11])
CASES = {
    "dpo": (
        SUMS,
        lambda x: dpo(x[..., 0], x[..., 1], x[..., 2], x[..., 3]),
        lambda row: exact_dpo(row, 0.1),
    ),
    "dpo, smoothed": (
        SUMS,
        lambda x: dpo(x[..., 0], x[..., 1], x[..., 2], x[..., 3], beta=0.5, label_smoothing=0.25),
        lambda row: exact_dpo(row, 0.5, 0.25),
    ),
    "ipo": (
        SUMS,
        lambda x: ipo(x[..., 0], x[..., 1], x[..., 2], x[..., 3], beta=0.25),
        lambda row: exact_ipo(row, 0.25),
    ),
    "kto, desirable": (
        SUMS[:, :2],
        lambda x: kto(x[..., 0], x[..., 1], np.ones(6, bool), 0.3125, desirable_weight=1.25, undesirable_weight=0.5),
        lambda row: exact_kto(row, 0.1, True, 0.3125, (1.25, 0.5)),
    ),
    "kto, undesirable": (
        SUMS[:, :2],
        lambda x: kto(x[..., 0], x[..., 1], np.zeros(6, int), 0.3125, desirable_weight=1.25, undesirable_weight=0.5),
        lambda row: exact_kto(row, 0.1, False, 0.3125, (1.25, 0.5)),
    ),
    "orpo": (AVERAGES, lambda x: orpo(x[..., 0], x[..., 1]), lambda row: exact_orpo(row, 0.1)),
    "simpo": (
        SUMS[:, :2],
        lambda x: simpo(x[..., 0], x[..., 1], np.tile(LENGTHS[0], 6), np.tile(LENGTHS[1], 6), beta=2.5, gamma=0.6),
        lambda row: exact_simpo(row, LENGTHS.tolist(), 2.5, 0.6),
    ),
}
OF_POLICY = {"kto, desirable": 1, "kto, undesirable": 1}  # columns that learn; two elsewhere


def rounded(rows, library):
    return np.array(rows).astype(library.dtype).astype(float)


@pytest.mark.parametrize("case", CASES)
def test_values(case, library):
    rows, function, exact = CASES[case]
    rows = rounded(rows, library)
    want = np.array([float(exact(reference.exact(row))) for row in rows])
    got = library.run(function, rows)
    small = want < np.finfo(library.dtype).tiny
    np.testing.assert_allclose(got[~small], want[~small], rtol=4 * library.eps)
    assert (got[small] <= np.finfo(library.dtype).tiny).all()


@pytest.mark.parametrize("case", CASES)
def test_slopes(case, differentiable):
    rows, function, exact = CASES[case]
    rows, step = rounded(rows, differentiable), mpf(10) ** -40
    columns = OF_POLICY.get(case, 2)
    want = np.zeros((len(rows), columns))
    for i, row in enumerate(rows):
        for k in range(columns):
            ends = [exact([mpf(v) + (j == k) * side * step for j, v in enumerate(row)]) for side in (1, -1)]
            want[i, k] = float((ends[0] - ends[1]) / (2 * step))
    got = differentiable.gradient(function, rows)
    assert (got[:, columns:] == 0).all()  # the reference is a constant
    got, tiny = got[:, :columns], np.finfo(differentiable.dtype).tiny
    np.testing.assert_allclose(got, want, rtol=8 * differentiable.eps, atol=tiny)


def test_orpo_of_700(differentiable):
    rows = FAR / 8 if differentiable.dtype == "float32" else FAR
    got = differentiable.run(lambda x: orpo(x[..., 0], x[..., 1], beta=1.0), rows)
    want = [float(exact_orpo(reference.exact(row), 1)) for row in rows]
    np.testing.assert_allclose(got, want, rtol=4 * differentiable.eps)
    assert np.isfinite(differentiable.gradient(lambda x: orpo(x[..., 0], x[..., 1]), rows)).all()


def test_ipo_is_exact_where_the_gain_meets_the_margin(library):
    """Where all four cancel, what is left is what rounding took."""
    row = rounded([-0.7, -5.7 - 100 * library.eps, -0.3, -0.3], library)
    want = float((gain(reference.exact(row)) - 5) ** 2)  # 5 is the float that 1 / (2 * 0.1) is
    got = library.run(lambda x, y: ipo(x, y, library.of(row[2:3]), library.of(row[3:])), row[:1], row[1:2])
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)


def test_a_reference_point_or_a_margin_rounds_nothing_away(library):
    """Where an answer is sure, what rounding takes from ``h`` would be 20 units of the loss."""
    logp, ref, kl = rounded([-0.25, -50.5, 0.3], library)
    for good in (True, False):
        got = library.run(
            lambda x, y, good=good: kto(x, y, np.array([good]), library.of([kl]), beta=1.0), [logp], [ref]
        )
        want = float(exact_kto(reference.exact([logp, ref]), 1, good, kl, (1, 1)))
        np.testing.assert_allclose(got, [want], rtol=4 * library.eps)
    got = library.run(lambda x, y: simpo(x, y, np.array([1]), np.array([1]), beta=1.0, gamma=100.7), [-1.0], [-151.0])
    want = float(exact_simpo([mpf(-1), mpf(-151)], (1, 1), 1, 100.7))
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)


def test_one_reference_point_each(library):
    logp, ref, good = np.array([-10.0, -20.0]), np.array([-11.0, -12.0]), np.array([True, False])
    kl = np.array([0.5, 2.0])
    got = library.run(lambda x, y: kto(x, y, library.of(good), library.of(kl), beta=0.5), logp, ref)
    want = [
        float(exact_kto([mpf(a), mpf(b)], 0.5, *more, (1, 1))) for a, b, *more in zip(logp, ref, good, kl, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)


# chosen, rejected: dpo, ipo, orpo, simpo, and the slopes of the chosen
@pytest.mark.parametrize(
    ("chosen", "rejected", "losses", "slopes"),
    [
        (-np.inf, -1.0, [np.inf, np.inf, np.inf, np.inf], [-0.1, -np.inf, -1.1, -1.0]),
        (-1.0, -np.inf, [0, np.inf, 1, 0], [0, np.inf, -1, 0]),
        (0.0, -1.0, [None, None, 0, None], [None, None, -1 - 0.1 / (np.e - 1), None]),
        (-1.0, 0.0, [None, None, np.inf, None], [None] * 4),
        (-np.inf, -np.inf, [np.nan] * 4, [None] * 4),
    ],
)
def test_impossible_and_certain_answers(chosen, rejected, losses, slopes, differentiable):
    two, start = np.array([2]), np.array([-1.0])
    functions = (
        lambda x, y: dpo(x, y, start, start),
        lambda x, y: ipo(x, y, start, start),
        orpo,
        lambda x, y: simpo(x, y, two, two),
    )
    for function, loss, slope in zip(functions, losses, slopes, strict=True):
        if loss is not None:
            got = differentiable.run(function, [chosen], [rejected])
            np.testing.assert_allclose(got, [loss], rtol=4 * differentiable.eps)
        if slope is not None:
            got = differentiable.gradient(function, [chosen], [rejected])
            np.testing.assert_allclose(got, [slope], rtol=4 * differentiable.eps)


@pytest.mark.parametrize("share", [0.125, 0.25])
def test_a_smoothed_dpo_is_content_where_the_doubt_is_met(share, differentiable):
    """Its slope is 0 where sigmoid(beta h) = 1 - s, and changes sign there."""
    h = np.log((1 - share) / share)
    start = np.array([-1.0] * 3)

    def of(x, y):
        return dpo(x, y, start, start, beta=1.0, label_smoothing=share)

    slopes = differentiable.gradient(of, [-9.5 + h, -9 + h, -8.5 + h], [-9.0, -9.0, -9.0])
    assert slopes[0] < -0.01
    assert abs(slopes[1]) < 4 * differentiable.eps
    assert slopes[2] > 0.01


IGNORING = {
    "dpo": lambda x, y, valid: dpo(x, y, y, x, valid=valid),
    "ipo": lambda x, y, valid: ipo(x, y, y, y, valid=valid),
    "kto": lambda x, y, valid: kto(x, y, np.array([True, True, False]), np.array([0.5, -1.0, 0.5]), valid=valid),
    "orpo": lambda x, y, valid: orpo(x, y, valid=valid),
    "simpo": lambda x, y, valid: simpo(x, y, np.array([2, 0, 3]), np.array([2, -1, 3]), valid=valid),
}


@pytest.mark.parametrize("held", [np.nan, np.inf, -np.inf, 7.0, 0.0])
@pytest.mark.parametrize("name", IGNORING)
def test_an_ignored_pair_costs_nothing_whatever_it_holds(name, held, differentiable):
    valid = np.array([True, False, True])
    x, y = np.array([-1.0, held, -2.0]), np.array([-1.5, held, -0.25])

    def of(x, y):
        return IGNORING[name](x, y, valid)

    losses, slopes = differentiable.run(of, x, y), differentiable.gradient(of, x, y)
    assert losses[1] == slopes[1] == 0
    assert np.isfinite(slopes).all()
    assert (losses[::2] > 0).all()
    assert (slopes[::2] != 0).all()


@pytest.mark.parametrize("library", [TORCH_32, TORCH], ids=str)
def test_tails_dpo_as_the_logarithm_of_a_sigmoid(library):
    """Eq. 7 as it is printed, with beta = 0.1: at a lead of 400 it is 0, at -40,000 inf with a gradient of nan."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    zero = library.of([-5000.0])
    for lead, want, slope in ((400.0, float(mpmath.log1p(mpmath.exp(-40))), None), (-40000.0, 4000.0, -0.1)):
        chosen = library.of([-45000.0 + max(lead, 0)]).requires_grad_()
        rejected = library.of([-45000.0 - min(lead, 0)])
        published = -torch.log(1 / (1 + torch.exp(-0.1 * ((chosen - zero) - (rejected - zero)))))
        (lost,) = torch.autograd.grad(published.sum(), chosen)
        assert published == (0 if lead > 0 else torch.inf)
        assert lead > 0 or lost.isnan()
        got = dpo(chosen, rejected, zero, zero)
        (kept,) = torch.autograd.grad(got.sum(), chosen)
        assert float(got.detach()) == pytest.approx(want, rel=4e-7)
        assert float(kept) == pytest.approx(-0.1 * float(mpmath.exp(-40)) if slope is None else slope, rel=4e-7)


def test_tails_trl_rounds_the_lead_of_long_sequences_in_float32():
    """(chosen - rejected) - (ref_chosen - ref_rejected): each difference loses what the small one had."""
    chosen, rejected, ref_chosen, ref_rejected = (
        np.array([v], np.float32) for v in (-3000.0002, -0.0123, -2999.9998, -0.0125)
    )
    published = (chosen - rejected) - (ref_chosen - ref_rejected)
    row = [mpf(float(v[0])) for v in (chosen, rejected, ref_chosen, ref_rejected)]
    assert abs(float(published[0]) - float(gain(row))) > 0.05 * abs(float(gain(row)))
    got = ipo(chosen, rejected, ref_chosen, ref_rejected, beta=1e7)  # a target of 5e-8: what is left is the lead
    assert float(got[0]) == pytest.approx(float(exact_ipo(row, 1e7)), rel=4e-7)


def test_tails_orpo_of_trl_has_no_odds_of_a_sure_answer(differentiable):
    """log1p(-exp(logp)) is log 0 from a log-probability of -1e-17 (float32: -3e-8), and its gradient nan."""
    x = np.array([-1e-20], differentiable.dtype)
    assert np.exp(x)[0] == 1
    with np.errstate(divide="ignore"):
        published = np.log1p(-np.exp(x))
    assert published[0] == -np.inf
    for rejected in (-2.0, -3e-20):
        row = [mpf(float(x[0])), mpf(float(np.array(rejected, differentiable.dtype)))]
        got = differentiable.run(orpo, [-1e-20], [rejected])
        np.testing.assert_allclose(got, [float(exact_orpo(row, 0.1))], rtol=4 * differentiable.eps)
        assert np.isfinite(differentiable.gradient(orpo, [-1e-20], [rejected])).all()


def test_tails_kto_of_trl_takes_a_sigmoid_from_1(differentiable):
    """1 - sigmoid(40) is 0; what is left to learn is exp(-40)."""
    x, y = [-5.0], [-405.0]
    of = differentiable.of(np.array([40.0]))
    assert float(1 - 1 / (1 + np.exp(-np.asarray(of)[0]))) == 0
    good = np.array([True])
    got = differentiable.run(lambda a, b: kto(a, b, good, 0.0), x, y)
    slope = differentiable.gradient(lambda a, b: kto(a, b, good, 0.0), x, y)
    np.testing.assert_allclose(got, [float(1 / (1 + mpmath.exp(mpf(0.1) * 400)))], rtol=4 * differentiable.eps)
    np.testing.assert_allclose(slope, -0.1 * got, rtol=8 * differentiable.eps)


PAIR = np.array([-1.0, -2.0])
THREE = np.array([-1.0, -2.0, -3.0])


@pytest.mark.parametrize(
    ("function", "given", "settings", "sentence"),
    [
        (dpo, (PAIR, THREE, PAIR, PAIR), {}, r"^dpo: one rejected per chosen, \(2,\); rejected is \(3,\)"),
        (dpo, (PAIR, PAIR, THREE, PAIR), {}, "^dpo: one ref_chosen per sequence"),
        (dpo, (PAIR, PAIR, PAIR, PAIR), {"beta": 0.0}, "^dpo: beta is a finite number above 0, not 0.0"),
        (dpo, (PAIR, PAIR, PAIR, PAIR), {"label_smoothing": 0.5}, "^dpo: label_smoothing is at least 0 and below 1/2"),
        (dpo, (PAIR, PAIR, PAIR, PAIR), {"label_smoothing": -0.1}, "label_smoothing is at least 0 and below 1/2"),
        (dpo, (-PAIR, PAIR, PAIR, PAIR), {}, "^dpo: chosen are logarithms .* never above 0; one is 1. .* -loss"),
        (dpo, (PAIR, PAIR, PAIR, -PAIR), {}, "^dpo: ref_rejected are logarithms"),
        (dpo, (PAIR, PAIR, PAIR, PAIR), {"valid": np.array([True])}, "^dpo: one valid per chosen"),
        (ipo, (PAIR, PAIR, PAIR, PAIR), {"beta": -1.0}, "^ipo: beta is a finite number above 0"),
        (ipo, (PAIR, -PAIR, PAIR, PAIR), {}, "^ipo: rejected are logarithms"),
        (kto, (PAIR, THREE, np.array([True, False]), 0.0), {}, "^kto: one reference_logp per sequence"),
        (kto, (PAIR, PAIR, np.array([True]), 0.0), {}, "^kto: one desirable per sequence"),
        (kto, (PAIR, PAIR, np.array([True, False]), -0.5), {}, "^kto: kl is a divergence, not below 0; -0.5 came"),
        (kto, (PAIR, PAIR, np.array([True, False]), np.zeros(3)), {}, "^kto: one kl per sequence"),
        (kto, (PAIR, PAIR, np.array([True, False]), 0.0), {"beta": np.inf}, "^kto: beta is a finite number above 0"),
        (kto, (PAIR, PAIR, np.array([True, False]), 0.0), {"desirable_weight": 0.0}, "desirable_weight is a finite"),
        (
            kto,
            (PAIR, PAIR, np.array([True, False]), 0.0),
            {"undesirable_weight": -1.0},
            "undesirable_weight is a finite",
        ),
        (orpo, (PAIR, THREE), {}, "^orpo: one rejected per chosen"),
        (orpo, (PAIR, PAIR), {"beta": np.nan}, "^orpo: beta is a finite number above 0"),
        (orpo, (PAIR, 1e-3 - 0 * PAIR), {}, "^orpo: rejected are logarithms .* one is 0.001"),
        (simpo, (PAIR, PAIR, np.array([1, 0]), np.array([1, 1])), {}, "^simpo: chosen_length counts .* one is 0"),
        (simpo, (PAIR, PAIR, np.array([1, 1]), np.array([-3, 1])), {}, "^simpo: rejected_length counts .* one is -3"),
        (simpo, (PAIR, PAIR, np.array([1]), np.array([1, 1])), {}, "^simpo: one chosen_length per sequence"),
        (simpo, (PAIR, PAIR, np.array([1, 1]), np.array([1, 1])), {"gamma": -1.0}, "^simpo: gamma is a finite margin"),
        (simpo, (PAIR, PAIR, np.array([1, 1]), np.array([1, 1])), {"beta": 0.0}, "^simpo: beta is a finite number"),
    ],
)
def test_wrong_calls(function, given, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(function)(*given, **settings)  # past the shape hints


def test_rounding_above_0_is_not_refused(library):
    """A sum of logarithms that others rounded may be a little above 0; its odds are those of 1."""
    above = 16 * library.eps
    got = library.run(lambda x, y: orpo(x, y), [above], [-1.0])
    np.testing.assert_array_equal(got, [0])
    got = library.run(lambda x, y: dpo(x, y, y, y), [above], [-1.0])
    np.testing.assert_allclose(got, [float(softplus(mpf(-0.1) * (1 + mpf(above))))], rtol=4 * library.eps)


def test_rounding_is_that_of_the_dtype_that_came():
    above = np.array([0.125])
    assert np.isfinite(orpo(above.astype(np.float16), np.array([-1.0], np.float16))).all()
    with pytest.raises(ValueError, match=r"one is 0\.125"):
        orpo(above.astype(np.float32), np.array([-1.0], np.float32))


def test_where_nobody_may_look_a_wrong_pair_is_nan():
    JAX_JIT.require()
    x, y = np.array([-1.0, 0.5, -1.0, -1.0]), np.array([-2.0, -2.0, 0.5, -2.0])
    for function in (orpo, lambda a, b: dpo(a, b, b, b), lambda a, b: ipo(a, b, a, b)):
        np.testing.assert_array_equal(np.isnan(JAX_JIT.run(function, x, y)), [False, True, True, False])
    one, length = np.ones(4, int), np.array([1, 1, 1, 0])
    got = JAX_JIT.run(lambda a, b: simpo(a, b, length, one), x, y)
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, True])
    kl = JAX_JIT.of(np.array([-1.0, 0.0, 0.0, 0.5]))
    got = JAX_JIT.run(lambda a, b: kto(a, b, one == 1, kl), x, y)
    np.testing.assert_array_equal(np.isnan(got), [True, True, True, False])


def test_half_precision_is_computed_in_float32():
    torch = pytest.importorskip("torch", reason="pip install torch")
    half = [torch.tensor(v).bfloat16() for v in (-300.0, -302.0, -298.0, -302.0)]
    got = dpo(*half)
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(float(softplus(mpf(0.1) * 2)), rel=4e-7)


@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("kto")])
def test_second_derivatives(case):
    torch = pytest.importorskip("torch", reason="pip install torch")
    _, function, _ = CASES[case]
    columns = 4 if case[0] in "di" else 2
    x = TORCH.of([[-1.0, -2.5, -1.5, -0.5][:columns]] * 6) * torch.arange(1, 7).double()[:, None] / 4
    pair, fixed = x[:, :2].clone().requires_grad_(), x[:, 2:]

    def of(pair):
        return function(torch.cat([pair, fixed], 1))

    assert torch.autograd.gradcheck(of, pair)
    assert torch.autograd.gradgradcheck(of, pair)
