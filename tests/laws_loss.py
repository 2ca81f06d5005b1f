"""The rows of `loss` in the table of laws; `laws` says what they mean."""

from math import exp, inf, log

import numpy as np

from lastlayer import loss, transform
from table import Exempt, Row, Symmetry, frequencies, largest

FOUR = [[0.5, 0.25, 2.0, 1.0]] * 4
Z_LOSS = "the penalty is of the normaliser itself"
SMOOTHED = "smoothing wants the target at 1 - s + s / classes and no higher"


def two_named(z, index, **more):
    """A teacher that gives 1/2 to the first class that it names, and 1/4 to the second."""
    return loss.top_k_cross_entropy(z, index, np.zeros(index.shape) + np.array([0.5, 0.25])[: index.shape[-1]], **more)


def only_second(z, share):
    """Index and probability of a teacher of two classes that names the second."""
    return np.ones((*z.shape[:-1], 1), int), np.full((*z.shape[:-1], 1), share)


CROSS_ENTROPY = Row(
    loss.cross_entropy,
    target="index",
    infinite=log(2),
    order="falls with the logit of the target",
    symmetry=Symmetry(
        "cross_entropy([a, b], 1) = binary_cross_entropy(b - a, 1)",
        lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int)),
        lambda z: loss.binary_cross_entropy(z[..., 1] - z[..., 0], np.ones(z.shape[:-1], int)),
    ),
    half="float32",
    ulp=4,
    slope_ulp=4,
)
TOP_K = Row(
    loss.top_k_cross_entropy,
    target="indices",
    call=two_named,
    infinite=inf,
    symmetry=Symmetry(
        "top_k_cross_entropy(z, [1], q) = cross_entropy(z, (1 - q, q))",
        lambda z: loss.top_k_cross_entropy(z, *only_second(z, 0.75)),
        lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.25, 0.75])),
    ),
    half="float32",
    ulp=8,
    shift_ulp=4,
    exempt={
        "order": Exempt(
            "a class that already has more than its share costs more when it is raised",
            example=[[8.0, 0.0, 0.0]],
            target=[[0, 1]],
            instead={"order": "falls with the logit of the target"},
        )
    },
)

