"""Losses of a policy: exact ratios and estimates, estimators that are unbiased by enumeration, and the wrong calls."""

import inspect
import itertools
import re

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import reference
from arrays import JAX_JIT, TORCH, TORCH_32
from lastlayer import transform
from lastlayer.loss.policy import (
    grpo,
    kl_to_reference,
    policy_logp,
    ppo,
    reinforce,
    reinforce_leave_one_out,
    sequence_logp,
)

ROWS = np.array([[2.0, 1.0, -0.5, 0.25], [0.0, 40.0, 3.0, -2.0], [-1.0, 0.5, 0.75, 0.0]])
KEPT = np.array([[True, True, False, True], [False, True, True, False], [True, False, True, True]])
ACTION = np.array([1, 1, 0])


def exact_logp(row, action, kept, temperature=1):
    """The definition over the kept classes, with 120 digits."""
    weights = [mpmath.exp(v / mpmath.mpf(temperature)) if k else 0 for v, k in zip(row, kept, strict=True)]
    return mpmath.log(weights[action] / mpmath.fsum(weights))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_policy_logp_is_normalised_over_what_was_kept(temperature, library):
    got = library.run(lambda z, a: policy_logp(z, a, mask=library.of(KEPT), temperature=temperature), ROWS, ACTION)
    want = [exact_logp(*row, temperature) for row in zip(ROWS, ACTION, KEPT, strict=True)]
    np.testing.assert_allclose(got, np.array(want, float), rtol=8 * library.eps)


def test_a_packed_mask_is_the_same_mask():
    words = (KEPT * 2 ** np.arange(4)).sum(-1, keepdims=True).astype(np.int32)
    np.testing.assert_array_equal(policy_logp(ROWS, ACTION, mask=words), policy_logp(ROWS, ACTION, mask=KEPT))


def test_policy_logp_outside_the_support_and_without_one(differentiable):
    kept = np.array([[True, True, False, True], [False] * 4, [True] * 4])

    def of(z, action):
        return policy_logp(z, action, mask=differentiable.of(kept), valid=np.array([True, True, False]))

    rows, action = np.array([ROWS[0], ROWS[1], [np.nan] * 4]), np.array([2, 0, -100])
    np.testing.assert_array_equal(differentiable.run(of, rows, action), [-np.inf, np.nan, 0])
    slopes = differentiable.gradient(of, rows, action)
    p = np.exp(ROWS[0]) * kept[0] / (np.exp(ROWS[0]) * kept[0]).sum()
    np.testing.assert_allclose(slopes[0], -p, atol=4 * differentiable.eps)
    assert (slopes[1:] == 0).all()


def test_gradient_of_policy_logp_stays_in_the_support(differentiable):
    slopes = differentiable.gradient(lambda z, a: policy_logp(z, a, mask=differentiable.of(KEPT)), ROWS, ACTION)
    p = np.where(KEPT, np.exp(ROWS - 40), 0)
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(slopes, np.eye(4)[ACTION] - p, rtol=0, atol=4 * differentiable.eps)
    assert (slopes[~KEPT] == 0).all()


def test_sequence_logp_adds_what_is_valid(library):
    tokens, valid = np.array([[1, 1, -100], [0, 3, 2]]), np.array([[True, True, False], [False, False, False]])
    logits = np.stack([ROWS, ROWS])
    logits[0, 2] = np.nan
    want = float(mpmath.fsum(exact_logp(ROWS[i], ACTION[i], [True] * 4) for i in range(2)))
    fixed = library.of(valid)
    got = library.run(lambda z, y: sequence_logp(z, y, fixed), logits, tokens)
    np.testing.assert_allclose(got, [want, 0], rtol=4 * library.eps)
    got = library.run(lambda z, y: sequence_logp(z, y, fixed, average=True), logits, tokens)
    np.testing.assert_allclose(got, [want / 2, np.nan], rtol=4 * library.eps)


