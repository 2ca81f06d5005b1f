"""Other people's models to `Outputs`: the logits themselves, not the probabilities that were made of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import DataError, one_of, shape
from lastlayer.outputs import KINDS, TASKS, Kind, Outputs, Task
from lastlayer.train._logits_blocks import blocks, rows_of
from lastlayer.train._logits_reading import Asked, Reading, chosen, reading_of


def logits_of(
    model,
    X,
    *,
    y=None,
    kind: Kind | None = None,
    task: Task | None = None,
    classes=None,
    groups=None,
    weight=None,
    ids=None,
    output: str | None = None,
    batch: int | None = None,
    device: Any = None,
    progress: Callable[[int], Any] | None = None,
) -> Outputs:
    """What ``model`` says of the rows ``X``, as near to its logits as it lets anybody come.

    ============================  ================================================================================
    scikit-learn, lastlayer       ``decision_function`` where softmax or sigmoid of it is ``predict_proba``; before
                                  the last activation of an MLP; log p(x, y) of naive Bayes; ``log_sigmoid`` of
                                  one-versus-rest scores; ``margin`` of SVMs, perceptrons and ridge; ``probs`` of
                                  forests, neighbours, calibrated and voting classifiers. Pipelines, searches, stacks,
                                  multilabel and frozen estimators are read through
    XGBoost, LightGBM, CatBoost   raw margins, with whatever the objective scales them by
    PyTorch                       in evaluation mode, without gradients; before a Softmax, LogSoftmax or Sigmoid that
                                  ends an ``nn.Sequential``; anything else with ``kind=``
    Keras                         before the last activation; a linear end by its compiled loss, or with ``kind=``
    Hugging Face                  ``.logits`` of a classifier (tokenised inputs as a dictionary), or of a pipeline
    ONNX Runtime                  before a final Softmax or Sigmoid where ``onnx`` is installed, else with ``kind=``
    functions (JAX, ...)          what they give, with ``kind=``; whatever has ``predict_proba``, its ``probs``
    ============================  ================================================================================

    ``outputs.source`` says which output it was, ``outputs.kind`` what it means: by the type of the model, its settings
    and its documented interface, never by its values. What the model leaves open, ``kind`` says; a ``kind`` that
    contradicts it is refused. Two classes of a scikit-learn or boosting model are ``binary``; one column is, too.

    ``y`` is the target as the model was fitted with, its own labels, or 0/1 per label; of a model without labels what
    `Outputs` takes. ``classes`` names the columns. ``output`` names one of several outputs (ONNX, a dictionary).
    ``X`` is whatever the model takes: a tuple is several inputs, a mapping named ones, an iterator batches. It is read
    ``batch`` rows at a time; ``progress`` is called with the number of rows done since. ``device`` is where PyTorch
    and JAX work; a module is moved back. An error of the model is its own, with a note that says which rows it was.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=10).fit(X, y)
    >>> outputs = logits_of(model, X, y=y)
    >>> outputs
    Outputs(569 rows, binary, logits float64, labelled)
    >>> outputs.source
    'GradientBoostingClassifier.decision_function'
    """
    for name, value, allowed in (("kind", kind, KINDS), ("task", task, TASKS)):
        if value is not None:
            one_of("logits_of", name, value, allowed)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"logits_of: batch is a number of rows, at least 1, not {batch!r}.")
    asked = Asked(kind, task, device, output)
    reading = reading_of(model, asked)
    scores, reading = _read(reading, X, asked, batch or reading.batch, progress or (lambda rows: None))
    meant: Any = reading.kind or kind
    task = _task(reading, scores, task)
    labels = None if task == "multilabel" else reading.labels
    names = reading.names if labels is None else labels
    return Outputs(
        scores,
        meant,
        target=None if y is None else _target(to_numpy(y), labels, reading.source),
        classes=names if classes is None else classes,
        groups=groups,
        weight=weight,
        ids=ids,
        task=task,
        source=reading.source,
    )


def _read(reading: Reading, X, asked, batch, progress):
    """All the scores, and the reading with what the first batch said of its output."""
    parts = []
    with reading.during():
        for part, start, rows in blocks(X, batch):
            try:
                found = reading.scores(part)
            except Exception as error:
                of = "" if rows is None else f" of {rows}"
                error.add_note(f"logits_of: rows {start} to {start + rows_of(part) - 1}{of}, {reading.source}.")
                raise
            if isinstance(found, Outputs):
                reading = reading._replace(kind=found.kind, task=found.task)
                found = found.scores
            elif isinstance(found, Mapping):
                name, said = chosen(found, asked, reading.source)
                found = found[name]
                if not parts:
                    reading = reading._replace(source=f"{reading.source}, {name}", kind=reading.kind or said)
            if not parts:
                _agree(reading, asked)
            found = _checked(found, part, reading.source)
            parts.append(found)
            progress(len(found))
    if not parts:
        raise DataError("X has no rows.", file=reading.source, fix="give at least one.")
    return parts[0] if len(parts) == 1 else np.concatenate(parts), reading


def _agree(reading, asked):
    """What the output means must be said, once: by the model or by the caller."""
    if reading.kind is None and asked.kind is None:
        raise ValueError(
            f"logits_of: nothing says what {reading.source} is, and values do not tell; "
            f"say kind= one of {', '.join(map(repr, KINDS))}."
        )
    if asked.kind not in (None, reading.kind) and reading.kind is not None:
        raise ValueError(
            f"logits_of: {reading.source} is {reading.kind}, not {asked.kind}; leave kind= out, "
            "or wrap what you mean: ll.Outputs(scores, kind)."
        )


def _checked(found, part, source):
    if isinstance(found, tuple):
        raise TypeError(
            f"logits_of: {source} gives {len(found)} things; wrap the one that is meant: "
            "logits_of(lambda x: model(x)[0], X, kind=...)."
        )
    found = to_numpy(found)
    if found.ndim == 0 or len(found) != rows_of(part):
        raise DataError(
            f"{rows_of(part)} rows in, an output of shape {shape(found)}: one row of scores per row.",
            file=source,
            fix="give rows first, and a model that keeps them.",
        )
    return found


def _task(reading, scores, task):
    """The task that the model, the shape of its scores and the caller agree on."""
    implied = reading.task
    if scores.ndim == 2 and scores.shape[1] > 1 and implied == "binary":
        implied = "multilabel"
    if implied is None and task is None and scores.ndim == 2 and scores.shape[1] == 1:
        implied = "binary"
    if task is not None and implied not in (None, task):
        raise ValueError(f"logits_of: {reading.source} is {implied}, not {task}; leave task= out.")
    return task or implied


def _target(y, labels, source):
    """The model's own labels as indices; anything but a column of labels is for `Outputs`."""
    if labels is None or y.ndim != 1:
        return y
    index = {label: k for k, label in enumerate(labels.tolist())}
    found = np.array([index.get(label, -1) for label in y.tolist()])
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        raise DataError(
            f"{y[unknown[0]].item()!r} is no class of the model; it has {', '.join(map(repr, index))[:200]}.",
            file=source,
            field="y",
            rows=unknown,
            fix="give the labels as the model was fitted with them.",
        )
    return found
