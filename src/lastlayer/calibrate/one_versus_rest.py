"""Exclusive classes, each calibrated against all the others as a binary problem."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lastlayer._array import arange_like, floating, namespace, restore, stop_gradient
from lastlayer._check import shape as shape_of
from lastlayer._row import limit
from lastlayer.calibrate._certified import Ending, certified
from lastlayer.calibrate.calibrator import Calibrator
from lastlayer.transform import log1mexp, log_odds, log_sigmoid, log_softmax

GROUP = 2**24  # entries of log-odds held at once: 128 MB


@dataclass(frozen=True, eq=False)
class OneVersusRest(Calibrator):
    """One binary calibrator per class, of its log-odds against the rest; their probabilities are normalised.

        calibrated_k = log_sigmoid(parts[k](log_odds_k)),   log_odds_k = z_k - logsumexp(z without k)

    The combination of Zadrozny and Elkan 2002: each probability over their sum. A masked class stays masked, a class
    that is alone has probability 1, an empty row stays empty, adding a constant to a row changes nothing. The order of
    the classes in a row may change. It is what a fit of `Isotonic` and other methods of one logit at a time gives for
    exclusive classes: in the file each part names its method.

    >>> from lastlayer.calibrate import Platt
    >>> fitted = OneVersusRest({"cat": Platt(2.0, 0.0), "dog": Platt(1.0, 0.0)})
    >>> fitted(np.array([0.0, 0.0])).round(4), str(fitted)
    (array([-0.6931, -0.6931]), 'one_versus_rest: platt x 2')
    """

    method = "one_versus_rest"

    parts: dict[str, Calibrator]

    @property
    def width(self):
        return len(self.parts)

    def map(self, logits):
        x: Any = floating(logits)
        if x.shape[-1:] != (len(self.parts),):
            raise ValueError(f"one_versus_rest: fitted on {len(self.parts)} classes; these logits are {shape_of(x)}.")
        xp = namespace(x)
        odds = odds_of_each(x)
        calibrated = [log_sigmoid(part.map(odds[..., k])) for k, part in enumerate(self.parts.values())]
        logp = xp.stack(calibrated, axis=-1)
        logp = xp.where(odds == xp.inf, xp.zeros_like(logp), logp)
        return restore(xp.where((odds == -xp.inf) | (x == -xp.inf), -xp.inf, logp), logits)

    @classmethod
    def of(cls, rows, fitted_to) -> Self:
        """Fit to each class of ``rows``, by ``fitted_to(binary rows)``; where it is masked a row says nothing."""
        parts, classes = {}, rows.classes
        together = max(1, GROUP // len(rows))
        for start in range(0, len(classes), together):
            some = slice(start, start + together)
            odds = np.concatenate([odds_of_each(block.logits.astype(np.float64))[:, some] for block in rows.blocks()])
            for k, column in enumerate(odds.T, start):
                parts[classes[k]] = fitted_to(_against_rest(rows, k, column))
        fitted = cls(parts)
        return replace(fitted, certificate=certified(fitted, rows, *Ending.of(parts)))


def _against_rest(rows, k, odds):
    target = (rows.target == k).astype(np.int64) if rows.target.ndim == 1 else rows.target[:, k]
    return replace(rows, logits=odds, target=target, task="binary", classes=("rest", rows.classes[k]))


def odds_of_each(logits) -> Any:
    """``log(p_k / (1 - p_k))`` of every class, to the last digits on both sides of 0."""
    x = floating(logits)
    xp = namespace(x)
    x, _ = limit(x, xp)
    logp: Any = log_softmax(x)
    largest: Any = log_odds(x)
    top = arange_like(x, xp) == xp.argmax(stop_gradient(x), axis=-1)[..., None]
    others = xp.where(top, xp.full_like(logp, -1.0), logp)
    # Where the top class rounds to 1 its log-odds are still a difference of logits.
    return xp.where(top, largest[..., None], others - log1mexp(others))
