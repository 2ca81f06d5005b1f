"""What every decision policy is: a frozen record that maps `Outputs` to `Decisions` and can be written down as JSON."""

import json
import math
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np

from lastlayer._check import DataError
from lastlayer.decide.decisions import Decisions
from lastlayer.outputs import Outputs, wanted

SCHEMA_VERSION = 1
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf}  # JSON has no numbers for them


class Policy:
    """A rule that accepts a row's class or has the row reviewed: ``policy(outputs)`` gives `Decisions`.

    >>> from lastlayer.decide import Cost
    >>> Policy.from_json(Cost(wrong=10, review=1).to_json())
    Cost(wrong=10, review=1)
    """

    name: ClassVar[str]
    _named: ClassVar[dict[str, type["Policy"]]] = {}

    def __init_subclass__(cls, name):
        cls.name = name
        Policy._named[name] = cls

    def __call__(self, outputs: Outputs) -> Decisions:
        return self.decide(wanted(type(self).__name__, outputs))

    def decide(self, outputs: Outputs) -> Decisions:
        """What calling it does."""
        raise NotImplementedError

    def realised_cost(self, index, target) -> tuple[Any, Any]:
        """What acting on ``index`` cost each row and what its review would have cost; (None, None) without costs."""
        return None, None

    def to_json(self) -> str:
        """``{"schema_version": 1, "policy": NAME, "parameters": {...}}``, read back by `from_json` without loss."""
        return json.dumps({"schema_version": SCHEMA_VERSION} | self.record(), allow_nan=False, ensure_ascii=False)

    def record(self) -> dict[str, Any]:
        """``{"policy": NAME, "parameters": {...}}`` of what JSON can hold; a policy in a policy is a record too."""
        parameters = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # pyright: ignore
        return {"policy": self.name, "parameters": parameters}

    @staticmethod
    def from_record(record) -> "Policy":
        """The policy of a `record`; ValueError where it is none."""
        if not isinstance(record, dict) or not {"policy", "parameters"} <= record.keys():
            raise ValueError(f"a policy is recorded as policy and parameters, not {record!r}.")
        name, parameters = record["policy"], record["parameters"]
        if not isinstance(name, str) or name not in Policy._named:
            raise ValueError(f"policy {name!r} is not one of {', '.join(Policy._named)}.")
        try:
            return Policy._named[name](**{key: _number(value) for key, value in parameters.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"not the parameters of a {name} policy: {error}.") from None

    @staticmethod
    def from_json(text: str, file=None) -> "Policy":
        """The policy that `to_json` wrote down; ``file`` is named in a complaint."""
        try:
            record = json.loads(text)
            version = record["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _unreadable(f"not a policy ({type(error).__name__}: {error}).", file) from None
        if version != SCHEMA_VERSION:
            raise _unreadable(f"schema_version {version!r}; this library reads {SCHEMA_VERSION}.", file)
        try:
            return Policy.from_record(record)
        except ValueError as error:
            raise _unreadable(str(error), file) from None


def _plain(value):
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, Policy):
        return value.record()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _number(value):
    if isinstance(value, list):
        return [_number(item) for item in value]
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _unreadable(message, file):
    return DataError(message, file=file, field="policy", fix="write it with policy.to_json().")