def test_the_average_of_nothing_has_no_gradient(differentiable):
    valid = np.array([[False, False], [True, False]])

    def of(z, tokens):
        return sequence_logp(z, tokens, valid, average=True)

    slopes = differentiable.gradient(of, np.zeros((2, 2, 3)), np.zeros((2, 2), int))
    assert (slopes[0] == 0).all()
    np.testing.assert_allclose(slopes[1], [[2 / 3, -1 / 3, -1 / 3], [0, 0, 0]], rtol=2 * differentiable.eps)


def test_reinforce_takes_one_advantage_per_token_or_per_sequence(library):
    logp = np.array([[-0.5, -1.0], [-2.0, -4.0]])
    got = library.run(lambda x, a: reinforce(x, a[..., None]), logp, np.array([2.0, -1.0]))
    np.testing.assert_array_equal(got, [[1.0, 2.0], [-2.0, -4.0]])
    got = library.run(reinforce, np.array([-np.inf, -np.inf]), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(got, [0.0, np.inf])


@pytest.mark.parametrize(
    ("logp", "old", "advantage", "loss", "slope"),
    [
        (0.0, 0.0, 2.0, -2.0, -2.0),
        (np.log(1.125), 0.0, 2.0, -2.25, -2.25),
        (np.log(1.1875), 0.0, 2.0, -2.375, -2.375),
        (np.log(1.21), 0.0, 2.0, -2.4, 0.0),  # further the right way: constant
        (np.log(0.25), 0.0, 2.0, -0.5, -0.5),  # gone the wrong way: never clipped
        (np.log(0.25), 0.0, -2.0, 1.4, 0.0),
        (np.log(0.72), 0.0, -2.0, 1.44, 1.44),
        (np.log(0.69), 0.0, -2.0, 1.4, 0.0),
        (np.log(1.5), 0.0, -2.0, 3.0, 3.0),
        (-np.inf, -1.0, 2.0, 0.0, 0.0),
        (-np.inf, -1.0, -2.0, 1.4, 0.0),
        (-5.0, -np.inf, 2.0, -2.4, 0.0),
        (-5.0, -np.inf, 0.0, 0.0, 0.0),
        (-np.inf, -np.inf, 1.0, np.nan, np.nan),
        (np.nan, 0.0, 0.0, np.nan, np.nan),
    ],
)
def test_ppo(logp, old, advantage, loss, slope, differentiable):
    """The clip is (0.3, 0.2)."""

    def of(x, y):
        return ppo(x, y, np.array([advantage]), clip=(0.3, 0.2))

    got = differentiable.run(of, [logp], [old]), differentiable.gradient(of, [logp], [old])
    np.testing.assert_allclose(got[0], [loss], rtol=8 * differentiable.eps)
    if not np.isnan(slope):
        np.testing.assert_allclose(got[1], [slope], rtol=8 * differentiable.eps)


def test_what_was_measured_before_is_constant():
    torch = pytest.importorskip("torch", reason="pip install torch")
    logp, advantage = (torch.tensor(v, requires_grad=True) for v in ([-1.0, -2.0], [0.5, -1.5]))
    (slope,) = torch.autograd.grad(ppo(logp, logp, advantage).sum(), logp)
    assert slope.tolist() == [-0.5, 1.5]  # that of reinforce
    for loss in (ppo(logp, logp, advantage), reinforce(logp, advantage), kl_to_reference(logp * 2, logp, kind="k1")):
        inputs = (logp, advantage)
        assert torch.autograd.grad(loss.sum(), inputs, allow_unused=True)[1] is None
    (slope,) = torch.autograd.grad(kl_to_reference(logp * 2, logp, kind="k1").sum(), logp)
    assert slope.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("function", [reinforce_leave_one_out, lambda logp, reward: grpo(logp, logp, reward)])
def test_rewards_are_constant(function):
    torch = pytest.importorskip("torch", reason="pip install torch")
    logp, reward = (torch.tensor(v, requires_grad=True) for v in ([[-1.0, -2.0, -0.5]], [[0.5, -1.5, 2.0]]))
    assert torch.autograd.grad(function(logp, reward).sum(), (logp, reward), allow_unused=True)[1] is None


def test_the_baseline_leaves_its_own_member_out(library):
    logp, reward = np.array([[-1.0, -2.0, -0.5, np.nan]]), np.array([[3.0, 0.0, 1.5, np.nan]])
    valid = library.of(np.array([[True, True, True, False]]))
    got = library.run(lambda x, r: reinforce_leave_one_out(x, r, valid=valid), logp, reward)
    np.testing.assert_allclose(got, [[2.25, -4.5, 0.0, 0.0]], rtol=2 * library.eps)


def test_equal_rewards_teach_exactly_nothing(library):
    """The mean of three times 0.1 is not 0.1."""
    assert np.mean(np.array([0.1] * 3)) != 0.1
    logp, reward = np.array([[-1.0, -2.0, -0.5]]), np.array([[0.1, 0.1, 0.1]])
    assert (library.run(reinforce_leave_one_out, logp, reward) == 0).all()
    for scale in ("sample", "population", "none"):
        assert (library.run(lambda x, r, s=scale: grpo(x, x - 2, r, scale=s), logp, reward) == 0).all()


@pytest.mark.parametrize("group", [2, 3])
def test_reinforce_leave_one_out_is_unbiased_by_enumeration(group):
    """Every group that three actions can form, weighed by its probability: the gradient of the expected reward."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    z, reward = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64), torch.tensor([2.0, 7.0, -1.0]).double()
    p = torch.softmax(z, 0)
    want = p * (reward - p @ reward)

    def mean_gradient(loss):
        gradient = torch.zeros(3, dtype=torch.float64)
        for actions in itertools.product(range(3), repeat=group):
            drawn = torch.tensor(actions)
            logits = z.clone().requires_grad_()
            value = loss(policy_logp(logits.expand(group, 3), drawn), reward[drawn]).mean()
            gradient += p[drawn].prod() * torch.autograd.grad(value, logits)[0]
        return gradient

    torch.testing.assert_close(mean_gradient(reinforce_leave_one_out), -want, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(mean_gradient(reinforce), -want, rtol=1e-13, atol=1e-14)
    shrunk = mean_gradient(lambda logp, r: grpo(logp, logp, r, scale="none"))  # the mean of all is in itself
    torch.testing.assert_close(shrunk, -want * (group - 1) / group, rtol=1e-13, atol=1e-14)
    scaled = mean_gradient(lambda logp, r: grpo(logp, logp, r))
    assert abs(float(torch.nn.functional.cosine_similarity(scaled, -want, dim=0)) - 1) > 1e-3


def test_straight_through_is_biased_and_does_not_say_otherwise():
    """For a reward that is not linear its gradient is another, whichever class it is taken at."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64, requires_grad=True)
    worth = torch.tensor([2.0, 7.0, -1.0], dtype=torch.float64)

    def reward(y):
        return (y @ worth) ** 2

    (want,) = torch.autograd.grad(torch.softmax(z, 0) @ worth**2, z)
    (got,) = torch.autograd.grad(reward(transform.straight_through(transform.softmax(z))), z)
    assert float((got - want).abs().max()) > 1
    for estimator in (transform.straight_through, transform.gumbel_softmax):
        assert not re.search("unbiased", estimator.__doc__ or "")


def test_what_the_estimates_of_a_divergence_estimate():
    """By enumeration, in value and as losses: k1 and k3 are unbiased; the gradient of the divergence is that of k2."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64, requires_grad=True)
    start = torch.log_softmax(torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64), 0)
    q = torch.log_softmax(z, 0)
    forward, backward = (q.exp() * (q - start)).sum(), (start.exp() * (start - q)).sum()
    value, slope = {}, {}
    for kind in ("k1", "k2", "k3"):
        losses = kl_to_reference(policy_logp(z.expand(3, 3), torch.arange(3)), start, kind=kind)
        value[kind] = float(q.exp().detach() @ losses.detach())
        (slope[kind],) = torch.autograd.grad(q.exp().detach() @ losses, z)
    gradient, other = (torch.autograd.grad(of, z, retain_graph=True)[0] for of in (forward, backward))
    kl = float(forward.detach())
    assert value["k1"] == pytest.approx(kl, rel=1e-13)
    assert value["k3"] == pytest.approx(kl, rel=1e-13)
    assert abs(value["k2"] - kl) > 1e-3
    torch.testing.assert_close(slope["k1"], torch.zeros(3).double(), rtol=0, atol=1e-15)
    torch.testing.assert_close(slope["k2"], gradient, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(slope["k3"], other, rtol=1e-13, atol=1e-15)
    assert float((gradient - other).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_at_infinities_and_of_equals(kind, differentiable):
    def of(x, y):
        return kl_to_reference(x, y, kind=kind)

    logp, ref = [-1.0, -1.0, -1.0, -np.inf], [-1.0, -np.inf, -0.5, -1.0]
    got, slopes = differentiable.run(of, logp, ref), differentiable.gradient(of, logp, ref)
    r = np.exp(0.5)
    want = {
        "k1": ([0, np.inf, -0.5, -np.inf], [1, 1, 1, 1]),
        "k2": ([0, np.inf, 0.125, np.inf], [0, np.inf, -0.5, -np.inf]),
        "k3": ([0, np.inf, r - 1.5, np.inf], [0, 1, 1 - r, -np.inf]),
    }
    np.testing.assert_allclose(got, want[kind][0], rtol=8 * differentiable.eps)
    np.testing.assert_allclose(slopes, want[kind][1], rtol=8 * differentiable.eps)


REWARD = np.array([[1.0, 0.0, 0.5, 0.25], [3.0, 3.0, 3.0, 3.0]])


@pytest.mark.parametrize("scale", ["sample", "population", "none"])
def test_grpo_standardises_its_group(scale, library):
    logp = np.log([[0.5, 0.5, 0.5, 0.55], [0.1, 0.2, 0.3, 0.9]])
    old = np.log([[0.5, 0.25, 0.9, 0.5], [0.5, 0.5, 0.5, 0.5]])
    std = {"sample": np.std(REWARD[0], ddof=1), "population": np.std(REWARD[0]), "none": 1.0}[scale]
    a = (REWARD[0] - REWARD[0].mean()) / std
    r = np.exp(logp[0] - old[0])
    want = -np.minimum(r * a, np.clip(r, 0.8, 1.2) * a)
    fixed = library.of(old)
    got = library.run(lambda x, reward: grpo(x, fixed, reward, scale=scale), logp, REWARD)
    np.testing.assert_allclose(got[0], want, rtol=16 * library.eps)
    assert (got[1] == 0).all()


def test_grpo_of_tokens_gives_each_the_advantage_of_its_member(differentiable):
    """A member without a valid token is not in the group, whatever it holds and was paid."""
    logp = np.log([[[0.5, 0.4], [0.3, 0.2], [0.9, 0.8]]]) * np.array([[[1.0], [1.0], [np.nan]]])
    reward = np.array([[1.0, 0.5, np.nan]])
    valid = np.array([[[True, True], [True, False], [False, False]]])

    def of(x, r):
        return grpo(x, differentiable.of(np.where(valid, logp, np.nan)), r, scale="population", valid=valid)

    np.testing.assert_allclose(differentiable.run(of, logp, reward), [[[-1, -1], [1, 0], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(differentiable.gradient(of, logp, reward), [[[-1, -1], [1, 0], [0, 0]]], rtol=1e-6)


@pytest.mark.parametrize(
    "of",
    [
        lambda x, y, valid: reinforce(x, y, valid=valid),
        lambda x, y, valid: reinforce_leave_one_out(x, y, valid=valid),
        lambda x, y, valid: ppo(x, y - 1, y, valid=valid),
        lambda x, y, valid: grpo(x, y - 1, y, valid=valid),
        lambda x, y, valid: kl_to_reference(x, y, valid=valid),
    ],
)
@pytest.mark.parametrize("held", [np.nan, np.inf, -np.inf])
def test_an_ignored_entry_costs_nothing_whatever_it_holds(of, held, differentiable):
    valid = np.array([[True, False, True]])
    x, y = np.array([[-1.0, held, -2.0]]), np.array([[-0.5, held, -3.0]])

    def loss(x, y):
        return of(x, y, valid)

    got, slopes = differentiable.run(loss, x, y), differentiable.gradient(loss, x, y)
    assert got[0, 1] == slopes[0, 1] == 0
    without = differentiable.run(lambda x, y: of(x, y, valid[:, ::2]), x[:, ::2], y[:, ::2])
    np.testing.assert_allclose(got[:, ::2], without, rtol=4 * differentiable.eps)
    assert np.isfinite(slopes).all()
    assert slopes.any()


@pytest.mark.parametrize(
    "of",
    [
        lambda x, y, valid: reinforce(x, y, valid=valid),
        lambda x, y, valid: ppo(x, y, x.detach() * 0 + 1, valid=valid),
        lambda x, y, valid: grpo(x, y, x.detach() * 0 + 1, valid=valid),
        lambda x, y, valid: kl_to_reference(x, y, valid=valid),
    ],
)
def test_padding_is_never_computed_with(of):
    """PyTorch's search for the origin of a nan finds none, although padding holds some."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.tensor([[-1.0, np.nan, -2.0]], requires_grad=True)
    y, valid = torch.tensor([[-0.5, np.nan, -3.0]]), torch.tensor([[True, False, True]])
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        of(x, y, valid).sum().backward()
    assert x.grad.isfinite().all()


def test_tails_the_ratio_of_trl_7269_is_off_by_the_mass_that_truncation_took():
    """A sampler with top-p and a policy of the same weights: the mean of the ratio over what is sampled is 1."""
    row = np.array([3.0, 2.5, 1.0, 0.5, -1.0, -2.0])
    kept = np.isfinite(transform.log_softmax(np.where(row >= 1.0, row, -np.inf)))
    sampler = transform.softmax(np.where(kept, row, -np.inf))
    actions = np.flatnonzero(kept)
    drawn = policy_logp(np.tile(row, (3, 1)), actions, mask=kept)
    published = np.log(transform.softmax(row))[actions]
    assert sampler[actions] @ np.exp(published - drawn) == pytest.approx(transform.softmax(row)[kept].sum(), rel=1e-14)
    assert sampler[actions] @ np.exp(published - drawn) < 0.95
    rescored = policy_logp(np.tile(row, (3, 1)), actions, mask=kept)
    assert sampler[actions] @ -ppo(rescored, drawn, 1.0) == pytest.approx(1, rel=1e-15)


def test_tails_the_entropy_of_trl_7221_is_nan_under_a_mask():
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([1.0, -torch.inf, 0.0], dtype=torch.float64, requires_grad=True)
    published = -(torch.log_softmax(z, -1).exp() * torch.log_softmax(z, -1)).sum()
    assert published.isnan()
    h = transform.entropy(z)
    (slope,) = torch.autograd.grad(h, z)
    p = np.exp(1) / (1 + np.exp(1))
    assert float(h.detach()) == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p), rel=1e-14)
    assert slope[1] == 0
    assert slope.isfinite().all()


