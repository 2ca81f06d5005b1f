"""What every function of `numerics.py` should give: mpmath with 50 digits, in steps that do not cancel.

Sums leave the largest entry out, so that a tail of 1e-35 has its 50 digits as well. `ROWS` and `NUMBERS` name every
quantity that is measured, with its exact value as a list of mpmath numbers.
"""

from functools import cached_property

import mpmath
import numpy as np
from mpmath import mpf

DIGITS = 50
TEMPERATURE, HOT, CAP, SMOOTHING = 0.7, 2.0, 30.0, 0.1


class Parts:
    """A row as ``exp(rate (z - max))``, the sum of all but the largest entry, and its ``log1p``."""

    def __init__(self, z, rate=1):
        self.top = max(range(len(z)), key=z.__getitem__)
        self.below = [(z[self.top] - v) * rate for v in z]
        self.terms = [mpmath.exp(-v) for v in self.below]
        self.rest = mpmath.fsum(v for i, v in enumerate(self.terms) if i != self.top)
        self.log = mpmath.log1p(self.rest)

    @cached_property
    def probs(self):
        return [v / (1 + self.rest) for v in self.terms]

    @cached_property
    def surprise(self):
        return [v + self.log for v in self.below]

    def minus_onehot(self, k):
        slopes = list(self.probs)
        slopes[k] = -self.rest / (1 + self.rest) if k == self.top else slopes[k] - 1
        return slopes


class Row:
    """One row of a block, and what is computed once for all functions of it."""

    def __init__(self, block, i):
        beside = block.beside
        self.z = exact(block.x[i])
        self.masked = bool(np.isinf(block.x[i]).any())
        self.target = int(beside["target"][i])
        self.share = {int(k): mpf(float(beside["share"][i, k])) for k in beside["share"][i].nonzero()[0]}
        self.few = dict(zip(beside["few"][i].tolist(), exact(beside["few_share"][i]), strict=True))
        self.prior, self.source = beside["prior"], beside["source"]
        self.parts = Parts(self.z)
        self.top, self.max = self.parts.top, self.z[self.parts.top]

    @cached_property
    def tempered(self):
        return Parts(self.z, 1 / mpf(TEMPERATURE))

    @cached_property
    def binary(self):
        return Parts(self.z, mpmath.log(2))

    @cached_property
    def half(self):
        return Parts(self.z, mpf(0.5))

    @cached_property
    def others(self):
        """Without the largest entry."""
        return Parts([v for i, v in enumerate(self.z) if i != self.top])

    @cached_property
    def second(self):
        return max(v for i, v in enumerate(self.z) if i != self.top)


def exact(values):
    """Floats as they are, with all their bits."""
    return [mpf(float(v)) for v in values]


def entropy(r):
    spread = mpmath.fsum(p * d for p, d in zip(r.parts.probs, r.parts.below, strict=True) if p)
    return [r.parts.log + spread]


def smoothed(r):
    """Only where nothing is masked: there PyTorch and optax mean something else."""
    mean = mpf("nan") if r.masked else mpmath.fsum(r.parts.surprise) / len(r.z)
    return [(1 - mpf(SMOOTHING)) * r.parts.surprise[r.target] + mpf(SMOOTHING) * mean]


def top_k(r):
    named = mpmath.fsum(r.parts.terms[k] for k in r.few)
    others = mpmath.fsum(v for i, v in enumerate(r.parts.terms) if i not in r.few)
    left = (1 - sum(r.few.values())) * mpmath.log1p(named / others)
    return [left + sum(q * (r.parts.below[k] + r.parts.log) for k, q in r.few.items())]


def sparsemax(r):
    """Martins & Astudillo 2016, algorithm 1."""
    near = sorted((v - r.max for v in r.z if v - r.max > -1), reverse=True)
    t, so_far = mpf(0), mpf(0)
    for k, v in enumerate(near, 1):
        so_far += v
        if 1 + k * v > so_far:
            t = (so_far - 1) / k
    return [max(v - r.max - t, mpf(0)) for v in r.z]


def entmax(r):
    """Peters, Niculae & Martins 2019, algorithm 2 (alpha 1.5)."""
    near = sorted(((v - r.max) / 2 for v in r.z if v - r.max > -2), reverse=True)
    t, so_far, squares = mpf(0), mpf(0), mpf(0)
    for k, v in enumerate(near, 1):
        so_far, squares = so_far + v, squares + v * v
        spread = 1 - (squares - so_far * so_far / k)
        threshold = so_far / k - mpmath.sqrt(max(spread / k, mpf(0)))
        if threshold <= v:
            t = threshold
    return [max((v - r.max) / 2 - t, mpf(0)) ** 2 for v in r.z]


def standardize(r, centre):
    there = [v for v in r.z if v != -mpmath.inf]
    mean = mpmath.fsum(there) / len(there) if centre else mpf(0)
    length = mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in there) / (len(there) if centre else 1))
    return [(v - mean) / length if length else v - mean for v in r.z]


def linear_pool(r):
    """Of the row and its half; the top class by what the two leave over."""
    a, b = r.parts, r.half
    logs = [mpmath.log((p + q) / 2) for p, q in zip(a.probs, b.probs, strict=True)]
    logs[r.top] = mpmath.log1p(-(a.rest / (1 + a.rest) + b.rest / (1 + b.rest)) / 2)
    return logs


def adjust_prior(r):
    ratios = zip(exact(r.prior[:6]), exact(r.source[:6]), strict=True)  # both repeat after six classes
    offset = [mpmath.log(target / source) for target, source in ratios]
    return [v + offset[i % 6] for i, v in enumerate(r.z)]


