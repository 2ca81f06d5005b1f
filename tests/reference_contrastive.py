"""The contrastive losses as their papers print them, with 120 digits; `reference` says how they are called."""

import mpmath


def info_nce(x, positive, temperature=1):
    weights = [mpmath.exp(v / temperature) for v in x]
    return [-mpmath.log(weights[positive] / mpmath.fsum(weights))]


def sup_con(x, positives, temperature=1):
    """Of an anchor that is none of the keys."""
    costs = [info_nce(x, p, temperature)[0] for p in positives]
    return [mpmath.fsum(costs) / len(costs)]


def siglip(x, positives, scale, bias):
    """``positives`` has a 1 for each match and a 0 for every other key."""
    signs = [1 if match else -1 for match in positives]
    z = [scale * v + bias for v in x]
    return [mpmath.fsum(mpmath.log(1 + mpmath.exp(-y * v)) for y, v in zip(signs, z, strict=True))]


def nt_xent_of_four(x, temperature=1):
    """For each number alone: a view at that similarity to its pair, and at 0 to both others."""
    return [-mpmath.log(mpmath.exp(v / temperature) / (mpmath.exp(v / temperature) + 2)) for v in x]


def clip_of_two(x, temperature=1):
    """For each number alone: two pairs at that similarity, and 0 across."""
    return [-mpmath.log(mpmath.exp(v / temperature) / (mpmath.exp(v / temperature) + 1)) for v in x]


def triplet_hinge(x, margin, kind=None):
    """Against a negative at distance 0."""
    return [max(v + margin, mpmath.mpf(0)) for v in x]


def triplet_softplus(x, margin, kind=None):
    return [mpmath.log(1 + mpmath.exp(v + margin)) for v in x]
