"""Tables to features: numbers, truth values and categories, fitted on some rows and then the same for all others."""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, Self

import numpy as np

from lastlayer._check import DataError, is_number
from lastlayer.io import FORMATS, text
from lastlayer.io import _columns as opened
from lastlayer.outputs import brief

MISSING = frozenset(("", "?", "NA", "N/A", "NaN", "nan", "null"))  # what a cell without a value holds
LEVELS = 100  # of a category; the others are one level together
LARGEST = 1e150  # of a number: its square is one
RARE = 2  # rows that a level of its own has at least
_DELIMITED = ("csv", "tsv", "csv.gz", "tsv.gz")
_TRUTH = {"true": 1.0, "false": 0.0}
_NO_VALUES, _CONSTANT, _ALL_DIFFER = "it has no values", "it is constant", "hardly a value of it stands twice"


def read_table(path, *, format=None, header=None, unquoted=False, separator=None) -> dict[str, np.ndarray]:
    """The columns of a file by name: numbers and truth values where the format has them, else texts.

    The file is CSV, TSV or JSON lines (or .gz of them), or parquet; ``-`` is standard input. ``header`` are the names
    of the columns of a CSV or TSV file that has no header; in one that is ``unquoted`` quotes are plain characters;
    ``separator`` is the character between its cells where it is neither comma nor tab, or ``"blanks"``, any number of
    them.
    """
    source_name = "standard input" if str(path) == "-" else str(path)
    try:
        with _opened(path, format, header, unquoted, separator) as source:
            _refuse_names(source.names)
            return _read(source, list(source.names))
    except DataError as error:
        raise error.within(source_name) from error.__cause__


@contextmanager
def _opened(path, form, header, unquoted, separator):
    if header is None and separator is None and not unquoted:
        with opened(path, form) as source:
            yield source
        return
    form = form or next((f for f in FORMATS if str(path).lower().endswith(f".{f}")), "csv")
    if form not in _DELIMITED or str(path) == "-":
        raise DataError(
            "only the header, the separator and the quotes of a CSV or TSV file can be spoken of.",
            fix="leave --columns, --separator and --unquoted out, or say --format csv.",
        )
    try:
        lines = Path(path).read_bytes()
        lines = gzip.decompress(lines) if form.endswith(".gz") else lines
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}.", fix="check the path, or copy the file again.") from None
    form = form.removesuffix(".gz")
    between = "\t" if form == "tsv" else ","
    if separator is not None:
        between = " " if separator == text.BLANKS else separator
    cut = None if separator == text.BLANKS else between.encode()
    lines = _quoted(lines, cut, between.encode()) if unquoted else lines
    first = b"" if header is None else between.join(header).encode() + b"\n"
    yield text.read(io.BytesIO(first + lines), form, separator)


def _quoted(lines, cut, between):
    """Lines whose quotes are plain characters, as a reader of quotes understands them."""
    return b"\n".join(
        between.join(b'"' + cell.replace(b'"', b'""') + b'"' for cell in line.split(cut)) if line else b""
        for line in lines.splitlines()
    )


def _refuse_names(names):
    twice = [name for name, count in Counter(names).items() if count > 1]
    if sum(map(is_number, names)) > len(names) / 2:
        raise DataError(
            f"the header is missing: the first line is {brief(tuple(names))}.",
            field="header",
            fix="name the columns: --columns NAME,NAME,...",
        )
    if twice:
        raise DataError(f"two columns are called {twice[0]!r}.", field="header", fix="rename one of them.")


def _read(source, names):
    if hasattr(source, "blocks"):  # rows as they come: texts of any length, which an array would pad
        parts: list[list[Any]] = [[] for _ in names]
        for _, block in source.blocks(names):
            for part, column in zip(parts, block, strict=True):
                part.extend(column)
        if not parts[0]:
            raise DataError("there are no rows below the header.", fix="check how the file was written.")
        return {name: _array(name, part) for name, part in zip(names, parts, strict=True)}
    columns = source.read([], names)
    for name, column in columns.items():
        if column.ndim != 1:
            raise DataError("holds a list in each row.", field=name, fix="spread it over columns, or --drop it.")
    return {name: c.astype(object) if c.dtype.kind == "U" else c for name, c in columns.items()}


