"""THE ONE TABLE: whose models `logits_of` reads, how each family is recognised, and where its reader is.

A model is recognised by the modules that its class and the classes above it come from, so that no library is imported
which the user has not loaded. The first row that fits reads it: a Keras model is also a torch module, an XGBClassifier
also a scikit-learn estimator. A reader is ``reading(model, asked) -> Reading``; those of models within models (a
pipeline, a search, a stack) call `reading_of` again. What a score means follows from the type of the model, its
settings and its documented interface, never from values.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import DataError
from lastlayer.outputs import KINDS, Kind, Task


class Asked(NamedTuple):
    """What the caller said about the model."""

    kind: Kind | None = None
    task: Task | None = None
    device: Any = None
    output: str | None = None


class Reading(NamedTuple):
    """How the scores of one model are read, and what they are.

    ``kind`` None: the model does not say it, so the caller must. ``task`` None: the shape of the scores or of the
    target says it; ``binary`` scores of several columns are labels. ``scores`` may give a mapping of several outputs,
    or `Outputs`, which say all that themselves. ``labels`` are the classes as the model's own
    target spells them, ``names`` only what they are called. ``during`` is entered around all the batches.
    """

    scores: Callable[[Any], Any]
    source: str
    kind: Kind | None = None
    task: Task | None = None
    labels: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    batch: int = 16384
    during: Callable[[], Any] = nullcontext


class Family(NamedTuple):
    """One row: the packages that its classes come from; whether ``device=`` and ``output=`` mean something to it."""

    name: str
    packages: tuple[str, ...]
    reader: str
    device: bool = False
    output: bool = False


_HERE = "lastlayer.train._logits"

TABLE = (
    Family("lastlayer", ("lastlayer.train",), f"{_HERE}_sklearn:ours"),
    Family("XGBoost", ("xgboost",), f"{_HERE}_boosting:xgboost"),
    Family("LightGBM", ("lightgbm",), f"{_HERE}_boosting:lightgbm"),
    Family("CatBoost", ("catboost",), f"{_HERE}_boosting:catboost"),
    Family("Keras", ("keras", "tf_keras", "tensorflow"), f"{_HERE}_keras:reading"),
    Family("Hugging Face", ("transformers",), f"{_HERE}_transformers:reading", device=True),
    Family("PyTorch", ("torch",), f"{_HERE}_torch:reading", device=True, output=True),
    Family("ONNX Runtime", ("onnxruntime",), f"{_HERE}_onnx:reading", output=True),
    Family("scikit-learn", ("sklearn",), f"{_HERE}_sklearn:reading"),
)
_CLASSIFIER = Family("scikit-learn's interface", (), f"{_HERE}_sklearn:classifier")
_CALLABLE = Family("functions", (), f"{_HERE}_callable:reading", device=True, output=True)


def family_of(model) -> Family:
    """The row of the table for ``model``; by its methods where no row knows its class."""
    modules = [f"{above.__module__}." for above in type(model).__mro__]
    for row in TABLE:
        known = any(module.startswith(f"{package}.") for module in modules for package in row.packages)
        if known and not isinstance(model, type):
            return row
    if hasattr(model, "predict_proba") and not isinstance(model, type):
        return _CLASSIFIER
    if callable(model) and not isinstance(model, type):
        return _CALLABLE
    came = f"the class {model.__name__}" if isinstance(model, type) else f"a model of type {type(model).__name__}"
    raise TypeError(
        f"logits_of: {came} is nothing it can read. It reads models of {', '.join(row.name for row in TABLE)}, "
        "whatever has predict_proba, and any function of a batch with kind= (logits_of(f, X, kind='logits'))."
    )


def reading_of(model, asked: Asked) -> Reading:
    """How ``model`` is read."""
    row = family_of(model)
    for parameter in ("device", "output"):
        if getattr(asked, parameter) is not None and not getattr(row, parameter):
            raise ValueError(
                f"logits_of: {parameter}= is for {_who(parameter)}; leave it out for a model of {row.name}."
            )
    module, _, name = row.reader.partition(":")
    return getattr(importlib.import_module(module), name)(model, asked)


def _who(parameter):
    return ", ".join([row.name for row in TABLE if getattr(row, parameter)]) + " and functions"


def unusable(model, why, fix):
    """The complaint about a model that has no scores to give."""
    return ValueError(f"logits_of: {type(model).__name__} {why}; {fix}.")


def applied(model, X):
    """``model`` of one input, of several (a tuple), or of named ones (a mapping)."""
    if isinstance(X, Mapping):
        return model(**X)
    return model(*X) if isinstance(X, tuple) else model(X)


def column(scores, index):
    """One column of a table of scores."""
    return to_numpy(scores)[:, index]


def chosen(outputs, asked, source):
    """The one output of several (``{name: array}``) that is meant, and the kind that its name says.

    Only a name of a kind says what it holds: ``logits``, ``logp``, ``probs`` or ``margin``.
    """
    if asked.output is not None:
        if asked.output not in outputs:
            raise ValueError(f"logits_of: {source} has no output {asked.output!r}; it has {', '.join(outputs)}.")
        name = asked.output
    else:
        named = [name for name in outputs if name in KINDS]
        if len(outputs) != 1 and len(named) != 1:
            raise ValueError(
                f"logits_of: {source} has the outputs {', '.join(outputs)}; say which: output={next(iter(outputs))!r}."
            )
        name = named[0] if named else next(iter(outputs))
    return name, name if name in KINDS else None


def several_labels(classes, source):
    """Whether a model's classes are those of several targets, each of two; a target of more classes is refused."""
    if not isinstance(classes, list):
        return False
    if any(len(of_one) != 2 for of_one in classes):
        sizes = ", ".join(str(len(of_one)) for of_one in classes)
        raise DataError(
            f"the model has {len(classes)} targets of {sizes} classes; several labels are targets of two classes each.",
            file=source,
            fix="read one target at a time: logits_of(model.estimators_[0], X), or fit a model of each.",
        )
    return True