ROWS = [
    CROSS_ENTROPY,
    CROSS_ENTROPY.variation(
        "temperature 0.7",
        settings={"temperature": 0.7},
        symmetry=Symmetry(
            "cross_entropy(z, y, temperature=t) = cross_entropy(z / t, y)",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int), temperature=0.7),
            lambda z: loss.cross_entropy(z / 0.7, np.ones(z.shape[:-1], int)),
        ),
        ulp=4,
        slope_ulp=4,
    ),
    CROSS_ENTROPY.variation(
        "softcap 30",
        settings={"softcap": 30.0},
        infinite=log(2 + exp(-30)),
        symmetry=Symmetry(
            "cross_entropy(z, y, softcap=c) = cross_entropy(softcap(z, c), y)",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int), softcap=30.0),
            lambda z: loss.cross_entropy(transform.softcap(z, 30.0), np.ones(z.shape[:-1], int)),
        ),
        ulp=64,
        slope_ulp=None,
        exempt={
            "shift": Exempt("the cap is at a place", example=[[40.0, 0.0]], target=[0]),
            "gradient of a shift": Exempt("the cap is at a place", example=[[40.0, 0.0]], target=[0]),
            "accuracy of slopes": Exempt(
                "far beyond the cap 1 - tanh^2 has no digits left", example=[[199.0, 200.0, 201.0]], target=[0]
            ),
        },
    ),
    CROSS_ENTROPY.variation(
        "z-loss 1/4",
        settings={"z_loss": 0.25},
        infinite=inf,
        symmetry=Symmetry(
            "cross_entropy(z, y, z_loss=a) = cross_entropy(z, y) + a logsumexp(z)^2",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int), z_loss=0.25),
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int)) + 0.25 * transform.logsumexp(z) ** 2,
        ),
        ulp=8,
        slope_ulp=None,
        exempt={
            "shift": Exempt(Z_LOSS, example=[[1.0, 0.0]], target=[0]),
            "gradient of a shift": Exempt(Z_LOSS, example=[[1.0, 0.0]], target=[0]),
            "order": Exempt(Z_LOSS, example=[[8.0, 0.0]], target=[0]),
        },
    ),
    CROSS_ENTROPY.variation(
        "class weight",
        settings={"class_weight": frequencies},
        infinite=log(2) / 8,
        symmetry=Symmetry(
            "cross_entropy(z, 1, class_weight=w) = w[1] cross_entropy(z, 1)",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int), class_weight=[2.0, 3.0]),
            lambda z: 3 * loss.cross_entropy(z, np.ones(z.shape[:-1], int)),
        ),
        exempt={"permutation": Exempt("a weight belongs to its class", example=[[0.0, 1.0, 2.0]], target=[1])},
    ),
    CROSS_ENTROPY.variation(
        "class weight by class, smoothed",
        settings={"class_weight": frequencies, "weighting": "class", "label_smoothing": 0.25},
        infinite=inf,
        symmetry=Symmetry(
            "cross_entropy(z, 1, class_weight=w, weighting='class', label_smoothing=s) = cross_entropy(z, q w)",
            lambda z: loss.cross_entropy(
                z, np.ones(z.shape[:-1], int), class_weight=[2.0, 3.0], weighting="class", label_smoothing=0.25
            ),
            lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.25, 2.625])),
        ),
        ulp=5,
        slope_ulp=None,
        exempt={
            "permutation": Exempt("a weight belongs to its class", example=[[0.0, 1.0, 2.0]], target=[1]),
            "order": Exempt(SMOOTHED, example=[[8.0, 0.0, 0.0]], target=[0]),
        },
    ),
    Row(
        loss.cross_entropy,
        variant="distribution",
        target="distribution",
        infinite=log(2),
        symmetry=Symmetry(
            "cross_entropy(z, onehot) = cross_entropy(z, index)",
            lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.0, 1.0])),
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int)),
        ),
        half="float32",
        ulp=5,
        exempt={
            "order": Exempt(
                "a class that already has more than its share costs more when it is raised",
                example=[[2.0, 0.0, 0.0]],
                target=[[0.5, 0.25, 0.25]],
                instead={"order": "falls with the logit of the target"},
            )
        },
    ),
    Row(
        loss.cross_entropy,
        variant="label smoothing",
        target="index",
        settings={"label_smoothing": 0.25},
        infinite=inf,
        symmetry=Symmetry(
            "cross_entropy(z, 1, label_smoothing=s) = cross_entropy(z, (s / 2, 1 - s / 2))",
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int), label_smoothing=0.25),
            lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.125, 0.875])),
        ),
        half="float32",
        ulp=5,
        exempt={
            "order": Exempt(
                SMOOTHED,
                example=[[8.0, 0.0, 0.0]],
                target=[0],
                instead={"order": "falls with the logit of the target"},
            )
        },
    ),
    Row(
        loss.binary_cross_entropy,
        takes="number",
        gives="number",
        target="binary",
        order="falls towards the target",
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "binary_cross_entropy(z, 1) = binary_cross_entropy(-z, 0)",
            lambda z: loss.binary_cross_entropy(z, np.ones(z.shape, int)),
            lambda z: loss.binary_cross_entropy(-z, np.zeros(z.shape, int)),
        ),
        half="float32",
        ulp=3,
        slope_ulp=4,
    ),
    TOP_K,
    TOP_K.variation(
        "even",
        settings={"remainder": "even"},
        exempt=TOP_K.exempt,
        symmetry=Symmetry(
            "top_k_cross_entropy(z, [1], q, remainder='even') = cross_entropy(z, (1 - q, q))",
            lambda z: loss.top_k_cross_entropy(z, *only_second(z, 0.75), remainder="even"),
            lambda z: loss.cross_entropy(z, np.zeros(z.shape) + np.array([0.25, 0.75])),
        ),
    ),
    TOP_K.variation(
        "renormalize",
        settings={"remainder": "renormalize"},
        exempt=TOP_K.exempt,
        infinite=log(2),
        symmetry=Symmetry(
            "top_k_cross_entropy(z, [1], q, remainder='renormalize') = cross_entropy(z, 1)",
            lambda z: loss.top_k_cross_entropy(z, *only_second(z, 0.75), remainder="renormalize"),
            lambda z: loss.cross_entropy(z, np.ones(z.shape[:-1], int)),
        ),
    ),
    Row(
        loss.multilabel_cross_entropy,
        target="binary",
        empty=inf,
        infinite=log(2),
        symmetry=Symmetry(
            "multilabel_cross_entropy([a, b], [0, 1]) = softplus(a) + softplus(-b)",
            lambda z: loss.multilabel_cross_entropy(z, np.zeros(z.shape, int) + np.array([0, 1])),
            lambda z: transform.softplus(z[..., 0]) + transform.softplus(-z[..., 1]),
        ),
        half="float32",
        ulp=4,
        nan_slopes=1,
        exempt={
            "gradient of a masked class": Exempt(
                "a label that is true costs inf at -inf, with the slope -1", example=FOUR, target=[[0, 1, 0, 1]] * 4
            ),
            "shift": Exempt("each label has its own sigmoid", example=[[0.0, 1.0]], target=[[0, 1]]),
            "gradient of a shift": Exempt("each label has its own sigmoid", example=[[0.0, 1.0]], target=[[0, 1]]),
        },
        order="falls towards the target",
    ),
    Row(
        loss.mean,
        takes="batch",
        shift="adds",
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "mean(x, weight=(1, 3)) = (x[0] + 3 x[1]) / 4",
            lambda z: loss.mean(z[0, :], weight=np.array([1.0, 3.0])),
            lambda z: (z[0, 0] + 3 * z[0, 1]) / 4,
        ),
        half="float32",
        ulp=4,
        unit=largest,
        slope_ulp=1,
        exempt={
            "masked class": Exempt(
                "a loss of -inf is a loss; rows are left out by valid= and weight=", example=[[1.0, 3.0]]
            )
        },
    ),
]
