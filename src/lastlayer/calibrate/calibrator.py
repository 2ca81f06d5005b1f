"""What every calibrator is: a frozen record that maps logits to logits and says where it came from."""

import base64
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from lastlayer._array import as_array
from lastlayer._check import DataError
from lastlayer._check import shape as shape_of
from lastlayer.outputs import wanted

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Certificate:
    """How the fit ended, on the rows it was fitted on.

    ``gradient`` is relative to its own scale at the solution; ``converged`` means that it is at most 1e-10 of it, or
    that no number is left between the ends of the bracket. ``bound`` is the limit that the solution ran into, such as
    ``"temperature >= 0.0001"``. ``nll_before`` and ``nll_after`` are means. The rest counts the rows left out because
    no calibrator can mend them: with a nan, with infinite or empty scores, with probability 0 on the target.
    ``first_left_out`` numbers the first ten of them, from 0.
    """

    converged: bool
    iterations: int
    gradient: float
    bound: str | None
    nll_before: float
    nll_after: float
    nan_rows: int = 0
    infinite_rows: int = 0
    impossible_rows: int = 0
    first_left_out: tuple[int, ...] = ()


SKETCHED = 512  # rows of a fit that a later file is asked for


@dataclass(frozen=True)
class FittedOn:
    """The rows of a fit: number, weight, task, where they were read, and hashes of their content, in any order.

    ``sketch`` holds the 512 least hashes of rows that differ: a file that shares one row in a hundred with the fit
    shares about 5 of them.
    """

    rows: int
    weight: float
    task: str
    source: str | None
    content: str
    sketch: str = ""

    def __post_init__(self):
        if len(base64.b64decode(self.sketch, validate=True)) % 8:
            raise ValueError("FittedOn: sketch is 64-bit hashes in base64.")

    @classmethod
    def of(cls, hashes, weight, task, source) -> Self:
        content = f"{int(hashes.sum(dtype=np.uint64)):016x}"
        ordered = np.sort(hashes)  # np.unique hashes them again, for five times as long
        distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])]
        # Of rows that repeat (trees, rounded scores) equal content says nothing about where they come from.
        least = distinct[:SKETCHED] if 10 * len(distinct) > 9 * len(hashes) else distinct[:0]
        return cls(len(hashes), weight, task, source, content, base64.b64encode(least.astype("<u8").tobytes()).decode())

    def shared(self, hashes) -> float:
        """About which share of the rows of the fit is among rows with these `calibrate.rows.Rows.hashes`."""
        least = np.frombuffer(base64.b64decode(self.sketch), "<u8")
        found, chance = int(np.isin(least, hashes).sum()), 0.0
        if found > 1 and self.task == "binary":
            # Single scores meet by chance: about as often as one of these rows is one that stands here again.
            chance = len(least) * (1 - (np.unique(hashes, return_counts=True)[1] == 1).sum() / len(hashes))
        return float(found - chance) / len(least) if found > 1 + chance + 3 * chance**0.5 else 0.0


@dataclass(frozen=True)
class Trial:
    """One method that was tried: mean cross-validated NLL and its distance to the best, with standard errors."""

    method: str
    nll: float
    error: float
    difference: float
    difference_error: float
    seconds: float
    verdict: str


