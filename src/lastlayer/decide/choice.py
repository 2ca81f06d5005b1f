"""Which class each row speaks for, and how surely."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer._row import prepare
from lastlayer._typing import Array, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.outputs import Outputs, wanted
from lastlayer.transform import log_odds

_BLOCK = 1 << 20  # entries of float64 logits held at a time, so that a large file is decided in a small space


@dispatched
def argmax(logits: Float[Array, "*batch classes"], *, axis=-1) -> Int[Array, "*batch"]:
    """Index of the largest logit of each row; of several, the first.

        argmax(z) = min {k : z_k = max_i z_i}

    A row with nothing to choose from is -1: one that holds a nan, or whose classes are all masked with ``-inf``.

    >>> argmax(np.array([[1.0, 3.0, 3.0], [0.0, np.nan, 2.0]]))
    array([ 1, -1])
    """
    x, xp = prepare(logits, axis)
    undecided = xp.any(xp.isnan(x), axis=-1) | xp.all(x == -xp.inf, axis=-1)
    first = xp.argmax(x, axis=-1)
    return xp.where(undecided, xp.full_like(first, -1), first)


class Choice(NamedTuple):
    """The class each row speaks for (-1: none) and the log-odds of that class against the others (nan: none)."""

    index: np.ndarray
    log_odds: np.ndarray


def choose(outputs: Outputs) -> Choice:
    """The likeliest class of each row, in float64: `argmax` and its log-odds; binary is ``classes[z > 0]`` and ``|z|``.

    >>> choose(Outputs([0.5, -2.0, np.nan], "logits"))
    Choice(index=array([ 1,  0, -1]), log_odds=array([0.5, 2. , nan]))
    """
    outputs = wanted("choose", outputs)
    index, confidence = np.empty(len(outputs), np.int64), np.empty(len(outputs))
    for rows, logits in blocks(outputs):
        index[rows] = argmax(logits)
        confidence[rows] = log_odds_of(logits, index[rows])
    return Choice(index, confidence)


def log_odds_of(logits, index):
    """Log-odds of the chosen class of each row; nan where none is chosen."""
    return np.where(index < 0, np.nan, log_odds(logits, np.maximum(index, 0)))


def blocks(outputs: Outputs) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows with a float64 logit per class; a binary logit z is the two logits (0, z)."""
    if outputs.task == "multilabel":
        raise DataError(
            f"{outputs.scores.shape[1]} labels per row are as many decisions; one decision per row is made here.",
            file=outputs.source,
            fix="decide each label by itself, as binary outputs: Outputs(scores[:, k], kind, target[:, k]).",
        )
    logits = outputs.logits
    step = max(1, _BLOCK * len(logits) // logits.size)
    for start in range(0, len(outputs), step):
        rows = slice(start, start + step)
        block = logits[rows].astype(np.float64)
        yield rows, np.stack([np.zeros_like(block), block], axis=1) if outputs.task == "binary" else block
