"""Verdicts: whether what came is what a case expects, in a sentence where it is not."""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

from lastlayer.conformance.arrays import evaluate, library
from lastlayer.conformance.case import ULP, Case, last_place, load


@dataclass(frozen=True)
class Outcome:
    """The verdict on one case, with the sentence that says why where it is not "pass"."""

    case: Case
    verdict: str
    came: str = ""
    exact: str = ""
    message: str = ""

    @property
    def failed(self):
        return self.verdict in ("differs", "error")


@dataclass(frozen=True)
class Results:
    """One subject's outcomes, in the order of the cases."""

    subject: str
    versions: dict
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self):
        """The outcomes that are "differs" or "error"."""
        return [outcome for outcome in self.outcomes if outcome.failed]

    def counts(self):
        """For each group, in order: how many cases pass, and how many the subject offers."""
        counts = {outcome.case.group: [0, 0] for outcome in self.outcomes}
        for outcome in self.outcomes:
            counts[outcome.case.group][0] += outcome.verdict == "pass"
            counts[outcome.case.group][1] += outcome.verdict != "not offered"
        return {group: tuple(pair) for group, pair in counts.items()}


def judge(case, function, on="numpy"):
    """The `Outcome` of one case for one function, whose arrays are of the library ``on``.

    A function that raises NotImplementedError does not offer the case.
    """
    library(on)  # an unknown or absent one is the caller's error, not an answer
    try:
        came = evaluate(case, function, on)
    except NotImplementedError as reason:
        return Outcome(case, "not offered", message=f"{case}: not offered: {reason}")
    except Exception as error:  # whatever another library raises is its answer
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Outcome(case, "error", what, _shown(_flat(case.expected), case), f"{case}: {what}")
    return _compared(case, came)


def check(case, function, on="numpy"):
    """Assert that ``function`` gives what a case expects; the sentence names both, the distance and the thread.

    ``function`` takes arrays of the library ``on`` ("numpy", "torch" or "jax") as the function of that name here does;
    gradients are the library's own.

    >>> from lastlayer.conformance import CASES, check
    >>> (case,) = (case for case in CASES if case.name == "softmax/one-masked/float64")
    >>> check(case, lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True))
    >>> (case,) = (case for case in CASES if case.name == "logsumexp/one-below-by-40/float64")
    >>> check(case, lambda z: np.log(np.exp(z).sum(-1)))
    Traceback (most recent call last):
    AssertionError: logsumexp/one-below-by-40/float64: 0 came, exact is 4.2483542552915889e-18, which is 5.51e+15 units
    in the last place away (4 are allowed). logsumexp([0, -m]) is log1p(exp(-m)), not 0: log(1 + s) loses s. See
    scipy/scipy#18295.
    """
    outcome = judge(case, function, on)
    if outcome.verdict != "pass":
        raise AssertionError(outcome.message)


def run(subject, cases=None):
    """Every case through a subject, as `Results`."""
    cases = load() if cases is None else cases
    return Results(subject.name, dict(subject.versions), tuple(_through(subject, case) for case in cases))


def _through(subject, case):
    function = subject.functions.get(case.function)
    if function is None:
        reason = f"{subject.name} has no {case.function}"
        return Outcome(case, "not offered", message=f"{case}: not offered: {reason}")
    return judge(case, function, subject.on)


def _compared(case, came):
    exact = _flat(case.expected)
    if isinstance(case.expected, str):
        exact = exact * len(came)
    shown = _shown(came, case), _shown(exact, case)
    if len(came) != len(exact):
        sizes = f"{len(came)} numbers came, {len(exact)} are expected"
        return Outcome(case, "differs", *shown, f"{case}: {sizes}. {_why(case)}")
    away = max(_distance(got, want, case) for got, want in zip(came, exact, strict=True))
    if away <= ULP:
        return Outcome(case, "pass", *shown)
    far = f", which is {away:.3g} units in the last place away ({ULP} are allowed)" if away < math.inf else ""
    return Outcome(case, "differs", *shown, f"{case}: {shown[0]} came, exact is {shown[1]}{far}. {_why(case)}")


def _distance(got, want, case):
    """How far off, in units in the last place; inf where the one is special and the other is not."""
    want, smallest = Decimal(want), math.ldexp(1.0, case.precision.smallest)
    if want.is_nan() or not want.is_finite() or (want == 0 and case.unit is None):
        same = math.isnan(got) if want.is_nan() else got == float(want)
        return 0.0 if same else math.inf
    if not math.isfinite(got):
        return math.inf
    if abs(want) < Decimal(smallest) and abs(got) <= smallest:
        return 0.0
    unit = last_place(float(abs(want) if case.unit is None else Decimal(case.unit)), case.precision)
    with localcontext(prec=60):
        return float(abs(Decimal(got) - want) / Decimal(unit))


def _why(case):
    return case.wrong + (f" See {', '.join(case.threads)}." if case.threads else "")


def _flat(values):
    return [v for value in values for v in _flat(value)] if isinstance(values, list) else [values]


def _shown(values, case):
    """Numbers with the digits of their dtype, the first few of a long result."""
    words = [f"{float(v):.{case.precision.digits}g}" for v in values[:4]]
    more = [f"... ({len(values)} in all)"] if len(values) > 4 else []
    return words[0] if len(values) == 1 else f"[{', '.join(words + more)}]"