def test_tails_a_sure_action_of_trl_keeps_its_log_probability_and_gradient():
    """TRL gathers and takes off the logsumexp: 0 in float32 from a margin of 17, with a gradient of 0."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    published = z[:, 0] - torch.logsumexp(z, -1)
    assert float(published.detach()) == float(torch.autograd.grad(published.sum(), z)[0][0, 0]) == 0
    got = policy_logp(z, torch.tensor([0]))
    want = float(-mpmath.log1p(2 * mpmath.exp(-40)))
    assert float(got.detach()) == pytest.approx(want, rel=4e-7)
    assert float(torch.autograd.grad(got.sum(), z)[0][0, 0]) == pytest.approx(-want, rel=4e-7)


@pytest.mark.parametrize("library", [TORCH_32, TORCH], ids=str)
def test_tails_a_clipped_ppo_has_no_nan_where_its_ratio_overflows(library):
    """torch.min of ratio * A and clamp(ratio) * A: 0 * inf in the gradient."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    far = 100.0 if library is TORCH_32 else 800.0
    logp, old = library.of([0.0]).requires_grad_(), library.of([-far])
    ratio = torch.exp(logp - old)
    published = -torch.min(ratio, torch.clamp(ratio, 0.8, 1.2))
    assert torch.autograd.grad(published.sum(), logp)[0].isnan()
    got = ppo(logp, old, 1.0)
    assert float(got.detach()) == pytest.approx(-1.2, rel=1e-7)
    assert torch.autograd.grad(got.sum(), logp)[0] == 0
    assert (ppo(logp, old, 0.0) == 0).all()
    assert (ratio * 0.0).isnan().all()


