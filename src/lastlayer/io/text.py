"""Tables as text: CSV and TSV with a header, and JSON objects one per line (plain or gzipped).

Values survive exactly (a float is written with all its digits), dtypes do not: scores come back as float64. Non-finite
scores are ``nan``, ``inf``, ``-inf`` in CSV and the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` in JSON, which
has no numbers for them; an empty cell or ``null`` is nan. A target is looked up among the class names first and taken
as an index where no text is a class name. A CSV is untyped, so its ids are texts.
"""

import codecs
import csv
import gzip
import json
import zlib
from contextlib import contextmanager
from itertools import islice

import numpy as np

from lastlayer._check import DataError
from lastlayer.io._fields import PREFIX, columns_of, text_array

_BLOCK = 20_000  # rows held as Python objects at a time
BLANKS = "blanks"  # any number of blanks and tabs
_SEPARATORS = (";", "\t", ",", "|")
_JSON_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def read(file, form, separator=None):
    """The table in an open file of format ``csv``, ``tsv`` or ``jsonl``, or one of them with ``.gz``.

    Between the cells of ``csv`` and ``tsv`` stands ``separator``, where it is another: a character, or `BLANKS`.
    """
    raw = gzip.GzipFile(fileobj=file) if form.endswith(".gz") else file
    lines = (line.decode("utf-8" if number else "utf-8-sig") for number, line in enumerate(raw))
    form = form.removesuffix(".gz")
    if form == "jsonl":
        return Records(_parsed(lines))
    if separator == BLANKS:
        lines, separator = (" ".join(line.split()) for line in lines), " "
    return _Csv(lines, separator or ("\t" if form == "tsv" else ","))


def write(outputs, file, form):
    """``outputs`` as a table with a score column per class (or one, for binary); the target as class names."""
    if form.endswith(".gz"):
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
            write(outputs, packed, form.removesuffix(".gz"))
        return
    names, columns = _wide(outputs)
    text = codecs.getwriter("utf-8")(file)
    if form == "jsonl":
        for row in _rows(columns):
            row = (_json_number(v) if isinstance(v, float) else v for v in row)
            text.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
    else:
        table = csv.writer(text, delimiter="\t" if form == "tsv" else ",", lineterminator="\n")
        table.writerow(names)
        table.writerows(_rows(columns))


class _Rows:
    """A `Source` whose rows come one after another, as texts or as parsed values."""

    typed = False
    declared = {}  # noqa: RUF012  (empty: text has no place for metadata)

    def outline(self, name):
        return None

    def stream(self, names, start, step):
        return None  # whether a column holds numbers or names is known at its end

    def blocks(self, names):
        """Line numbers and one list of values per name, some thousand rows at a time."""
        raise NotImplementedError

    def read(self, numbers, others):
        names = [*numbers, *others]
        if not names:
            return {}
        parts = {name: [] for name in numbers}
        values = {name: [] for name in others}
        for lines, columns in self.blocks(names):
            for name, column in zip(names, columns, strict=True):
                if name in values:
                    values[name].extend(column)
                else:
                    parts[name].append(_numbers(name, column, lines, parts[name]))
        if not any(parts.values()) and not any(values.values()):
            raise DataError("there are no rows below the header.", fix="check how the file was written.")
        columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return columns | {name: _typed(name, column) for name, column in values.items()}


class _Csv(_Rows):
    def __init__(self, lines, delimiter):
        self._rows = csv.reader(lines, delimiter=delimiter, strict=True)
        with _readable():
            header = next(self._rows, None)
        if not header:
            raise DataError("empty: not even a header line.", field="header", fix="check how the file was written.")
        self._ahead = []
        if len(header) == 1:
            self._refuse_another_separator(header[0], delimiter)
        self.names = [name.lstrip() for name in header]  # a class may end in a blank, none begins the cell

    def blocks(self, names):
        index = [self.names.index(name) for name in names]
        while block := self._block():
            lines, rows = zip(*block, strict=True)
            for line, row in block:
                if len(row) != len(self.names):
                    raise DataError(
                        f"line {line} has {len(row)} cells, the header has {len(self.names)}.",
                        fix="complete the line; a cell that holds the separator is quoted.",
                    )
            table = list(zip(*rows, strict=True))
            yield lines, [table[i] for i in index]

    def _block(self):
        ahead, self._ahead = self._ahead, []
        with _readable():
            rows = filter(None, self._rows)  # a blank line is no row
            return ahead + [(self._rows.line_num, row) for row in islice(rows, _BLOCK)]

    def _refuse_another_separator(self, header, delimiter):
        """One cell is one column, unless header and first row hold the same number of another separator."""
        with _readable():
            first = next(filter(None, self._rows), None)
        if first is None:
            return
        self._ahead = [(self._rows.line_num, first)]
        for other in _SEPARATORS:
            if other != delimiter and 0 < header.count(other) == delimiter.join(first).count(other):
                raise DataError(
                    f"the line has one cell; is the separator {other!r}?",
                    field="header",
                    fix="write commas, or tabs in what is called .tsv; `lastlayer train` takes --separator.",
                )


