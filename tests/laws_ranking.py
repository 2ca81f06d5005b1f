"""The rows of the ranking losses in the table of laws; `laws` says what they mean.

They take positives, negatives and relevance, which the calls here make of a row of logits and a target.
"""

from math import inf, log

import numpy as np

import reference_ranking as reference
from lastlayer import transform
from lastlayer._array import arange_like, as_array, namespace
from lastlayer.loss.listwise import list_mle, list_net
from lastlayer.loss.ranking import bpr, lambda_rank, pair_hinge, rank_net, warp
from lastlayer.loss.sampled import gbce, in_batch, sampled_softmax
from table import Exempt, Row, Symmetry

FOUR = [[0.5, 0.25, 2.0, 1.0]] * 4
THIRD = 0.3333333432674408  # what float32 holds


def against_the_rest(function, **settings):
    """``function`` of the score of the target, and of the row with -inf in its place."""

    def call(z, target):
        z = as_array(z)
        xp, target = namespace(z), as_array(target, like=z)
        own = arange_like(z, xp) == target[..., None]
        positive = xp.take_along_axis(z, target[..., None], axis=-1)[..., 0]
        return function(positive, xp.where(own, -xp.inf, z), **settings)

    return call


def with_log_q(z, target):
    """The classes have the log-probabilities -1/2, -1, -3/2, and again."""
    xp = namespace(z)
    log_q = xp.astype(-1 - arange_like(z, xp) % 3, z.dtype) / 2
    positive = xp.take(log_q, xp.reshape(as_array(target, like=z), (-1,)), axis=0)
    positive = xp.reshape(positive, z.shape[:-1])
    return against_the_rest(sampled_softmax, log_q_positive=positive, log_q_negatives=log_q)(z, target)


def graded(function, **settings):
    """``function`` with relevance 2 for the first class that is named, 1 for the second."""

    def call(z, index):
        xp = namespace(z)
        index, classes = as_array(index, like=z), arange_like(z, xp)
        relevance = sum(xp.astype(classes == index[..., i : i + 1], z.dtype) * (2 - i) for i in range(index.shape[-1]))
        return function(z, relevance, **settings)

    return call


def in_order_of_relevance(z, relevance):
    xp = namespace(z)
    return list_mle(z, xp.argsort(-as_array(relevance, like=z), axis=-1, stable=True))


def alone_in_its_batch(z, target, **settings):
    """A batch of one row, with the target in the first column."""
    xp = namespace(z)
    order = (as_array(target, like=z)[..., None] + arange_like(z, xp)) % z.shape[-1]
    return in_batch(xp.take_along_axis(z, order, axis=-1)[..., None, :], **settings)[..., 0]


RANK_NET = Row(
    rank_net,
    target="indices",
    call=graded(rank_net),
    exact=reference.rank_net,
    infinite=log(2) / 3,
    order="falls with the logit of the target",
    symmetry=Symmetry(
        "rank_net([a, b], [0, 1]) = bpr(b, a)",
        lambda z: rank_net(z, np.zeros(z.shape) + np.array([0, 1])),
        lambda z: bpr(z[..., 1], z[..., 0]),
    ),
    half="float32",
    ulp=5,
)
LIST_NET = Row(
    list_net,
    target="distribution",
    exact=reference.list_net,
    infinite=inf,
    symmetry=Symmetry(
        "list_net([a, b], [0, 1]) = softplus(a - b) + (b - a) sigmoid(-1)",
        lambda z: list_net(z, np.zeros(z.shape) + np.array([0, 1])),
        lambda z: transform.softplus(z[..., 0] - z[..., 1]) + (z[..., 1] - z[..., 0]) * float(transform.sigmoid(-1.0)),
    ),
    half="float32",
    ulp=6,
    exempt={
        "order": Exempt(
            "an item that already has more than its share costs more when it is raised",
            example=[[4.0, 0.0, 0.0]],
            target=[[0.5, 0.25, 0.25]],
            instead={"order": "falls with the logit of the target"},
        )
    },
)