def _array(name, values):
    """Values as they come from JSON, or texts."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return np.array(values, dtype=object)
    if kinds & {list, dict}:
        raise DataError("holds a list or an object.", field=name, fix="spread it over columns, or --drop it.")
    if kinds == {bool}:
        return np.array(values)
    if kinds <= {bool, NoneType} or kinds <= {int, float, NoneType}:
        try:
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        except OverflowError:
            pass  # too long for a number, so a name
    return np.array(["" if v is None else str(v) for v in values], dtype=object)


def texts(values) -> list[str]:
    """A column as texts, without blanks at their ends; what is missing is the empty text."""
    if values.dtype.kind == "f":
        return ["" if v != v else f"{v:.17g}" for v in values.tolist()]
    stripped = [str(v).strip() for v in values.tolist()]
    return ["" if v in MISSING else v for v in stripped]


def numbers(name, values) -> np.ndarray:
    """A column as float64, nan where a value is missing; what is no number is named by its row."""
    if values.dtype.kind in "biuf":
        found = values.astype(np.float64)
    else:
        words = texts(values)
        try:
            found = np.array([v or "nan" for v in words]).astype(np.float64)
        except ValueError:
            row = next(i for i, v in enumerate(words) if v and not is_number(v))
            raise DataError(
                f"text in a numeric column: {words[row][:40]!r}.",
                field=name,
                rows=[row],
                fix=f"mend the row, or say what the column is: --category {name}, --text {name}, --drop {name}.",
            ) from None
    endless = np.flatnonzero(np.abs(found) > LARGEST)
    if len(endless):
        what = "an infinite number" if np.isinf(found[endless[0]]) else f"{found[endless[0]]:g}, which no sum can hold"
        raise DataError(f"{what}.", field=name, rows=endless, fix="leave the cell empty, or the row out.")
    return found


class Encoded(NamedTuple):
    """Features of rows, and what was strange about them, in words."""

    values: Any
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A numeric column; ``gaps`` says whether values were missing, which then is a feature of its own.

    ``fill`` is what stands where a value is missing: the median of the rows of the fit. ``truth`` is a column of
    "true" and "false".
    """

    name: str
    fill: float
    gaps: bool
    spread: float  # the standard deviation, filled; where it is 0, only the gaps say something
    truth: bool

    @classmethod
    def fit(cls, name, values, truth) -> Self | str:
        """The column, or why it is left out."""
        found = cls.parsed(name, values, truth)
        present = found[~np.isnan(found)]
        if not len(present):
            return _NO_VALUES
        fill, gaps = float(np.median(present)), len(present) < len(found)
        spread = float(np.where(np.isnan(found), fill, found).std())
        if (present == present[0]).all() or spread**2 == 0:
            spread = 0.0
        if spread == 0 and not gaps:
            return _CONSTANT
        return cls(name, fill, gaps, spread, truth)

    @staticmethod
    def parsed(name, values, truth):
        if not truth:
            return numbers(name, values)
        words = [word.lower() for word in texts(values)]
        row = next((i for i, word in enumerate(words) if word and word not in _TRUTH), None)
        if row is not None:
            raise DataError(
                f"neither true nor false: {words[row][:40]!r}.", field=name, rows=[row], fix="mend the row."
            )
        return np.array([_TRUTH.get(word, np.nan) for word in words])

    @property
    def features(self):
        return [self.name] * (self.spread > 0) + [f"{self.name} (missing)"] * self.gaps

    @property
    def factors(self):
        """A penalty counts in standard deviations; that something is missing is a category."""
        return [self.spread**2] * (self.spread > 0) + [1.0] * self.gaps

    def encode(self, values, into):
        """Write the features into ``into``; returns what was strange."""
        found = self.parsed(self.name, values, self.truth)
        missing = np.isnan(found)
        if self.spread > 0:
            into[:, 0] = np.where(missing, self.fill, found)
        if self.gaps:
            into[:, -1] = missing
        elif missing.any():
            return f"{self.name}: {missing.sum():,} missing, where none was in training, taken as {self.fill:g}"
        return None


