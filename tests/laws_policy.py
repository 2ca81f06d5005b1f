"""The rows of `loss.policy` and `loss.preference` in the table of laws; `laws` says what they mean.

Log-probabilities of pairs are not above 0, so the calls here give the number z to the one of the two that it leaves
there, and the chosen leads by z. What is more than one number is called with those that the reference names.
"""

from math import inf, log

import numpy as np

import reference_policy as reference
from lastlayer import transform
from lastlayer._array import as_array, floating, namespace
from lastlayer.loss import preference
from lastlayer.loss.policy import (
    grpo,
    kl_to_reference,
    policy_logp,
    ppo,
    reinforce,
    reinforce_leave_one_out,
    sequence_logp,
)
from table import Exempt, Row, Symmetry

THIRD = 0.3333333432674408  # what float32 holds


def like(z, number):
    """As many of a number as there are in ``z``, with all the digits of float32."""
    return namespace(z).full_like(floating(z), number)


def of_one_token(z, token, **settings):
    return sequence_logp(z[..., None, :], as_array(token, like=z)[..., None], **settings)


def first_of_two(function, reward=(1.0, 0.0), **settings):
    """``function`` of a group of two, the other at 0 and both at 1/3 before: what the first costs."""

    def call(z):
        xp = namespace(z)
        group = xp.stack([z, xp.zeros_like(z)], axis=-1)
        rewards = xp.stack([like(z, share) for share in reward], axis=-1)
        before = () if function is reinforce_leave_one_out else (like(group, THIRD),)
        return function(group, *before, rewards, **settings)[..., 0]

    return call


def pair(z):
    """Two log-probabilities with the lead z, one of them 0."""
    z = as_array(z)
    xp = namespace(z)
    zero = xp.zeros_like(z)
    return xp.where(z < 0, z, zero), xp.where(z < 0, zero, -z)


def referred(function, **settings):
    """``function`` of a pair with the lead z, beside a reference with a lead of -2/3."""

    def call(z):
        chosen, rejected = pair(z)
        return function(chosen, rejected, like(chosen, -3 * THIRD), like(chosen, -THIRD), **settings)

    return call


def of_either_sort(z, beta=0.1):
    """An answer that lost -z if it is desirable, or z if it is not: the two cost the same."""
    z = as_array(z)
    good = z < 0
    logp = namespace(z).where(good, z, -z)
    return preference.kto(logp, like(logp, 0.0), good, 0.0, beta=beta)


def in_odds(z, rejected=THIRD):
    """The chosen has the log-odds z."""
    logp = transform.log_sigmoid(floating(z))
    return preference.orpo(logp, like(logp, -rejected))


def of_two_tokens(z, beta=2.0):
    chosen, rejected = pair(z)
    xp = namespace(chosen)
    two = xp.full_like(chosen, 2, dtype=xp.int32)
    return preference.simpo(chosen, rejected, two, two, beta=beta)