def test_tails_ratios_from_minus_to_plus_700(library):
    """The difference of two logarithms is rounded; the ratio is not, at up to 700."""
    if library.dtype == "float32":
        pairs = [(-80.3, -0.7), (-0.7, -80.3), (-3000.1, -2990.7)]
    else:
        pairs = [(-700.3, -0.7), (-0.7, -700.3), (-3000.1, -2990.7)]
    logp, old = (np.array(side).astype(library.dtype).astype(float) for side in zip(*pairs, strict=True))
    want = [float(mpmath.exp(mpmath.mpf(a) - mpmath.mpf(b))) for a, b in zip(logp, old, strict=True)]
    got = library.run(lambda x, y: ppo(x, y, -1.0, clip=(0.99999, 0.2)), logp, old)
    np.testing.assert_allclose(got, np.maximum(want, 1 - 0.99999), rtol=4 * library.eps)
    got = library.run(
        lambda x, y: ppo(x, y, 1.0, clip=(0.2, 1e38 if library.dtype == "float32" else 1e305)), logp[::2], old[::2]
    )
    tiny = float(np.finfo(library.dtype).tiny)
    np.testing.assert_allclose(-got, want[::2], rtol=4 * library.eps, atol=tiny)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gap", [2.0**-40, 1e-8, 1e-4, 0.3, 0.5, 0.6, 1.0, 1.5, 3.0, 5.0, 80.0])
