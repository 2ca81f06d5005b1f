"""The rows of `loss.margin`, `loss.ordinal` and `loss.fenchel_young` in the table of laws; see `laws`."""

from math import inf, log, sin, sqrt

import numpy as np

import reference_margin
from lastlayer import transform
from lastlayer._array import as_array
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.loss.fenchel_young import fenchel_young
from lastlayer.loss.margin import am_softmax, arcface, multiclass_hinge
from lastlayer.loss.ordinal import coral, cumulative_link
from table import Exempt, Row, Symmetry

FOUR = [[0.5, 0.25, 2.0, 1.0]] * 4
UNIT = 2.0**14  # so that every logit of the laws is a cosine
STEPS = (-0.5, 1.25)
OF_AN_ANGLE = "a cosine is that of an angle, and its origin is a right one"
IN_ORDER = "each step has its own sigmoid"


def second(z):
    """The second class, for each row."""
    return np.ones(z.shape[:-1], int)


def first(z):
    """The first class, for each number."""
    return np.zeros(z.shape, int)


def of_cosines(z, target, **settings):
    return arcface(as_array(z) / UNIT, target, **settings)


def between_steps(z, target, **settings):
    return cumulative_link(z, target, STEPS, **settings)


def smaller_half(z):
    """The sparsemax loss of two classes, the second being the target: the Huber loss of its lead."""
    lead = (2 + abs(z[..., 1] - z[..., 0] + 1) - abs(z[..., 1] - z[..., 0] - 1)) / 4 - 0.5
    return (0.5 - lead) ** 2 + (abs(z[..., 0] - z[..., 1] - 1) + (z[..., 0] - z[..., 1] - 1)) / 2


HINGE = Row(
    multiclass_hinge,
    exact=reference_margin.multiclass_hinge,
    target="index",
    infinite=1.0,
    order="falls with the logit of the target",
    symmetry=Symmetry(
        "multiclass_hinge([a, b], 1) = max(0, 1 + a - b)",
        lambda z: multiclass_hinge(z, second(z)),
        lambda z: (abs(1 + z[..., 0] - z[..., 1]) + (1 + z[..., 0] - z[..., 1])) / 2,
    ),
    half="float32",
    ulp=1,
    slope_ulp=1,
    kinks=True,
    curved=False,
)
FENCHEL_YOUNG = Row(
    fenchel_young,
    variant="entmax",
    exact=reference_margin.fenchel_young,
    target="index",
    settings={"regularizer": "entmax"},
    infinite=(1 - sqrt(0.5)) / 0.75,
    order="falls with the logit of the target",
    symmetry=Symmetry(
        "fenchel_young(z, y, alpha=1) = cross_entropy(z, y)",
        lambda z: fenchel_young(z, second(z), regularizer="entmax", alpha=1.0),
        lambda z: cross_entropy(z, second(z)),
    ),
    half="float32",
    ulp=4,
    kinks=True,
)

ROWS = [
    HINGE,
    HINGE.variation(
        "weston_watkins",
        settings={"kind": "weston_watkins", "margin": 0.75},
        infinite=0.75,
        symmetry=Symmetry(
            "multiclass_hinge([a, b], 1) is the same for either kind",
            lambda z: multiclass_hinge(z, second(z), kind="weston_watkins"),
            lambda z: multiclass_hinge(z, second(z)),
        ),
        ulp=4,
    ),
    Row(
        am_softmax,
        exact=reference_margin.am_softmax,
        target="index",
        call=lambda z, target, **settings: am_softmax(z, target, **settings),
        settings={"scale": 1.5},
        infinite=log(1 + np.exp(1.5 * 0.35)),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "am_softmax([a, b], 1, margin=m, scale=s) = softplus(s (a - b + m))",
            lambda z: am_softmax(z, second(z), scale=1.5),
            lambda z: transform.softplus(1.5 * (z[..., 0] - z[..., 1] + 0.35)),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        arcface,
        exact=lambda x, target, **settings: reference_margin.arcface(x, target, unit=UNIT, **settings),
        target="index",
        call=of_cosines,
        settings={"scale": 1.5},
        infinite=log(1 + np.exp(1.5 * sin(0.5))),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "arcface(c, y, margin=0, scale=s) = cross_entropy(s c, y)",
            lambda z: arcface(z / 32, second(z), margin=0.0, scale=64.0),
            lambda z: cross_entropy(2 * z, second(z)),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
        exempt={
            "shift": Exempt(OF_AN_ANGLE, example=[[0.0, 1.0]], target=[1]),
            "gradient of a shift": Exempt(OF_AN_ANGLE, example=[[0.0, 1000.0]], target=[1]),
        },
    ),
    Row(
        cumulative_link,
        exact=lambda x, target: reference_margin.cumulative_link(x, target, STEPS),
        takes="number",
        gives="number",
        target="binary",
        call=between_steps,
        ends=((inf, -1.0), (inf, 1.0)),
        order="falls towards the target",
        symmetry=Symmetry(
            "cumulative_link(s, 0, [t]) = binary_cross_entropy(s - t, 0)",
            lambda z: cumulative_link(z, first(z), [0.25]),
            lambda z: binary_cross_entropy(z - 0.25, first(z)),
        ),
        half="float32",
        ulp=5,
        slope_ulp=None,
        exempt={
            "order": Exempt("the class in the middle costs more on either side", [[-9.0], [0.0], [9.0]], [[1]] * 3)
        },
    ),
    Row(
        coral,
        exact=reference_margin.coral,
        target="index",
        empty=0.0,
        infinite=inf,
        order="rises with the logit of the target",
        symmetry=Symmetry(
            "coral([a, b], 1) = softplus(-a) + softplus(b)",
            lambda z: coral(z, second(z)),
            lambda z: transform.softplus(-z[..., 0]) + transform.softplus(z[..., 1]),
        ),
        half="float32",
        ulp=5,
        slope_ulp=5,
        nan_slopes=1,
        exempt={
            "shift": Exempt(IN_ORDER, example=[[0.0, 1.0]], target=[1]),
            "gradient of a shift": Exempt(IN_ORDER, example=[[0.0, 1.0]], target=[0]),
            "permutation": Exempt("the steps have an order", example=[[0.0, 1.0, 3.0]], target=[1]),
            "gradient of a masked class": Exempt(
                "a step that is below the target costs inf at -inf, with the slope -1", example=FOUR, target=[1] * 4
            ),
        },
    ),
    FENCHEL_YOUNG,
    FENCHEL_YOUNG.variation(
        "sparsemax",
        settings={"regularizer": "sparsemax"},
        infinite=0.25,
        symmetry=Symmetry(
            "fenchel_young([a, b], 1) of sparsemax = p^2 + max(0, a - b - 1), p = sparsemax([a, b])[0]",
            lambda z: fenchel_young(z, second(z), regularizer="sparsemax"),
            smaller_half,
        ),
    ),
    FENCHEL_YOUNG.variation(
        "top_k",
        target="indices",
        exact=reference_margin.fenchel_young_of_sets,
        settings={"regularizer": "top_k"},
        infinite=0.0,
        symmetry=Symmetry(
            "fenchel_young([a, b], [1], regularizer='top_k') = fenchel_young([a, b], 1, regularizer='sparsemax')",
            lambda z: fenchel_young(z, second(z)[..., None], regularizer="top_k"),
            lambda z: fenchel_young(z, second(z), regularizer="sparsemax"),
        ),
    ),
]
