"""Losses of a policy from the log-probabilities of what it did: per action, or per token of a sequence.

An entropy bonus needs no function of its own: add ``-weight * transform.entropy(logits)``, which is exact, with its
gradient, also where actions are masked.
"""

import math

import numpy as np

from lastlayer._array import as_array, dtype_name, floating, namespace, readable, stop_gradient, take
from lastlayer._check import one_of, shape
from lastlayer._row import class_index, prepare, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, excess_of_exp, weighed
from lastlayer.transform.mask import mask as masked
from lastlayer.transform.softmax import surprise, tempered


@dispatched
def policy_logp(
    logits: Float[Array, "*batch classes"],
    action: Int[Array, "*batch"],
    *,
    mask: Bool[Array, "..."] | Int[Array, "... words"] | None = None,
    temperature: float | Float[Array, "*batch 1"] = 1.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log-probability of the action taken, one number per row.

        policy_logp = z_a / temperature - logsumexp(z / temperature over the kept classes)

    ``mask`` is True where the sampler could draw from: what top-k, top-p or a grammar kept (bool, or the packed words
    that `transform.mask` reads). The ratio of two policies has mean 1 only if both are normalised over the support
    that was sampled from (trl#7269, vllm#49577). An action outside it is ``-inf``; a support that is empty is nan with
    gradient 0. Close to 0 it keeps its tail: ``-log1p(rest)``. An action outside the classes is refused; where it
    cannot be looked at its row is nan. A row that is not ``valid`` gives 0 with gradient exactly 0, whatever it holds.
    Use it wherever a policy is scored; the entropy of the same row is `transform.entropy`.

    >>> policy_logp(np.array([[2.0, 1.0, 5.0], [40.0, 0.0, 0.0]]), np.array([0, 0]), mask=np.array([True, True, False]))
    array([-3.13261688e-01, -4.24835426e-18])
    """
    logp, _ = _logp("policy_logp", "action", logits, action, mask, temperature, valid)
    return logp


@dispatched
def sequence_logp(
    logits: Float[Array, "*batch tokens classes"],
    tokens: Int[Array, "*batch tokens"],
    valid: Bool[Array, "*batch tokens"] | None = None,
    *,
    average: bool = False,
    mask: Bool[Array, "..."] | Int[Array, "... words"] | None = None,
    temperature: float | Float[Array, "*batch tokens 1"] = 1.0,
) -> Float[Array, "*batch"]:
    """Log-probability of a sequence of tokens, each from its own row of logits: one number per sequence.

        sequence_logp = sum_t log p_t(token_t)        (``average``: divided by the number of tokens that are valid)

    ``logits[..., t, :]`` are those that token t was drawn from, so a language model's are shifted by one place. Tokens
    that are not ``valid`` (the prompt, padding) add 0 with gradient exactly 0, whatever they hold. A sequence without
    a valid token is 0, and its average nan with gradient 0. ``mask`` and the other edges as in `policy_logp`. Use it
    before `dpo`, `ipo`, `kto` and `simpo`, and with ``average=True`` before `orpo`.

    >>> sequence_logp(np.zeros((1, 3, 4)), np.array([[0, 1, -100]]), np.array([[True, True, False]])).round(4)
    array([-2.7726])
    """
    logits = as_array(logits)
    if logits.ndim < 2:
        raise ValueError(f"sequence_logp: logits are (*batch, tokens, classes); these are {shape(logits)}.")
    logp, keep = _logp("sequence_logp", "tokens", logits, tokens, mask, temperature, valid)
    xp = namespace(logp)
    summed = total(logp, xp)
    if not average:
        return summed
    count = total(xp.astype(keep, logp.dtype), xp)
    none = count == 0
    return xp.where(none, xp.nan, summed / xp.where(none, xp.ones_like(count), count))


@dispatched
def reinforce(
    logp: Float[Array, "*batch"], advantage: Float[Array, "..."], *, valid: Bool[Array, "*batch"] | None = None
) -> Float[Array, "*batch"]:
    """The score-function loss of actions with their advantages, one number per action.

        reinforce = -advantage * logp

    Its value means nothing; the mean of its gradient over actions drawn from the policy is minus that of the expected
    reward, whatever baseline is taken off the reward, as long as the action has no part in it (Williams 1992). The
    advantage is a constant of the differentiation; it has the shape of ``logp``, or one per sequence of tokens as
    ``advantage[..., None]``. ``logp`` may be a log-density, above 0. ``0 * inf = 0``. An entry that is not ``valid``
    gives 0 with gradient exactly 0. Use it for one step on fresh actions.

    >>> reinforce(np.array([-0.5, -2.0]), np.array([1.0, -1.0]))
    array([ 0.5, -2. ])
    """
    logp, keep, xp = _counted("reinforce", logp, valid)
    loss = weighed(_advantage("reinforce", advantage, logp, keep, xp), -logp, xp)
    return counted(loss, keep, xp)


@dispatched
def reinforce_leave_one_out(
    logp: Float[Array, "*batch group"],
    reward: Float[Array, "*batch group"] | Int[Array, "*batch group"],
    *,
    valid: Bool[Array, "*batch group"] | None = None,
) -> Float[Array, "*batch group"]:
    """`reinforce` with the mean reward of the other members of a group as the baseline, one number per member.

        reinforce_leave_one_out_i = -(reward_i - mean over j != i of reward_j) * logp_i

    The group, the last axis, is drawn independently from one policy for one prompt or state. Leaving the member itself
    out is what makes the gradient unbiased for every size of the group (Kool, van Hoof & Welling 2019). Members that
    are not ``valid`` are not in the group: they give 0 with gradient exactly 0. A group of one has no baseline and is
    refused; where that cannot be looked at its member is nan. Rewards that are all equal teach exactly nothing. Use it
    when an unbiased gradient counts more than the ready-made scale of `grpo`.

    >>> reinforce_leave_one_out(np.array([[-0.5, -1.0, -2.0]]), np.array([[1, 0, 0]]))
    array([[ 0.5, -0.5, -1. ]])
    """
    logp, keep, xp = _counted("reinforce_leave_one_out", logp, valid)
    _check_group("reinforce_leave_one_out", logp, 2)
    reward = stop_gradient(aligned("reinforce_leave_one_out", "reward", reward, "member", logp, logp.dtype))
    member = xp.ones_like(logp, dtype=xp.bool) if keep is None else keep
    centred, count = _centred(reward, member, xp)
    if readable(count) and bool(xp.any(count == 1)):
        raise ValueError(
            "reinforce_leave_one_out: the baseline is the mean of the others, so a group has two members or more; one "
            "has a single one."
        )
    factor = count / xp.where(count == 1, xp.full_like(count, xp.nan), count - 1)
    advantage = xp.where(member, centred * factor[..., None], xp.zeros_like(centred))
    return weighed(advantage, -logp, xp)


@dispatched
def ppo(
    logp: Float[Array, "*batch"],
    old_logp: Float[Array, "*batch"],
    advantage: Float[Array, "..."],
    *,
    clip: float | tuple[float, float] = 0.2,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """The clipped surrogate of proximal policy optimisation, as a loss: one number per action.

        ppo = -min(r A, clip(r, 1 - low, 1 + high) A),   r = exp(logp - old_logp)

    Schulman et al. 2017, eq. 7; ``clip`` is one number for both sides or ``(low, high)``. Where the ratio has already
    gone the way of the advantage beyond the clip, the loss is constant and its gradient exactly 0, also where the
    ratio overflows; on the other side it is not limited. An advantage of 0 costs 0 at every ratio. ``old_logp`` and
    ``advantage`` are constants of the differentiation, so ``ppo(logp, logp, advantage)`` has the gradient of
    `reinforce`. Both log-probabilities may be densities, above 0; ``-inf`` in both is nan. The advantage is of the
    shape of ``logp``, or one per sequence of tokens as ``advantage[..., None]``. An entry that is not ``valid`` gives 0
    with gradient exactly 0. Use it for several steps on the same actions.

    >>> ppo(np.log([0.5, 0.9]), np.log([0.5, 0.5]), np.array([1.0, 1.0]))
    array([-1. , -1.2])
    """
    low, high = _clip("ppo", clip)
    logp, keep, xp = _counted("ppo", logp, valid)
    old = _constant("ppo", "old_logp", old_logp, logp, keep, xp)
    loss = _surrogate(logp, old, _advantage("ppo", advantage, logp, keep, xp), low, high, xp)
    return counted(loss, keep, xp)


@dispatched
def grpo(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reward: Float[Array, "*batch group"] | Int[Array, "*batch group"],
    *,
    clip: float | tuple[float, float] = 0.2,
    scale: str = "sample",
    valid: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """`ppo` with the rewards of a group, standardised, as advantages: one number per member, or per token of it.

        grpo = -min(r A_i, clip(r, 1 - low, 1 + high) A_i),   A_i = (reward_i - mean(reward)) / std(reward)

    Shao et al. 2024, sec. 4.1. Log-probabilities are ``(*batch, group)``, or ``(*batch, group, tokens)`` for one loss
    per token. ``scale="sample"`` divides by n - 1 inside the standard deviation, as torch.std and the known trainers
    do, ``"population"`` by n; ``"none"`` leaves the rewards as they are but for their mean (Liu et al. 2025). No
    epsilon is added, so rewards in other units teach the same; a group whose rewards are all equal has advantages of
    exactly 0. Members without a ``valid`` entry are not in the group. ``ll.mean(losses, valid)`` weighs every token
    alike; with ``weight=`` one over the length, every sequence, as the paper does. The paper's penalty is
    ``+ beta * kl_to_reference(logp, reference_logp, kind="k3")``. Everything else as in `ppo`. Use it when several
    answers to one prompt can be scored and there is no critic.

    >>> grpo(np.log([[0.5, 0.5, 0.6]]), np.log([[0.5, 0.5, 0.3]]), np.array([[0.0, 0.5, 1.0]]))
    array([[ 1. , -0. , -1.2]])
    """
    one_of("grpo", "scale", scale, ("sample", "population", "none"))
    low, high = _clip("grpo", clip)
    logp, keep, xp = _counted("grpo", logp, valid)
    old = _constant("grpo", "old_logp", old_logp, logp, keep, xp)
    by_token = as_array(reward).ndim + 1 == logp.ndim
    entry = xp.ones_like(logp, dtype=xp.bool) if keep is None else keep
    member = xp.any(entry, axis=-1) if by_token else entry
    _check_group("grpo", member, 1)
    reward = stop_gradient(aligned("grpo", "reward", reward, "member", member, logp.dtype))
    advantage = _standardised(reward, member, scale, xp)
    advantage = xp.broadcast_to(advantage[..., None], tuple(logp.shape)) if by_token else advantage
    loss = _surrogate(logp, old, advantage, low, high, xp)
    return xp.where(entry, loss, xp.zeros_like(loss))


@dispatched
def kl_to_reference(
    logp: Float[Array, "*batch"],
    reference_logp: Float[Array, "*batch"],
    *,
    kind: str = "k3",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """An estimate of KL(policy || reference) from what the policy drew, one number per draw.

        "k1"  -log r              unbiased, of either sign
        "k2"  (log r)^2 / 2       biased, never negative
        "k3"  r - 1 - log r       unbiased, never negative;   r = exp(reference_logp - logp)

    Schulman 2020, "Approximating KL divergence". k3 is a power series near r = 1, so that it keeps its digits where
    ``exp(d) - 1 - d`` has none: at r = 1 + 1e-12 it is 5e-25. As losses their gradients are something else: that of k2
    is, on average, the gradient of KL(policy || reference), that of k3 the gradient of KL(reference || policy), and
    that of k1 is 0 on average. The reference is a constant of the differentiation. A draw that the reference excludes
    (``-inf``) costs ``inf``; ``-inf`` in both is nan. An entry that is not ``valid`` gives 0 with gradient exactly 0.
    From two rows of logits the exact divergence is `distill`. Use it to keep a policy near where it started.

    >>> kl_to_reference(np.array([-1.0, -1.0]), np.array([-1.0 + 2**-40, -3.0]))
    array([4.13590306e-25, 1.13533528e+00])
    """
    one_of("kl_to_reference", "kind", kind, ("k1", "k2", "k3"))
    logp, keep, xp = _counted("kl_to_reference", logp, valid)
    reference = _constant("kl_to_reference", "reference_logp", reference_logp, logp, keep, xp)
    d, error = subtract(reference, logp, xp)
    loss = {"k1": lambda: -d, "k2": lambda: d * d * 0.5, "k3": lambda: _excess_ratio(d, error, xp)}[kind]()
    return counted(loss, keep, xp)


def _logp(function, name, logits, index, mask, temperature, valid):
    """Log-probabilities of ``index`` row by row, 0 where a row does not count, and which rows count."""
    x, xp = prepare(logits, -1)
    index = as_array(index, like=x)
    if "int" not in dtype_name(index):
        raise TypeError(f"{function}: {name} are indices of classes, integers; {dtype_name(index)} came.")
    index = aligned(function, name, index, "row of logits", x[..., 0], index.dtype)
    x = x if mask is None else masked(x, mask)
    keep = xp.ones_like(x[..., 0], dtype=xp.bool)
    if valid is not None:
        keep = aligned(function, "valid", valid, "row of logits", x[..., 0], xp.bool)
        index = xp.where(keep, index, xp.zeros_like(index))
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
    index, x = class_index(function, name, index, x, xp)
    row = tempered(function, x, temperature, math.e, -1, xp)
    logp = 0.0 - take(surprise(row), index, xp)
    logp = xp.where(row.max == -xp.inf, xp.full_like(logp, xp.nan), logp)
    return xp.where(keep, logp, xp.zeros_like(logp)), keep


def _counted(function, logp, valid):
    """Log-probabilities to compute with, 0 where they do not count; which do (None: all), and the namespace."""
    logp = floating(logp)
    xp = namespace(logp)
    if valid is None:
        return logp, None, xp
    keep = aligned(function, "valid", valid, "log-probability", logp, xp.bool)
    return xp.where(keep, logp, xp.zeros_like(logp)), keep, xp


def _constant(function, name, array, logp, keep, xp):
    """``array`` as a constant beside ``logp``, 0 where it does not count."""
    array = stop_gradient(aligned(function, name, array, "log-probability", logp, logp.dtype))
    return array if keep is None else xp.where(keep, array, xp.zeros_like(array))


def _advantage(function, advantage, logp, keep, xp):
    """The advantage as a constant of the shape of ``logp``, 0 where it does not count."""
    advantage = as_array(advantage, like=logp)
    try:
        fits = np.broadcast_shapes(tuple(advantage.shape), tuple(logp.shape)) == tuple(logp.shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{function}: one advantage per log-probability, {shape(logp)}, or one per sequence as "
            f"advantage[..., None]; advantage is {shape(advantage)}."
        )
    advantage = xp.broadcast_to(xp.astype(stop_gradient(advantage), logp.dtype), tuple(logp.shape))
    return advantage if keep is None else xp.where(keep, advantage, xp.zeros_like(advantage))


def _surrogate(logp, old, advantage, low, high, xp):
    """The clipped loss. What is clipped never meets the exponential: its slope would be 0 * inf."""
    d, error = subtract(logp, old, xp)
    above = (advantage > 0) & (d > math.log1p(high))
    below = (advantage < 0) & (d < math.log1p(-low))
    idle = above | below | ((advantage == 0) & (d == d))
    ratio = xp.exp(xp.where(idle, xp.zeros_like(d), d)) * (1 + error)
    bound = xp.where(above, xp.full_like(d, 1 + high), xp.full_like(d, 1 - low))
    return -advantage * xp.where(above | below, bound, ratio)


def _excess_ratio(d, error, xp):
    """``exp(d) - 1 - d`` for ``d + error``; near 0, where the three cancel, from what it is at half of d.

    exp(2 h) - 1 - 2 h = (exp(h) - 1)^2 + 2 (exp(h) - 1 - h)
    """
    close, zero = xp.abs(d) <= 1, xp.zeros_like(d)
    half, much = xp.where(close, d * 0.5, zero), xp.where(close, zero, d)
    excess = excess_of_exp(half, xp)
    near = (half + excess) ** 2 + 2 * excess
    far = xp.expm1(much) * (1 + error) - xp.where(much == xp.inf, zero, much)
    return xp.where(close, near, far)


def _centred(reward, member, xp):
    """Rewards minus the mean of their group, 0 for those outside, and the size of each group.

    The largest goes off first, so that equal rewards leave exactly 0.
    """
    largest = xp.max(xp.where(member, reward, -xp.inf), axis=-1, keepdims=True)
    below = xp.where(member, reward - largest, xp.zeros_like(reward))
    count = total(xp.astype(member, reward.dtype), xp)
    mean = total(below, xp) / xp.where(count == 0, xp.ones_like(count), count)
    return xp.where(member, below - mean[..., None], xp.zeros_like(reward)), count


def _standardised(reward, member, scale, xp):
    """Rewards minus the mean of their group, over its standard deviation; 0 where that is 0."""
    centred, count = _centred(reward, member, xp)
    if scale == "none":
        return centred
    largest = xp.max(xp.abs(centred), axis=-1)
    equal = largest == 0
    unit = centred / xp.where(equal, xp.ones_like(largest), largest)[..., None]  # so that no square underflows
    freedom = count - 1 if scale == "sample" else count
    variance = total(unit * unit, xp) / xp.where(equal, xp.ones_like(count), freedom)
    return unit / xp.sqrt(xp.where(equal, xp.ones_like(variance), variance))[..., None]


def _clip(function, clip):
    """The two sides of a clip."""
    sides = (clip, clip) if isinstance(clip, int | float) else tuple(clip)
    if not (len(sides) == 2 and 0 < sides[0] < 1 and 0 < sides[1] < math.inf):
        raise ValueError(
            f"{function}: clip is a number between 0 and 1, or (low, high) with low between 0 and 1 and high above 0, "
            f"not {clip!r}."
        )
    return sides


def _check_group(function, members, least):
    """Refuse a last axis that is too short for a group."""
    if members.ndim == 0 or members.shape[-1] < least:
        raise ValueError(
            f"{function}: the last axis is the group, of {least} or more members; there are {shape(members)}."
        )
