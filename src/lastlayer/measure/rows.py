"""What evaluation sums up over a block of rows, in one pass over it: the formula; its kernels have the same name."""

from typing import NamedTuple

import numpy as np

from lastlayer._row import split
from lastlayer.kernels import dispatched
from lastlayer.state import GRID_CELLS, Bins, Grid
from lastlayer.transform import log_odds
from lastlayer.transform.softmax import shares, surprise

TEMPERATURES = 2.0 ** (np.arange(-12, 13) / 4)  # 1/8 to 8, four to an octave: the kernel reaches each by squaring
CURVE_BINS = 15
ROUNDING = 1e-6  # a float32 probability, taken back through a softmax, lies on the simplex to within this


class EvaluationSums(NamedTuple):
    """Columns of shape ``(n,)``, and sums over the rows that have weight and can be scored.

    A row that holds a nan, or nothing but ``-inf``, is nan throughout, has ``top`` -1 and is in no sum.
    """

    top: np.ndarray  # index of the first largest logit
    rank: np.ndarray  # how many classes stand before the target, ties by index; 0 is a hit
    nll: np.ndarray
    brier: np.ndarray  # sum over the classes of (p - onehot)^2
    confidence: np.ndarray  # probability of the top class
    log_odds: np.ndarray  # of the top class
    undone_gain: np.ndarray  # how much the Brier score falls when a second softmax is undone
    classwise: np.ndarray  # (classes, bins, 4): weight, confidence, hits, squared gap, as in `state.Bins`
    cross: np.ndarray  # (classes,): sum w^2 (p - onehot)
    peak: np.ndarray  # (classes,): the largest probability
    class_odds: np.ndarray  # (classes, 2, cells): class absent, present, as in `state.Grid`; empty if not asked
    curve: np.ndarray  # (temperatures, bins, 4)
    curve_nll: np.ndarray  # (temperatures,): weighted sums
    softmaxed: np.ndarray  # rows that a softmax of probabilities may have left behind

    @classmethod
    def of(cls, logits, target, weight, class_bins=15, ranked=True):
        return cls(*evaluation_sums(logits, target, weight, TEMPERATURES, CURVE_BINS, class_bins, ranked))


@dispatched
def evaluation_sums(logits, target, weight, temperatures, curve_bins, class_bins, ranked) -> tuple:
    """The fields of `EvaluationSums`; ``temperatures`` ascend, four to an octave; ``ranked`` asks for `class_odds`."""
    x = np.asarray(logits, dtype=np.float64)
    classes = x.shape[1]
    row = split(x, np)
    undefined = np.isnan(row.rest) | (row.max == -np.inf)
    good = ~undefined & (weight > 0)
    w, hit, probs = weight[good], np.arange(classes) == target[:, None], shares(row)
    brier = ((probs - hit) ** 2).sum(-1)
    gain, softmaxed = undone_gain(row.x - row.max[:, None], brier, hit)
    hers = np.take_along_axis(x, target[:, None], 1)
    before = (x > hers) | ((x == hers) & (np.arange(classes) < target[:, None]))
    columns = (surprise(row)[np.arange(len(x)), target], brier, 1 / (1 + row.rest), log_odds(x), gain)
    present = hit[good].astype(float)
    grid = np.zeros((0, 2, GRID_CELLS))
    if ranked:
        which = np.arange(classes) * 2 + hit[good]
        grid = Grid.of(class_log_odds(x[good]), which.reshape(-1), (classes, 2), np.repeat(w, classes)).weight
    return (
        np.where(undefined, -1, row.top),
        np.where(undefined, classes, before.sum(-1)),
        *(np.where(undefined, np.nan, column) for column in columns),
        _table(Bins.of(probs[good], present, w, class_bins)),
        (w[:, None] ** 2 * (probs[good] - present)).sum(0),
        probs[good].max(0, initial=0.0),
        grid,
        *_curve(row.x[good], row.top[good], target[good], w, temperatures, curve_bins),
        np.array((softmaxed & good).sum()),
    )


def class_log_odds(x):
    """Log-odds of every class of each row, ``(n, classes)``."""
    with np.errstate(all="ignore"):
        row = split(x, np)
        others = (row.x - row.max[:, None]) - np.log1p(row.rest[:, None] - row.terms())
    return np.where(row.is_top, log_odds(x)[:, None], others)


def _curve(x, top, target, weight, temperatures, bins):
    """Reliability of the top class, and loss, at each temperature."""
    curve, losses = [], []
    for temperature in temperatures:
        tempered = split(x / temperature, np)
        curve.append(_table(Bins.of(1 / (1 + tempered.rest), top == target, weight, bins)))
        losses.append((weight * surprise(tempered)[np.arange(len(x)), target]).sum())
    return np.stack(curve), np.array(losses)


def _table(bins):
    return np.stack([bins.weight, bins.confidence, bins.hits, bins.square], -1)


def undone(logits):
    """The distribution whose softmax has these logits: ``q = softmax(p)`` gives ``p = log q - mean(log q) + 1 / K``."""
    return logits - logits.mean(1, keepdims=True) + 1 / logits.shape[1]


def undone_gain(logits, brier, hit):
    """Per row, how much the Brier score falls when a second softmax is undone, and whether there may have been one.

    The gain is 0 where a class is impossible, as none is after a softmax of probabilities.
    """
    p = undone(logits)
    gain = brier - ((p - hit) ** 2).sum(1)
    return np.where(np.isfinite(gain), gain, 0.0), ((p >= -ROUNDING) & (p <= 1 + ROUNDING)).all(1)
