"""Files and objects to `Outputs` and back: `load`, `save`. One module per family of formats; nothing is ever unpickled.

What the columns are called stands in ``_fields.py``. Formats are chosen by suffix: npz, npy, safetensors, parquet,
and csv, tsv, jsonl, which may also end in ``.gz``.
"""

import importlib
import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from lastlayer._check import DataError, one_of
from lastlayer.io import objects
from lastlayer.io._fields import KIND_WORDS, Wanted, assemble, target_of
from lastlayer.io.atomic import atomic_writer
from lastlayer.io.stream import Blocks
from lastlayer.outputs import KINDS, TASKS

__all__ = ["FORMATS", "KIND_WORDS", "Blocks", "atomic_writer", "blocks", "load", "save"]

_MODULES = {
    "npz": "npz",
    "npy": "npz",
    "csv": "text",
    "tsv": "text",
    "jsonl": "text",
    "csv.gz": "text",
    "tsv.gz": "text",
    "jsonl.gz": "text",
    "safetensors": "safetensors",
    "parquet": "parquet",
}
FORMATS = tuple(_MODULES)
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt")
_MAGIC = {b"PK\x03\x04": "npz", b"\x93NUMPY": "npy", b"PAR1": "parquet"}


def load(
    source,
    kind=None,
    *,
    split=None,
    scores_key=None,
    target_key=None,
    target_file=None,
    target=None,
    classes=None,
    task=None,
    format=None,
):
    """The `Outputs` in a file (or ``-``, standard input), an array or tensor, a table, a dictionary or a list.

        logits | logp | probs | margin, target, classes, group_<name>, weight, id      arrays, list columns
        logit_<class> | logp_<class> | p_<class> | margin_<class>, target, ...         tables, one column per class

    ``logits_<class>`` and ``probs_<class>`` are read as well, and a column ``group`` or ``groups`` is the grouping of
    that name, beside those that ``group_<name>`` hold.
    ``kind`` is implied by such a name alone; elsewhere it must be said, and is never guessed from values. What is said
    wins over the name.
    ``split="val"`` reads ``val_logits``, ``val_target`` (or ``val_labels``). ``scores_key`` and ``target_key`` name
    foreign columns; ``scores_key`` may also be what the columns of all classes begin with. ``target`` (values) or
    ``target_file`` give labels that are not in the source. ``classes`` names the classes in the order of the columns.
    ``format`` says what the suffix does not: ``format="csv"``.

    In tables the target is looked up among the classes first, and is an index where no value is a class name. A table
    with one score column is binary; its negative class is the one other name in the target, else ``not_<positive>``.

    >>> import lastlayer as ll
    >>> ll.load({"logits": [[2.0, 0.5], [0.1, 1.0]], "target": [0, 1], "classes": ["cat", "dog"]})
    Outputs(2 rows, 2 classes, logits float64, labelled)
    """
    wanted = _asked(source, kind, split, scores_key, target_key, target_file, target, classes, task, format)
    if not _is_file(source):
        return assemble(objects.read(source), wanted)
    with _opened(source, format) as columns:
        return assemble(columns, wanted)


def blocks(source, kind=None, *, start=0, **how) -> Blocks:
    """The rows of a file as `Outputs` of some ten thousand each, one after another: memory does not grow with them.

    npz, npy and parquet files are never whole in memory; what can only be read whole (CSV, JSONL, safetensors, objects,
    arrays in F-order) is, and then cut. ``how`` are the parameters of `load`. ``start`` is the first row.

    >>> import pathlib, tempfile
    >>> import lastlayer as ll
    >>> path = ll.save(ll.Outputs(np.zeros((5, 2)), "logits"), pathlib.Path(tempfile.mkdtemp()) / "five.npz")
    >>> [len(block) for block in blocks(path)]
    [5]
    """
    names = ("split", "scores_key", "target_key", "target_file", "target", "classes", "task", "format")
    for name in how:
        one_of("blocks", "parameter", name, names)
    given = [how.get(name) for name in names]
    wanted = _asked(source, kind, *given)
    return Blocks(lambda: _columns(source, how.get("format")), wanted, start)


@contextmanager
def _columns(source, form):
    if not _is_file(source):
        yield objects.read(source)
        return
    with _opened(source, form) as columns:
        yield columns


def _is_file(source):
    return isinstance(source, str | os.PathLike)