def test_tails_k3_of_trl_cancels_to_nothing_near_equal_policies(gap, sign, differentiable):
    """exp(d) - d - 1 at a ratio of 1 + 1e-12 has no digit right, and expm1(d) - d four."""
    x, y = (np.array([v]).astype(differentiable.dtype).astype(float) for v in (-0.7 if gap > 1e-3 else 0.0, 0.0))
    y = (x + sign * gap).astype(differentiable.dtype).astype(float)
    d = mpmath.mpf(y[0]) - mpmath.mpf(x[0])
    want, slope = mpmath.exp(d) - 1 - d, 1 - mpmath.exp(d)
    np.testing.assert_allclose(differentiable.run(kl_to_reference, x, y), [float(want)], rtol=4 * differentiable.eps)
    got = differentiable.gradient(kl_to_reference, x, y)
    np.testing.assert_allclose(got, [float(slope)], rtol=6 * differentiable.eps)
    if gap < 1e-7:
        d = float(d)
        assert abs(np.exp(d) - d - 1 - float(want)) > 0.1 * float(want)


def test_tails_an_epsilon_in_grpo_silences_small_rewards():
    """TRL divides by std + 1e-4, so that rewards in units of 1e-6 teach a hundredth; equal ones come out unequal."""
    logp, reward = np.zeros((1, 3)), np.array([[1.0, 0.0, 0.5]])
    published = [(r - r.mean()) / (r.std(ddof=1) + 1e-4) for r in (reward, 1e-6 * reward)]
    assert np.abs(published[1]).max() < 0.01 * np.abs(published[0]).max()
    np.testing.assert_allclose(grpo(logp, logp, reward), [[-1.0, 1.0, 0.0]], atol=1e-15)
    for unit in (1e-6, 1e-200, 1e200):
        np.testing.assert_allclose(grpo(logp, logp, unit * reward), [[-1.0, 1.0, 0.0]], atol=1e-15)
    equal = np.array([0.1] * 3)
    assert ((equal - equal.mean()) / equal.std() != 0).all()  # without the epsilon, and without care
    assert (grpo(logp, logp, equal[None]) == 0).all()


