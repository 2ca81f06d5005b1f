"""The rows a calibrator is fitted on: labelled, with a weight, and with a loss that some calibrator can change."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from lastlayer._check import DataError
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.measure.signs import row_hashes

ROWS_AT_LEAST = 10
BLOCK = 2**18  # entries of one block: 2 MB in float64, so that the passes over it stay in the cache
HASHED_TOGETHER = 4096  # rows; the columns of a wide table are strided, and this many lines of it fit the cache


class LeftOut(NamedTuple):
    """Rows with a weight that no calibrator can mend."""

    nan: int = 0
    infinite: int = 0  # multiclass: a score of +inf, or nothing but -inf
    impossible: int = 0  # probability 0 on the target


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of `Outputs` whose loss is finite: no nan, no probability of exactly 0 on the target.

    Multiclass entries of ``-inf`` (masked classes) stay, and so do binary and multilabel scores that are infinite and
    right: they cost 0 under every calibrator that keeps the sign.
    """

    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    task: str
    ids: np.ndarray | None
    left_out: LeftOut

    @classmethod
    def of(cls, outputs) -> Self:
        z, target = outputs.labelled.logits, outputs.target
        weighing = np.ones(len(z), bool) if outputs.weight is None else outputs.weight > 0
        with np.errstate(all="ignore"):
            nan, infinite, reachable = _finite_losses(z, target, outputs.task)
        kept = weighing & ~nan & ~infinite & reachable
        impossible = ~(nan | infinite | reachable)
        left_out = LeftOut(*(int((bad & weighing).sum()) for bad in (nan, infinite, impossible)))
        _refuse_nothing_left(int(kept.sum()), left_out, outputs.source)
        weight = np.ones(len(z)) if outputs.weight is None else outputs.weight
        rows = cls(z, target, weight, outputs.task, outputs.ids, left_out)
        rows = rows if kept.all() else rows.take(kept)
        if target.dtype.kind == "f" and outputs.task == "multiclass":
            rows = replace(rows, target=rows.target / rows.target.sum(1, keepdims=True))
        _refuse_one_class(rows, outputs)
        return rows

    def __len__(self):
        return len(self.logits)

    def take(self, index) -> Self:
        ids = None if self.ids is None else self.ids[index]
        return replace(self, logits=self.logits[index], target=self.target[index], weight=self.weight[index], ids=ids)

    def blocks(self):
        """The same rows, a cache full at a time: cuts that follow from the number of rows and classes alone."""
        step = max(1, BLOCK // max(1, self.logits[0].size))
        return (self.take(slice(start, start + step)) for start in range(0, len(self), step))

    def losses(self, calibrator) -> np.ndarray:
        """The loss of each row under a calibrator, in float64."""
        return np.concatenate([block._losses(calibrator) for block in self.blocks()])

    def _losses(self, calibrator):
        z: Any = calibrator(self.logits.astype(np.float64))
        if self.task == "multiclass":
            return cross_entropy(z, self.target)
        losses = binary_cross_entropy(z, self.target)
        return losses if self.task == "binary" else losses.sum(-1)

    def hashes(self) -> np.ndarray:
        """A 64-bit hash of the content of each row, its logits and its target."""
        table = self.logits.reshape(len(self), -1)
        soft = self.target.dtype.kind == "f"
        table = np.concatenate([table, self.target.reshape(len(self), -1)], axis=1) if soft else table
        target = None if soft else self.target
        cut = [slice(start, start + HASHED_TOGETHER) for start in range(0, len(self), HASHED_TOGETHER)]
        return np.concatenate([row_hashes(table[c], None if target is None else target[c]) for c in cut])

    def content(self) -> str:
        """One hash of all the rows, the same in any order: the sum of their hashes."""
        return f"{int(self.hashes().sum(dtype=np.uint64)):016x}"

    def folds(self, count, seed) -> np.ndarray:
        """The fold of each row, from the hash of its id, or of its content where there is none.

        A row is in the same fold in every file, order and shard, and rows that repeat stay together.
        """
        hashes = self.hashes() if self.ids is None else text_hashes(self.ids)
        multiplier = np.random.SeedSequence(seed).generate_state(1, np.uint64) | np.uint64(1)
        with np.errstate(over="ignore"):
            mixed = (hashes * multiplier) >> np.uint64(32)
        return (mixed % np.uint64(count)).astype(np.int64)


def text_hashes(ids) -> np.ndarray:
    """A 64-bit hash of each id's text, whatever the length of the others: 7 and "7" are one id."""
    text = np.asarray(ids).astype(str)
    codes = np.ascontiguousarray(text).view(np.uint32).reshape(len(text), -1)
    length = np.strings.str_len(text)
    hashes = np.zeros(len(text), np.uint64)
    for n in np.unique(length):
        hashes[length == n] = row_hashes(codes[length == n, :n])
    return hashes


def _finite_losses(z, target, task):
    """Per row: has a nan; is infinite or empty (multiclass); gives its target a probability above 0."""
    if task != "multiclass":
        nan, right = np.isnan(z), ((target == 0) | (z > -np.inf)) & ((target == 1) | (z < np.inf))
        nan, right = (nan, right) if task == "binary" else (nan.any(1), right.all(1))
        return nan, np.zeros(len(z), bool), right
    index = np.arange(len(z))
    largest = z[index, z.argmax(1)]
    nan = np.isnan(largest)
    if target.ndim == 2:
        reachable = ((target == 0) | np.isfinite(np.subtract(z, largest[:, None], dtype=np.float64))).all(1)
    else:
        reachable = np.isfinite(np.subtract(z[index, target], largest, dtype=np.float64))
    return nan, np.isinf(largest), reachable


def _refuse_nothing_left(kept, left_out, source):
    if kept >= ROWS_AT_LEAST:
        return
    reasons = ("with nan", "with infinite scores", "with probability 0 on the target")
    why = [f"{count} {reason}" for count, reason in zip(left_out, reasons, strict=True) if count]
    raise DataError(
        f"{kept} labelled rows are left to calibrate on" + (f" ({', '.join(why)} left out)." if why else "."),
        file=source,
        field="target" if not why else None,
        fix=f"give at least {ROWS_AT_LEAST} labelled rows with finite scores; a few hundred are wise.",
    )


def _refuse_one_class(rows, outputs):
    if rows.task == "multiclass":
        seen = np.flatnonzero(rows.target.sum(0)) if rows.target.ndim == 2 else np.unique(rows.target)
    else:
        seen = np.flatnonzero([(rows.target < 1).any(), (rows.target > 0).any()])
    if len(seen) > 1:
        return
    only = outputs.classes[seen[0]] if rows.task != "multilabel" else seen[0]
    raise DataError(
        f"every target is {only}; a calibrator needs rows of at least two classes.",
        file=outputs.source,
        field="target",
        fix="calibrate on held-out rows drawn like those it is for.",
    )