ROWS = [
    Row(
        bpr,
        takes="number",
        gives="number",
        call=lambda z: bpr(z, THIRD),
        exact=reference.bpr,
        order="falls",
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "bpr(a, b) - bpr(b, a) = b - a", lambda z: bpr(z, 0.5) - bpr(0.5 + 0 * z, z), lambda z: 0.5 - z
        ),
        half="float32",
        ulp=3,
        slope_ulp=4,
    ),
    Row(
        pair_hinge,
        takes="number",
        gives="number",
        call=lambda z: pair_hinge(z, THIRD),
        exact=reference.pair_hinge,
        order="falls",
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "pair_hinge(a, b, margin=m) = pair_hinge(a - m, b, margin=0)",
            lambda z: pair_hinge(z, 0.5, margin=2.0),
            lambda z: pair_hinge(z - 2, 0.5, margin=0.0),
        ),
        half="float32",
        ulp=1,
        slope_ulp=1,
        kinks=True,
        curved=False,
        exempt={"gradient of a nan": Exempt("as without it, the slope of a violator is -1", example=FOUR)},
    ),
    Row(
        warp,
        target="index",
        call=against_the_rest(warp),
        exact=reference.warp,
        infinite=1.0,
        symmetry=Symmetry(
            "warp(a, [b]) = pair_hinge(a, b)",
            lambda z: warp(z[..., 1], z[..., :1]),
            lambda z: pair_hinge(z[..., 1], z[..., 0]),
        ),
        half="float32",
        ulp=4,
        kinks=True,
        curved=False,
        exempt={
            "order": Exempt(
                "raising the positive leaves only the worst violators, and their mean may be larger",
                example=[[0.0, -0.75, 4.0]],
                target=[0],
                instead={"order": "falls with the logit of the target"},
            ),
            "gradient of a nan": Exempt(
                "as without it, the slope of a violator is its weight", example=FOUR, target=[0, 0, 0, 0]
            ),
        },
    ),
    RANK_NET,
    RANK_NET.variation(
        "",
        function=lambda_rank,
        call=graded(lambda_rank),
        exact=reference.lambda_rank,
        infinite=2 * (1 - log(2) / log(3)) * log(2) / (3 + log(2) / log(3)),
        symmetry=Symmetry(
            "lambda_rank([a, b], [0, 1]) = bpr(b, a) (1 - 1 / log2(3))",
            lambda z: lambda_rank(z, np.zeros(z.shape) + np.array([0, 1])),
            lambda z: bpr(z[..., 1], z[..., 0]) * (1 - log(2) / log(3)),
        ),
        ulp=4,
        kinks=True,
        exempt={
            "permutation": Exempt(
                "of equal scores the first item ranks first", example=[[1.0, 1.0, 0.0]], target=[[0, 1]]
            ),
        },
    ),
    LIST_NET,
    LIST_NET.variation(
        "exponential gain",
        settings={"gain": "exponential"},
        infinite=log(2),
        symmetry=Symmetry(
            "list_net([a, b], [0, 1], gain='exponential') = bpr(b, a)",
            lambda z: list_net(z, np.zeros(z.shape) + np.array([0, 1]), gain="exponential"),
            lambda z: bpr(z[..., 1], z[..., 0]),
        ),
        exempt=LIST_NET.exempt,
    ),
    Row(
        list_mle,
        target="distribution",
        call=in_order_of_relevance,
        exact=reference.list_mle,
        infinite=log(2),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "list_mle([a, b], [1, 0]) = bpr(b, a)",
            lambda z: list_mle(z, np.zeros(z.shape, int) + np.array([1, 0])),
            lambda z: bpr(z[..., 1], z[..., 0]),
        ),
        half="float32",
        ulp=6,
        exempt={
            "permutation": Exempt(
                "of equal relevance the first item is the better", example=[[0.0, 1.0, 2.0]], target=[[0.5, 0.5, 0.25]]
            )
        },
    ),
    Row(
        sampled_softmax,
        variant="log_q",
        target="index",
        call=with_log_q,
        exact=reference.sampled_softmax,
        infinite=log(2),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "sampled_softmax(a, [b], log_q) = bpr(a - log_q[0], b - log_q[1])",
            lambda z: sampled_softmax(
                z[..., 1],
                z[..., :1],
                log_q_positive=0 * z[..., 0] - 1.5,
                log_q_negatives=0 * z[..., :1] - 0.25,
            ),
            lambda z: bpr(z[..., 1] + 1.5, z[..., 0] + 0.25),
        ),
        half="float32",
        ulp=4,
        slope_ulp=5,
        exempt={
            "permutation": Exempt("a sampling probability belongs to its item", example=[[0.0, 1.0, 2.0]], target=[1])
        },
    ),
    Row(
        in_batch,
        variant="temperature 0.7",
        target="index",
        settings={"temperature": 0.7},
        call=alone_in_its_batch,
        exact=reference.in_batch,
        infinite=log(2),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "in_batch([[a, b]], temperature=t) = bpr(a / t, b / t)",
            lambda z: in_batch(z[..., None, :], temperature=0.7)[..., 0],
            lambda z: bpr(z[..., 0] / 0.7, z[..., 1] / 0.7),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        gbce,
        target="index",
        call=against_the_rest(gbce, items=2000),
        exact=reference.gbce,
        empty=inf,
        infinite=inf,
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "gbce(a, [b], items=2) = (softplus(-a) + softplus(b)) / 2",
            lambda z: gbce(z[..., 1], z[..., :1], items=2),
            lambda z: (transform.softplus(-z[..., 1]) + transform.softplus(z[..., 0])) / 2,
        ),
        half="float32",
        ulp=5,
        nan_slopes=1,
        exempt={
            "gradient of a masked class": Exempt(
                "a positive of -inf costs inf, with a slope", example=FOUR, target=[0, 1, 0, 1]
            ),
            "shift": Exempt("each score has its own sigmoid", example=[[0.0, 1.0]], target=[0]),
            "gradient of a shift": Exempt("each score has its own sigmoid", example=[[0.0, 1.0]], target=[0]),
        },
    ),
]
