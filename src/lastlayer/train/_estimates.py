"""Estimates with their errors, tests of them, and the table of both: the record that `inference` gives."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lastlayer._check import one_of

WIDTH = 80
LEAST = 300  # powers of ten: a p-value below is printed as that
TERMS = 64  # of a continued fraction, far more than it takes where it is used
NAME = 13  # characters of a name beside its numbers; a longer one stands above them


class Estimate(NamedTuple):
    """One coefficient: a row of the table. Intercepts and thresholds have no odds ratio."""

    name: str
    output: str
    coef: float
    se: float
    z: float
    p: float
    low: float
    high: float
    odds_ratio: float | None
    odds_low: float | None
    odds_high: float | None


class ChiSquared(NamedTuple):
    """A test that coefficients are 0: ``statistic`` is chi-squared on ``df`` if they are."""

    method: str
    columns: tuple[str, ...]
    statistic: float
    df: int
    p: float
    log_p: float

    @classmethod
    def of(cls, method, columns, statistic, df):
        log_p = log_chi_squared_tail(statistic, df)
        return cls(method, tuple(columns), float(statistic), int(df), float(np.exp(log_p)), log_p)

    def __str__(self):
        return f"{self.method}: chi-squared {self.statistic:.4g} on {self.df}, p {printed(self.log_p)}"


@dataclass(frozen=True, eq=False)
class Inference:
    """What a fit is sure of: each coefficient with its error, and how likely the rows are.

    ``coef``, ``se``, ``z``, ``p``, ``low`` and ``high`` are arrays of one number for each term, ``names`` and
    ``outputs`` say which, ``rows`` has them together. ``covariance`` is that of the terms, ``method`` says how it was
    found. ``lr`` tests all features at once; it, ``aic`` and ``bic`` are None where there is no likelihood. ``notes``
    are what a reader must know. ``str`` is a table of 80 columns.
    """

    names: tuple[str, ...]
    outputs: tuple[str, ...]
    title: str
    method: str
    level: float
    n: float
    coef: np.ndarray
    covariance: np.ndarray
    z: np.ndarray
    log_p: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slope: np.ndarray  # whether a term is a feature's
    log_likelihood: float
    null_log_likelihood: float
    df: float
    lr: ChiSquared | None
    aic: float | None
    bic: float | None
    notes: tuple[str, ...] = ()
    without: Callable[[np.ndarray], tuple[float, int]] | None = field(default=None, repr=False)

    @property
    def se(self) -> np.ndarray:
        """Standard errors."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def p(self) -> np.ndarray:
        """p-values of both sides; ``log_p`` has those that are below the least float."""
        return np.exp(self.log_p)

    @property
    def pseudo_r2(self) -> float:
        """McFadden's 1 - log-likelihood / null log-likelihood."""
        return 1 - self.log_likelihood / self.null_log_likelihood

    @property
    def rows(self) -> tuple[Estimate, ...]:
        """The table, a row for each term."""
        odds = np.exp(np.stack([self.coef, self.low, self.high], axis=1))
        numbers = np.stack([self.coef, self.se, self.z, self.p, self.low, self.high], axis=1).tolist()
        return tuple(
            Estimate(name, output, *row, *(ratios if slope else (None,) * 3))
            for name, output, row, ratios, slope in zip(
                self.names, self.outputs, numbers, odds.tolist(), self.slope, strict=True
            )
        )

    def test(self, columns: Sequence[str] | str, method="wald") -> ChiSquared:
        """Whether the coefficients of some columns are all 0, of every output: chi-squared.

        wald               b' V^-1 b,   V their covariance
        likelihood_ratio   2 (log-likelihood - that of the fit without them)
        """
        one_of("Inference.test", "method", method, ("wald", "likelihood_ratio"))
        columns = [columns] if isinstance(columns, str) else list(columns)
        known = [name for name, slope in zip(self.names, self.slope, strict=True) if slope]
        for name in columns:
            one_of("Inference.test", "columns", name, known)
        if not columns:
            raise ValueError("Inference.test: columns are at least one name; there is none.")
        if method == "likelihood_ratio":
            return self._ratio(columns)
        chosen = np.isin(self.names, columns) & self.slope
        if np.isnan(self.z[chosen]).any():
            raise ValueError("Inference.test: resampled coefficients have no Wald test; see their intervals.")
        part = self.coef[chosen]
        statistic = part @ np.linalg.solve(self.covariance[np.ix_(chosen, chosen)], part)
        return ChiSquared.of("Wald", columns, statistic, chosen.sum())

    def _ratio(self, columns):
        if self.without is None:
            raise ValueError(
                "Inference.test: a ratio of likelihoods needs independent rows that count as they are, and no penalty; "
                f"here: {self.method}. Use method='wald'."
            )
        features = list(dict.fromkeys(name for name, slope in zip(self.names, self.slope, strict=True) if slope))
        less, df = self.without(np.isin(features, columns))
        return ChiSquared.of("likelihood ratio", columns, max(2 * (self.log_likelihood - less), 0.0), df)

    def to_json(self) -> str:
        """``{"schema_version": 1, "inference": {...}}``; what is not a number is null."""
        record = {
            "title": self.title,
            "method": self.method,
            "level": self.level,
            "n": self.n,
            "log_likelihood": self.log_likelihood,
            "null_log_likelihood": self.null_log_likelihood,
            "df": self.df,
            "aic": self.aic,
            "bic": self.bic,
            "pseudo_r2": self.pseudo_r2,
            "lr": None if self.lr is None else self.lr._asdict(),
            "notes": list(self.notes),
            "terms": [row._asdict() | {"log_p": p} for row, p in zip(self.rows, self.log_p.tolist(), strict=True)],
        }
        return json.dumps({"schema_version": 1, "inference": _plain(record)}, allow_nan=False, ensure_ascii=False)

    def __str__(self):
        """A table of 80 columns: odds ratios with their intervals beside the coefficients."""
        low = f"{50 * (1 - self.level):.3g} %"
        high = f"{50 * (1 + self.level):.3g} %"
        head = _line("", "coef", "se", "z", "p", "odds", low, high)
        lines = [*self._heading(), "", head]
        for k, row in enumerate(self.rows):
            if row.output and (k == 0 or row.output != self.rows[k - 1].output):
                lines.append(_cut(f"{row.output}:"))
            if len(row.name) > NAME:
                lines.append(_cut(row.name))
            odds = ["" if ratio is None else f"{ratio:.4g}" for ratio in row[-3:]]
            z = "" if np.isnan(row.z) else f"{row.z:.2f}" if abs(row.z) < 1e3 else f"{row.z:.0e}"
            name = "" if len(row.name) > NAME else row.name
            lines.append(_line(name, f"{row.coef:.4g}", f"{row.se:.4g}", z, printed(self.log_p[k]), *odds))
        return "\n".join([*lines, *self._notes()])

    def _heading(self):
        fit = f"log-likelihood {self.log_likelihood:.3f}, without features {self.null_log_likelihood:.3f}"
        scores = [f"pseudo R2 {self.pseudo_r2:.4f}"]
        if self.aic is not None:
            scores += [f"AIC {self.aic:.2f}", f"BIC {self.bic:.2f}"]
        lines = [self.title, fit, ", ".join(scores)]
        if self.lr is not None:
            lines.append(str(self.lr))
        return [piece for line in [*lines, f"standard errors: {self.method}"] for piece in _wrapped(line)]

    def _notes(self):
        return [piece for note in self.notes for piece in ("", *_wrapped(note))]


