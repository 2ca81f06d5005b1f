"""How what decides is written down: frozen dataclasses as JSON, and back again with nothing taken on trust."""

import json
import math
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args

import numpy as np

from lastlayer._check import DataError

SCHEMA_VERSION = 1
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf}  # JSON has no numbers for them
_PLAIN = {float, int, str, bool, NoneType}


@dataclass(frozen=True, eq=False)
class Recorded:
    """A frozen dataclass whose fields JSON can hold."""

    def record(self) -> dict[str, Any]:
        """As JSON holds it: lists for arrays and tuples, words for infinities, records for what is recorded itself."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


class Record(Recorded):
    """What can be read back without knowing its type: a subclass has a ``kind``, and its subclasses a ``name`` each."""

    kind: ClassVar[str]
    called: ClassVar[str]  # the kind in a sentence
    name: ClassVar[str]
    _named: ClassVar[dict[str, type[Self]]]

    def __init_subclass__(cls, name="", kind="", called=""):
        if kind:
            cls.kind, cls.called, cls._named = kind, called, {}
        else:
            cls.name = name
            cls._named[name] = cls

    def record(self) -> dict[str, Any]:
        """``{KIND: NAME, "parameters": {...}}``."""
        return {self.kind: self.name, "parameters": super().record()}

    def to_json(self) -> str:
        """``{"schema_version": 1, KIND: NAME, "parameters": {...}}``, read back by `from_json` without loss."""
        return json.dumps({"schema_version": SCHEMA_VERSION} | self.record(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_record(cls, record) -> Self:
        """What `record` gave; ValueError where it is something else."""
        if not isinstance(record, dict) or not {cls.kind, "parameters"} <= record.keys():
            raise ValueError(f"{cls.called} is recorded as {cls.kind} and parameters, not {record!r}.")
        name = record[cls.kind]
        known = [name for name, made in cls._named.items() if issubclass(made, cls)]
        if name not in known:
            raise ValueError(f"{cls.kind} {name!r} is not one of {', '.join(known)}.")
        made = cls._named[name]
        try:
            return made(**typed(made, record["parameters"]))
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not the parameters of {cls.kind} {name!r}: {error}.") from None

    @classmethod
    def from_json(cls, text: str, file=None) -> Self:
        """What `to_json` wrote down; ``file`` is named in a complaint."""
        try:
            record = json.loads(text, parse_constant=_no_constant)
            version = record["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise cls._unreadable(f"not {cls.called} ({type(error).__name__}: {error}).", file) from None
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise cls._unreadable(f"schema_version {version!r}; this library reads {SCHEMA_VERSION}.", file)
        try:
            return cls.from_record(record)
        except ValueError as error:
            raise cls._unreadable(str(error), file) from None
        except RecursionError:
            raise cls._unreadable(f"not {cls.called}: records in records without end.", file) from None

    @classmethod
    def _unreadable(cls, message, file):
        return DataError(message, file=file, field=cls.kind, fix=f"write the file with {cls.kind}.to_json().")


def typed(cls, parameters) -> dict[str, Any]:
    """The parameters from JSON, where every number, text and flag among them is what its field of ``cls`` says.

    Fields of other types are left to the class itself. TypeError names the field.
    """
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters are an object with names, not {parameters!r}")
    found = dict(parameters)
    for field in fields(cls):
        kinds: set[Any] = set(get_args(field.type)) if isinstance(field.type, UnionType) else {field.type}
        if field.name not in found or not kinds <= _PLAIN:
            continue
        value = found[field.name]
        if float in kinds and str not in kinds and isinstance(value, str):
            value = found[field.name] = _WORDS.get(value, value)
        if not _is_one_of(kinds, value):
            wanted = " or ".join(sorted(kind.__name__ for kind in kinds if kind is not NoneType))
            raise TypeError(f"{field.name} is of type {wanted}, not {value!r}")
    return found


def _is_one_of(kinds: set[type], value):
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int):
        return abs(value) < 2**1023 and not kinds.isdisjoint({float, int})
    return isinstance(value, tuple(kinds))


def _plain(value):
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, Recorded):
        return value.record()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _no_constant(name):
    raise ValueError(f"{name} is not a number in JSON")
