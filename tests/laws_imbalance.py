"""The rows of `loss.focal`, `loss.imbalance` and `loss.penalty` in the table of laws; `laws` says what they mean."""

from math import exp, inf, log

import numpy as np

import reference_imbalance
from lastlayer import transform
from lastlayer._array import namespace
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.loss.focal import asymmetric, binary_focal, focal, poly
from lastlayer.loss.imbalance import balanced_softmax, class_balanced_weights, ldam, logit_adjusted
from lastlayer.loss.penalty import confidence_penalty, dca, mmce, soft_ece
from table import Exempt, Row, Symmetry, frequencies

MEAN_1 = "the weights have the mean 1 over all classes, masked or not"
OF_ITS_CLASS = {
    "permutation": Exempt("a frequency belongs to its class", example=[[0.0, 1.0, 2.0]], target=[1]),
}
OF_THE_FIRST = {
    "permutation": Exempt("of equal classes the first is the answer", example=[[1.0, 1.0, 0.0]], target=[0]),
    "order": Exempt(
        "an answer that becomes right by a little should be surer",
        example=[[0.25, 0.0, 0.0, 0.0]],
        target=[1],
        instead={"order": "falls with the logit of the target"},
    ),
}


def second(z):
    """The second class, for each row."""
    return np.ones(z.shape[:-1], int)


def true(z):
    return np.ones(z.shape, int)


def of_each_row(function):
    """``function`` of a batch that is each row alone."""

    def call(z, target, **more):
        if z.ndim == 1:
            return function(z[None, :], target[None], **more)
        alone = [function(z[i : i + 1, :], target[i : i + 1], **more) for i in range(z.shape[0])]
        return namespace(z).stack(alone)

    return call


def class_balanced(z, target, counts):
    return cross_entropy(z, target, class_weight=class_balanced_weights(counts))


MMCE = Row(
    mmce,
    variant="of one row",
    target="index",
    call=of_each_row(mmce),
    exact=reference_imbalance.gap,
    infinite=0.5,
    symmetry=Symmetry(
        "mmce([[a, b]], [1]) = dca([[a, b]], [1])",
        lambda z: of_each_row(mmce)(z, second(z)),
        lambda z: of_each_row(dca)(z, second(z)),
    ),
    half="float32",
    ulp=4,
    slope_ulp=6,
    kinks=True,
    exempt=OF_THE_FIRST,
)

