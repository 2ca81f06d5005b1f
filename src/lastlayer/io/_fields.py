"""The one place that knows what the columns of a file are called and how they become `Outputs`.

Arrays: ``logits|logp|probs|margin, target (or labels, label), classes, group_<name>, weight, id, task``. Tables may
hold one column per class instead: ``logit_<class> | logp_<class> | p_<class> | margin_<class>`` (``logits_<class>`` and
``probs_<class>`` are read too), and ``target_<class>`` for several labels per row. ``group`` and ``groups`` alone are
groupings of that name. With ``split`` every name but ``classes`` and ``task`` is preceded by ``<split>_``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from lastlayer._check import DataError, is_number, shape
from lastlayer.io._target import class_pair, look_up, refuse_missing
from lastlayer.outputs import KINDS, TASKS, Kind, Outputs, Task

PREFIX: dict[Kind, str] = {"logits": "logit_", "logp": "logp_", "probs": "p_", "margin": "margin_"}
# Other words that people have for a kind; they are answered with ours, never taken for it.
KIND_WORDS: dict[str, Kind] = {
    **dict.fromkeys(("prob", "proba", "probability", "probabilities", "softmax", "sigmoid"), "probs"),
    **dict.fromkeys(("logprobs", "log_probs", "log-probs", "logprob", "log_prob", "log_softmax"), "logp"),
    **dict.fromkeys(("logit",), "logits"),
}
GROUPS = ("group", "groups")
TARGETS = ("target", "labels", "label")
BARE = "scores"
# A text array is as wide as its longest text: one long text among many rows may not cost memory the file never held.
_TEXT_WASTE, _TEXT_FREE = 64, 1 << 26


class Source(Protocol):
    """Columns of a file or object, read when asked for."""

    names: Sequence[str]
    declared: Mapping[str, Any]
    """``kind``, ``classes`` and ``task``, as far as the format has a place of its own for them."""
    typed: bool
    """Whether the format tells the integer 3 from the text "3"."""

    def outline(self, name: str) -> tuple[np.dtype, tuple[int, ...]] | None:
        """Dtype and shape of a column, where they are known without reading it."""
        ...

    def read(self, numbers: Sequence[str], others: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns: ``numbers`` as numbers, whatever the format; ``others`` as the format has them."""
        ...

    def stream(self, names: Sequence[str], start: int, step: int) -> Iterator[dict[str, np.ndarray]] | None:
        """The columns from row ``start``, at most ``step`` rows at a time; None where they are to be read whole."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What the caller of `load` said about the data."""

    kind: Kind | None = None
    split: str | None = None
    scores_key: str | None = None
    target_key: str | None = None
    target: Any = None
    classes: Any = None
    task: Task | None = None
    source: str | None = None

    def name(self, field):
        return field if self.split is None else f"{self.split}_{field}"


class Arrays:
    """A `Source` of named arrays: ``get(name)`` reads one, ``outline(name)`` says what it would be."""

    typed = True

    def __init__(
        self, names, get: Callable[[str], np.ndarray], outline, declared: Mapping[str, Any] | None = None, opened=None
    ):
        self.names, self._get, self.outline, self._opened = tuple(names), get, outline, opened
        if declared is None:
            # npz files and dictionaries keep their metadata among the arrays.
            declared = {"classes": get("classes")} if "classes" in self.names else {}
            if "task" in self.names:
                declared["task"] = str(get("task"))
        self.declared: Mapping[str, Any] = declared

    def read(self, numbers, others):
        return {name: self._get(name) for name in (*numbers, *others)}

    def stream(self, names, start, step):
        """``opened(name)`` gives rows and ``take(count)``, which reads that many on; None for one that has no rows."""
        if self._opened is None:
            return None
        columns = {name: self._opened(name) for name in names}
        if any(column is None for column in columns.values()):
            return None
        return self._streamed(columns, start, step)

    def _streamed(self, columns, start, step):
        rows = {name: column.rows for name, column in columns.items()}
        if len(set(rows.values())) > 1:
            there = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise DataError(f"columns of different lengths: {there}.", fix="give every column the same number of rows.")
        for column in columns.values():
            column.skip(start)
        for first in range(start, next(iter(rows.values())), step):
            count = min(step, next(iter(rows.values())) - first)
            yield {name: column.take(count) for name, column in columns.items()}


