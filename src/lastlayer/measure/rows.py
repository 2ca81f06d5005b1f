"""What evaluation reads from each row of logits, in one pass over it: the formula; its kernel has the same name."""

from typing import NamedTuple

import numpy as np

from lastlayer._row import split
from lastlayer.kernels import dispatched
from lastlayer.state import Bins
from lastlayer.transform import log_odds, softmax
from lastlayer.transform.softmax import surprise

TEMPERATURES = 2.0 ** (np.arange(-12, 13) / 4)  # 1/8 to 8, four to an octave: the kernel reaches each by squaring
CURVE_BINS = 15


class RowStatistics(NamedTuple):
    """Columns of shape ``(n,)``, tables ``(n, classes)``, and the reliability of the block at each temperature.

    A row that holds a nan, or nothing but ``-inf``, is nan throughout, has ``top`` -1 and is in no curve.
    """

    top: np.ndarray  # index of the first largest logit
    nll: np.ndarray
    brier: np.ndarray  # sum over the classes of (p - onehot)^2
    rank: np.ndarray  # how many classes stand before the target, ties by index; 0 is a hit
    log_odds: np.ndarray  # of the top class
    probs: np.ndarray
    odds: np.ndarray  # log-odds of each class
    curve: np.ndarray  # (temperatures, bins, 4): weight, confidence, hits, squared gap, as in `state.Bins`
    curve_nll: np.ndarray  # (temperatures,): weighted sums

    @classmethod
    def of(cls, logits, target, weight):
        return cls(*row_statistics(logits, target, weight, TEMPERATURES, CURVE_BINS))


@dispatched
def row_statistics(logits, target, weight, temperatures, bins) -> tuple:
    """The fields of `RowStatistics`; ``temperatures`` ascend, four to an octave."""
    x = np.asarray(logits, dtype=np.float64)
    n, classes = x.shape
    row = split(x, np)
    index = np.arange(n)
    probs = softmax(x)
    odds = np.stack([log_odds(x, np.full(n, k)) for k in range(classes)], axis=-1)
    bad = np.isnan(probs).any(-1)
    probs[bad] = odds[bad] = np.nan
    cost = surprise(row)[index, target]
    brier = ((probs - (np.arange(classes) == target[:, None])) ** 2).sum(-1)
    hers = x[index, target][:, None]
    before = (x > hers) | ((x == hers) & (np.arange(classes) < target[:, None]))
    top = np.where(bad, -1, row.top)
    good = np.flatnonzero(~bad)
    curve, curve_nll = [], []
    for temperature in temperatures:
        tempered = split(row.x[good] / temperature, np)
        confidence = 1 / (1 + tempered.rest)
        cell = Bins.of(confidence, top[good] == target[good], weight[good], bins)
        curve.append(np.stack([cell.weight, cell.confidence, cell.hits, cell.square], -1))
        loss = surprise(tempered)[np.arange(len(good)), target[good]]
        kept = weight[good] > 0
        curve_nll.append((weight[good] * loss)[kept].sum())
    return (
        top,
        np.where(bad, np.nan, cost),
        np.where(bad, np.nan, brier),
        np.where(bad, classes, before.sum(-1)),
        np.where(bad, np.nan, log_odds(x)),
        probs,
        odds,
        np.stack(curve),
        np.array(curve_nll),
    )