ROWS = [
    Row(
        focal,
        exact=reference_imbalance.focal,
        target="index",
        infinite=log(2) / 4,
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "focal([a, b], 1) = binary_focal(b - a, 1)",
            lambda z: focal(z, second(z)),
            lambda z: binary_focal(z[..., 1] - z[..., 0], second(z)),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        binary_focal,
        exact=reference_imbalance.binary_focal,
        takes="number",
        gives="number",
        target="binary",
        settings={"alpha": 0.25},
        order="falls towards the target",
        ends=((inf, -0.25), (0.0, 0.0)),
        symmetry=Symmetry(
            "binary_focal(z, y, gamma=0, alpha=1/2) = binary_cross_entropy(z, y) / 2",
            lambda z: binary_focal(z, true(z), gamma=0.0, alpha=0.5),
            lambda z: binary_cross_entropy(z, true(z)) / 2,
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        asymmetric,
        exact=reference_imbalance.asymmetric,
        takes="number",
        gives="number",
        target="binary",
        settings={"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
        order="falls towards the target",
        ends=((inf, -1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "asymmetric(z, y, gamma_positive=g, gamma_negative=g, margin=0) = binary_focal(z, y, gamma=g)",
            lambda z: asymmetric(z, 0 * true(z), gamma_positive=3.0, gamma_negative=3.0, margin=0.0),
            lambda z: binary_focal(z, 0 * true(z), gamma=3.0),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        poly,
        exact=reference_imbalance.poly,
        target="index",
        infinite=log(2) + 0.5,
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "poly([a, b], 1) = softplus(a - b) + sigmoid(a - b)",
            lambda z: poly(z, second(z)),
            lambda z: transform.softplus(z[..., 0] - z[..., 1]) + transform.sigmoid(z[..., 0] - z[..., 1]),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        logit_adjusted,
        exact=reference_imbalance.logit_adjusted,
        target="index",
        settings={"prior": frequencies, "tau": 1.5},
        infinite=log(1 + 3**1.5),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "logit_adjusted([a, b], 1, (1, 3)) = cross_entropy([a, b + log 3], 1)",
            lambda z: logit_adjusted(z, second(z), [1.0, 3.0]),
            lambda z: transform.softplus(z[..., 0] - z[..., 1] - log(3)),
        ),
        half="float32",
        ulp=8,
        slope_ulp=8,
        exempt=OF_ITS_CLASS,
    ),
    Row(
        balanced_softmax,
        exact=reference_imbalance.logit_adjusted,
        target="index",
        call=lambda z, target, prior: balanced_softmax(z, target, prior),
        settings={"prior": frequencies},
        infinite=log(4),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "balanced_softmax(z, y, n) = logit_adjusted(z, y, n)",
            lambda z: balanced_softmax(z, second(z), [3, 7]),
            lambda z: logit_adjusted(z, second(z), [3, 7]),
        ),
        half="float32",
        ulp=8,
        slope_ulp=8,
        exempt=OF_ITS_CLASS,
    ),
    Row(
        ldam,
        exact=reference_imbalance.ldam,
        target="index",
        settings={"counts": frequencies, "scale": 1.5},
        infinite=log(1 + exp(0.75)),
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "ldam([a, b], 1, (16, 1), scale=s) = softplus(s (a - b + 1 / 2))",
            lambda z: ldam(z, second(z), [16, 1], scale=1.5),
            lambda z: transform.softplus(1.5 * (z[..., 0] - z[..., 1] + 0.5)),
        ),
        half="float32",
        ulp=4,
        slope_ulp=4,
        exempt=OF_ITS_CLASS,
    ),
    Row(
        class_balanced_weights,
        variant="in cross-entropy",
        exact=reference_imbalance.class_balanced_cross_entropy,
        target="index",
        call=class_balanced,
        settings={"counts": lambda classes: 8000 * frequencies(classes)},
        order="falls with the logit of the target",
        symmetry=Symmetry(
            "class_balanced_weights(n, beta=0) = 1",
            lambda z: cross_entropy(z, second(z), class_weight=class_balanced_weights([3, 70], beta=0.0)),
            lambda z: cross_entropy(z, second(z)),
        ),
        infinite=log(2) * float(reference_imbalance.class_balanced_weights([1000, 2000, 3000])[0]),
        half="float32",
        ulp=6,
        slope_ulp=6,
        exempt=OF_ITS_CLASS
        | {
            "masked class": Exempt(MEAN_1, example=[[0.0, 1.0, 2.0]], target=[1]),
            "gradient of a masked class": Exempt(MEAN_1, example=[[0.0, 1.0, 2.0, 3.0]] * 4, target=[1] * 4),
        },
    ),
    MMCE,
    MMCE.variation(
        "of one row",
        function=soft_ece,
        call=of_each_row(soft_ece),
        settings={"bins": 5, "temperature": 1.0},
        symmetry=Symmetry(
            "soft_ece([[a, b]], [1], norm='l1') = soft_ece([[a, b]], [1], norm='l2')",
            lambda z: of_each_row(soft_ece)(z, second(z), norm="l1"),
            lambda z: of_each_row(soft_ece)(z, second(z), norm="l2"),
        ),
        ulp=16,
        slope_ulp=None,
        exempt=OF_THE_FIRST,
    ),
    MMCE.variation(
        "of one row",
        function=dca,
        call=of_each_row(dca),
        symmetry=Symmetry(
            "dca([[a, b]], [1]) = 1 - sigmoid(b - a) where b > a, else sigmoid(a - b)",
            lambda z: of_each_row(dca)(z, second(z)),
            lambda z: transform.sigmoid(z[..., 0] - z[..., 1]),
        ),
        exempt=OF_THE_FIRST,
    ),
    Row(
        confidence_penalty,
        exact=reference_imbalance.confidence_penalty,
        infinite=-log(2),
        order="rises with the largest logit",
        symmetry=Symmetry("confidence_penalty(z) = -entropy(z)", confidence_penalty, lambda z: -transform.entropy(z)),
        half="float32",
        ulp=4,
        shift_ulp=2,
    ),
]