def negated(values):
    return [-v for v in values]


ROWS = {
    "softmax": lambda r: r.parts.probs,
    "softmax, temperature 0.7": lambda r: r.tempered.probs,
    "softmax, base 2": lambda r: r.binary.probs,
    "log_softmax": lambda r: negated(r.parts.surprise),
    "log_softmax, temperature 0.7": lambda r: negated(r.tempered.surprise),
    "log_softmax, base 2": lambda r: negated(r.binary.surprise),
    "logsumexp": lambda r: [r.max + r.parts.log],
    "energy, temperature 2": lambda r: [-(r.max + HOT * r.half.log)],
    "max_logit": lambda r: [r.max],
    "entropy": entropy,
    "log_odds": lambda r: [(r.max - r.second) - r.others.log],
    "top2_gap": lambda r: [r.max - r.second],
    "sparsemax": sparsemax,
    "entmax, alpha 1.5": entmax,
    "standardize": lambda r: standardize(r, centre=False),
    "standardize, zscore": lambda r: standardize(r, centre=True),
    "pool": lambda r: negated(Parts(r.z, mpf(0.75)).surprise),
    "pool, linear": linear_pool,
    "adjust_prior": adjust_prior,
    "cross_entropy": lambda r: [r.parts.surprise[r.target]],
    "cross_entropy, temperature 0.7": lambda r: [r.tempered.surprise[r.target]],
    "cross_entropy, distribution": lambda r: [sum(q * (r.parts.below[k] + r.parts.log) for k, q in r.share.items())],
    "cross_entropy, smoothing 0.1": smoothed,
    "top_k_cross_entropy": top_k,
    "gradient at the target": lambda r: [r.parts.minus_onehot(r.target)[r.target]],
    "gradient at the target, temperature 0.7": lambda r: [
        r.tempered.minus_onehot(r.target)[r.target] / mpf(TEMPERATURE)
    ],
    "gradient of the row": lambda r: r.parts.minus_onehot(r.target),
}
NUMBERS = {
    "sigmoid": lambda x, b: 1 / (1 + mpmath.exp(-x)),
    "log_sigmoid": lambda x, b: -mpmath.log1p(mpmath.exp(-x)),
    "softplus": lambda x, b: mpmath.log1p(mpmath.exp(x)),
    "logit": lambda x, b: mpmath.log(b["p"]) - mpmath.log1p(-b["p"]),
    "log1mexp": lambda x, b: (
        mpmath.log1p(-mpmath.exp(b["logp"])) if b["logp"] < -1 else mpmath.log(-mpmath.expm1(b["logp"]))
    ),
    "softcap, 30": lambda x, b: CAP * mpmath.tanh(x / CAP),
    "logaddexp": lambda x, b: max(x, b["other"]) + mpmath.log1p(mpmath.exp(-abs(x - b["other"]))),
    "binary_cross_entropy": lambda x, b: mpmath.log1p(mpmath.exp(-x if b["y"] else x)),
    "gradient, binary": lambda x, b: -1 / (1 + mpmath.exp(x)) if b["y"] else 1 / (1 + mpmath.exp(-x)),
}
UNITS = {  # where the result may cancel to nothing, the error is in units of this, if it is larger
    "logsumexp": ("the largest logit", lambda x, b: np.abs(x.max(-1, keepdims=True))),
    "energy, temperature 2": ("the largest logit", lambda x, b: np.abs(x.max(-1, keepdims=True))),
    "log_odds": ("the largest logit less the second", lambda x, b: np.diff(np.partition(x, -2)[:, -2:])),
    "standardize, zscore": ("a z-score of 1", lambda x, b: np.ones((len(x), 1))),
    "adjust_prior": ("the widest logit", lambda x, b: np.where(np.isfinite(x), abs(x), 0).max(-1, keepdims=True)),
    "logaddexp": ("the larger of the two", lambda x, b: abs(np.maximum(x, b["other"]))[:, None]),
}
TEMPERED = tuple(name for name in ROWS if "temperature" in name or "base" in name)
SHORT = ("sparsemax", "entmax, alpha 1.5", "standardize", "standardize, zscore", "pool", "pool, linear", "adjust_prior")


def measured(classes):
    """The quantities of rows that long: the longest are many numbers at 50 digits each."""
    left_out = SHORT * (classes > 1_000) + TEMPERED * (classes > 32_000)
    return [name for name in ROWS if name not in left_out]


def of_rows(block):
    """``{quantity: (values, what float64 leaves out of them)}``, each ``(rows, results)``."""
    wanted = measured(block.x.shape[1])
    parts = {name: [] for name in wanted}
    with mpmath.workdps(DIGITS):
        for i in range(len(block.x)):
            row = Row(block, i)
            for name in wanted:
                parts[name].append(_two_floats(ROWS[name](row)))
    return {name: tuple(np.array(side) for side in zip(*pairs, strict=True)) for name, pairs in parts.items()}


def of_numbers(block):
    """The same for single numbers, as ``(numbers, 1)``."""
    with mpmath.workdps(DIGITS):
        beside = [
            dict(zip(block.beside, exact(values), strict=True)) for values in zip(*block.beside.values(), strict=True)
        ]
        pairs = {
            name: _two_floats([value(x, b) for x, b in zip(exact(block.x), beside, strict=True)])
            for name, value in NUMBERS.items()
        }
    return {name: (high[:, None], low[:, None]) for name, (high, low) in pairs.items()}


def _two_floats(values):
    high = np.array([float(v) for v in values])
    low = np.array([float(v - mpf(h)) if np.isfinite(h) else 0.0 for v, h in zip(values, high.tolist(), strict=True)])
    return high, low
