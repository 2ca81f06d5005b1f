"""The rows of the contrastive losses in the table of laws; `laws` says what they mean."""

from math import exp, inf, log, log1p

import numpy as np

import reference_contrastive as exact
from lastlayer import transform
from lastlayer._array import arange_like, as_array, namespace
from lastlayer.loss.binary import binary_cross_entropy
from lastlayer.loss.contrastive import clip, info_nce, nt_xent, sup_con
from lastlayer.loss.contrastive_pairs import siglip, triplet
from lastlayer.loss.cross_entropy import cross_entropy
from table import Exempt, Row, Symmetry

FOUR = [[0.5, 0.25, 2.0, 1.0]] * 4
SIGMOIDS = "each pair has its own sigmoid"


def of_named(z, index, **more):
    """SupCon of one anchor, whose label is 0 as is that of the keys of ``index``; the others have 1."""
    xp, index = namespace(z), as_array(index, like=z)
    other = xp.all(arange_like(z, xp) != index[..., None], axis=-2)
    labels = xp.astype(other, xp.int32)
    return sup_con(z[..., None, :], xp.zeros_like(labels[..., :1]), labels, **more)[..., 0]


def of_matches(z, matches, **more):
    return siglip(z, as_array(matches, like=z) == 1, **more)


def of_four_views(z, **more):
    """The first of four views, for each number: at that similarity to its pair, nan to itself, 0 to the others."""
    xp, views = namespace(z), arange_like(np.zeros(4), np)
    distance = abs(views[:, None] - views)
    pairs, own = (as_array(distance == k, like=z) for k in (2, 0))
    z = xp.where(pairs, z[..., None, None], xp.zeros_like(z[..., None, None]))
    return nt_xent(xp.where(own, xp.nan, z), **more)[..., 0]


def of_two_pairs(z, **more):
    """The first of two pairs at that similarity, for each number, and 0 across."""
    xp = namespace(z)
    z = xp.where(as_array(np.eye(2) == 1, like=z), z[..., None, None], xp.zeros_like(z[..., None, None]))
    return clip(z, **more)[..., 0]


def against_zero(z, **more):
    """The triplet whose negative is at distance 0."""
    return triplet(z, namespace(z).zeros_like(z), **more)


ROWS = [
    Row(
        info_nce,
        target="index",
        exact=exact.info_nce,
        infinite=log(2),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "info_nce([[a, b], [b, a]]) = softplus(b - a)",
            lambda z: info_nce(namespace(z).stack([z, namespace(z).flip(z, axis=-1)], axis=-2))[..., 1],
            lambda z: transform.softplus(z[..., 1] - z[..., 0]),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        sup_con,
        target="indices",
        call=of_named,
        settings={"temperature": 0.5},
        exact=exact.sup_con,
        infinite=log(2),
        symmetry=Symmetry(
            "sup_con([a, b], both) = (cross_entropy of a + cross_entropy of b) / 2",
            lambda z: of_named(z, np.zeros(z.shape, int) + np.array([0, 1]), temperature=1.0),
            lambda z: (
                (cross_entropy(z, np.zeros(z.shape[:-1], int)) + cross_entropy(z, np.ones(z.shape[:-1], int))) / 2
            ),
        ),
        half="float32",
        ulp=5,
        exempt={
            "order": Exempt(
                "a positive that already has more than its share costs the others more when it is raised",
                example=[[8.0, 0.0, 0.0]],
                target=[[0, 1]],
                instead={"order": "falls with the logit of the target"},
            )
        },
    ),
    Row(
        nt_xent,
        takes="number",
        gives="number",
        variant="of four views",
        call=of_four_views,
        settings={"temperature": 0.5},
        exact=exact.nt_xent_of_four,
        order="falls",
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "nt_xent of four views = softplus(log 2 - z / temperature)",
            lambda z: of_four_views(z, temperature=0.5),
            lambda z: transform.softplus(log(2) - 2 * z),
        ),
        half="float32",
        ulp=4,
        slope_ulp=5,
    ),
    Row(
        clip,
        takes="number",
        gives="number",
        variant="of two pairs",
        call=of_two_pairs,
        settings={"temperature": 0.5},
        exact=exact.clip_of_two,
        order="falls",
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "clip of two pairs = binary_cross_entropy(z / temperature, 1)",
            lambda z: of_two_pairs(z, temperature=0.5),
            lambda z: binary_cross_entropy(2 * z, np.ones(z.shape, int)),
        ),
        half="float32",
        ulp=4,
        slope_ulp=5,
    ),
    Row(
        siglip,
        target="binary",
        call=of_matches,
        settings={"scale": 1.3, "bias": -0.7},
        exact=exact.siglip,
        empty=inf,
        infinite=log1p(exp(-0.7)),
        order="falls towards the target",
        symmetry=Symmetry(
            "siglip([a, b], 1) = softplus(scale a + bias) + softplus(-scale b - bias)",
            lambda z: siglip(z, np.ones(z.shape[:-1], int), scale=2.0, bias=-1.0),
            lambda z: transform.softplus(2 * z[..., 0] - 1) + transform.softplus(1 - 2 * z[..., 1]),
        ),
        half="float32",
        ulp=5,
        nan_slopes=1,
        exempt={
            "gradient of a masked class": Exempt(
                "a match at -inf costs inf, with the slope -scale", example=FOUR, target=[[0, 1, 0, 1]] * 4
            ),
            "shift": Exempt(SIGMOIDS, example=[[0.0, 1.0]], target=[[0, 1]]),
            "gradient of a shift": Exempt(SIGMOIDS, example=[[0.0, 1.0]], target=[[0, 1]]),
        },
    ),
    Row(
        triplet,
        takes="number",
        gives="number",
        variant="hinge",
        call=against_zero,
        settings={"margin": 0.2},
        exact=exact.triplet_hinge,
        order="rises",
        ends=((0.0, 0.0), (inf, 1.0)),
        symmetry=Symmetry(
            "triplet(z, 0) - triplet(-z, 0) = 2 z where the margin is kept by neither",
            lambda z: against_zero(z, margin=1000.0) - against_zero(-z, margin=1000.0),
            lambda z: 2 * z,
        ),
        half="float32",
        ulp=1,
        slope_ulp=1,
        kinks=True,
        curved=False,
        nan_slopes=0,
    ),
    Row(
        triplet,
        takes="number",
        gives="number",
        variant="softplus",
        call=against_zero,
        settings={"margin": 0.2, "kind": "softplus"},
        exact=exact.triplet_softplus,
        order="rises",
        ends=((0.0, 0.0), (inf, 1.0)),
        symmetry=Symmetry(
            "triplet(z, 0, margin=0, kind='softplus') = softplus(z)",
            lambda z: against_zero(z, margin=0.0, kind="softplus"),
            transform.softplus,
        ),
        half="float32",
        ulp=4,
        slope_ulp=5,
    ),
]
