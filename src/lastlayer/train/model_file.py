"""A trained model as a folder: ``model.json`` says what the columns mean, ``model.safetensors`` holds the numbers.

model.json          schema_version, kind, classes, target, id, groups, penalty, table, texts, rows, versions,
                    tensors (the SHA-256 of the other file) and checksum (that of all the rest)
model.safetensors   coef (outputs, features), intercept (outputs,), idf.<text>.<part> (terms,)
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import sklearn

from lastlayer import __version__
from lastlayer._check import DataError
from lastlayer._check import shape as shape_of
from lastlayer.io import atomic_writer, safetensors
from lastlayer.train._features import Features
from lastlayer.train.table import KINDS, Table
from lastlayer.train.text import ANALYSERS, Text

SCHEMA_VERSION = 1
KIND = "lastlayer.linear"
JSON, TENSORS = "model.json", "model.safetensors"
_AGAIN = "train again with `lastlayer train`."


@dataclass(frozen=True, eq=False)
class Model:
    """Features and a linear classifier on them: ``logits = features @ coef.T + intercept``, of two classes the second.

    ``penalty`` is scikit-learn's C, None for none. ``id`` and ``groups`` are columns that are kept beside the logits.
    """

    features: Features
    coef: np.ndarray
    intercept: np.ndarray
    classes: tuple[str, ...]
    target: str
    id: str | None = None
    groups: tuple[str, ...] = ()
    penalty: float | None = None
    rows: int = 0

    def logits(self, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
        """``(n,)`` of two classes, else ``(n, classes)``; and what was strange about the rows, in words."""
        values, notes = self.features.transform(columns)
        scores = values @ self.coef.T + self.intercept
        return scores[:, 0] if len(self.coef) == 1 else scores, notes

    def save(self, folder, *, force=False):
        """Write the two files into ``folder``."""
        tensors = {"coef": self.coef, "intercept": self.intercept}
        for i, part in enumerate(self.features.texts):
            tensors |= {f"idf.{i}.{name}": idf for name, idf in part.idf.items()}
        packed = _packed(tensors)
        with atomic_writer(Path(folder) / TENSORS, force=force) as file:
            file.write(packed)
        with atomic_writer(Path(folder) / JSON, force=force) as file:
            file.write(sealed(self._record() | {"tensors": hashlib.sha256(packed).hexdigest()}).encode())

    def _record(self):
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "classes": list(self.classes),
            "target": self.target,
            "id": self.id,
            "groups": list(self.groups),
            "penalty": self.penalty,
            "table": self.features.table.to_record(),
            "texts": [
                {"name": t.name, "terms": {n: list(terms) for n, terms in t.terms.items()}} for t in self.features.texts
            ],
            "rows": self.rows,
            "versions": {"lastlayer": __version__, "numpy": np.__version__, "scikit-learn": sklearn.__version__},
        }


def sealed(record) -> str:
    """A record as JSON, with the checksum of all the rest."""
    return json.dumps(record | {"checksum": _checksum(record)}, indent=1, ensure_ascii=False) + "\n"


def load_model(folder) -> Model:
    """The model in a folder that `Model.save` wrote; what was changed, cut short or of another schema is refused."""
    folder = Path(folder)
    packed, text = _bytes(folder / TENSORS), _bytes(folder / JSON)
    try:
        record = _record_of(text)
        if record.get("tensors") != hashlib.sha256(packed).hexdigest():
            raise DataError(f"does not belong to this {TENSORS}: its SHA-256 is another.", field="tensors", fix=_AGAIN)
    except DataError as error:
        raise error.within(folder / JSON) from None
    try:
        source = safetensors.read(io.BytesIO(packed), "safetensors")
        tensors = source.read(source.names, [])
    except DataError as error:
        raise error.within(folder / TENSORS) from None
    try:
        return _model(record, tensors)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        reason = error.message if isinstance(error, DataError) else f"is not a model: {error!r}.".replace("\n", " ")
        raise DataError(reason, file=folder / JSON, fix=_AGAIN) from None


def _bytes(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}.", file=path, fix="name the folder that `lastlayer train` wrote."
        ) from None


def _record_of(text):
    try:
        record = json.loads(text.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON, or cut short: {error}.", fix=_AGAIN) from None
    if not isinstance(record, dict) or "schema_version" not in record:
        raise DataError("is not a model: it has no schema_version.", fix="name what `lastlayer train` wrote.")
    if record["schema_version"] != SCHEMA_VERSION or isinstance(record["schema_version"], bool):
        raise DataError(
            f"is {record['schema_version']!r:.40}; this version of lastlayer reads {SCHEMA_VERSION}.",
            field="schema_version",
            fix="train again with this version, or update lastlayer.",
        )
    if record.get("kind") != KIND:
        raise DataError(f"is {record.get('kind')!r:.40}, not {KIND!r}.", field="kind", fix=_AGAIN)
    rest = {name: value for name, value in record.items() if name != "checksum"}
    if record.get("checksum") != _checksum(rest):
        raise DataError("was changed after it was written: its checksum is another.", field="checksum", fix=_AGAIN)
    return record


def _checksum(record):
    try:
        return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    except (UnicodeEncodeError, RecursionError):
        raise DataError("holds half of a character, or records without end.", fix=_AGAIN) from None


def _model(record, tensors) -> Model:
    """The model of a record, nothing in it taken on trust; ValueError or TypeError where it is none."""
    classes, penalty = _names("classes", record["classes"]), record["penalty"]
    if len(classes) < 2:
        raise ValueError("fewer than two classes")
    if penalty is not None and not (type(penalty) in (int, float) and 0 < penalty < float("inf")):
        raise ValueError(f"penalty {penalty!r}")
    if type(record["rows"]) is not int:
        raise ValueError(f"rows {record['rows']!r}")
    columns = tuple(_built(KINDS[column.pop("kind")], column) for column in map(dict, record["table"]["columns"]))
    left_out = tuple((_name("left_out", name), _name("left_out", why)) for name, why in record["table"]["left_out"])
    texts = tuple(_text(i, entry, tensors) for i, entry in enumerate(record["texts"]))
    features = Features(Table(columns, left_out), texts)
    outputs = 1 if len(classes) == 2 else len(classes)
    return Model(
        features=features,
        coef=_tensor(tensors, "coef", (outputs, len(features.names))),
        intercept=_tensor(tensors, "intercept", (outputs,)),
        classes=classes,
        target=_name("target", record["target"]),
        id=None if record["id"] is None else _name("id", record["id"]),
        groups=_names("groups", record["groups"]),
        penalty=penalty,
        rows=record["rows"],
    )


def _built(made, record) -> Any:
    """A dataclass of names, numbers and truth values from a record with exactly its fields."""
    if set(record) != {field.name for field in fields(made)}:
        raise ValueError(f"a column with {', '.join(record)}")
    return made(**{field.name: _typed(field.name, field.type, record[field.name]) for field in fields(made)})


def _typed(name, kind, value):
    if kind == tuple[str, ...]:
        return _names(name, value)
    if kind is float:
        if type(value) not in (int, float) or not abs(value) < 2**1023:
            raise ValueError(f"{name} {value!r:.40}")
        return float(value)
    if type(value) not in (get_args(kind) or (kind,)):
        raise ValueError(f"{name} {value!r:.40}")
    return value


def _text(i, entry, tensors):
    name, terms = _name("name", entry["name"]), entry["terms"]
    if not terms or not set(terms) <= set(ANALYSERS):
        raise ValueError(f"a text analysed by {', '.join(terms)}")
    found = {part: _names(part, listed) for part, listed in terms.items()}
    return Text(name, found, {part: _tensor(tensors, f"idf.{i}.{part}", (len(t),)) for part, t in found.items()})


def _tensor(tensors, name, shape):
    array = tensors[name]
    if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
        raise ValueError(f"{name} is {array.dtype} {shape_of(array)}, not finite float64 {shape}")
    return array


def _names(field, value) -> tuple[str, ...]:
    if not isinstance(value, list) or len({_name(field, name) for name in value}) != len(value):
        raise ValueError(f"{field} are names that differ")
    return tuple(value)


def _name(field, value) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field} is a text, not {value!r:.40}")
    return value


def _packed(tensors) -> bytes:
    file = io.BytesIO()
    safetensors.write_tensors(tensors, file)
    return file.getvalue()


def _no_constant(name):
    raise ValueError(f"{name} is not a number in JSON")


def refuse_folder(folder, force=False):
    """Complain about a folder that cannot be written, or that holds something else."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError("is a file.", file=folder, fix="name a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / JSON).exists():
            raise DataError("holds files, and no model.", file=folder, fix="name a new folder, or an empty one.")
        if not force:
            raise DataError("holds a model already.", file=folder, fix="name another, or replace it with --force.")


@contextmanager
def whole_folder(folder, *, force=False):
    """A folder to write into that takes the place of ``folder`` when the block ends, and is gone when it fails.

    With ``force`` an earlier model is replaced; files in its folder that are not written anew stay.
    """
    refuse_folder(folder, force)
    target = Path(os.path.realpath(folder))
    unfinished = target.with_name(f".{target.name[:200]}.{os.urandom(6).hex()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        yield unfinished
        _replace(target, unfinished)
    except OSError as error:
        raise DataError(
            f"could not be written: {error.strerror or error}; nothing was changed.",
            file=folder,
            fix="choose a place that exists, has room and may be written to.",
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(unfinished)


def _replace(target, unfinished):
    if not target.exists():
        os.replace(unfinished, target)
        return
    aside = target.with_name(f".{target.name[:200]}.{os.urandom(6).hex()}.old")
    os.replace(target, aside)
    try:
        os.replace(unfinished, target)
    except OSError:
        os.replace(aside, target)
        raise
    for entry in aside.iterdir():
        if not (target / entry.name).exists():
            os.replace(entry, target / entry.name)
    shutil.rmtree(aside)