@dataclass(frozen=True)
class Category:
    """A column of names: a feature of 0 and 1 for each level, one for all rare ones, one for what is missing.

    ``reference`` is a level without a feature of its own: the others are then compared with it.
    """

    name: str
    levels: tuple[str, ...]
    rest: bool
    gaps: bool
    reference: str | None

    @classmethod
    def fit(cls, name, values, reference) -> Self | str:
        """The column, or why it is left out."""
        counts = Counter(texts(values))
        gaps = counts.pop("", 0)
        if not counts:
            return _NO_VALUES
        by_size = sorted(counts, key=lambda level: (-counts[level], level))
        levels = [level for level in by_size if counts[level] >= RARE][:LEVELS]
        if not levels:
            return _ALL_DIFFER
        rest = len(counts) > len(levels)
        if len(levels) == 1 and not rest and not gaps:
            return _CONSTANT
        first = levels.pop(0) if reference else None
        return cls(name, tuple(levels), rest, gaps > 0, first)

    @property
    def features(self):
        named = [f"{self.name}={level}" for level in self.levels]
        return named + [f"{self.name} (other)"] * self.rest + [f"{self.name} (missing)"] * self.gaps

    @property
    def factors(self):
        return [1.0] * len(self.features)

    def encode(self, values, into):
        """Write the features into ``into``; returns what was strange."""
        place = {level: j for j, level in enumerate(self.levels)}
        none = -1
        if self.reference is not None:
            place[self.reference] = none
        other = len(self.levels) if self.rest else none
        place[""] = len(self.levels) + self.rest if self.gaps else none
        words = texts(values)
        index = np.array([place.get(word, other) for word in words])
        into[:] = 0
        rows = np.flatnonzero(index != none)
        into[rows, index[rows]] = 1
        new = {word for word in words if word not in place} if not self.rest else set()
        if "" in words and not self.gaps:
            new.add("(missing)")
        if new:
            return f"{self.name}: {brief(tuple(sorted(new)))} not seen in training, counted as no level"
        return None


def parsed(columns: Mapping[str, np.ndarray], categories: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The columns with those that are numbers or truth values as float64, nan where a value is missing."""
    kinds = {name: "category" if name in categories else _kind(values) for name, values in columns.items()}
    return {
        name: values if kinds[name] == "category" else Number.parsed(name, values, kinds[name] == "truth")
        for name, values in columns.items()
    }


KINDS: dict[str, type[Number] | type[Category]] = {"number": Number, "category": Category}


@dataclass(frozen=True)
class Table:
    """The columns that are features, and those that are not, each with why.

    >>> table = Table.fit({"age": np.array([30.0, np.nan, 50.0]), "sex": np.array(["f", "m", "f"], dtype=object)})
    >>> table.features
    ['age', 'age (missing)', 'sex=f', 'sex (other)']
    >>> table.transform({"age": np.array([20.0]), "sex": np.array(["x"], dtype=object)}).values
    array([[20.,  0.,  0.,  1.]])
    """

    columns: tuple[Number | Category, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @classmethod
    def fit(cls, columns: Mapping[str, np.ndarray], categories: Sequence[str] = (), reference=False) -> Self:
        """From the columns of some rows; those in ``categories`` are names even where they look like numbers.

        A column of texts is numeric where most of its values are numbers; then all of them have to be.
        """
        fitted, left_out = [], []
        for name, values in columns.items():
            kind = "category" if name in categories else _kind(values)
            if kind == "category":
                column = Category.fit(name, values, reference)
            else:
                column = Number.fit(name, values, kind == "truth")
            if isinstance(column, str):
                left_out.append((name, column))
            else:
                fitted.append(column)
        return cls(tuple(fitted), tuple(left_out))

    @property
    def features(self) -> list[str]:
        """The name of each feature: ``age``, ``age (missing)``, ``sex=f``, ``sex (other)``."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def factors(self) -> np.ndarray:
        """What each feature's penalty is multiplied by: the variance of a number, so that units do not matter."""
        return np.array([factor for column in self.columns for factor in column.factors])

    def transform(self, columns: Mapping[str, np.ndarray]) -> Encoded:
        """The features of rows, ``(n, features)`` in F-order; a column that is not there is refused."""
        missing = [column.name for column in self.columns if column.name not in columns]
        if missing:
            raise DataError(
                f"there is no column {missing[0]!r}"
                + (f", and {len(missing) - 1} more of the model's are not there." if missing[1:] else "."),
                field="header",
                fix=f"give the columns of the training table; these are {brief(tuple(columns))}.",
            )
        values = np.empty((_rows(columns), len(self.features)), order="F")
        start, notes = 0, []
        for column in self.columns:
            width = len(column.features)
            notes.append(column.encode(columns[column.name], values[:, start : start + width]))
            start += width
        return Encoded(values, tuple(filter(None, notes)))

    def to_record(self) -> dict:
        """As JSON holds it."""
        kinds = {made: kind for kind, made in KINDS.items()}
        columns = [{"kind": kinds[type(column)], **asdict(column)} for column in self.columns]
        return {"columns": columns, "left_out": [list(pair) for pair in self.left_out]}


def _rows(columns):
    return len(next(iter(columns.values())))


def _kind(values):
    """``number``, ``truth`` or ``category``, by what most of the values are."""
    if values.dtype.kind in "biuf":
        return "number"
    present = list(_present(values))
    if present and all(word.lower() in _TRUTH for word in present):
        return "truth"
    return "number" if sum(map(is_number, present)) > len(present) / 2 or not present else "category"


def _present(values) -> Iterator[str]:
    return (word for word in texts(values) if word)