def bare(dtype, dims, get, opened=lambda: None):
    """A `Source` of one array that has no name: the scores."""
    return Arrays([BARE], lambda name: get(), lambda name: (dtype, dims), opened=lambda name: opened())


class Scores(NamedTuple):
    """Where the scores are: one array, or one column per class."""

    kind: Kind | None
    columns: list[str]
    classes: list[str] | None


class Layout(NamedTuple):
    """Which columns of a source are what."""

    scores: Scores
    target: list[str]
    weight: list[str]
    ids: list[str]
    groups: dict[str, str]

    @property
    def numbers(self):
        return [*self.scores.columns, *self.weight]

    @property
    def others(self):
        return [*self.target, *self.ids, *self.groups.values()]


def layout(source, wanted) -> Layout:
    """Where in ``source`` stands what ``wanted`` asks for."""
    _check_names(source)
    if tuple(source.names) == (BARE,) and wanted.scores_key is None:
        wanted = replace(wanted, scores_key=BARE)
    scores = _find_scores(source, wanted)
    if scores.kind is None:
        raise _which_kind(source, wanted, scores.columns)
    target = _find_target(source, wanted, scores)
    clash = sorted(set(scores.columns) & set(target))
    if clash:
        raise DataError("named as scores and as target.", field=clash[0], fix="name the target with --target-key.")
    weight, ids = ([name for name in [wanted.name(field)] if name in source.names] for field in ("weight", "id"))
    return Layout(scores, target, weight, ids, _find_groups(source, wanted))


def assemble(source, wanted):
    """The `Outputs` that the columns of ``source`` hold."""
    where = layout(source, wanted)
    columns = source.read(where.numbers, where.others)
    outputs = outputs_of(columns, where, source, wanted)
    _refuse_nothing_but_nan(outputs.scores, where.scores)
    return outputs


def outputs_of(columns, where, source, wanted):
    """The `Outputs` of the rows that ``columns`` hold, be they all of ``source`` or some."""
    task = wanted.task or source.declared.get("task")
    values = _score_array(columns, where.scores, task)
    labels = _label_array(columns, where.target) if wanted.target is None else wanted.target
    classes = _class_names(source, wanted, where.scores, labels)
    if labels is not None and wanted.target is None:
        refuse_missing(labels)
        if where.scores.classes is not None or not source.typed:
            k = values.shape[1] if values.ndim == 2 else 2
            labels = look_up(labels, classes or [str(i) for i in range(k)])
    return Outputs(
        values,
        where.scores.kind,
        target=labels,
        classes=classes,
        groups={name: columns[column] for name, column in where.groups.items()},
        weight=columns[where.weight[0]] if where.weight else None,
        ids=columns[where.ids[0]] if where.ids else None,
        task=task,
        source=wanted.source,
    )


def target_of(source, key):
    """The one target that a target file holds: under ``key``, a usual name, or the only name there is."""
    _check_names(source)
    names = [key] if key else [name for name in TARGETS if name in source.names] or list(source.names)
    if len(names) != 1 or names[0] not in source.names:
        raise DataError(
            f"the target could be any of {_listed(source)}." if not key else f"no {key!r} among {_listed(source)}.",
            field=key or "target",
            fix="name it with --target-key (in Python: target_key=).",
        )
    labels = source.read([], names)[names[0]]
    refuse_missing(labels)
    return labels if source.typed else look_up(labels, ())


def _find_scores(source, wanted):
    declared = source.declared.get("kind")
    if wanted.scores_key is not None:
        return _foreign_scores(source, wanted, declared)
    found = {}
    for kind in PREFIX:
        if wanted.name(kind) in source.names:
            found[kind] = Scores(kind, [wanted.name(kind)], None)
    if not found:
        found = {kind: wide for kind in PREFIX if (wide := _wide(source, wanted, kind)) is not None}
    kind = wanted.kind or (declared if declared in found else None)
    if kind in found:
        return found[kind]
    if not found:
        raise _no_scores(source, wanted)
    if len(found) > 1:
        there = " and ".join(f"{kind} ({_brief(scores.columns)})" for kind, scores in found.items())
        raise DataError(
            f"several kinds of scores: {there}.",
            field="kind",
            fix=f"choose one with {' or '.join(f'--kind {kind}' for kind in found)} (in Python: kind=).",
        )
    (only,) = found.values()
    return only if kind is None else only._replace(kind=kind)  # what the caller says is worth more than a name


