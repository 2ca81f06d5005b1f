"""THE methods of calibration, simplest first, and how a ``calibrator.json`` is read back as one of them."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer.calibrate.beta import Beta
from lastlayer.calibrate.by_group_and_label import ByGroup, ByLabel
from lastlayer.calibrate.calibrator import SCHEMA_VERSION, Calibrator, Certificate, FittedOn, Trial, parameter_names
from lastlayer.calibrate.ensemble_temperature import EnsembleTemperature
from lastlayer.calibrate.histogram import Histogram
from lastlayer.calibrate.identity import Identity
from lastlayer.calibrate.isotonic import Isotonic
from lastlayer.calibrate.matrix import Dirichlet, MatrixScaling, Odir
from lastlayer.calibrate.one_versus_rest import OneVersusRest
from lastlayer.calibrate.platt import Platt
from lastlayer.calibrate.scaling_binning import ScalingBinning
from lastlayer.calibrate.spline import Spline
from lastlayer.calibrate.temperature import Temperature
from lastlayer.calibrate.top_label_isotonic import TopLabelIsotonic
from lastlayer.calibrate.vector import StructuredVectorScaling, TemperatureBias, VectorScaling
from lastlayer.calibrate.venn_abers import VennAbers

LARGEST_FILE = 2**26


class Method(NamedTuple):
    """One row: the class, the tasks it serves, and what else it asks of the rows.

    ``margins``: it can place a margin, whose zero means nothing yet. ``per_class``: it has parameters of each class, so
    that every class must have rows. ``auto`` is the number of classes up to which ``method="auto"`` tries it.
    """

    calibrator: type[Calibrator]
    tasks: tuple[str, ...]
    margins: bool = False
    per_class: bool = False
    auto: float = float("inf")


# The order is the order of complexity: "auto" prefers the earlier of two that do equally well.
METHODS: dict[str, Method] = {
    row.calibrator.method: row
    for row in (
        Method(Identity, tasks=("multiclass", "binary", "multilabel")),
        Method(Temperature, tasks=("multiclass", "binary", "multilabel")),
        Method(Platt, tasks=("binary", "multilabel"), margins=True),
        Method(Beta, tasks=("multiclass", "binary", "multilabel"), per_class=True, auto=2),
        Method(TemperatureBias, tasks=("multiclass",), per_class=True),
        Method(EnsembleTemperature, tasks=("multiclass", "binary", "multilabel")),
        Method(StructuredVectorScaling, tasks=("multiclass",), per_class=True),
        Method(VectorScaling, tasks=("multiclass",), per_class=True),
        Method(MatrixScaling, tasks=("multiclass",), per_class=True, auto=100),
        # They take ten times as long as `matrix` and did no better: for comparison with the paper.
        Method(Odir, tasks=("multiclass",), per_class=True, auto=0),
        Method(Dirichlet, tasks=("multiclass",), per_class=True, auto=0),
        Method(Spline, tasks=("multiclass", "binary", "multilabel"), margins=True, per_class=True, auto=2),
        # Steps make ties, which no ranking survives: they are for those who ask for them.
        Method(Isotonic, tasks=("multiclass", "binary", "multilabel"), margins=True, per_class=True, auto=0),
        Method(VennAbers, tasks=("multiclass", "binary"), margins=True, per_class=True, auto=0),
        Method(TopLabelIsotonic, tasks=("multiclass",), auto=0),
        Method(ScalingBinning, tasks=("multiclass", "binary", "multilabel"), margins=True, per_class=True, auto=0),
        Method(Histogram, tasks=("multiclass", "binary", "multilabel"), margins=True, per_class=True, auto=0),
    )
}


# What a file may hold: the methods, and what is made of several of them.
RECORDS: dict[str, type[Calibrator]] = {
    **{name: row.calibrator for name, row in METHODS.items()},
    **{made.method: made for made in (ByGroup, ByLabel, OneVersusRest)},
}


def from_json(text) -> Calibrator:
    """The calibrator that `Calibrator.to_json` wrote.

    >>> from_json('{"schema_version": 1, "method": "temperature", "parameters": {"temperature": 2.5}, "classes": null}')
    Temperature(temperature=2.5)
    """
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"is not JSON ({problem}).", fix="fit again with `lastlayer fit`.") from None
    if not isinstance(record, dict) or "schema_version" not in record:
        raise DataError("is not a calibrator: it has no schema_version.", fix="`lastlayer fit` writes one.")
    if record["schema_version"] != SCHEMA_VERSION or isinstance(record["schema_version"], bool):
        raise DataError(
            f"is {record['schema_version']!r}; this version of lastlayer reads {SCHEMA_VERSION}.",
            field="schema_version",
            fix="fit again with this version, or update lastlayer.",
        )
    calibrator = _method(record.get("method"))
    classes = record.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise DataError(
            "is a list of names, or null.", field="classes", fix="name the classes in the order of the fit."
        )
    selection = record.get("selection", [])
    if not isinstance(selection, list):
        raise DataError("is a list of trials.", field="selection", fix="leave it out, or fit again.")
    parameters = _parameters(calibrator, record.get("parameters"))
    about = {
        "classes": None if classes is None else tuple(classes),
        "certificate": _optional(Certificate, record.get("certificate"), "certificate"),
        "fitted_on": _optional(FittedOn, record.get("fitted_on"), "fitted_on"),
        "selection": tuple(_record(Trial, row, "selection") for row in selection),
    }
    try:
        return calibrator(**parameters, **about)
    except ValueError as problem:
        raise DataError(f"{problem}", field="parameters", fix="fit again.") from None


def load(path) -> Calibrator:
    """The calibrator in a file that `Calibrator.save` wrote; what is wrong with a file is said with its name."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(
                "is too large for a calibrator.", file=path, fix="name the file that `lastlayer fit` wrote."
            )
        text = path.read_text("utf-8")
    except OSError as problem:
        raise DataError(
            f"cannot be read: {problem.strerror or problem}.", file=path, fix="`lastlayer fit FILE -o` writes one."
        ) from None
    except UnicodeDecodeError:
        raise DataError("is not text, so not a calibrator.", file=path, fix="`lastlayer fit` writes one.") from None
    try:
        return from_json(text)
    except DataError as problem:
        raise problem.within(path) from None


