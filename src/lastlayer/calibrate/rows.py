"""The rows a calibrator is fitted on: labelled, with a weight, and with a loss that some calibrator can change."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from lastlayer._check import DataError
from lastlayer.calibrate._table import Table
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.measure.signs import row_hashes
from lastlayer.transform import softmax

ROWS_AT_LEAST = 10
FIRST = 10  # rows left out that are numbered
KEPT_IN_MEMORY = 2**27  # entries of scores (512 MB in float32); more is read again in every pass
BLOCK = 2**18  # entries of one block: 2 MB in float64, so that the passes over it stay in the cache
HASHED_TOGETHER = 4096  # rows; the columns of a wide table are strided, and this many lines of it fit the cache


class LeftOut(NamedTuple):
    """Rows with a weight that no calibrator can mend."""

    nan: int = 0
    infinite: int = 0  # multiclass: a score of +inf, or nothing but -inf
    impossible: int = 0  # probability 0 on the target
    first: tuple[int, ...] = ()  # their numbers, from 0


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of `Outputs` whose loss is finite: no nan, no probability of exactly 0 on the target.

    Multiclass entries of ``-inf`` (masked classes) stay, and so do binary and multilabel scores that are infinite and
    right: they cost 0 under every calibrator that keeps the sign.

    ``logits`` is an array, or a `Table` where the scores are larger than is kept in memory or stand in several parts:
    go through `blocks`, whose logits are arrays.
    """

    logits: Any
    target: np.ndarray
    weight: np.ndarray
    task: str
    classes: tuple[str, ...]
    kind: str
    ids: np.ndarray | None
    positions: np.ndarray  # where each row stood in what it was taken from
    source: str | None
    left_out: LeftOut

    @classmethod
    def of(cls, *parts) -> Self:
        """The rows of one `Outputs`, or of several with the same kind, task and classes, read a block at a time."""
        table = Table.of([part.labelled for part in parts])
        target, weight = table.column("target"), table.column("weight")
        weighing = np.ones(len(table), bool) if weight is None else weight > 0
        first = parts[0]
        nan, infinite, reachable = (np.empty(len(table), bool) for _ in range(3))
        for block in table.ranges(BLOCK):
            with np.errstate(all="ignore"):
                found = _finite_losses(table[block], target[block], first.task)
            nan[block], infinite[block], reachable[block] = found
        kept = weighing & ~nan & ~infinite & reachable
        impossible = ~(nan | infinite | reachable)
        counts = [int((bad & weighing).sum()) for bad in (nan, infinite, impossible)]
        first_left_out = tuple(np.flatnonzero(weighing & ~kept)[:FIRST].tolist())
        left_out = LeftOut(counts[0], counts[1], counts[2], first_left_out)
        _refuse_nothing_left(int(kept.sum()), left_out, first.source)
        weight = np.ones(len(table)) if weight is None else weight
        if target.dtype.kind == "f" and first.task == "multiclass":
            target = target / target.sum(1, keepdims=True)
        logits = table if table.size > KEPT_IN_MEMORY else table[:]
        source = first.source if len(parts) == 1 else f"{first.source or 'the first part'} and {len(parts) - 1} more"
        about = (first.task, tuple(first.classes), first.kind, table.column("ids"), np.arange(len(table)), source)
        rows = cls(logits, target, weight, *about, left_out)
        rows = rows if kept.all() else rows.take(kept)
        _refuse_one_class(rows, first)
        return rows

    def __len__(self):
        return len(self.logits)

    @property
    def width(self) -> int:
        """Scores per row."""
        return 1 if self.logits.ndim == 1 else self.logits.shape[1]

    @property
    def one_class(self) -> bool:
        """Whether every target is the same class (multilabel: whether every entry is there, or none)."""
        if self.task == "multiclass":
            return len(self.classes) - len(self.unseen) < 2
        return not ((self.target < 1).any() and (self.target > 0).any())

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes of which no row is, or of which every row belongs to (multilabel: a label that is constant)."""
        if self.task == "multiclass":
            soft = self.target.ndim == 2
            seen = self.target.sum(0) if soft else np.bincount(self.target, minlength=len(self.classes))
            return tuple(name for name, count in zip(self.classes, seen, strict=True) if not count)
        if self.task == "binary":
            return ()
        constant = (self.target == self.target[:1]).all(0)
        return tuple(name for name, same in zip(self.classes, constant, strict=True) if same)

    @property
    def lost(self) -> tuple[str, ...]:
        """The classes without rows of which there should be some: P(none) = exp(-expected), over K classes below 1e-4.

        The same test as finding L404. A class that is rare, or one of 32,000 tokens, may well have no row.
        """
        unseen = [k for k, name in enumerate(self.classes) if name in set(self.unseen)]
        expected = np.zeros(len(unseen))
        for block in self.blocks():
            expected += softmax(block.logits.astype(np.float64))[:, unseen].sum(0)
        enough = math.log(len(self.classes) / 1e-4)
        return tuple(self.classes[k] for k, count in zip(unseen, expected, strict=True) if count >= enough)

    def take(self, index) -> Self:
        columns = {name: getattr(self, name)[index] for name in ("logits", "target", "weight", "positions")}
        return replace(self, **columns, ids=None if self.ids is None else self.ids[index])

    def label(self, k) -> Self:
        """One label of multilabel rows, as binary rows."""
        logits, target = self.logits[slice(None)][:, k], self.target[:, k]
        return replace(
            self, logits=logits, target=target, task="binary", classes=(f"not_{self.classes[k]}", self.classes[k])
        )

    def blocks(self):
        """The same rows, a cache full at a time: cuts that follow from the number of rows and classes alone."""
        step = max(1, BLOCK // self.width)
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
        cut = [slice(start, start + HASHED_TOGETHER) for start in range(0, len(self), HASHED_TOGETHER)]
        return np.concatenate([self.take(c)._hashes() for c in cut])

    def _hashes(self):
        table = self.logits.reshape(len(self), -1)
        if self.target.dtype.kind == "f":
            return row_hashes(np.concatenate([table, self.target.reshape(len(self), -1)], axis=1), None)
        return row_hashes(table, self.target)

    def folds(self, count, seed) -> np.ndarray:
        """The fold of each row, from the hash of its id, or of its content where there is none.

        A row is in the same fold in every file, order and shard, and rows that repeat stay together.
        """
        hashes = self.hashes() if self.ids is None else text_hashes(self.ids)
        multiplier = np.random.SeedSequence(seed).generate_state(1, np.uint64) | np.uint64(1)
        with np.errstate(over="ignore"):
            mixed = (hashes * multiplier) >> np.uint64(32)
        return (mixed % np.uint64(count)).astype(np.int64)

    def several_folds(self, count, seed) -> np.ndarray:
        """`folds` to decide each row by the others; rows that all fall into one are refused."""
        fold = self.folds(count, seed)
        if len(np.unique(fold)) < 2:
            raise DataError(
                "all rows fall into one fold: their ids (or the rows themselves) repeat, or they are too few.",
                file=self.source,
                field=None if self.ids is None else "id",
                fix="give more rows, each with its own id, or none.",
            )
        return fold


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
    why = [f"{count} {reason}" for count, reason in zip(left_out[:3], reasons, strict=True) if count]
    raise DataError(
        f"{kept} labelled rows are left to calibrate on" + (f" ({', '.join(why)} left out)." if why else "."),
        file=source,
        field="target" if not why else None,
        fix=f"give at least {ROWS_AT_LEAST} labelled rows with finite scores; a few hundred are wise.",
    )


def _refuse_one_class(rows, outputs):
    if not rows.one_class:
        return
    only = set(rows.classes) - set(rows.unseen) if rows.task == "multiclass" else {int(rows.target.flat[0] > 0)}
    only = rows.classes[only.pop()] if rows.task == "binary" else only.pop()
    raise DataError(
        f"every target is {only}; a calibrator needs rows of at least two classes.",
        file=outputs.source,
        field="target",
        fix="calibrate on held-out rows drawn like those it is for.",
    )