def log_normal_tails(z) -> np.ndarray:
    """log of the chance that a normal deviate is farther from 0 than ``z``."""
    from scipy.special import log_ndtr

    return np.minimum(np.log(2) + log_ndtr(-np.abs(z)), 0.0)


def log_chi_squared_tail(x, df) -> float:
    """log of the chance that chi-squared on ``df`` is above ``x``.

    Where the incomplete gamma function underflows, by its continued fraction (Abramowitz and Stegun 6.5.31):

        Gamma(a, y) = e^-y y^a / (y + 1 - a - 1 (1 - a) / (y + 3 - a - 2 (2 - a) / (...)))
    """
    from scipy.special import gammaincc, gammaln

    a, y = df / 2, x / 2
    if (tail := gammaincc(a, y)) > 1e-290:
        return float(np.log(tail))
    if y == np.inf:
        return -np.inf
    fraction = y + 2 * TERMS + 1 - a
    for k in range(TERMS, 0, -1):
        fraction = y + 2 * k - 1 - a - k * (k - a) / fraction
    return float(a * np.log(y) - y - gammaln(a) - np.log(fraction))


def printed(log_p) -> str:
    """A p-value in 7 characters."""
    if np.isnan(log_p):
        return ""
    if log_p < -LEAST * np.log(10):
        return f"<1e-{LEAST}"
    return f"{np.exp(log_p):.4f}" if log_p > np.log(1e-3) else f"{np.exp(log_p):.1e}"


def _line(name, coef, se, z, p, *odds):
    numbers = f"{coef:>10}{se:>10}{z:>8}{p:>8}" + "".join(f"{number:>10}" for number in odds)
    return f"{name:<{NAME + 1}}{numbers}".rstrip()


def _wrapped(line):
    import textwrap

    return textwrap.wrap(line, WIDTH)


def _cut(name):
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 3]}..."


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