def _wide(source, wanted, kind):
    """The columns of the classes, ``p_<class>`` or ``probs_<class>``; None where there are none."""
    starts = {}
    for prefix in dict.fromkeys((PREFIX[kind], f"{kind}_")):
        start = wanted.name(prefix)
        columns = [name for name in source.names if name.startswith(start) and name != start]
        if prefix != PREFIX[kind]:
            # `logits_val` and `logits_test` of two axes are no classes but arrays of their own.
            columns = [name for name in columns if (o := source.outline(name)) is None or len(o[1]) == 1]
        if columns:
            starts[start] = columns
    if len(starts) > 1:
        raise DataError(
            f"columns begin with {' and with '.join(starts)}.",
            field=kind,
            fix=f"choose with {' or '.join(f'--scores-key {start}' for start in starts)} (in Python: scores_key=).",
        )
    for start, columns in starts.items():
        return Scores(kind, columns, [name.removeprefix(start) for name in columns])
    return None


def _find_groups(source, wanted):
    """The column of each grouping, by the grouping's name."""
    start = wanted.name("group_")
    groups = {name.removeprefix(start): name for name in source.names if name.startswith(start)}
    for name in GROUPS:
        if wanted.name(name) in source.names:
            if name in groups:
                raise DataError(
                    f"{groups[name]} and {wanted.name(name)} are both the grouping {name!r}.",
                    field=groups[name],
                    fix="give each grouping its own name.",
                )
            groups[name] = wanted.name(name)
    return groups


def _foreign_scores(source, wanted, declared):
    """The scores under a name of the user's own: an array's, or what the columns of the classes begin with."""
    key = wanted.scores_key
    named = _split_and_kind(key)
    implied: Kind | None = (
        named[1] if named else next((k for k, prefix in PREFIX.items() if key in (k, prefix, f"{k}_")), None)
    )
    kind = wanted.kind or declared or implied
    if key in source.names:
        return Scores(kind, [key], None)
    columns = [name for name in source.names if name.startswith(key)]
    if not columns:
        raise DataError(f"no {key!r} among {_listed(source)}.", field=key, fix="give --scores-key one of these names.")
    return Scores(kind, columns, [name.removeprefix(key) for name in columns])


def _find_target(source, wanted, scores):
    """The names that hold the target: one, one per class, or none."""
    if wanted.target is not None:
        return []
    if wanted.target_key is not None:
        if wanted.target_key not in source.names:
            raise DataError(
                f"no {wanted.target_key!r} among {_listed(source)}.",
                field=wanted.target_key,
                fix="give --target-key one of these names.",
            )
        return [wanted.target_key]
    found = [name for name in map(wanted.name, TARGETS) if name in source.names]
    if len(found) > 1:
        raise DataError(
            f"two columns could be the target: {' and '.join(found)}.",
            field=found[0],
            fix=f"choose with --target-key {found[0]} (in Python: target_key={found[0]!r}).",
        )
    start = wanted.name("target_")
    several = [name for name in source.names if name.startswith(start)]
    if found or not several or not scores.classes:
        return found
    want = [start + name for name in scores.classes]
    odd = sorted(set(want) ^ set(several))
    if odd:
        raise DataError(
            f"one target column per class: {odd[0]!r} is {'missing' if odd[0] in want else 'no class'}.",
            field=odd[0],
            fix=f"give {_brief(want)}.",
        )
    return want