def test_tails_second_derivatives_of_the_ratio_and_of_k3():
    torch = pytest.importorskip("torch", reason="pip install torch")
    old = TORCH.of([-1.0, -1.0, -1.0])
    x, reward = TORCH.of([-1.0, -1.05, -1.6]).requires_grad_(), TORCH.of([1.0, 0.0, 0.5])
    for loss in (lambda z: ppo(z, old, old), lambda z: kl_to_reference(z, old), lambda z: grpo(z, old, reward)):
        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: policy_logp(ROWS, np.array([0, 1, 4])), "^policy_logp: action 4 is not one of the 4 classes"),
        (lambda: policy_logp(ROWS, np.array([0, 1, -100])), "valid=target != -100"),
        (lambda: policy_logp(ROWS, np.array([0, 1])), r"^policy_logp: one action per row of logits, \(3,\); .* \(2,\)"),
        (lambda: policy_logp(ROWS, ACTION, temperature=0.0), "^policy_logp: temperature is a finite number above 0"),
        (lambda: policy_logp(ROWS, ACTION, mask=KEPT[:, :3]), "allowed broadcasts to logits"),
        (lambda: policy_logp(ROWS, ACTION, valid=np.array([True])), "^policy_logp: one valid per row of logits"),
        (lambda: sequence_logp(ROWS, np.array([0, 1])), "^sequence_logp: one tokens per row"),
        (lambda: sequence_logp(ROWS[0], np.array(0)), r"^sequence_logp: logits are \(\*batch, tokens, classes\)"),
        (lambda: reinforce(np.zeros(3), np.zeros(2)), r"^reinforce: one advantage per log-probability, \(3,\)"),
        (lambda: reinforce(np.zeros((2, 3)), np.zeros((2, 2, 3))), r"advantage\[..., None\]; advantage is \(2, 2, 3\)"),
        (lambda: reinforce_leave_one_out(np.zeros((2, 1)), np.zeros((2, 1))), "group, of 2 or more members"),
        (lambda: reinforce_leave_one_out(np.zeros((2, 0)), np.zeros((2, 0))), "group, of 2 or more members"),
        (lambda: reinforce_leave_one_out(np.zeros((2, 3)), np.zeros((2, 2))), r"one reward per member, \(2, 3\)"),
        (
            lambda: reinforce_leave_one_out(np.zeros(2), np.zeros(2), valid=np.array([True, False])),
            "two members or more; one has a single one",
        ),
        (lambda: ppo(np.zeros(3), np.zeros(2), np.zeros(3)), r"^ppo: one old_logp per log-probability, \(3,\)"),
        (lambda: ppo(np.zeros(3), np.zeros(3), 1.0, clip=1.5), "^ppo: clip is a number between 0 and 1"),
        (lambda: ppo(np.zeros(3), np.zeros(3), 1.0, clip=0.0), "clip is a number between 0 and 1"),
        (lambda: ppo(np.zeros(3), np.zeros(3), 1.0, clip=(0.2, 0.2, 0.2)), "clip is a number between 0 and 1"),
        (
            lambda: grpo(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)), clip=(1.0, 0.2)),
            "^grpo: clip is a number",
        ),
        (
            lambda: grpo(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3)),
            r"one reward per member, \(2,\); reward is \(3",
        ),
        (lambda: grpo(np.zeros((2, 0)), np.zeros((2, 0)), np.zeros((2, 0))), "group, of 1 or more members"),
        (lambda: grpo(np.zeros(3), np.zeros(3), np.zeros(3), scale="std"), "^grpo: scale is one of 'sample'"),
        (lambda: kl_to_reference(np.zeros(3), np.zeros(2)), "one reference_logp per log-probability"),
        (lambda: kl_to_reference(np.zeros(3), np.zeros(3), kind="k4"), "kind is one of 'k1', 'k2', 'k3'"),
    ],
)
def test_wrong_calls(call, sentence, monkeypatch):
    for name in (
        "policy_logp",
        "sequence_logp",
        "reinforce",
        "reinforce_leave_one_out",
        "ppo",
        "grpo",
        "kl_to_reference",
    ):
        monkeypatch.setitem(globals(), name, inspect.unwrap(globals()[name]))  # past the shape hints
    with pytest.raises(ValueError, match=sentence):
        call()