def _asked(source, kind, split, scores_key, target_key, target_file, target, classes, task, format):
    """What the caller said, checked."""
    if kind in KIND_WORDS:
        allowed = ", ".join(map(repr, KINDS))
        raise ValueError(f"load: kind is one of {allowed}, not {kind!r}. Did you mean {KIND_WORDS[kind]!r}?")
    for parameter, value, allowed in (
        ("kind", kind, KINDS),
        ("task", task, TASKS),
        ("format", format, FORMATS),
    ):
        if value is not None:
            one_of("load", parameter, value, allowed)
    if sum(given is not None for given in (target, target_file)) > 1 or (target is not None and target_key is not None):
        raise ValueError("load: give the target once, as target=, target_key= or target_file=.")
    if target_file is not None:
        with _opened(target_file, None) as columns:
            target, target_key = target_of(columns, target_key), None
    if target is not None:
        target = objects.array("target", target)
    name = str(source) if _is_file(source) else None
    return Wanted(kind, split, scores_key, target_key, target, classes, task, name)


def save(outputs, path, *, force=True, format=None):
    """Write ``outputs`` to ``path`` in the format of its suffix, whole or not at all, and return the path.

    ``-`` is standard output, as JSON lines unless ``format`` says otherwise. ``force=False`` refuses to replace a file.
    CSV and JSONL keep values, not dtypes (float32 comes back as the same numbers in float64), and the name of a binary
    negative class only where the target spells it.

    >>> import pathlib, tempfile
    >>> import lastlayer as ll
    >>> outputs = ll.Outputs([[2.0, 0.5], [0.1, 1.0]], "logits", target=[0, 1], classes=["cat", "dog"])
    >>> ll.load(ll.save(outputs, pathlib.Path(tempfile.mkdtemp()) / "valid.npz")).classes
    ('cat', 'dog')
    """
    if format is not None:
        one_of("save", "format", format, FORMATS)
    form = format or ("jsonl" if str(path) == "-" else _format(Path(path)))
    module = _module(form)
    with atomic_writer(path, force=force) as file:
        module.write(outputs, file, form)
    return Path(path)


@contextmanager
def _opened(path, form):
    """The columns of a file while it is open; whatever is wrong names the file."""
    name = "standard input" if str(path) == "-" else str(path)
    try:
        with _bytes(path) as file:
            if file.seek(0, 2) == 0:
                raise DataError("the file is empty, 0 bytes.", fix="check how it was written.")
            file.seek(0)
            form = form or (_by_content(file) if str(path) == "-" else _format(Path(path)))
            yield _module(form).read(file, form)
    except DataError as error:
        raise error.within(name) from error.__cause__


def _bytes(path):
    """An open file that can be sought in; a pipe is read to its end first."""
    if str(path) == "-":
        return io.BytesIO(sys.stdin.buffer.read())
    path = Path(path)
    if path.is_dir():
        raise DataError("is a directory.", fix=f"name a file in it, or several: {path}/*.npz.")
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise DataError("there is no such file.", fix=_near(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", fix="check the path and its permissions.") from error
    if file.seekable():
        return file
    with file:
        return io.BytesIO(file.read())


def _near(path):
    import difflib

    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"there is no folder {path.parent} either."
    near = difflib.get_close_matches(path.name, names, n=3)
    return f"did you mean {', '.join(str(path.parent / name) for name in near)}?" if near else "check the path."


def _format(path):
    name = path.name.lower()
    form = next((form for form in _MODULES if name.endswith(f".{form}")), None)
    if form is not None:
        return form
    if name.endswith(_PICKLES):
        raise DataError(
            "such a file is a pickle, which can run any code when opened; it is never unpickled.",
            file=path,
            fix="where you trust it, load it and save arrays: np.savez(path, logits=..., target=...).",
        )
    raise DataError(
        f"no format by the suffix {path.suffix!r}.",
        file=path,
        fix=f'use one of .{", .".join(_MODULES)}, or say which it is with --format csv (in Python: format="csv").',
    )


def _by_content(file):
    """The format of a stream without a name: by its magic bytes, else JSON lines if it begins with ``{``, else CSV."""
    start = file.read(8)
    file.seek(0)
    magic = next((form for magic, form in _MAGIC.items() if start.startswith(magic)), None)
    return magic or ("jsonl" if start.lstrip()[:1] == b"{" else "csv")


def _module(form):
    return importlib.import_module(f"lastlayer.io.{_MODULES[form]}")
