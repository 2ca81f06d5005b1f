"""What a model put out for many rows, with its meaning declared once: scores, kind, target, classes and more."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lastlayer import _odds
from lastlayer._array import to_numpy
from lastlayer._check import DataError, one_of, shape

Kind = Literal["logits", "logp", "probs", "margin"]
Task = Literal["multiclass", "binary", "multilabel"]
KINDS = ("logits", "logp", "probs", "margin")
TASKS = ("multiclass", "binary", "multilabel")


@dataclass(frozen=True, eq=False)
class Outputs:
    """Scores of ``n`` rows with everything that gives them a meaning.

    ``kind`` says what the scores are and is never guessed: ``logits`` (softmax or sigmoid gives probabilities),
    ``logp``, ``probs``, or ``margin`` (a monotone score of unknown scale). Rows of shape ``(n, K)`` are ``multiclass``,
    or ``multilabel`` when the target has the same shape and is not floating; ``(n,)`` is ``binary``, one score for
    ``classes[1]``. The target is an index into ``classes`` (names are looked up), 0/1 for binary and multilabel, or,
    where it is floating and of the scores' shape, a distribution. ``groups`` are ``{"site": array}``, a value per row
    and grouping; an array alone is the grouping ``"group"``. ``weight`` 0 leaves a row out, whatever it holds.

    >>> Outputs([[2.0, 0.5], [0.1, 1.0]], "logits", target=["cat", "dog"], classes=["cat", "dog"])
    Outputs(2 rows, 2 classes, logits float64, labelled)
    """

    scores: Any
    kind: Kind
    target: Any = None
    classes: Sequence[str] | Any = None  # None here, and for groups and task, is filled in below
    groups: Mapping[str, Any] | Any = None
    weight: Any = None
    ids: Any = None
    task: Task | Any = None
    source: str | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if self.kind not in KINDS:
            one_of("Outputs", "kind", self.kind, KINDS)

        def put(name, value):  # frozen
            return object.__setattr__(self, name, value)

        scores = _scores(to_numpy(self.scores), self.kind)
        target = None if self.target is None else to_numpy(self.target)
        put("task", _task(self.task, scores, target))
        if self.task == "binary" and scores.ndim == 2:  # one column, as many models put out
            target = target[:, 0] if target is not None and target.shape == scores.shape else target
            scores = scores[:, 0]
        put("scores", scores)
        put("classes", _classes(self.classes, scores, self.task))
        put("target", _target(target, scores, self.classes, self.task))
        rows = len(scores)
        put("weight", _weight(self.weight, rows))
        put("ids", None if self.ids is None else _column("id", self.ids, rows))
        put("groups", _groups(self.groups, rows))

    def __len__(self):
        return len(self.scores)

    def __repr__(self):
        what = {"multiclass": f"{len(self.classes)} classes", "binary": "binary", "multilabel": "labels"}[self.task]
        what = f"{len(self.classes)} labels" if self.task == "multilabel" else what
        labelled = "labelled" if self.target is not None else "no target"
        groups = f", groups {', '.join(self.groups)}" if self.groups else ""
        return f"Outputs({len(self)} rows, {what}, {self.kind} {self.scores.dtype}, {labelled}{groups})"

    @property
    def logits(self):
        """The scores as logits: as they are, or ``log p`` (multiclass) or ``log p - log(1 - p)`` (binary, multilabel).

        A negative probability is nan, and for binary and multilabel scores so is one above 1. A ``margin`` has no scale
        yet, so it has no logits: calibrate it first.
        """
        if self.kind == "margin":
            raise DataError(
                "these scores are margins, of unknown scale, so they have no likelihood.",
                file=self.source,
                fix="say --kind logits (in Python: kind='logits') if softmax of them is meant.",
            )
        if self.kind == "logits" or (self.kind == "logp" and self.task == "multiclass"):
            return self.scores
        with np.errstate(all="ignore"):
            if self.kind == "logp":
                return self.scores - _odds.log1mexp(self.scores, np)
            return np.log(self.scores) if self.task == "multiclass" else _odds.logit(self.scores, np)

    def rows(self, index):
        """The chosen rows (a slice, indices or a mask), with everything that belongs to them."""
        part = copy.copy(self)  # not `replace`: what was checked stays right, and a part may have all its weights 0
        for name in ("target", "weight", "ids"):
            column = getattr(self, name)
            object.__setattr__(part, name, None if column is None else column[index])
        object.__setattr__(part, "scores", _scores(self.scores[index], self.kind))
        object.__setattr__(part, "groups", {name: g[index] for name, g in self.groups.items()})
        return part

    def with_logits(self, logits):
        """The same rows with other logits, from a calibrator for instance."""
        return replace(self, scores=logits, kind="logits")

    def to_binary(self):
        """Two classes as one logit for the second: ``z1 - z0``."""
        if self.task != "multiclass" or len(self.classes) != 2:
            raise ValueError(f"to_binary: two classes become one logit, these are {self!r}.")
        target = self.true_target
        if self.target is not None and target is None:
            raise ValueError("to_binary: the target is a distribution; a binary target is 0 or 1.")
        z = self.scores if self.kind == "margin" else self.logits
        kind = "margin" if self.kind == "margin" else "logits"
        with np.errstate(invalid="ignore"):  # an empty row stays nan
            difference = z[:, 1] - z[:, 0]
        return replace(self, scores=difference, target=target, kind=kind, task="binary")

    @property
    def labelled(self):
        """These outputs if they have a target; the complaint of whatever needs one otherwise."""
        if self.target is None:
            raise DataError(
                "no target: this needs labelled rows.",
                file=self.source,
                field="target",
                fix="add a `target` array or column, or name it with --target-key (in Python: target=array).",
            )
        return self

    @property
    def true_target(self):
        """The target as integers, where it says what is true: an index per row, or 0/1 per row or per label.

        A floating target does where every entry is exactly 0 or 1. None without a target, or with a distribution.
        """
        if self.target is None or self.target.dtype.kind != "f":
            return self.target
        if not ((self.target == 0) | (self.target == 1)).all():
            return None
        return self.target.argmax(1) if self.task == "multiclass" else self.target.astype(np.int64)

    def hard(self, purpose):
        """These outputs with their `true_target`; the complaint of whatever counts what is right or wrong otherwise."""
        target = self.labelled.true_target
        if target is None:
            indices = "class indices (target.argmax(-1))" if self.task == "multiclass" else "0 and 1 (target > 0.5)"
            raise DataError(
                f"the target is a distribution; {purpose}.",
                file=self.source,
                field="target",
                fix=f"give {indices} if that is the truth; `ll.calibrate.fit` and `ll.nll` take distributions.",
            )
        if target is self.target:
            return self
        part = copy.copy(self)  # not `replace`, as in `rows`
        object.__setattr__(part, "target", target)
        return part


def wanted(function, value):
    """``value`` if it is an `Outputs`; the complaint of ``function`` about anything else."""
    if not isinstance(value, Outputs):
        what = f"{type(value).__name__}{' ' + shape(value) if isinstance(value, np.ndarray) else ''}"
        raise TypeError(f"{function}: takes Outputs, not {what}; wrap it: ll.Outputs(z, 'logits', target=y).")
    return value


def same_meaning(parts):
    """Refuse parts that are not of one data set: a difference is named with the part it is in."""
    first = parts[0]
    for part in parts[1:]:
        for name in ("kind", "task", "classes"):
            a, b = getattr(first, name), getattr(part, name)
            if a != b:
                raise DataError(
                    f"{name} {brief(b)} here, {brief(a)} in {first.source or 'the first part'}.",
                    file=part.source,
                    field=name,
                    fix="shards of one data set share kind, task and the order of classes.",
                )
        for name in ("target", "weight", "ids"):
            if (getattr(first, name) is None) != (getattr(part, name) is None):
                raise DataError(
                    f"{name} is in some of the shards only.",
                    file=part.source,
                    field=name,
                    fix="give it in all or none.",
                )
        if first.target is not None and first.target.dtype != part.target.dtype:
            raise DataError(
                "the target is a distribution in some of the shards only.",
                file=part.source,
                field="target",
                fix="give distributions in all or none.",
            )
        if set(first.groups) != set(part.groups):
            raise DataError(
                f"groups {sorted(part.groups)} here, {sorted(first.groups)} in {first.source or 'the first part'}.",
                file=part.source,
                field="groups",
                fix="give the same groups in every shard.",
            )


def brief(value):
    """A value, or names with commas between them, in at most 60 characters."""
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _scores(scores, kind):
    if isinstance(scores, np.ma.MaskedArray):
        raise DataError("scores are a masked array.", field=kind, fix="say what is missing: scores.filled(np.nan).")
    scores = np.asarray(scores)  # a memory map is an array too; its rows are read as they are needed
    if scores.dtype.kind in "iu":
        scores = scores.astype(np.float64)
    if scores.dtype == np.float16:
        scores = scores.astype(np.float32)
    if scores.dtype.kind != "f":
        raise DataError(
            f"scores are {scores.dtype}, not numbers.", field=kind, fix="give a float array; objects are not read."
        )
    if scores.ndim not in (1, 2):
        raise DataError(
            f"scores have shape {shape(scores)}; rows come first, classes last: (n, K), or (n,) for binary.",
            field=kind,
            fix="flatten the leading axes: scores.reshape(-1, K), and the target with them.",
        )
    if scores.ndim == 2 and scores.shape[1] == 0:
        raise DataError("scores have no classes.", field=kind, fix="give one column per class.")
    if len(scores) == 0:
        raise DataError("no rows.", field=kind, fix="check how the file was written; it holds an empty array.")
    return scores if scores.dtype.isnative else scores.astype(scores.dtype.newbyteorder("="))


def _task(task, scores, target):
    if task is not None:
        one_of("Outputs", "task", task, TASKS)
    one_column = scores.ndim == 2 and scores.shape[1] == 1
    if task == "binary" and one_column:
        return task
    if task != "multilabel" and one_column and _like_0_and_1(target, scores):
        raise DataError(
            f"scores are {shape(scores)} and the target is 0/1: one column is a binary score, not one of several.",
            field="task",
            fix="give scores[:, 0], or say task='binary' (--task binary); task='multilabel' if it is one label.",
        )
    labels_like_scores = np.shape(target) == scores.shape and target.dtype.kind in "iub"
    implied = "binary" if scores.ndim == 1 else "multilabel" if labels_like_scores else "multiclass"
    task = task or implied
    if (task == "binary") != (scores.ndim == 1):
        need = "(n,), one score per row for the positive class" if task == "binary" else "(n, K)"
        fix = "use .to_binary() on two columns." if task == "binary" else "leave task out: (n,) is binary."
        raise DataError(f"task {task} needs scores {need}; these are {shape(scores)}.", field="task", fix=fix)
    return task


def _like_0_and_1(target, scores):
    """Whether a target cannot be the index of the only column: it is shaped as a table, floating, or holds a 1."""
    if target is None or target.dtype.kind not in "fiub":
        return False
    return target.shape == scores.shape or target.dtype.kind == "f" or bool((target == 1).any())


def _classes(classes, scores, task):
    k = 2 if task == "binary" else scores.shape[1]
    if classes is None:
        return tuple(str(i) for i in range(k))
    names = tuple(str(c) for c in (classes if isinstance(classes, list | tuple) else to_numpy(classes).tolist()))
    if len(names) != k:
        raise DataError(
            f"{len(names)} class names for {k} {'classes' if task != 'multilabel' else 'labels'}.",
            field="classes",
            fix="give one name per column, in the order of the columns (binary: negative first)"
            + (", or scores.T if its rows are the classes." if scores.ndim == 2 and len(names) == len(scores) else "."),
        )
    if len(set(names)) != k:
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f"class name {twice!r} stands twice.", field="classes", fix="give each class its own name.")
    return names


def _target(target, scores, classes, task):
    if target is None:
        return None
    rows = (len(scores),)
    want = scores.shape if task == "multilabel" else rows
    if target.dtype.kind == "f":
        if target.shape == scores.shape:
            return _distribution(target, task)
        raise DataError(
            f"target is {target.dtype} {shape(target)}; a floating target is a distribution of the scores' shape "
            f"{shape(scores)}.",
            field="target",
            fix="class indices are integers: target.astype(int).",
        )
    if target.shape != want:
        raise DataError(
            f"one target per {'row and label' if task == 'multilabel' else 'row'}: scores are {shape(scores)}, "
            f"target is {shape(target)}.",
            field="target",
            fix="rows come first and classes last: give scores.T."
            if scores.ndim == 2 and target.shape == (scores.shape[::-1] if task == "multilabel" else scores.shape[1:])
            else f"give a target of shape ({', '.join(map(str, want))}{',' if len(want) == 1 else ''}).",
        )
    if target.dtype.kind in "USO":
        if task == "multilabel":
            raise DataError("a label is there or not; names say neither.", field="target", fix="give 0/1, (n, labels).")
        target = _look_up(target, classes)
    if target.dtype.kind == "b":
        return target.astype(np.int64)
    if target.dtype.kind not in "iu":
        raise DataError(f"target is {target.dtype}.", field="target", fix="give integers, names or 0/1.")
    target = target.astype(np.int64)
    bad = np.flatnonzero(
        ((target < 0) | (target >= (len(classes) if task == "multiclass" else 2))).reshape(len(target), -1).any(1)
    )
    if len(bad):
        _refuse_labels(target, bad, classes, task)
    return target


def _distribution(target, task):
    bad = np.flatnonzero(~(((target >= 0) & (target <= 1 + 1e-3)).reshape(len(target), -1).all(1)))
    if len(bad):
        raise DataError(
            "a floating target is a distribution, so its entries are between 0 and 1.",
            field="target",
            rows=bad,
            fix="give probabilities, or class indices as integers: target.astype(int).",
        )
    if task == "multiclass":
        off = np.flatnonzero(np.abs(target.sum(1) - 1) > 1e-3)
        if len(off):
            raise DataError(
                f"a target distribution sums to 1; row {off[0]} sums to {target[off[0]].sum():.6g}.",
                field="target",
                rows=off,
                fix="say task='multilabel' (--task multilabel) if a row can have several labels; divide each row by "
                "its sum if it is a distribution; or give class indices as integers.",
            )
    return target.astype(np.float64)


def _look_up(target, classes):
    index = {name: k for k, name in enumerate(classes)}
    names = np.array([v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in target])
    found = np.array([index.get(name, -1) for name in names])
    bad = np.flatnonzero(found < 0)
    if len(bad):
        raise DataError(
            f"target {str(names[bad[0]])!r} is not one of the classes {brief(classes)}.",
            field="target",
            rows=bad,
            fix="give `classes` in the order of the columns, spelled as in the target.",
        )
    return found


def _refuse_labels(target, bad, classes, task):
    value = target[bad[0]] if target.ndim == 1 else target[bad[0]][(target[bad[0]] < 0) | (target[bad[0]] > 1)][0]
    legal = f"0..{len(classes) - 1}, the index into classes" if task == "multiclass" else "0 or 1"
    fix = f"targets are {legal}."
    if value == -100:
        fix += " Rows to ignore are said aloud: weight=(target != -100), or valid=target != -100."
    elif value == -1 and task != "multiclass":
        fix += " For -1/+1 write target > 0."
    elif task != "multilabel" and set(map(str, np.unique(target))) <= set(classes):
        fix += " Numbers that are class names are looked up when they are text: target.astype(str)."
    elif value == len(classes) and task == "multiclass":
        fix += " For labels that start at 1 write target - 1."
    raise DataError(
        f"target {value} is out of range for {len(classes)} {'labels' if task == 'multilabel' else 'classes'} "
        f"({len(bad)} of {len(target)} rows).",
        field="target",
        rows=bad,
        fix=fix,
    )


def _weight(weight, rows):
    if weight is None:
        return None
    weight = _column("weight", weight, rows)
    if weight.dtype.kind not in "fiub":
        raise DataError(f"weight is {weight.dtype}.", field="weight", fix="give non-negative numbers.")
    weight = weight.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise DataError(
            "a weight is a finite number of at least 0.", field="weight", rows=bad, fix="0 leaves a row out."
        )
    if not weight.any():
        raise DataError("every weight is 0.", field="weight", fix="give at least one row a weight above 0.")
    return weight


def _groups(groups, rows):
    if groups is None:
        return {}
    if not isinstance(groups, Mapping):
        return {"group": _column("groups", groups, rows).astype(str)}
    return {str(name): _column(f"group_{name}", values, rows).astype(str) for name, values in groups.items()}


def _column(name, values, rows):
    values = to_numpy(values)
    if values.shape != (rows,):
        raise DataError(
            f"one value per row: there are {rows} rows, {name} is {shape(values)}.",
            field=name,
            fix="give as many values as rows.",
        )
    return values
