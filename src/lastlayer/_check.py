"""The sentences of our errors: the law, what came, and what to do about it.

    LastLayerError
    ├── DataError(ValueError)       a file or array that cannot be what it is said to be    exit 3
    └── MissingExtra(ImportError)   an optional package is absent; prints the pip line      exit 4

A wrong call raises ``ValueError`` or ``TypeError`` with the name of the function first.
"""

import importlib
import importlib.util


class LastLayerError(Exception):
    """Whatever the library refuses on purpose."""


class DataError(LastLayerError, ValueError):
    """Bad data: one sentence that names the file, the field, the first rows concerned and the fix."""

    def __init__(self, message, *, file=None, field=None, rows=None, fix=None):
        self.message, self.file, self.field, self.fix = message, file, field, fix
        self.rows = None if rows is None else [int(r) for r in rows[:3]]
        super().__init__(message)

    def __str__(self):
        where = ": ".join(str(part) for part in (self.file, self.field) if part is not None)
        rows = "" if not self.rows else f" First rows: {', '.join(map(str, self.rows))}."
        fix = "" if self.fix is None else f" Fix: {self.fix}"
        return f"{where + ': ' if where else ''}{self.message}{rows}{fix}"

    def within(self, file):
        """The same complaint, naming the file it was found in."""
        return DataError(self.message, file=self.file or file, field=self.field, rows=self.rows, fix=self.fix)


class MissingExtra(LastLayerError, ImportError):
    """An optional package is not installed."""


def require(module, extra, purpose):
    """Import ``module`` or say which pip line brings it."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise MissingExtra(f"{purpose} needs {module.partition('.')[0]}: pip install 'lastlayer[{extra}]'")
    return importlib.import_module(module)


def shape(array):
    """``(8, 10)`` as our sentences print it."""
    return "(" + ", ".join(str(n) for n in array.shape) + ("," if array.ndim == 1 else "") + ")"


def one_of(function, parameter, value, allowed):
    """Refuse a word outside the allowed ones, naming the nearest."""
    if not isinstance(value, str) or value not in allowed:
        import difflib

        near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{function}: {parameter} is one of {', '.join(map(repr, allowed))}, not {value!r}.{hint}")


def positive(function, parameter, value):
    """Refuse a number that is not finite and above zero."""
    if not (value > 0 and value < float("inf")):
        raise ValueError(f"{function}: {parameter} is a finite number above 0, not {value!r}.")


def is_number(text) -> bool:
    """Whether a text is how Python writes a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
