"""How far F is above its minimum at most, by Fenchel's dual: for any penalty that bounds its own part from below.

Slopes theta of the logits that sum to 0, row by row the gradient of a loss at some other logits, bound F from below:

    F* >= sum_i (theta_i o_i - loss*(theta_i)) + sum_j min_b (c_j b + l2 b^2 / 2 + l1 |b|)

with ``c`` the sums of theta by each feature. Taken from F, every term is of one sign: of rows the divergence
``w KL(q || p)`` of the probabilities p from those that theta belongs to, q, so that nothing cancels near the minimum.
"""

from typing import NamedTuple

import numpy as np

from lastlayer.transform.sigmoid import sigmoid
from lastlayer.transform.softmax import softmax


class Dual(NamedTuple):
    """A point of the dual: how far F is above its value there, and its slopes by the features, (outputs, d)."""

    gap: float
    slopes: np.ndarray


def dual(problem, rows, coef, logits, terms, ridge) -> Dual | None:
    """The point near standardised ``coef`` (outputs, d) with ``logits`` (n, outputs); None where there is none.

    ``q`` is p moved until its slopes sum to 0 (a step of the intercepts), then towards the target until each feature
    without l2 has ``|c| <= l1``. A feature with neither, that has no bound on the side it pulls to, has no such q.
    """
    from scipy.special import kl_div

    one_hot = _targets(problem)
    p = softmax(logits) if problem.family == "multinomial" else np.stack([sigmoid(-logits), sigmoid(logits)], 2)[:, 0]
    q = p
    if problem.intercept:
        q = _balanced(p, one_hot, problem.weight)
        if q is None:
            return None
    theta = problem.weight[:, None] * (q - one_hot)
    sums = rows.turned(theta if problem.family == "multinomial" else theta[:, 1:]).T
    open_up, open_down = (np.isinf(end) & (ridge == 0) for end in (terms.high, terms.low))
    pull = np.maximum(np.where(open_up, -sums, 0.0), np.where(open_down, sums, 0.0))
    over = pull > terms.l1
    share = (np.broadcast_to(terms.l1, pull.shape)[over] / pull[over]).min(initial=1.0)
    if share == 0:
        return None
    divergence = problem.weight @ kl_div(share * q + (1 - share) * one_hot, p).sum(1)
    return Dual(float(divergence) + _of_features(coef, share * sums, terms, ridge), share * sums)


def _targets(problem):
    if problem.family == "multinomial":
        return (problem.target[:, None] == np.arange(problem.outputs)).astype(np.float64)
    return np.stack([1 - problem.target, problem.target], axis=1)


def _balanced(p, one_hot, weight):
    """Probabilities whose weighted sums are those of the target, or None where a step there leaves the simplex."""
    hessian = np.diag(weight @ p) - (p * weight[:, None]).T @ p
    step = np.linalg.lstsq(hessian, weight @ (p - one_hot), rcond=None)[0]
    factor = 1 - (step - (p @ step)[:, None])
    return p * factor if (factor >= 0).all() else None


def _of_features(coef, sums, terms, ridge):
    """What the coefficients have above the least of ``c b + l2 b^2 / 2 + l1 |b|``, which the share made bounded."""
    # both are 0 where the coefficient is, and the slope is at most l1: nearly everywhere
    index = (coef != 0) | (np.abs(sums) > terms.l1) | (terms.low > 0) | (terms.high < 0)
    terms, (ridge, _) = terms.spread(index), np.broadcast_arrays(ridge, coef)
    coef, sums, ridge = coef[index], sums[index], ridge[index]
    with np.errstate(divide="ignore", invalid="ignore"):
        bent = np.where(ridge > 0, -np.sign(sums) * np.maximum(np.abs(sums) - terms.l1, 0.0) / ridge, 0.0)
    tries = [terms.inside(bent), *(terms.inside(np.where(np.isfinite(end), end, 0.0)) for end in terms[1:])]

    def value(b):
        return sums * b + ridge * b**2 / 2 + terms.l1 * np.abs(b)

    least = np.minimum.reduce([value(b) for b in tries])
    return float(np.maximum(value(coef) - least, 0.0).sum())
