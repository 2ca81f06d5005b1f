"""The cases: what goes in, what must come out, and how near."""

import functools
import importlib.resources
import json
import math
from dataclasses import dataclass
from typing import NamedTuple

ULP = 4  # units in the last place that a result may be off
LOSSES = ("cross_entropy", "binary_cross_entropy")  # come out in float32 where half precision goes in


class Precision(NamedTuple):
    """A floating dtype: the bits of its precision, and the exponent of its smallest normal number, 2 ** smallest."""

    bits: int
    smallest: int
    digits: int  # as many as tell every number from the next


PRECISIONS = {
    "float64": Precision(53, -1022, 17),
    "float32": Precision(24, -126, 9),
    "bfloat16": Precision(8, -126, 4),
    "float16": Precision(11, -14, 5),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One promise about one function: these arguments give this result.

    ``expected`` holds decimal literals of 20 digits and more (or "nan", "inf", "-inf"), nested like the result; a
    single literal stands for every entry. ``asks`` is "value", "gradient" (of the sum of the results, with respect to
    the first argument) or "gradient sum" (the sum of its entries: 0, since a constant shift changes no loss).

    An entry may be 4 units in the last place off, in the dtype of the result: that of the arguments, or float32 for a
    loss of half precision. The unit is that of the exact entry; where entries are differences that cancel (the sum of
    a gradient, the gradient of an entropy or for shares), it is that of the largest entry of the exact gradient,
    ``unit``. Below the smallest normal number of the dtype a result only has to be as small. An exact 0, inf or nan
    has to be that.
    """

    name: str
    group: str
    function: str
    asks: str
    dtype: str
    inputs: tuple  # the positional arguments as plain numbers and lists; a long row as the rule that makes it
    settings: dict  # the keyword arguments
    expected: str | list
    unit: str | None
    threads: tuple[str, ...]  # where the field met it, as owner/repository#number
    wrong: str  # one sentence: what goes wrong when it is wrong

    def __str__(self):
        return self.name

    @property
    def arguments(self):
        """The positional arguments as plain numbers and nested lists."""
        return tuple(_expanded(value) for value in self.inputs)

    @property
    def precision(self):
        """That of the result."""
        half = self.dtype in ("bfloat16", "float16")
        return PRECISIONS["float32" if half and self.function in LOSSES and self.asks == "value" else self.dtype]


def _expanded(value):
    """``value`` with its words as numbers and its rules as rows."""
    if isinstance(value, dict):
        return [value["start"] + value["step"] * (i % value["period"]) for i in range(value["classes"])]
    if isinstance(value, list):
        return [_expanded(v) for v in value]
    return float(value) if isinstance(value, str) else value


def _record(family, case):
    return Case(
        name=case["name"],
        group=family["group"],
        function=family["function"],
        asks=case["asks"],
        dtype=case["dtype"],
        inputs=tuple(case["inputs"]),
        settings={name: _expanded(value) for name, value in case.get("settings", {}).items()},
        expected=case["expected"],
        unit=case.get("unit"),
        threads=tuple(family["threads"]),
        wrong=family["wrong"],
    )


@functools.cache
def load():
    """Every case, in the order of the file."""
    text = importlib.resources.files("lastlayer.conformance").joinpath("cases.json").read_text("utf-8")
    return tuple(_record(family, case) for family in json.loads(text) for case in family["cases"])


def last_place(size, precision):
    """The unit in the last place of a number of this size."""
    exponent = math.frexp(size)[1] - 1 if size else precision.smallest
    return math.ldexp(1.0, max(exponent, precision.smallest) - precision.bits + 1)