def _score_array(columns, scores, task):
    if scores.classes is None:
        values = columns[scores.columns[0]]
    else:
        for name in scores.columns:
            if columns[name].dtype.kind not in "fiu" or columns[name].ndim != 1:
                raise DataError(
                    f"scores are numbers, one per row; this column is {columns[name].dtype} {shape(columns[name])}.",
                    field=name,
                    fix="write numbers, or name another column.",
                )
            if len(columns[name]) != len(columns[scores.columns[0]]):
                raise DataError(
                    f"{len(columns[name])} rows, {scores.columns[0]} has {len(columns[scores.columns[0]])}.",
                    field=name,
                    fix="give every column the same number of rows.",
                )
        values = np.stack([columns[name] for name in scores.columns], axis=1)
        if len(scores.columns) == 1:
            values = values[:, 0]
    if values.ndim == 2 and values.shape[1] == 1:
        if task != "binary":
            raise DataError(
                f"one column of scores, {shape(values)}: is it one logit for the positive class?",
                field=scores.columns[0],
                fix='say so: --task binary (in Python: task="binary"), or give a column per class.',
            )
        values = values[:, 0]
    return values


def _refuse_nothing_but_nan(values, scores):
    if values.dtype.kind == "f" and values.ndim and values.size and np.isnan(values[0]).any():
        if np.isnan(values).reshape(len(values), -1).any(1).all():
            raise DataError(
                f"all {len(values)} rows hold nan.", field=scores.columns[0], fix="check how the scores were computed."
            )


def _label_array(columns, target):
    if len(target) < 2:
        return columns[target[0]] if target else None
    parts = [columns[name] for name in target]
    for name, part in zip(target, parts, strict=True):
        if part.shape != (len(parts[0]),) or (part.dtype.kind == "U") != (parts[0].dtype.kind == "U"):
            raise DataError(
                f"one 0, 1 or probability per row and class; this column is {part.dtype} {shape(part)}.",
                field=name,
                fix="write the target columns alike.",
            )
    return np.stack(parts, axis=1)


def _class_names(source, wanted, scores, labels):
    """Names by position: the caller's, else those of the columns or of the metadata."""
    if wanted.classes is not None:
        return [str(name) for name in wanted.classes]
    if scores.classes is not None:
        return scores.classes if len(scores.classes) > 1 else class_pair(scores.classes[0], labels)
    classes = source.declared.get("classes")
    return None if classes is None else [str(name) for name in classes]


def _check_names(source):
    twice = [name for name, count in Counter(source.names).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]!r} stands twice.", field=twice[0], fix="give each column its own name.")
    refuse_surrogates("names", source.names)
    for field, allowed in (("kind", KINDS), ("task", TASKS)):
        value = source.declared.get(field)
        if value is not None and value not in allowed:
            raise DataError(f"{field} is said to be {value!r}.", field=field, fix=f"say {', '.join(allowed)}.")
    classes = source.declared.get("classes")
    if classes is not None and np.ndim(classes) != 1:
        raise DataError(f"class names have shape {np.shape(classes)}.", field="classes", fix="give a list of names.")


def _split_and_kind(name) -> tuple[str, Kind] | None:
    """``("val", "logits")`` of ``val_logits``; ``log_probs`` is a foreign name, not the ``probs`` of a split "log"."""
    for kind in PREFIX:
        split = name.removesuffix(f"_{kind}")
        if split not in (name, "", "log"):
            return split, kind
    return None


def _no_scores(source, wanted):
    splits = sorted({found[0] for name in source.names if (found := _split_and_kind(name))})
    if wanted.split is not None:
        there = f"the splits are {', '.join(splits)}" if splits else f"there are no splits, only {_listed(source)}"
        choice = f"--split {'|'.join(splits)}" if splits else "leave --split out, or name the arrays with --scores-key."
        return DataError(f"no scores of a split {wanted.split!r}; {there}.", field=wanted.split, fix=choice)
    if splits:
        return DataError(
            f"scores of {len(splits)} split{'s' * (len(splits) > 1)}: {', '.join(splits)}.",
            field=next(name for name in source.names if name.startswith(f"{splits[0]}_")),
            fix=f"choose one with --split {'|'.join(splits)} (in Python: split={splits[0]!r}).",
        )
    if not source.names:
        return DataError("there are no named arrays or columns in it.", fix="give it logits and target.")
    if not source.typed and all(is_number(name) for name in source.names):
        return DataError(
            f"the header is missing: the first line is {_brief(source.names)}.",
            field="header",
            fix="begin with a line that names the columns: logit_<class>, ..., target.",
        )
    tables = [n for n in source.names if (o := source.outline(n)) and o[0].kind == "f" and len(o[1]) == 2]
    if len(tables) == 1:
        if wanted.kind is None and source.declared.get("kind") is None:
            return _which_kind(source, wanted, tables)
        flags = _flags(source, wanted, tables[0], source.outline(tables[0])[1][0])
        return DataError(f"no scores among {_listed(source)}.", field=tables[0], fix=f"add {flags.rstrip()}.")
    return DataError(
        f"no scores among {_listed(source)}.",
        field="|".join(KINDS),
        fix="call them logits, logp, probs or margin (a column per class: logit_<class>, logp_<class>, p_<class>, "
        "margin_<class>), or name them: --scores-key NAME --target-key NAME --kind logits|logp|probs|margin; NAME may "
        "be what the columns of the classes begin with.",
    )