class Records(_Rows):
    """Dictionaries of one row each; the first says which columns there are."""

    def __init__(self, records):
        self._records = iter(records)
        first = next(self._records, None)
        if first is None:
            raise DataError("empty: there are no rows.", fix="check how the file was written.")
        self._first = first
        self.names = list(first[1])

    def blocks(self, names):
        block = [self._first, *islice(self._records, _BLOCK)]
        while block:
            lines = [line for line, _ in block]
            try:
                yield lines, [[record[name] for _, record in block] for name in names]
            except KeyError as error:
                name = error.args[0]
                line = next(line for line, record in block if name not in record)
                raise DataError(
                    f"line {line} has no {name!r}.", field=name, fix="give every row the same keys."
                ) from None
            block = list(islice(self._records, _BLOCK))


def _parsed(lines):
    with _readable():
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"line {number} is not JSON: {error}.",
                    fix="write one object per line, for instance with json.dumps.",
                ) from None
            if not isinstance(record, dict):
                raise DataError(f"line {number} is not an object.", fix='write one {"logit_<class>": ...} per line.')
            yield number, record


@contextmanager
def _readable():
    """What reading text can raise on bytes that are no text, as one sentence of ours."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}.", fix="save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"not a table: {error}.", fix="quote cells that hold quotes or separators.") from error
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"damaged or cut short: {error}.", fix="write the file again, or copy it again.") from error


def _numbers(name, values, lines, before):
    """A block of a column as float64, of the width of the blocks before; the line of what is no number."""
    try:
        array = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        rows = [_number(name, value, line) for value, line in zip(values, lines, strict=True)]
        widths = [len(row) if isinstance(row, list) else 1 for row in rows]
        odd = next((i for i, width in enumerate(widths) if width != widths[0]), None)
        if odd is not None:
            raise DataError(
                f"line {lines[odd]} holds {widths[odd]} numbers, the lines before hold {widths[0]}.",
                field=name,
                fix="give every row one number per class.",
            ) from None
        array = np.array(rows, dtype=np.float64)
    if before and array.shape[1:] != before[0].shape[1:]:
        raise DataError(
            f"line {lines[0]} holds {array.shape[1:]} numbers, the lines before hold {before[0].shape[1:]}.",
            field=name,
            fix="give every row one number per class.",
        )
    return array


def _number(name, value, line):
    if isinstance(value, list):
        return [_number(name, tuple(v) if isinstance(v, list) else v, line) for v in value]
    if value is None or value == "":
        return np.nan
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        raise DataError(
            f"line {line}: {str(value)[:40]!r} is not a number.", field=name, fix="write a number, nan, inf or nothing."
        ) from None


def _typed(name, values):
    """A column as its values' type says: texts, integers, truth values, numbers, or equal lists of numbers."""
    kinds = set(map(type, values))
    if kinds == {bool}:
        return np.array(values)
    try:
        if kinds == {int}:
            return np.array(values, dtype=np.int64)
        if kinds <= {int, float}:
            return np.array(values, dtype=np.float64)
    except OverflowError:
        pass  # too long for a number, so a name
    if kinds & {list, dict}:
        return _lists(name, values)
    return text_array(name, ["" if value is None else str(value) for value in values])


def _lists(name, values):
    try:
        array = np.array(values)
    except ValueError:
        array = None
    if array is None or array.ndim != 2 or array.dtype.kind not in "iufb":
        raise DataError(
            "a list holds one number per class, in every row.", field=name, fix="write equal lists of numbers."
        )
    return array


def _wide(outputs):
    """Names and columns of the table: scores per class, target as names, and what else belongs to the rows."""
    classes, start = outputs.classes, PREFIX[outputs.kind]
    if "" in classes:
        raise DataError("a class without a name has no column.", field="classes", fix="name it.")
    columns = columns_of(outputs)
    scores, target = columns.pop(outputs.kind), columns.pop("target", None)
    if outputs.task == "binary":
        wide = {start + classes[1]: scores}
    else:
        wide = {start + name: scores[:, k] for k, name in enumerate(classes)}
    if target is not None and target.ndim == 2:
        wide |= {f"target_{name}": target[:, k] for k, name in enumerate(classes)}
    elif target is not None:
        names = classes if outputs.task != "binary" else (_negative(*classes), classes[1])
        wide["target"] = target if target.dtype.kind == "f" else np.array(names, dtype=np.str_)[target]
    wide |= columns
    return list(wide), list(wide.values())


def _negative(negative, positive):
    """The negative class's name, if a reader of ``logit_<positive>`` can tell it from an index."""
    return negative if not negative.isdigit() or (negative, positive) == ("0", "1") else f"not_{positive}"


def _rows(columns):
    for start in range(0, len(columns[0]), _BLOCK):
        yield from zip(*(column[start : start + _BLOCK].tolist() for column in columns), strict=True)


def _json_number(value):
    return value if value - value == 0 else _JSON_WORDS[str(value)]
