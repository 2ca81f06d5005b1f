"""Two models on the same rows: paired differences, which tell apart what two separate intervals cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.measure.metric import Z95, Metric, normal
from lastlayer.outputs import Outputs, brief, wanted
from lastlayer.state import Bins, WeightedSum
from lastlayer.transform import sigmoid, softmax

# Which way is better; a mean confidence has no good direction of its own.
_BETTER = {"nll": "lower", "accuracy": "higher", "brier": "lower", "ece": "lower", "confidence": None}
_BLOCK = 2**21  # entries of float64 at a time


class Difference(NamedTuple):
    """A metric of A and of B over the rows they share, and ``difference = b - a`` with its paired 95 % interval.

    ``better`` is "A" or "B" where the interval lies on one side of 0, "neither" where it does not, and None for a
    quantity of which neither more nor less is better.
    """

    a: float
    b: float
    difference: Metric
    better: str | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returns. Every difference is B minus A: a negative one in nll, brier or ece is in favour of B.

    ``rows`` are compared; ``skipped`` shared rows hold a nan (or nothing but ``-inf``) on either side; ``only_a`` and
    ``only_b`` have an id that the other side lacks. ``a_right`` and ``b_right`` count rows on which one alone is right.
    """

    differences: Mapping[str, Difference]
    rows: int
    skipped: int
    only_a: int
    only_b: int
    a_right: int
    b_right: int

    @property
    def verdict(self) -> str:
        """One sentence: who wins, judged by the first of nll, brier and accuracy that is known for both."""
        known = [n for n in ("nll", "brier", "accuracy") if n in self.differences]
        name = next((n for n in known if not np.isnan(self.differences[n].difference)), known[-1])
        a, _, difference, better = self.differences[name]
        if np.isinf(difference):
            loser = "A" if np.isinf(a) else "B"
            return f"{better} is better: {loser} gives the target of some row probability 0, so its {name} is infinite."
        size = f"{abs(difference):.4g}"
        between = f"[{difference.low:.4g}, {difference.high:.4g}]"
        if better == "neither":
            apart = f"{difference:.4g} {between} in {name}"
            return f"A tie: B minus A is {apart}, which these {self.rows:,} rows cannot tell from 0."
        return f"{better} is better: its {name} is {size} {_BETTER[name]} (B minus A {between}, {self.rows:,} rows)."

    def __repr__(self):
        lines = [f"Comparison({self.rows:,} rows): {self.verdict}"]
        for name, d in self.differences.items():
            apart = f"{d.difference:+.4g} [{d.difference.low:+.4g}, {d.difference.high:+.4g}]"
            lines.append(f"  {name:<10} A {d.a:.4f}  B {d.b:.4f}  B minus A {apart}")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """``{"rows", ..., "verdict", "differences": {name: {"a", "b", "difference": {...}, "better"}}}``, for JSON."""
        counts = ("rows", "skipped", "only_a", "only_b", "a_right", "b_right")

        def finite(x):
            return x if np.isfinite(x) else None

        return {name: getattr(self, name) for name in counts} | {
            "verdict": self.verdict,
            "differences": {
                name: {"a": finite(d.a), "b": finite(d.b), "difference": d.difference.to_dict(), "better": d.better}
                for name, d in self.differences.items()
            },
        }


