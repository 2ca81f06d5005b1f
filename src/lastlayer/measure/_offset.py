"""How much would have to be added to log-odds for their mean probability to be the frequency, and is that chance?"""

from typing import NamedTuple

import numpy as np

from lastlayer.measure.metric import Metric
from lastlayer.transform import sigmoid, softplus


class Offset(NamedTuple):
    """The likelihood of one offset ``d`` on all log-odds, and where it is largest.

        loss(d) = sum w softplus(-(2 hit - 1)(odds + d)),     sum w sigmoid(odds + best) = sum w hit

    ``dispersion`` is how many times larger the squared residuals of rows are than the model's own variance, at least
    what the weights alone make of it (quasi-likelihood: McCullagh and Nelder 1989).
    """

    odds: np.ndarray  # finite ones, (n, columns)
    hits: np.ndarray
    weight: np.ndarray  # (n, columns), 0 where the log-odds are infinite
    total: float  # of all weights
    fixed: float  # probability of the infinite ones, over the total
    rows: int
    frequency: float
    mean_prob: float
    best: float
    dispersion: float
    p_value: float

    @classmethod
    def of(cls, odds, hits, weight) -> "Offset":
        rows = len(odds)
        w = np.broadcast_to(weight[:, None], odds.shape)
        total = float(w.sum())
        if not total > 0:
            return cls(odds, hits, w, total, 0.0, rows, np.nan, np.nan, np.nan, np.nan, np.nan)
        frequency, mean_prob = float((w * hits).sum()) / total, float((w * sigmoid(odds)).sum()) / total
        finite = np.isfinite(odds)
        ruled_out = bool((~finite & ((odds > 0) != (hits == 1))).any())
        fixed = float((w * (~finite & (odds > 0))).sum()) / total
        odds, w = np.where(finite, odds, 0.0), np.where(finite, w, 0.0)
        best = best_offset(odds, hits, w)
        self = cls(odds, hits, w, total, fixed, rows, frequency, mean_prob, best, _dispersion(odds, hits, w, best), 0.0)
        return self if ruled_out else self._replace(p_value=self._p_value())

    def _loss(self, d):
        if np.isinf(d):
            return 0.0
        return float((self.weight * softplus(-(2 * self.hits - 1) * (self.odds + d))).sum())

    def _p_value(self):
        from scipy.special import ndtr

        if not self.weight.any():
            return 1.0
        deviance = max(2 * (self._loss(0.0) - self._loss(self.best)), 0.0)
        return float(2 * ndtr(-np.sqrt(deviance / self.dispersion)))

    def bias(self, z) -> Metric:
        """Mean probability minus frequency, between the offsets that are ``z`` standard errors of deviance away."""
        if not self.total > 0 or not self.weight.any():
            return Metric(self.mean_prob - self.frequency, -1.0, 1.0, self.rows)
        impossible = self.frequency - self.fixed - self._mean(self.best)  # hits that no offset explains
        ends = [self.fixed + impossible + self._mean(self._end(sign, z)) for sign in (1, -1)]
        value = self.mean_prob - self.frequency
        low, high = (self.mean_prob - end for end in ends)
        return Metric(value, min(low, value), max(high, value), self.rows)

    def _mean(self, d):
        return float((self.weight * sigmoid(self.odds + d)).sum()) / self.total

    def _end(self, sign, z):
        from scipy.optimize import root_scalar

        if self.best == sign * np.inf:
            return self.best
        allowed = self.dispersion * z * z / 2 + self._loss(self.best)
        used = self.weight > 0
        # Where the best offset is infinite, one that makes every probability 0 or 1 to rounding is as good.
        start = self.best if np.isfinite(self.best) else -sign * (40 + np.abs(self.odds[used]).max())
        step = 1.0
        while self._loss(start + sign * step) <= allowed:
            step *= 2
        return root_scalar(lambda d: self._loss(d) - allowed, bracket=(start, start + sign * step), xtol=1e-10).root


def best_offset(odds, hits, w):
    """The offset that makes the mean probability the frequency; infinite where there are only hits, or only misses."""
    from scipy.optimize import root_scalar

    used = w > 0
    seen = hits[used]
    if not len(seen):
        return 0.0
    if seen.min() == seen.max():
        return np.inf if seen[0] == 1 else -np.inf
    share = float((w * hits).sum() / w.sum())
    middle = np.log(share) - np.log1p(-share)
    low, high = middle - odds[used].max(), middle - odds[used].min()

    def excess(d):
        return float((w * (sigmoid(odds + d) - hits)).sum())

    for end, beyond in ((low, excess(low) >= 0), (high, excess(high) <= 0)):
        if beyond:  # by a rounding: the root is this end
            return float(end)
    return root_scalar(excess, bracket=(low, high), xtol=1e-12).root


def _dispersion(odds, hits, w, best):
    at = best if np.isfinite(best) else 0.0
    p = sigmoid(odds + at)
    variance = p * sigmoid(-(odds + at))
    own = float((w * variance).sum())
    least = float((w**2 * variance).sum())
    found = float(((w * (hits - p)).sum(-1) ** 2).sum()) if np.isfinite(best) else 0.0
    if not own > 0:
        return 1.0
    return max(least, found) / own