@dataclass(frozen=True, eq=False)
class Calibrator:
    """Calling it maps logits to logits. ``classes`` are those it was fitted with, in their order; None fits any.

    A method is a subclass with a ``method`` name, its parameters as fields, ``map``, and ``solve``, which fits it
    to `calibrate.rows.Rows`; and one row in `calibrate.registry.METHODS`. A parameter is a number, a text or a flag; a
    read-only float64 array (`array` makes one, nan standing for "none"); or a calibrator, or several by name.
    """

    method: ClassVar[str]

    classes: tuple[str, ...] | None = field(default=None, kw_only=True, repr=False)
    certificate: Certificate | None = field(default=None, kw_only=True, repr=False)
    fitted_on: FittedOn | None = field(default=None, kw_only=True, repr=False)
    selection: tuple[Trial, ...] = field(default=(), kw_only=True, repr=False)

    @classmethod
    def solve(cls, rows) -> Self:
        """Fit to `calibrate.rows.Rows`, with a certificate."""
        raise NotImplementedError

    @classmethod
    def free_parameters(cls, classes: int) -> int:
        """Parameters that nothing but the rows of the fit holds; 0 where a penalty, or order, holds them."""
        return 0

    @property
    def width(self) -> int | None:
        """The scores per row that its parameters are for; None where any number will do."""
        return None

    def __eq__(self, other):
        return type(self) is type(other) and self.to_json() == other.to_json()

    def __hash__(self):
        return hash(self.to_json())

    def map(self, logits: Any) -> Any:
        """What calling it does, for logits that fit."""
        raise NotImplementedError

    def __call__(self, logits: Any) -> Any:
        """Calibrated logits, in the library, shape and dtype that ``logits`` came in.

        After a fit to several exclusive classes, logits with another number of them are refused.
        """
        if self.classes is not None and self.fitted_on is not None and self.fitted_on.task == "multiclass":
            logits = as_array(logits)
            if logits.shape[-1:] != (len(self.classes),):
                found = f"{logits.shape[-1]}" if logits.ndim else "no axis of classes"
                raise ValueError(
                    f"{self.method} was fitted on {len(self.classes)} classes ({_listed(self.classes)}); these logits "
                    f"{shape_of(logits)} have {found}."
                )
        return self.map(logits)

    def __str__(self):
        """For a line of text: ``temperature 3.25``, ``matrix: strength 1, 110 numbers``, ``by_label: platt x 3``."""
        values = {name: getattr(self, name) for name in parameter_names(type(self))}
        told = [_short(name, value) for name, value in values.items() if not isinstance(value, np.ndarray)]
        numbers = sum(value.size for value in values.values() if isinstance(value, np.ndarray))
        told += [f"{numbers:,} numbers"] if numbers else []
        if len(told) == 1 and told[0].startswith(f"{self.method} "):
            return told[0]
        return f"{self.method}: {', '.join(told)}" if told else self.method

    @property
    def parameters(self) -> dict[str, Any]:
        """The fitted numbers by name, as JSON holds them."""
        return {name: _plain(getattr(self, name)) for name in parameter_names(type(self))}

    def apply(self, outputs):
        """These `Outputs` with calibrated logits; classes or a task other than those of the fit are refused."""
        outputs = wanted(f"{self.method}.apply", outputs)
        if self.classes is not None and outputs.classes != self.classes:
            raise DataError(
                f"the calibrator was fitted with classes {_listed(self.classes)}; these outputs have "
                f"{_listed(outputs.classes)}.",
                file=outputs.source,
                field="classes",
                fix=_order_fix(self.classes, outputs.classes),
            )
        if self.fitted_on is not None and outputs.task != self.fitted_on.task:
            raise DataError(
                f"the calibrator was fitted on {self.fitted_on.task} outputs; these are {outputs.task}.",
                file=outputs.source,
                field="task",
                fix=f"say task={self.fitted_on.task!r} if they are, or fit a calibrator on rows like these.",
            )
        if self.width is not None and outputs.scores.shape[1:] != (self.width,):
            raise DataError(
                f"the calibrator has parameters for {self.width} scores per row; these scores are "
                f"{shape_of(outputs.scores)}.",
                file=outputs.source,
                field=outputs.kind,
                fix="fit a calibrator on rows like these.",
            )
        return outputs.with_logits(self.calibrated(outputs))

    def calibrated(self, outputs):
        """The logits that `apply` gives; a margin is mapped as it is."""
        return self(outputs.scores if outputs.kind == "margin" else outputs.logits)

    def to_json(self) -> str:
        """The record as the text of a ``calibrator.json``; `calibrate.from_json` gives back an equal record."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "method": self.method,
            "parameters": self.parameters,
            "classes": self.classes,
            "certificate": None if self.certificate is None else asdict(self.certificate),
            "fitted_on": None if self.fitted_on is None else asdict(self.fitted_on),
            "selection": [{k: _finite(v) for k, v in asdict(trial).items()} for trial in self.selection],
        }
        return json.dumps(record, indent=2, allow_nan=False) + "\n"

    def save(self, path, force=True):
        """Write ``calibrator.json``, whole or not at all; ``force=False`` keeps a file that exists."""
        from lastlayer.io.atomic import atomic_writer

        with atomic_writer(path, force=force) as file:
            file.write(self.to_json().encode())


def parameter_names(calibrator: type[Calibrator]) -> list[str]:
    """The fields that a method adds to `Calibrator`."""
    common = {f.name for f in fields(Calibrator)}
    return [f.name for f in fields(calibrator) if f.name not in common]


def array(name, values, shape) -> np.ndarray:
    """A read-only float64 array for a parameter; ``shape`` has None where any length will do."""
    values = np.array(values, dtype=np.float64)
    fits = len(shape) == values.ndim and all(s in (None, n) for s, n in zip(shape, values.shape, strict=True))
    if not fits or np.isinf(values).any():
        lengths = ", ".join("any" if s is None else str(s) for s in shape)
        found = shape_of(values) if not fits else "infinite somewhere"
        raise ValueError(f"{name} is an array of finite numbers of shape ({lengths}), this is {found}.")
    values.flags.writeable = False
    return values


def _short(name, value):
    """A parameter for a line of text; several calibrators by their methods: ``isotonic x 10``."""
    if isinstance(value, dict):
        return ", ".join(f"{method} x {n}" for method, n in Counter(part.method for part in value.values()).items())
    return f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"


def _plain(value):
    if isinstance(value, np.ndarray):
        return _without_nan(value.tolist())
    if isinstance(value, Calibrator):
        return {"method": value.method, "parameters": value.parameters}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def _without_nan(value):
    """JSON has no nan either: in an array it is null."""
    return [_without_nan(v) for v in value] if isinstance(value, list) else None if value != value else value


def _finite(value):
    """JSON has no infinity: a loss or an error without bound is null."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _listed(names):
    text = ", ".join(names)
    return text if len(text) <= 200 else text[:197] + "..."


def _order_fix(wanted, found):
    if sorted(wanted) != sorted(found):
        return "fit a calibrator on outputs of these classes, or name the classes as they were in the fit."
    if len(found) > 20:
        return "put the columns and `classes` into the order of the fit."
    return f"reorder the columns as in the fit: {[found.index(name) for name in wanted]}, and `classes` with them."