def _method(name):
    try:
        one_of("calibrator", "method", name, tuple(RECORDS))
    except (ValueError, TypeError) as problem:
        raise DataError(str(problem), field="method", fix="fit again with this version, or update lastlayer.") from None
    return RECORDS[name]


def _parameters(calibrator, value):
    names = parameter_names(calibrator)
    kinds = {f.name: f.type for f in fields(calibrator)}
    if not isinstance(value, dict) or set(value) != set(names):
        raise DataError(f"{calibrator.method} has {names or 'none'}.", field="parameters", fix="fit again.")
    return {name: _typed(kinds[name], value[name], f"parameters.{name}") for name in names}


def _optional(cls, value, where):
    return None if value is None else _record(cls, value, where)


def _record(cls, value, where):
    """A frozen record from a JSON object with its names and types; a null number is one without bound."""
    required = {f.name for f in fields(cls) if f.default is MISSING}
    kinds = {f.name: f.type for f in fields(cls)}
    if not isinstance(value, dict) or not required <= set(value) <= set(kinds):
        raise DataError(f"holds {', '.join(kinds)}.", field=where, fix="leave it out, or fit again.")
    if cls is Trial:
        value = {k: float("inf") if v is None and kinds[k] is float else v for k, v in value.items()}
    values = {name: _typed(kinds[name], v, f"{where}.{name}") for name, v in value.items()}
    try:
        return cls(**values)
    except ValueError as problem:
        raise DataError(f"{problem}", field=where, fix="leave it out, or fit again.") from None


def _typed(kind, value, where) -> Any:
    if kind is np.ndarray:
        return _array(value, where)
    if kind == tuple[int, ...]:
        if not isinstance(value, list):
            raise DataError(f"{value!r} is not a list of row numbers.", field=where, fix="fit again.")
        return tuple(_typed(int, row, where) for row in value)
    if kind is Calibrator:
        return _nested(value, where)
    if kind == dict[str, Calibrator]:
        if not isinstance(value, dict):
            raise DataError("is a calibrator by each name.", field=where, fix="fit again.")
        return {name: _nested(part, f"{where}.{name}") for name, part in value.items()}
    number = kind is float and isinstance(value, int | float) and not isinstance(value, bool)
    if not number and not (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        raise DataError(f"{value!r} is not of type {getattr(kind, '__name__', kind)}.", field=where, fix="fit again.")
    try:
        return float(value) if number else value
    except OverflowError:
        raise DataError("is too large a number.", field=where, fix="fit again.") from None


def _array(value, where):
    """A list of numbers, lists of them, as float64; null is nan. The calibrator checks its shape."""

    def number(v):
        if isinstance(v, list):
            return [number(each) for each in v]
        return float("nan") if v is None else _typed(float, v, where)

    try:
        return np.array(number(value), dtype=np.float64)
    except (ValueError, RecursionError):
        raise DataError("is not a table of numbers.", field=where, fix="fit again.") from None


def _nested(value, where):
    if not isinstance(value, dict) or set(value) != {"method", "parameters"}:
        raise DataError("is a calibrator: method and parameters.", field=where, fix="fit again.")
    calibrator = _method(value["method"])
    try:
        return calibrator(**_parameters(calibrator, value["parameters"]))
    except ValueError as problem:
        raise DataError(f"{problem}", field=where, fix="fit again.") from None


def _no_constant(name):
    raise ValueError(f"{name} is not a number in JSON")