def _which_kind(source, wanted, columns):
    """Nothing says what the scores are: show what they look like, and the flags that say it."""
    values = source.read(columns, [])
    scores = values[columns[0]] if len(columns) == 1 else np.stack([values[name] for name in columns], axis=1)
    if scores.dtype.kind not in "fiu" or scores.size == 0:
        return DataError(
            f"scores are {scores.dtype} {shape(scores)}, not numbers.", field=columns[0], fix="give numbers."
        )
    flags = _flags(source, wanted, columns[0], len(scores)) if wanted.scores_key is None else ""
    return DataError(
        f"nothing says what these scores are: {_spread(scores)}.",
        field=columns[0] or None,
        fix=f'add {flags}--kind logits, or logp, probs, margin in its place (in Python: kind="logits"). '
        f"Sigmoid outputs, one per label: {flags}--kind probs --task multilabel.",
    )


def _flags(source, wanted, column, rows):
    """The flags that name the scores, and the target where only one array can be it."""
    flags = f"--scores-key {column} "
    labels = [n for n in source.names if (o := source.outline(n)) and o[1] == (rows,) and o[0].kind in "iubUS"]
    if wanted.target is None and wanted.target_key is None and len(labels) == 1 and labels[0] not in TARGETS:
        flags += f"--target-key {labels[0]} "
    return flags


def _spread(scores):
    finite = scores[np.isfinite(scores)]
    text = f"shape {shape(scores)}, "
    text += f"min {finite.min():.6g}, max {finite.max():.6g}" if finite.size else "no finite value"
    if scores.ndim == 2 and finite.size:
        with np.errstate(all="ignore"):
            sums = scores.sum(axis=1, dtype=np.float64)
        sums = sums[np.isfinite(sums)]
        if sums.size:
            text += f", rows sum to {sums.min():.6g} .. {sums.max():.6g}"
    return text


def columns_of(outputs):
    """The columns that `assemble` reads back: the scores under their kind, and what belongs to the rows."""
    columns = {outputs.kind: outputs.scores}
    for name, values in (("target", outputs.target), ("weight", outputs.weight)):
        if values is not None:
            columns[name] = values
    if outputs.ids is not None:
        columns["id"] = outputs.ids if outputs.ids.dtype.kind in "iufbU" else outputs.ids.astype(np.str_)
    return columns | {f"group_{name}": values for name, values in outputs.groups.items()}


def text_array(name, texts):
    """Texts as a NumPy array, which is as wide as the longest of them."""
    widest = max(map(len, texts), default=0)
    if 4 * widest * len(texts) > max(_TEXT_FREE, _TEXT_WASTE * sum(map(len, texts))):
        row = next(i for i, text in enumerate(texts) if len(text) == widest)
        raise DataError(
            f"a text of {widest} characters among {len(texts)} rows.", field=name, rows=[row], fix="give short names."
        )
    refuse_surrogates(name, texts)
    return np.array(texts, dtype=np.str_)


def refuse_surrogates(field, texts):
    """JSON can spell half of a character (``"\\ud800"``), which nothing can print."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise DataError("holds a lone surrogate, half of a character.", field=field, fix="write UTF-8 text.") from None


def _listed(source):
    parts = []
    for name in source.names[:12]:
        outline = source.outline(name)
        parts.append(name if outline is None else f"{name} {outline[0]} {outline[1]}")
    return ", ".join(parts) + (f", ... ({len(source.names)} names)" if len(source.names) > 12 else "")


def _brief(names):
    return ", ".join(names[:3]) + (f", ... {names[-1]}" if len(names) > 3 else "")
