"""What the functions of `laws_ranking.ROWS` should give: the textbook formulas with 120 digits.

One row of scores and one target, as the calls of `laws_ranking` turn them into positives, negatives and relevance.
"""

import mpmath

THIRD = mpmath.mpf(0.3333333432674408)


def softplus(v):
    return mpmath.log(1 + mpmath.exp(v))


def bpr(x):
    """Against a negative of 1/3, as float32 holds it."""
    return [softplus(THIRD - v) for v in x]


def pair_hinge(x):
    return [max(mpmath.mpf(0), 1 - v + THIRD) for v in x]


def warp(x, target):
    """All other classes are negatives, and the catalogue."""
    hinges = [1 - x[target] + v for i, v in enumerate(x) if i != target]
    violators = [h for h in hinges if h > 0]
    if not violators:
        return [mpmath.mpf(0)]
    weight = mpmath.fsum(mpmath.mpf(1) / i for i in range(1, len(violators) + 1))
    return [weight * mpmath.fsum(violators) / len(violators)]


def graded(x, index):
    """Relevance 2 for the first class that is named, 1 for the second."""
    return [2 if i == index[0] else int(i in index) for i in range(len(x))]


def rank_net(x, index):
    costs = [softplus(x[j] - x[i]) for i, j in _pairs(x, index) if x[j] != -mpmath.inf]
    return [mpmath.fsum(costs) / len(costs) if costs else mpmath.mpf(0)]


def lambda_rank(x, index, k=None):
    places = range(1, len(x) + 1)
    discount = {place: 1 / mpmath.log(1 + place, 2) if k is None or place <= k else mpmath.mpf(0) for place in places}
    gains = [2**r - 1 for r in graded(x, index)]
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    of = {i: discount[place] for place, i in enumerate(order, 1)}
    ideal = mpmath.fsum(g * discount[place] for place, g in enumerate(sorted(gains, reverse=True), 1))
    costs = (
        abs(gains[i] - gains[j]) * abs(of[i] - of[j]) * softplus(x[j] - x[i])
        for i, j in _pairs(x, index)
        if x[j] != -mpmath.inf and of[i] != of[j]
    )
    return [mpmath.fsum(costs) / ideal]


def _pairs(x, index):
    grades = graded(x, index)
    return ((i, j) for i in index for j in range(len(x)) if grades[i] > grades[j])


def list_net(x, relevance, gain="softmax"):
    there = [v != -mpmath.inf for v in x]
    if gain == "softmax":
        gains = [mpmath.exp(r) if here else mpmath.mpf(0) for r, here in zip(relevance, there, strict=True)]
    else:
        gains = relevance if gain == "linear" else [2**r - 1 for r in relevance]
    normaliser, mass = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in x)), mpmath.fsum(gains)
    return [mpmath.fsum(g / mass * (normaliser - v) for g, v in zip(gains, x, strict=True) if g)]


def list_mle(x, relevance):
    """In the order of relevance, of equal ones the first first."""
    order = sorted(range(len(x)), key=lambda i: (-relevance[i], i))
    left, costs = mpmath.mpf(0), []
    for i in reversed(order):
        left += mpmath.exp(x[i])
        if x[i] != -mpmath.inf or left:
            costs.append(mpmath.log(left) - x[i])
    return [mpmath.fsum(costs)]


def sampled_softmax(x, target):
    """Of the class against all others, each with the logarithm of its probability."""
    corrected = [v + mpmath.mpf(1 + i % 3) / 2 for i, v in enumerate(x)]
    return [mpmath.log(mpmath.fsum(mpmath.exp(v - corrected[target]) for v in corrected))]


def in_batch(x, target, temperature=1):
    return [mpmath.log(mpmath.fsum(mpmath.exp((v - x[target]) / temperature) for v in x))]


def gbce(x, target):
    """A catalogue of 2,000 items and t = 3/4."""
    negatives = [v for i, v in enumerate(x) if i != target and v != -mpmath.inf]
    beta = mpmath.mpf("0.75") * (mpmath.mpf(len(negatives)) / 1999 - 1) + 1
    return [(beta * softplus(-x[target]) + mpmath.fsum(softplus(v) for v in negatives)) / (len(negatives) + 1)]