POLICY_LOGP = Row(
    policy_logp,
    target="index",
    infinite=-log(2),
    order="rises with the logit of the target",
    symmetry=Symmetry(
        "policy_logp([a, b], 1) = log_sigmoid(b - a)",
        lambda z: policy_logp(z, np.ones(z.shape[:-1], int)),
        lambda z: transform.log_sigmoid(z[..., 1] - z[..., 0]),
    ),
    exact=reference.policy_logp,
    half="float32",
    ulp=4,
    slope_ulp=4,
)
REINFORCE = Row(
    reinforce,
    takes="number",
    gives="number",
    call=lambda z: reinforce(z, THIRD),
    exact=reference.reinforce,
    order="falls",
    ends=((inf, -THIRD), (-inf, -THIRD)),
    symmetry=Symmetry("reinforce(z, A) = -A z", lambda z: reinforce(z, 0.5), lambda z: -z / 2),
    half="float32",
    ulp=1,
    slope_ulp=1,
    curved=False,
    nan_slopes=0,
)
PPO = Row(
    ppo,
    takes="number",
    gives="number",
    call=lambda z: ppo(z, like(as_array(z), THIRD), 0.75),
    exact=reference.ppo,
    order="falls",
    ends=((0.0, 0.0), (-0.75 * 1.2, 0.0)),
    symmetry=Symmetry("ppo(z, z, A) = -A", lambda z: ppo(z, z, 0.75), lambda z: like(z, -0.75)),
    half="float32",
    ulp=4,
    slope_ulp=4,
    kinks=True,
)
DPO = Row(
    preference.dpo,
    takes="number",
    gives="number",
    call=referred(preference.dpo),
    exact=reference.dpo,
    order="falls",
    ends=((inf, -0.1), (0.0, 0.0)),
    symmetry=Symmetry(
        "dpo(chosen, rejected, 0, 0, beta=1) = softplus(rejected - chosen)",
        lambda z: preference.dpo(*pair(z), like(z, 0.0), like(z, 0.0), beta=1.0),
        lambda z: transform.softplus(-z),
    ),
    half="float32",
    ulp=4,
    slope_ulp=4,
)
ROWS = [
    POLICY_LOGP,
    POLICY_LOGP.variation(
        "of one token",
        function=sequence_logp,
        call=of_one_token,
        symmetry=Symmetry(
            "sequence_logp([[a, b], [a, b]], [0, 1]) = log_sigmoid(a - b) + log_sigmoid(b - a)",
            lambda z: sequence_logp(
                namespace(z).stack([z, z], axis=-2), np.zeros((*z.shape[:-1], 2), int) + np.arange(2)
            ),
            lambda z: transform.log_sigmoid(z[..., 0] - z[..., 1]) + transform.log_sigmoid(z[..., 1] - z[..., 0]),
        ),
    ),
    REINFORCE,
    REINFORCE.variation(
        "of two",
        function=reinforce_leave_one_out,
        call=first_of_two(reinforce_leave_one_out, (THIRD, 0.0)),
        symmetry=Symmetry(
            "reinforce_leave_one_out([a, b], [r, s])[0] = reinforce(a, r - s)",
            first_of_two(reinforce_leave_one_out, (2.0, 0.5)),
            lambda z: reinforce(z, 1.5),
        ),
    ),
    PPO,
    PPO.variation(
        "of two",
        function=grpo,
        call=first_of_two(grpo, scale="population"),
        exact=reference.grpo,
        ends=((0.0, 0.0), (-1.2, 0.0)),
        symmetry=Symmetry(
            "grpo of two is ppo with the advantages 1 and -1",
            first_of_two(grpo, (7.0, 3.0), scale="population"),
            lambda z: ppo(z, like(z, THIRD), 1.0),
        ),
    ),
    Row(
        kl_to_reference,
        variant="k3",
        takes="number",
        gives="number",
        call=lambda z: kl_to_reference(0.5 * z, like(as_array(z), THIRD)),
        exact=reference.k3,
        ends=((inf, -inf), (inf, 0.5)),
        symmetry=Symmetry(
            "k3 = exp(-k1) - 1 + k1",
            lambda z: kl_to_reference(z, like(z, THIRD)),
            lambda z: (
                namespace(z).expm1(-kl_to_reference(z, like(z, THIRD), kind="k1"))
                + kl_to_reference(z, like(z, THIRD), kind="k1")
            ),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
        exempt={
            "order": Exempt(
                "it is least where policy and reference agree",
                example=[[-4.0], [0.5], [4.0]],
                instead={"order": "falls"},
            )
        },
    ),
    DPO,
    DPO.variation(
        "label smoothing",
        settings={"label_smoothing": 0.25},
        call=lambda z, **settings: referred(preference.dpo, **settings)(z),
        ends=((inf, -0.075), (inf, 0.025)),
        symmetry=Symmetry(
            "dpo(chosen, rejected, 0, 0, beta=1, label_smoothing=s) = softplus(-z) + s z",
            lambda z: preference.dpo(*pair(z), like(z, 0.0), like(z, 0.0), beta=1.0, label_smoothing=0.25),
            lambda z: transform.softplus(-z) + 0.25 * z,
        ),
        slope_ulp=None,
        exempt={
            "order": Exempt(
                "with doubts a lead may be too large", example=[[0.0], [40.0], [80.0]], instead={"order": "falls"}
            ),
        },
    ),
    DPO.variation(
        "",
        function=preference.ipo,
        call=referred(preference.ipo),
        exact=reference.ipo,
        ends=((inf, -inf), (inf, inf)),
        symmetry=Symmetry(
            "ipo(chosen, rejected, 0, 0, beta=1/4) = (chosen - rejected - 2)^2",
            lambda z: preference.ipo(*pair(z), like(z, 0.0), like(z, 0.0), beta=0.25),
            lambda z: (z - 2) * (z - 2),
        ),
        exempt={
            "order": Exempt(
                "a gain beyond the margin costs again", example=[[0.0], [5.0], [20.0]], instead={"order": "falls"}
            )
        },
    ),
    DPO.variation(
        "",
        function=preference.kto,
        call=of_either_sort,
        exact=reference.kto,
        ends=((1.0, 0.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "kto(z, 0, True, 0, beta=1) = kto(-z, 0, False, 0, beta=1) = sigmoid(-z)",
            lambda z: of_either_sort(z, beta=1.0),
            lambda z: transform.sigmoid(-z),
        ),
    ),
    DPO.variation(
        "",
        function=preference.orpo,
        call=in_odds,
        exact=reference.orpo,
        ends=((inf, -1.1), (0.0, 0.0)),
        symmetry=Symmetry(
            "orpo(log_sigmoid(z), log(1/2), beta=1) = 2 softplus(-z)",
            lambda z: preference.orpo(transform.log_sigmoid(z), like(z, -log(2)), beta=1.0),
            lambda z: 2 * transform.softplus(-z),
        ),
    ),
    DPO.variation(
        "of two tokens",
        function=preference.simpo,
        call=of_two_tokens,
        exact=reference.simpo,
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "simpo(chosen, rejected, 2, 2, beta=b) = softplus(gamma - b (chosen - rejected) / 2)",
            lambda z: of_two_tokens(z, beta=0.5),
            lambda z: transform.softplus(1 - z / 4),
        ),
    ),
]
