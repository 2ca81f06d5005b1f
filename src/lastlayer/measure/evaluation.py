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
from lastlayer.io.stream import RANKED, rows_at_once
from lastlayer.measure import read
from lastlayer.measure._block import COLUMN_NAMES, Block
from lastlayer.measure.convention import CONVENTIONS, convention_of
from lastlayer.measure.rows import CURVE_BINS, TEMPERATURES
from lastlayer.measure.signs import Signs
from lastlayer.outputs import KINDS, TASKS, Outputs, brief, wanted
from lastlayer.parallel import over_ranges
from lastlayer.state import Bins, Confusion, Grid, WeightedSum, pack, unpack

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
    class_odds: Grid  # (classes, 2): log-odds of each class, absent and present; none beyond `RANKED`
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
        grids = columns if columns <= RANKED else 0  # beyond, ranking per class is not kept
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
        grids = len(none.class_odds.weight)
        block = Block.of(outputs, len(none.classwise.edges) - 1, grids > 0)
        means, classwise = block.means(), block.tables("classwise")
        sums = means.rows, means.weight, means.weight2
        return cls(
            none.task,
            none.kind,
            none.classes,
            none.convention,
            means,
            block.top(none.top.edges),
            Bins(none.classwise.edges, *np.moveaxis(classwise, -1, 0)),
            WeightedSum(
                *sums, (classwise[..., 1] - classwise[..., 2]).sum(-1), block.tables("cross"), classwise[..., 3].sum(-1)
            ),
            WeightedSum(*sums, *block.occurrence()),
            block.odds(),
            block.class_odds() if grids else none.class_odds,
            none.confusion if none.task == "multilabel" else block.confusion(len(none.classes)),
            Bins(none.curve_bins.edges, *np.moveaxis(block.total("curve"), -1, 0)),
            block.total("curve_nll"),
            Signs.of(outputs, block.keep, block.tables("peak"), block.total("softmaxed")),
            {name: _by_group(name, values, block, none.top.edges) for name, values in outputs.groups.items()},
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
    confusion, distinct = state.confusion, state.signs.distinct
    kept = {"pairs": (confusion.pair, confusion.weight), "hashes": (distinct.hashes, distinct.count)}
    for name, (keys, sums) in kept.items():
        if keys.ndim != 1 or keys.shape != sums.shape or (keys[1:] <= keys[:-1]).any():
            raise ValueError(f"the {name} do not ascend, each with its count")


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
    size = rows_at_once(width, outputs.task == "multiclass")
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


def _by_group(name, values, block, edges):
    kept = values[block.keep]
    return {
        str(value): GroupEvaluation(block.means(kept == value), block.top(edges, kept == value))
        for value in _few(name, np.unique(values))
    }


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
