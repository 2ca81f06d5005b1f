"""What the losses for imbalance and the penalties should give: the textbook formulas with 120 digits (see `reference`).

The penalties of a batch are those of a batch of one row.
"""

import mpmath

from reference import entropy, log_softmax, sigmoid, softmax


def _focal_of(p, gamma):
    return (1 - p) ** gamma * -mpmath.log(p)


def focal(x, target, gamma=2):
    return [_focal_of(softmax(x)[target], gamma)]


def binary_focal(x, target, gamma=2, alpha=None):
    share = (1, 1) if alpha is None else (1 - alpha, alpha)
    return [share[y] * _focal_of(p if y else 1 - p, gamma) for p, y in zip(sigmoid(x), target, strict=True)]


def asymmetric(x, target, gamma_positive=0, gamma_negative=4, margin=0.05):
    losses, margin = [], mpmath.mpf(margin)
    for p, y in zip(sigmoid(x), target, strict=True):
        beyond = max(p - margin, 0)
        losses.append(_focal_of(p, gamma_positive) if y else beyond**gamma_negative * -mpmath.log(1 - beyond))
    return losses


def poly(x, target, epsilon=1):
    p = softmax(x)[target]
    return [-mpmath.log(p) + epsilon * (1 - p)]


def logit_adjusted(x, target, prior, tau=1):
    return [-log_softmax([v + tau * mpmath.log(share) for v, share in zip(x, prior, strict=True)])[target]]


def ldam(x, target, counts, max_margin=0.5, scale=30):
    margin = max_margin * mpmath.root(min(counts) / counts[target], 4)
    return [-log_softmax([scale * (v - margin * (i == target)) for i, v in enumerate(x)])[target]]


def class_balanced_weights(counts, beta=0.999):
    beta = mpmath.mpf(beta)
    weights = [(1 - beta) / (1 - beta**n) for n in counts]
    return [w * len(weights) / mpmath.fsum(weights) for w in weights]


def class_balanced_cross_entropy(x, target, counts):
    return [class_balanced_weights(counts)[target] * -log_softmax(x)[target]]


def gap(x, target, width=None, bins=None, temperature=None):
    """How far the confidence of a row is from 1, or from 0 where it is wrong."""
    largest = x.index(max(x))
    p = softmax(x)
    return [mpmath.fsum(share for i, share in enumerate(p) if i != largest) if target == largest else p[largest]]


def confidence_penalty(x):
    return [-h for h in entropy(x)]