def compare(a: Outputs, b: Outputs) -> Comparison:
    """Differences between two models on the same rows, B minus A, each with a paired 95 % interval.

        difference = mean over rows of (x_b - x_a),   error = that of this mean

    Rows are matched by id where both have ids, else by their order; the targets of matched rows must agree. nll, brier
    and confidence have the normal interval of the mean. Accuracy has that of `paired_proportions`, which rests, as
    McNemar's test does, on the rows that one alone gets right, and has a width even where there are none. The
    calibration error (15 width bins, top label) is a mean over rows once the sign of each bin's gap is taken as found,
    so its error is that mean's: it speaks of sampling, not of the upward bias of ``|.|``. Margins have an accuracy
    alone.

    >>> y = np.array([0, 1] * 500)
    >>> z = np.stack([np.zeros(1000), np.where(np.arange(1000) % 10, 1.0, -1.0) * (2 * y - 1)], axis=1)
    >>> compare(Outputs(3 * z, "logits", target=y), Outputs(2 * z, "logits", target=y)).verdict
    'B is better: its nll is 0.02166 lower (B minus A [-0.04026, -0.003056], 1,000 rows).'
    """
    first, second, only_a, only_b = _matched(wanted("compare", a), wanted("compare", b))
    mine, theirs = _Columns.of(first), _Columns.of(second)
    keep = mine.known & theirs.known
    weight = np.ones(len(first)) if first.weight is None else first.weight
    keep &= weight > 0
    skipped = int((~keep & (weight > 0)).sum())
    if not keep.any():
        raise DataError(
            f"no row can be compared: each of the {len(first)} holds a nan, or nothing but -inf, on either side.",
            file=second.source,
            field=second.kind,
            fix="look at how the scores were computed.",
        )
    mine, theirs, weight = mine.rows(keep), theirs.rows(keep), weight[keep]
    names = ["accuracy"] if "margin" in (a.kind, b.kind) else list(_BETTER)
    values = {name: _difference(name, mine, theirs, weight, a.task) for name in names}
    right, others = mine.accuracy == 1, theirs.accuracy == 1
    return Comparison(
        values, len(weight), skipped, only_a, only_b, int((right & ~others).sum()), int((others & ~right).sum())
    )


def _matched(a, b):
    """The rows of both, in the same order, and how many each has alone."""
    for name in ("task", "classes"):
        if getattr(a, name) != getattr(b, name):
            raise DataError(
                f"{name} {brief(getattr(b, name))} here, {brief(getattr(a, name))} in {a.source or 'the first'}.",
                file=b.source,
                field=name,
                fix="compare outputs of one task, with the same classes in the same order.",
            )
    a, b = (outputs.hard("a comparison counts hits") for outputs in (a, b))
    only_a = only_b = 0
    if a.ids is not None and b.ids is not None:
        index_a, index_b = _by_id(a, b)
        only_a, only_b = len(a) - len(index_a), len(b) - len(index_b)
        a, b = a.rows(index_a), b.rows(index_b)
    elif len(a) != len(b):
        raise DataError(
            f"{len(b)} rows here, {len(a)} in {a.source or 'the first'}; without ids, rows are matched by their order.",
            file=b.source,
            field=b.kind,
            fix="give the same rows in the same order, or an `id` in both.",
        )
    _agree("target", a.target, b.target, a, b)
    if (a.weight is None) != (b.weight is None):
        raise DataError("only one of the two has weights.", file=b.source, field="weight", fix="give both the same.")
    if a.weight is not None:
        _agree("weight", a.weight, b.weight, a, b)
    return a, b, only_a, only_b


def _by_id(a, b):
    names = [outputs.ids if a.ids.dtype.kind == b.ids.dtype.kind else outputs.ids.astype(str) for outputs in (a, b)]
    for ids, outputs in zip(names, (a, b), strict=True):
        present, first = np.unique(ids, return_index=True)
        if len(present) < len(ids):
            again = np.setdiff1d(np.arange(len(ids)), first)
            raise DataError(
                f"id {str(ids[again[0]])!r} stands twice.",
                file=outputs.source,
                field="id",
                rows=again,
                fix="give each row its own id.",
            )
    shared, index_a, index_b = np.intersect1d(*names, assume_unique=True, return_indices=True)
    if not len(shared):
        raise DataError(
            f"no id in common: {str(names[1][0])!r} here, {str(names[0][0])!r} in {a.source or 'the first'}.",
            file=b.source,
            field="id",
            fix="give the same rows the same ids.",
        )
    order = np.argsort(index_a)
    return index_a[order], index_b[order]


def _agree(field, mine, theirs, a, b):
    differ = np.flatnonzero((mine != theirs).reshape(len(mine), -1).any(1))
    if len(differ):
        raise DataError(
            f"{len(differ)} of {len(mine)} matched rows have another {field} than in {a.source or 'the first'}.",
            file=b.source,
            field=field,
            rows=differ,
            fix="compare two models on the same rows; an `id` in both matches rows whatever their order.",
        )