def test_an_action_is_a_whole_number():
    with pytest.raises(TypeError, match=r"^policy_logp: action are indices of classes, integers; float64 came"):
        inspect.unwrap(policy_logp)(ROWS, ACTION.astype(float))


def test_where_nobody_may_look_a_wrong_row_is_nan():
    JAX_JIT.require()
    got = JAX_JIT.run(policy_logp, ROWS, np.array([0, -1, 4]))
    np.testing.assert_array_equal(np.isnan(got), [False, True, True])
    valid = np.array([[True, False], [True, True]])

    def of(x, r):
        return reinforce_leave_one_out(x, r, valid=valid)

    got = JAX_JIT.run(of, np.array([[-1.0, -2.0]] * 2), np.array([[1.0, 0.0]] * 2))
    np.testing.assert_array_equal(got, [[np.nan, 0], [1, -2]])
    slopes = JAX_JIT.gradient(of, np.array([[-1.0, -2.0]] * 2), np.array([[1.0, 0.0]] * 2))
    np.testing.assert_array_equal(slopes, [[np.nan, 0], [-1, 1]])


def test_half_precision_is_scored_in_float32():
    torch = pytest.importorskip("torch", reason="pip install torch")
    z, tokens = torch.from_numpy(ROWS[None]).bfloat16(), torch.from_numpy(ACTION[None])
    got = sequence_logp(z, tokens)
    assert got.dtype == ppo(got.bfloat16(), got, 1.0).dtype == torch.float32
    want = mpmath.fsum(reference.log_softmax(reference.exact(row))[a] for row, a in zip(ROWS, ACTION, strict=True))
    assert float(got) == pytest.approx(float(want), rel=4e-7)  # bfloat16 holds these logits exactly


def test_each_token_alike_or_each_sequence():
    """What the docstring of grpo says of `ll.mean`."""
    losses, valid = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]]), np.array([[True] * 4, [True] + [False] * 3])
    assert float(ll.mean(losses, valid)) == 7 / 5
    weight = np.broadcast_to(1 / valid.sum(-1, keepdims=True), losses.shape)
    assert float(ll.mean(losses, valid, weight)) == 2.0
