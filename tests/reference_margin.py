"""What the losses of margins and of ordered classes should give: the textbook formulas with 120 digits."""

import mpmath

from reference import entmax, log_softmax, sigmoid, softplus


def multiclass_hinge(x, target, margin=1, kind="crammer_singer"):
    lacks = [max(mpmath.mpf(0), margin + v - x[target]) for i, v in enumerate(x) if i != target]
    return [max(lacks, default=mpmath.mpf(0)) if kind == "crammer_singer" else mpmath.fsum(lacks)]


def am_softmax(x, target, margin=0.35, scale=30):
    return [-log_softmax([scale * (v - margin * (i == target)) for i, v in enumerate(x)])[target]]


def arcface(x, target, margin=0.5, scale=64, unit=1):
    """Of cosines that are the logits in so small a unit."""
    cosines = [v / unit for v in x]
    c, margin = cosines[target], mpmath.mpf(margin)
    if c != -mpmath.inf:
        angle = mpmath.acos(c) + margin
        cosines[target] = mpmath.cos(angle) if angle <= mpmath.pi else c - margin * mpmath.sin(margin)
    return [-log_softmax([scale * v for v in cosines])[target]]


def cumulative_link(x, target, thresholds):
    t = [-mpmath.inf, *(mpmath.mpf(v) for v in thresholds), mpmath.inf]
    shares = ((sigmoid([t[y] - s])[0], sigmoid([t[y + 1] - s])[0]) for s, y in zip(x, target, strict=True))
    return [-mpmath.log(upper - lower) for lower, upper in shares]


def coral(x, target):
    return [mpmath.fsum(softplus([-v if target > k else v for k, v in enumerate(x)]))]


def fenchel_young(x, target, regularizer="entmax", alpha=1.5):
    """The definition: the maximum, less the score of the target."""
    a = mpmath.mpf(2 if regularizer == "sparsemax" else alpha)
    p = entmax(x, a)
    entropy = mpmath.fsum((share - share**a) / (a * (a - 1)) for share in p)
    return [mpmath.fsum(share * (v - x[target]) for share, v in zip(p, x, strict=True) if share) + entropy]


def fenchel_young_of_sets(x, target, regularizer="top_k"):
    """Half the squared distance to the set of k classes, less that of the nearest point with entries from 0 to 1."""
    k, there = len(target), [v for v in x if v != -mpmath.inf]

    def point(t):
        return [min(max(v - t, mpmath.mpf(0)), mpmath.mpf(1)) for v in there]

    if any(x[i] == -mpmath.inf for i in target):
        return [mpmath.inf]
    edges = sorted([v - 1 for v in there] + there)
    low = max(t for t in edges if mpmath.fsum(point(t)) >= k)
    high = min(t for t in edges if t > low)
    above, below = mpmath.fsum(point(low)), mpmath.fsum(point(high))
    p = point(low + (high - low) * (above - k) / (above - below))
    reached = mpmath.fsum(share * v - share**2 / 2 for share, v in zip(p, there, strict=True))
    loss = reached - mpmath.fsum(x[i] for i in target) + mpmath.mpf(k) / 2
    return [loss if abs(loss) > mpmath.mpf(10) ** (10 - mpmath.mp.dps) else mpmath.mpf(0)]  # what the digits leave of 0
