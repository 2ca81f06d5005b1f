"""What the functions of `laws.LAWS` should give: the textbook formulas with 120 digits, where nothing needs care.

Every function takes a row (or one number) as a list of mpmath numbers and gives a list. Gradients are central
differences with a step of 1e-30, which at 120 digits is right to more than 40.
"""

import mpmath
from mpmath import mp

mp.dps = 120
STEP = mpmath.mpf(10) ** -30


def exact(values):
    """Floats as they are, with all their bits."""
    return [mpmath.mpf(float(v)) for v in values]


def logsumexp(x):
    return [mpmath.log(mpmath.fsum(mpmath.exp(v) for v in x))]


def log_softmax(x):
    (normaliser,) = logsumexp(x)
    return [v - normaliser for v in x]


def softmax(x):
    weights = [mpmath.exp(v) for v in x]
    total = mpmath.fsum(weights)
    return [w / total for w in weights]


def entropy(x):
    return [-mpmath.fsum(p * mpmath.log(p) for p in softmax(x) if p)]


def log_odds(x):
    first, *others = sorted(x, reverse=True)
    return [first - logsumexp(others)[0] if others else mpmath.inf]


def top2_gap(x):
    first, *others = sorted(x, reverse=True)
    return [first - others[0] if others else mpmath.inf]


def sigmoid(x):
    return [1 / (1 + mpmath.exp(-v)) for v in x]


def log_sigmoid(x):
    return [-mpmath.log(1 + mpmath.exp(-v)) for v in x]


def softplus(x):
    return [mpmath.log(1 + mpmath.exp(v)) for v in x]


def logit(x):
    return [mpmath.log(p / (1 - p)) for p in x]


def log1mexp(x):
    return [mpmath.log(1 - mpmath.exp(v)) for v in x]


def softcap(x, cap):
    return [cap * mpmath.tanh(v / cap) for v in x]


def cross_entropy(x, target, label_smoothing=0):
    """``target`` is a class, or a list with the probability of each."""
    (normaliser,) = logsumexp(x)
    q = target if isinstance(target, list) else [int(i == target) for i in range(len(x))]
    allowed = [v != -mpmath.inf for v in x]
    even = mpmath.mpf(label_smoothing) / sum(allowed)
    q = [(1 - label_smoothing) * share + even * free for share, free in zip(q, allowed, strict=True)]
    return [mpmath.fsum(share * (normaliser - v) for share, v in zip(q, x, strict=True) if share)]


def binary_cross_entropy(x, target):
    return [
        y * mpmath.log(1 + mpmath.exp(-v)) + (1 - y) * mpmath.log(1 + mpmath.exp(v))
        for v, y in zip(x, target, strict=True)
    ]


def mean(x):
    return [mpmath.fsum(x) / len(x)]


def value(law, row, target=None):
    """The reference of `law` for one row (or for a list of single numbers)."""
    function, x = globals()[law.function.__name__], exact(row)
    settings = {name: mpmath.mpf(setting) for name, setting in law.settings.items()}
    return function(x, **settings) if target is None else function(x, _target(target), **settings)


def gradient(law, row, cotangent, target=None):
    """The gradient of ``sum(cotangent * law(row))``."""
    function, x, slopes = globals()[law.function.__name__], exact(row), []
    settings = {name: mpmath.mpf(setting) for name, setting in law.settings.items()}
    fixed = () if target is None else (_target(target),)
    for i in range(len(x)):
        above, below = list(x), list(x)
        above[i], below[i] = x[i] + STEP, x[i] - STEP
        ends = [function(moved, *fixed, **settings) for moved in (above, below)]
        slopes.append(sum(c * (a - b) for c, a, b in zip(exact(cotangent), *ends, strict=True)) / (2 * STEP))
    return slopes


def softmax_minus_onehot(row, target):
    """The gradient of cross-entropy in closed form, for rows too long for differences."""
    return [p - (i == target) for i, p in enumerate(softmax(exact(row)))]


def _target(target):
    return exact(target) if hasattr(target, "__len__") else int(target)
