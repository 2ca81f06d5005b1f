"""What the functions of `laws_policy.ROWS` should give: the textbook formulas with 120 digits.

Those of pairs are given a number z that the calls of `laws_policy` make the lead of the chosen.
"""

import mpmath

THIRD = mpmath.mpf(0.3333333432674408)


def policy_logp(x, action):
    return [x[action] - mpmath.log(mpmath.fsum(mpmath.exp(v) for v in x))]


def reinforce(x):
    return [-THIRD * v for v in x]


def ppo(x):
    """From an old log-probability of 1/3, with an advantage of 3/4, where the clip is 1 + 0.2."""
    return [-0.75 * min(mpmath.exp(v - THIRD), 1 + mpmath.mpf(0.2)) for v in x]


def grpo(x):
    """The better of two."""
    return [-min(mpmath.exp(v - THIRD), 1 + mpmath.mpf(0.2)) for v in x]


def k3(x):
    """At half of z."""
    return [mpmath.exp(THIRD - v / 2) - 1 - (THIRD - v / 2) for v in x]


def softplus(v):
    return mpmath.log1p(mpmath.exp(v))


def dpo(x, label_smoothing=0):
    """The reference has a lead of -2/3; beta is 0.1."""
    leads = [mpmath.mpf(0.1) * (v + 2 * THIRD) for v in x]
    return [(1 - label_smoothing) * softplus(-h) + label_smoothing * softplus(h) for h in leads]


def ipo(x):
    return [(v + 2 * THIRD - 5) ** 2 for v in x]


def kto(x):
    return [1 / (1 + mpmath.exp(mpmath.mpf(0.1) * v)) for v in x]


def orpo(x):
    """The chosen is at -softplus(-z), the log-probability whose log-odds are z; the rejected at -1/3."""
    odds = mpmath.exp(-THIRD) / (1 - mpmath.exp(-THIRD))
    return [softplus(-v) + mpmath.mpf(0.1) * mpmath.log(1 + odds / mpmath.exp(v)) for v in x]


def simpo(x):
    """Two tokens each."""
    return [softplus(1 - 2 * (v / 2)) for v in x]
