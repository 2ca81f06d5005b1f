"""`Evaluation`: all that the measures, `check` and the report read, summed over rows; shards merge to the whole."""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer.io import Blocks
from lastlayer.measure import read
from lastlayer.measure.convention import CONVENTIONS, convention_of
from lastlayer.measure.read import COLUMN_NAMES
from lastlayer.measure.rows import CURVE_BINS, TEMPERATURES, RowStatistics
from lastlayer.measure.signs import Signs, undone_gain
from lastlayer.outputs import KINDS, TASKS, Outputs, brief, wanted
from lastlayer.parallel import over_ranges
from lastlayer.state import Bins, Confusion, Grid, WeightedSum, pack, unpack

GRID_CLASSES = 256  # one grid of log-odds per class up to here (16 MiB); beyond, ranking per class is not kept
BLOCK_ENTRIES = 2**18  # logits in flight at once: memory does not grow with the rows, and tables stay in cache
BLOCK_ROWS = 64  # at least: hashing goes column by column, so a block of a few wide rows would cost as much as of many
GROUPS = 1000  # values of one grouping that are told apart


@dataclass(frozen=True, eq=False)
class GroupEvaluation:
    """What is kept for the rows of one group: the means and the reliability of the top label."""

    means: WeightedSum
    top: Bins

    @classmethod
    def empty(cls, edges) -> Self:
        return cls(WeightedSum.empty((len(COLUMN_NAMES),)), Bins.empty(edges))

    def merge(self, other: Self) -> Self:
        return type(self)(self.means.merge(other.means), self.top.merge(other.top))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Summary of labelled `Outputs`: ``empty``, ``of(outputs)``, ``merge``, and many ways to read it.

    Rows that hold a nan, or nothing but ``-inf``, are counted in ``signs`` and left out of everything else; rows of
    weight 0 leave no trace at all.
    """

    task: str
    kind: str
    classes: tuple[str, ...]
    convention: str
    means: WeightedSum  # one column per name in COLUMN_NAMES
    top: Bins  # confidence of the predicted class against hits
    classwise: Bins  # (classes, bins): probability of each class against its occurrence
    frequency: WeightedSum  # (classes,): p - onehot, whose mean is the class bias
    occurrence: WeightedSum  # (classes,): onehot, whose mean is the frequency
    odds: Grid  # (2,): log-odds of the predicted class, wrong and right
    class_odds: Grid  # (classes, 2): log-odds of each class, absent and present; none beyond GRID_CLASSES
    confusion: Confusion
    curve_bins: Bins  # (temperatures, bins)
    curve_nll: np.ndarray  # (temperatures,): weighted sums
    signs: Signs
    groups: Mapping[str, Mapping[str, GroupEvaluation]]

    metrics = read.metrics
    per_class = read.per_class
    per_group = read.per_group
    reliability = read.reliability
    curve = read.curve

    def __repr__(self):
        rows, columns = int(self.means.rows), len(self.classes)
        what = {"multiclass": f"{columns} classes", "binary": "binary", "multilabel": f"{columns} labels"}[self.task]
        found = self.metrics() if rows else {}
        read = ", ".join(f"{name} {found[name]:.4f}" for name in ("nll", "accuracy", "ece") if name in found)
        return f"Evaluation({rows:,} rows, {what}, {self.kind}{': ' if read else ''}{read})"

    @classmethod
    def empty(cls, classes, task="multiclass", kind="logits", convention=None, groups=()) -> Self:
        rule = convention_of("evaluate", convention)
        columns = len(classes) if task != "binary" else 1
        grids = columns if columns <= GRID_CLASSES else 0
        return cls(
            task,
            kind,
            tuple(classes),
            rule.name,
            WeightedSum.empty((len(COLUMN_NAMES),)),
            Bins.empty(rule.top_edges),
            Bins.empty(rule.class_edges, (columns,)),
            WeightedSum.empty((columns,)),
            WeightedSum.empty((columns,)),
            Grid.empty((2,)),
            Grid.empty((grids, 2)),
            Confusion.empty(len(classes)),
            Bins.empty(CURVE_BINS, (len(TEMPERATURES),)),
            np.zeros(len(TEMPERATURES)),
            Signs.empty(columns),
            {name: {} for name in groups},
        )

    @classmethod
    def of(cls, outputs: Outputs, convention=None) -> Self:
        """One block of rows, whole in memory; `evaluate` cuts larger ones."""
        none = cls.empty(outputs.classes, outputs.task, outputs.kind, convention, outputs.groups)
        if outputs.weight is not None:
            if not outputs.weight.any():
                return none
            outputs = outputs.rows(outputs.weight > 0)
        table = _Table.of(outputs)
        keep, w = table.keep, table.weight
        entry_w = np.repeat(w, table.labels)
        hit = (table.stats.top == table.entry_target).astype(float)
        confidence = np.take_along_axis(table.stats.probs, np.maximum(table.stats.top, 0)[:, None], 1)[:, 0]

        def by_row(entries):
            return entries.reshape(-1, table.labels)

        columns = np.stack(
            [
                by_row(table.stats.nll).sum(1),
                table.brier,
                by_row(hit).mean(1),
                by_row((table.stats.rank < 5).astype(float)).mean(1),
                by_row(confidence).mean(1),
                by_row(confidence - hit).mean(1),
                table.undone_gain,
            ],
            axis=1,
        )[keep]
        inside = np.repeat(keep, table.labels)
        class_w = np.where(keep, w, 0.0)
        probs, present = table.probs[keep], table.present[keep]
        groups = {
            name: _by_group(
                name, values[keep], columns, (confidence, hit, entry_w), inside, table.labels, none.top.edges
            )
            for name, values in outputs.groups.items()
        }
        grids = none.class_odds.weight.shape[0]
        which = np.arange(table.odds.shape[1]) * 2 + table.present.astype(int)
        return cls(
            none.task,
            none.kind,
            none.classes,
            none.convention,
            WeightedSum.of(columns, w[keep]),
            Bins.of(confidence[inside], hit[inside], entry_w[inside], none.top.edges),
            Bins.of(probs, present, w[keep], none.classwise.edges),
            WeightedSum.of(probs - present, w[keep]),
            WeightedSum.of(present, w[keep]),
            Grid.of(table.stats.log_odds[inside], hit[inside].astype(int), (2,), entry_w[inside]),
            Grid.of(table.odds, which.reshape(-1), (grids, 2), np.repeat(class_w, table.odds.shape[1]))
            if grids
            else none.class_odds,
            _confusion(none, table, inside, entry_w),
            Bins(none.curve_bins.edges, *np.moveaxis(table.stats.curve, -1, 0)),
            table.stats.curve_nll,
            Signs.of(outputs, table.probs),
            groups,
        )

    def merge(self, other: Self) -> Self:
        for name in ("task", "kind", "classes", "convention"):
            if getattr(self, name) != getattr(other, name):
                raise DataError(
                    f"the {name} {'differ' if name == 'classes' else 'differs'}: {brief(getattr(self, name))} here, "
                    f"{brief(getattr(other, name))} there.",
                    field=name,
                    fix="evaluate every shard the same way, with the classes in one order.",
                )
        if set(self.groups) != set(other.groups):
            mine, theirs = (", ".join(sorted(e.groups)) or "none" for e in (self, other))
            raise DataError(
                f"the groups differ: {mine} here, {theirs} there.",
                field="groups",
                fix="group every shard the same way.",
            )
        states = {f: getattr(self, f).merge(getattr(other, f)) for f in _STATES}
        groups = {name: _merge_groups(name, mine, other.groups[name]) for name, mine in self.groups.items()}
        curve_nll = self.curve_nll + other.curve_nll
        return type(self)(
            self.task, self.kind, self.classes, self.convention, **states, curve_nll=curve_nll, groups=groups
        )

    def to_bytes(self) -> bytes:
        """An npz archive (no pickle) that `from_bytes` reads back bit for bit."""
        header = {name: getattr(self, name) for name in ("task", "kind", "classes", "convention")}
        values = {name: sorted(parts) for name, parts in self.groups.items()}
        arrays = {"header": np.array(json.dumps(header | {"groups": values})), "curve_nll": self.curve_nll}
        for name, state in self._states():
            arrays |= {f"{name}.{key}": array for key, array in state.arrays().items()}
        return pack(arrays, "Evaluation")

    def _states(self):
        yield from ((name, getattr(self, name)) for name in _STATES)
        for g, parts in enumerate(self.groups.values()):
            for i, value in enumerate(sorted(parts)):
                yield from ((f"group.{g}.{i}.{part}", getattr(parts[value], part)) for part in ("means", "top"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        arrays = unpack(data, "Evaluation")
        try:
            header = json.loads(str(arrays.pop("header")))
            one_of("state", "task", header["task"], TASKS)
            one_of("state", "kind", header["kind"], KINDS)
            one_of("state", "convention", header["convention"], tuple(CONVENTIONS))

            def part(kind, prefix):
                return kind(**{f.name: arrays[f"{prefix}.{f.name}"] for f in fields(kind)})

            groups = {
                name: {
                    value: GroupEvaluation(part(WeightedSum, f"group.{g}.{i}.means"), part(Bins, f"group.{g}.{i}.top"))
                    for i, value in enumerate(values)
                }
                for g, (name, values) in enumerate(header.pop("groups").items())
            }
            states = {name: part(kind, name) for name, kind in _STATES.items()}
            header["classes"] = tuple(header["classes"])
            loaded = cls(**header, **states, curve_nll=arrays["curve_nll"], groups=groups)
            none = cls.empty(loaded.classes, loaded.task, loaded.kind, loaded.convention)
            nobody = {
                name: dict.fromkeys(parts, GroupEvaluation.empty(none.top.edges)) for name, parts in groups.items()
            }
            merged = replace(none, groups=nobody).merge(loaded)  # arrays that are no such state fail here, not later
            _check_arrays(merged, replace(none, groups=nobody))
            return merged
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
            raise DataError(f"this state is incomplete ({problem}).", fix="evaluate the data again.") from None


_STATES = {
    "means": WeightedSum,
    "top": Bins,
    "classwise": Bins,
    "frequency": WeightedSum,
    "occurrence": WeightedSum,
    "odds": Grid,
    "class_odds": Grid,
    "confusion": Confusion,
    "curve_bins": Bins,
    "signs": Signs,
}


_GROWING = ("confusion.pair", "confusion.weight", "signs.hashes", "signs.hash_count")


def _check_arrays(state, none):
    """Refuse arrays that merged only because NumPy stretched or converted one of them."""
    pairs = [("curve_nll", state.curve_nll, none.curve_nll)]
    for (name, found), (_, model) in zip(state._states(), none._states(), strict=True):
        pairs += [(f"{name}.{key}", getattr(found, key), array) for key, array in model.arrays().items()]
    for name, found, model in pairs:
        if found.dtype != model.dtype or (found.shape != model.shape and name not in _GROWING):
            raise ValueError(f"{name} is {found.dtype} {found.shape}, not {model.dtype} {model.shape}")


def evaluate(
    outputs: Outputs | Blocks | Sequence[Outputs] | Iterator[Outputs], *, convention: str | None = None
) -> Evaluation:
    """Summarise labelled outputs in one pass, in blocks, so that memory does not grow with the rows.

    Blocks of a file too large for memory, ``evaluate(ll.blocks(path))``, give the same as the whole.

    The result reads as metrics with intervals, tables per class and per group, reliability and a temperature curve;
    results of shards `merge`. ``convention`` is ``"guo2017"`` or ``"kull2019"`` to bin as those papers do. A target
    that is a distribution, with entries other than 0 and 1, has no hits to count: use its ``argmax``, or `nll`.

    >>> z = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> evaluate(Outputs(z, "logits", target=[0, 1, 1])).metrics()["accuracy"]
    Metric(0.666667, low=0.20766, high=0.938508, n=3)
    """
    total, first, rows = None, None, 0
    several: Iterable[Any] = outputs if isinstance(outputs, Blocks | Iterator | list | tuple) else [outputs]
    for block in several:
        total, first, rows = added(total, block, convention), first or block, rows + len(block)
    if total is None or first is None:
        raise ValueError("evaluate: there is no block to evaluate.")
    return scored(total, first, rows)


def added(total: Evaluation | None, outputs: Outputs, convention=None) -> Evaluation:
    """The evaluation of the rows of ``total`` (None: of no row yet) and of these."""
    outputs = wanted("evaluate", outputs).hard("evaluation counts hits")
    width = 1 if outputs.scores.ndim == 1 else outputs.scores.shape[1]
    size = max(BLOCK_ROWS, BLOCK_ENTRIES // (2 * width if outputs.task == "multilabel" else width))
    parts = over_ranges(lambda a, b: Evaluation.of(outputs.rows(slice(a, b)), convention), len(outputs), size)
    return functools.reduce(Evaluation.merge, itertools.chain([] if total is None else [total], parts))


def scored(total: Evaluation, outputs: Outputs, rows) -> Evaluation:
    """``total``, the evaluation of ``rows`` such as ``outputs``; refused where not one could be scored."""
    if not total.means.rows:
        _refuse_nothing_scored(total.signs, outputs, rows)
    return total


def _refuse_nothing_scored(signs, outputs, rows):
    reasons = {
        "hold nan": int(signs.nan_rows),
        "hold nothing but -inf": int(signs.empty_rows),
        f"are not {outputs.kind}": int(signs.improper_rows),
        "have weight 0": rows - int(signs.rows),
    }
    fix = "look at how the scores were computed; nan usually comes from the model's own arithmetic."
    if signs.improper_rows:
        fix = "if they are logits, say so: --kind logits (in Python: kind='logits')."
    raise DataError(
        f"no row can be scored: of {rows} rows {', '.join(f'{n} {why}' for why, n in reasons.items() if n)}.",
        file=outputs.source,
        field=outputs.kind,
        rows=range(min(3, rows)),
        fix=fix,
    )


def merge(first: Evaluation, *others: Evaluation) -> Evaluation:
    """The evaluation of all rows together, from evaluations of shards in any order.

        merge(evaluate(a), evaluate(b)) = evaluate(a and b)

    Counts, maxima and indices are exact, sums to 1e-12; shards of another task, kind, convention or order of classes
    are refused.
    """
    total = first
    for other in others:
        total = total.merge(other)
    return total


@dataclass(frozen=True, eq=False)
class _Table:
    """A block as the columns that every state is made of. Binary and multilabel entries are two-class rows [0, z]."""

    stats: RowStatistics  # per entry: a row (multiclass) or a row's label
    entry_target: np.ndarray
    labels: int  # entries per row
    keep: np.ndarray  # rows that can be scored
    weight: np.ndarray
    probs: np.ndarray  # (rows, columns)
    odds: np.ndarray
    present: np.ndarray
    brier: np.ndarray
    undone_gain: np.ndarray

    @classmethod
    def of(cls, outputs):
        target = outputs.target
        weight = np.ones(len(outputs)) if outputs.weight is None else outputs.weight
        z = outputs.scores if outputs.kind == "margin" else outputs.logits
        if outputs.task == "multiclass":
            stats = RowStatistics.of(z, target, weight)
            probs, odds, labels = np.asfortranarray(stats.probs), stats.odds, 1  # sums over a row are column by column
            present = (np.arange(z.shape[1]) == target[:, None]).astype(float)
            brier, gain = stats.brier, np.zeros(len(z))
            if z.shape[1] > 1:
                gain = undone_gain(probs, brier, target)
        else:
            columns = z.reshape(len(z), -1)
            labels = columns.shape[1]
            target = target.reshape(-1)
            pairs = np.stack([np.zeros(columns.size, z.dtype), columns.reshape(-1)], axis=1)
            scored = np.where(np.isnan(columns).any(1), 0.0, weight)  # one nan leaves out the whole row
            stats = RowStatistics.of(pairs, target, np.repeat(scored, labels))
            probs, odds = (table[:, 1].reshape(columns.shape) for table in (stats.probs, stats.odds))
            present = target.reshape(columns.shape).astype(float)
            brier, gain = (stats.brier / 2).reshape(columns.shape).sum(1), np.zeros(len(z))
        if outputs.kind == "margin":
            odds = np.where(np.isnan(odds), np.nan, z.reshape(odds.shape))
        keep = np.asarray(~np.isnan(probs).any(1))
        return cls(stats, target, labels, keep, weight, probs, odds, present, brier, np.where(keep, gain, 0.0))


def _confusion(none, table, inside, entry_w):
    if none.task == "multilabel":
        return none.confusion
    target, top = table.entry_target[inside], table.stats.top[inside]
    return Confusion.of(target, top, len(none.classes), entry_w[inside])


def _by_group(name, values, columns, entries, inside, labels, edges):
    confidence, hit, w = (column[inside] for column in entries)
    parts = {}
    for value in _few(name, np.unique(values)):
        mine = values == value
        wide = np.repeat(mine, labels)
        weight = w.reshape(-1, labels)[:, 0][mine]
        parts[str(value)] = GroupEvaluation(
            WeightedSum.of(columns[mine], weight), Bins.of(confidence[wide], hit[wide], w[wide], edges)
        )
    return parts


def _merge_groups(name, a, b):
    names = _few(name, sorted({*a, *b}))
    both: dict[str, Any] = {v: a[v].merge(b[v]) if v in a and v in b else a.get(v, b.get(v)) for v in names}
    return both


def _few(name, values):
    if len(values) > GROUPS:
        raise DataError(
            f"group {name!r} has more than {GROUPS} values.",
            field=f"group_{name}",
            fix="group by something coarser; a column of ids is not a grouping.",
        )
    return values
