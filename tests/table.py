"""What a row of the table of laws says of one function, and how a law is run over every row.

A *row* (`laws.ROWS`) is a public function with some settings, and what it promises. A *law* is one promise: a name, a
sentence, and the check that every row it speaks of is put through on each of its array libraries. A row that does not
keep a law is exempt from it by name, and shows a block of logits on which the check is seen to fail.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from arrays import LIBRARIES


@dataclass(frozen=True)
class Exempt:
    """A law that is not kept: why, and a block (with its target) on which its check fails.

    ``instead`` says what the row would promise if it kept the law.
    """

    why: str
    example: Any
    target: Any = None
    instead: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Symmetry:
    """``left(x) = right(x)`` for logits of two classes, or for single numbers."""

    says: str
    left: Callable
    right: Callable


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """One function with its settings; ``row(x, target)`` calls it. `laws` says what each promise means."""

    function: Callable = field(kw_only=False)
    takes: str = "row"  # of classes, "number", or a whole "batch" of losses
    gives: str = "one"  # number per row or in all, "classes", or "number" for each number
    target: str | None = None  # "index", "indices" (two a row), "distribution", "binary" or "key"
    settings: Mapping = field(default_factory=dict)  # a function gives the setting from the number of classes
    variant: str = ""
    call: Callable | None = None  # (x[, target], **settings), where the function takes more than one array
    exact: Callable | None = None  # the reference, where it is not the one of the function's name
    exact_slope: Callable | None = None  # the same for the gradient, where that is another function's
    domain: tuple[float, float] = (-inf, inf)
    longest: int = 1000  # rows of a loss over pairs are kept shorter
    shift: Any = "same"
    shift_ulp: int = 0
    permutation: Any = "same"
    masked: Any = "absent"
    order: str | None = None
    symmetry: Symmetry
    empty: Any = nan
    infinite: Any = None
    ends: tuple | None = None
    half: str = "same"
    ulp: int
    unit: Callable | None = None
    slope_ulp: int | None = None
    xla_ulp: int | None = None
    kinks: bool = False
    curved: bool = True
    nan: str = "row"
    nan_slopes: int | None = None
    exempt: Mapping[str, Exempt] = field(default_factory=dict)
    held: Any = None  # the block of an exemption

    @property
    def name(self):
        return self.function.__name__ + (f" ({self.variant})" if self.variant else "")

    @property
    def parameters(self):
        return list(inspect.signature(self.function).parameters)

    @property
    def added(self):
        """How often the constant of a shift comes out again."""
        return {"same": 0.0, "adds": 1.0, "takes off": -1.0}[self.shift]

    def __call__(self, x, target=None, **more):
        function = self.call or self.function
        given = () if target is None else (target,)
        return function(x, *given, **self.settings_of(x, **more), **more)

    def settings_of(self, x, axis=-1):
        """The settings for so many classes."""
        shape = np.shape(x)
        return {name: value(shape[axis]) if callable(value) else value for name, value in self.settings.items()}

    def inputs(self, shape=(4, 4), seed=0):
        """Eighths, so that adding 1,024 rounds nothing, and a target; the second row has a tie, one leads the third."""
        rng = np.random.default_rng(seed)
        low, high = self.domain
        x = rng.integers(-48, 48, shape) / 8
        if (low, high) == (0, 1):
            x = rng.integers(1, 64, shape) / 64
        elif high == 0:
            x = -abs(x) - 1 / 8
        else:
            x[1, :2] = x[1].max() + 1
            x[2, 0] = 24
        return self.held or (x, self.targets(x))

    def smooth_inputs(self):
        """`inputs`, away from the places where the function has no derivative."""
        x, target = self.inputs()
        return x + (np.resize([7, -29, 11, 3, 17, -13, -5], x.shape) / 1024 if self.kinks else 0), target

    def spread_inputs(self, shape, seed):
        """Normal logits of scale 4, with every bit of their mantissas in use."""
        x = np.clip(np.random.default_rng(seed).normal(0, 4, shape), *self.domain)
        return self.held or (x, self.targets(x))

    def targets(self, x, seed=0):
        """A target for each row (or number) of ``x``, of the kind the function takes."""
        rng = np.random.default_rng(seed)
        classes = x.shape[-1]
        if self.target == "index":
            return rng.integers(0, classes, x.shape[:-1])
        if self.target == "indices":
            return (rng.integers(0, classes, (*x.shape[:-1], 1)) + np.arange(min(2, classes))) % classes
        if self.target == "key":
            return rng.integers(0, 2**31, x.shape[:-1])
        if self.target == "distribution":
            return rng.integers(1, 8, x.shape) / 8
        return rng.integers(0, 2, x.shape) if self.target == "binary" else None

    def special_target(self, rows):
        """A target for rows of three classes of which the middle one is masked, or is the least."""
        one = {"index": 0, "indices": [0, 2], "distribution": [0.5, 0.0, 0.5], "binary": [1, 0, 1], "key": 0}
        return None if self.target is None else np.array([one[self.target]] * rows)

    def run(self, library, x, target=None):
        """The result in `library`, back as NumPy; a batch is called row by row."""
        if self.takes == "batch" and np.ndim(x) > 1:
            return np.stack([self.run(library, row) for row in x])
        return library.run(self, x, target)

    def gradient(self, library, x, target=None):
        """The gradient of ``sum(cotangents * result)``, row by row for a batch."""
        if self.takes == "batch" and np.ndim(x) > 1:
            return np.stack([self.gradient(library, row) for row in x])
        return library.gradient(self, x, target, self.cotangents(x))

    def cotangents(self, x):
        """What comes back to each entry of the result: 1 for one number per row, else something that is not even."""
        return np.array(1.0) if self.gives == "one" else np.resize([1.0, -0.5, 0.25, 2.0, 0.75], np.shape(x))

    def variation(self, variant, **changes):
        """A row of the same function, with what is different about it; exemptions are not handed on."""
        return replace(self, variant=variant, **{"exempt": {}, **changes})


def frequencies(classes):
    """A prior or weight for each class."""
    return (1 + np.arange(classes) % 3) / 8


def even(classes):
    """Another."""
    return (1 + np.arange(classes) % 2) / 4


def largest(row):
    """The size of the largest logit: logsumexp is that plus at most log(classes), and may cancel to nothing."""
    return abs(max(row))


def widest(row):
    """The largest size of a logit: what a sum with each of them is rounded to."""
    return max(abs(np.array(row)[np.isfinite(row)]), default=0.0)


def share(row):
    """The probability of a class of many alike: near the edge of a support the digits of small ones depend on all."""
    return 1 / len(row)


def gap(row):
    """Largest minus second logit: log-odds are that minus at most log(classes)."""
    first, *others = sorted(row, reverse=True)
    return first - others[0] if others else inf


@dataclass(frozen=True)
class Law:
    """One promise: ``check(row, library)`` raises an AssertionError where it is broken."""

    name: str
    says: str
    check: Callable
    rows: tuple
    libraries: tuple

    def kept(self):
        return [row for row in self.rows if self.name not in row.exempt]

    def exempt(self):
        return [row for row in self.rows if self.name in row.exempt]

    def check_on_the_example_of(self, row):
        """The check of an exempt row, on the block that it names: to be seen failing."""
        exempt, library = row.exempt[self.name], self.libraries[0]
        held = np.array(exempt.example), None if exempt.target is None else np.array(exempt.target)
        library.require()
        with library.context():
            self.check(replace(row, held=held, **exempt.instead), library)


LAWS: dict[str, Law] = {}


def law(name, says, rows, libraries):
    """The decorated ``check(row, library)`` as a law of `LAWS`, and as a test of every row that is not exempt."""

    def register(check):
        LAWS[name] = found = Law(name, says, check, tuple(rows), tuple(libraries))
        each = [
            pytest.param(row, library, id=f"{row.name}-{library}", marks=_marks(row, library, libraries))
            for row in found.kept()
            for library in libraries
        ]
        return pytest.mark.parametrize(("row", "library"), each, indirect=["library"])(check)

    return register


def _marks(row, library, libraries):
    """What a loss made of others promises is run on the main libraries each time, on all of them with the slow tests.

    Values on NumPy and torch, derivatives and digits on compiled JAX too; what costs is that XLA compiles every law.
    """
    main = {"numpy", "torch", "torch-float32"} | (set() if libraries == LIBRARIES else {"jax-jit"})
    return [pytest.mark.slow] if row.longest < 1000 and len(libraries) > 1 and library.name not in main else []