class _Columns(NamedTuple):
    """What is compared, per row; ``sure`` and ``hit`` hold one entry per row and label."""

    known: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    sure: np.ndarray
    hit: np.ndarray

    @classmethod
    def of(cls, outputs):
        width = 1 if outputs.scores.ndim == 1 else outputs.scores.shape[1]
        step = max(1, _BLOCK // width)
        parts = [_columns(outputs.rows(slice(start, start + step))) for start in range(0, len(outputs), step)]
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def rows(self, keep):
        return _Columns(*(column[keep] for column in self))


def _columns(outputs):
    margin = outputs.kind == "margin"
    z = np.asarray(outputs.scores if margin else outputs.logits, dtype=np.float64)
    target = outputs.target
    with np.errstate(all="ignore"):
        if outputs.task == "multiclass":
            probs = softmax(z)
            known = ~np.isnan(probs).any(axis=1)
            top = z.argmax(1)
            sure, hit = np.take_along_axis(probs, top[:, None], 1), (top == target)[:, None]
            nll = cross_entropy(z, target)
            brier = ((probs - (np.arange(z.shape[1]) == target[:, None])) ** 2).sum(1)
        else:
            table, labels = z.reshape(len(z), -1), target.reshape(len(z), -1)
            known = ~np.isnan(table).any(axis=1)
            sure, hit = sigmoid(np.abs(table)), (table > 0) == (labels == 1)
            nll = binary_cross_entropy(table, labels).sum(1)
            brier = ((sigmoid(table) - labels) ** 2).sum(1)
    return _Columns(np.asarray(known), nll, brier, hit.mean(1), sure.mean(1), sure, hit)


def _difference(name, a, b, weight, task):
    x, y = (_signed_gap(rows, weight) if name == "ece" else getattr(rows, name) for rows in (a, b))
    with np.errstate(invalid="ignore"):  # infinite losses: inf - inf
        of_a, of_b, apart = (WeightedSum.of(column, weight).value() for column in (x, y, y - x))
    if name == "accuracy" and task != "multilabel":
        only_a, only_b = (float(WeightedSum.of(won, weight).value().mean) for won in (x > y, y > x))
        difference = paired_proportions(only_a, only_b, float(apart.effective), int(apart.rows))
    else:
        end = np.inf if name in ("nll", "brier") else 1.0
        difference = normal(float(apart.mean), float(apart.error), int(apart.rows), -end, end)
    better = _better(_BETTER[name], difference) if _BETTER[name] else None
    return Difference(float(of_a.mean), float(of_b.mean), difference, better)


def _better(direction, difference):
    if np.isinf(difference):
        negative = difference < 0
    elif not (difference.low > 0 or difference.high < 0):
        return "neither"
    else:
        negative = difference.high < 0
    return "B" if negative == (direction == "lower") else "A"


def _signed_gap(rows, weight):
    """Per row, ``hit - confidence`` with the sign that the gap of its bin has: the mean is the calibration error."""
    bins = Bins.of(rows.sure, rows.hit, weight, 15)
    total = (bins.hits - bins.confidence).sum(axis=tuple(range(bins.hits.ndim - 1)))
    cell = np.clip(np.searchsorted(bins.edges, rows.sure) - 1, 0, len(total) - 1)
    return (np.sign(total)[cell] * (rows.hit - rows.sure)).mean(1)


def paired_proportions(only_first, only_second, effective, n) -> Metric:
    """``only_second - only_first``, shares of rows that one alone gets right, with the interval of Bonett and Price.

        p1 = (n only_first + 1) / (n + 2),  p2 likewise:   p2 - p1 +- 1.96 sqrt((p1 + p2 - (p2 - p1)^2) / (n + 2))

    Bonett and Price 2012, the adjusted Wald interval, with the effective number of rows where they are weighted.

    >>> paired_proportions(0.03, 0.05, 1000, 1000)
    Metric(0.02, low=0.00229045, high=0.0376297, n=1000)
    """
    p1, p2 = ((effective * share + 1) / (effective + 2) for share in (only_first, only_second))
    half = Z95 * np.sqrt((p1 + p2 - (p2 - p1) ** 2) / (effective + 2))
    return Metric(only_second - only_first, max(p2 - p1 - half, -1.0), min(p2 - p1 + half, 1.0), n)
