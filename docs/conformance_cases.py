"""Fills ``src/lastlayer/conformance/cases.json``: the exact value of every case, computed with 120 digits.

python docs/conformance_cases.py            computes "expected" (and "unit") of every case and writes the file
python docs/conformance_cases.py --check    exits 1 if that would change it

A new case is a line in the file without "expected". Below stands the contract of special values as plainly as it can be
computed; `tests/conformance` computes every value once more, from `tests/reference.py`.
"""

import json
import sys
from pathlib import Path

import mpmath
from mpmath import mp, mpf

mp.dps = 120  # 50 lose the tail of a row that is right by 80
INF, NAN = mpmath.inf, mpmath.nan
FILE = Path(__file__).resolve().parent.parent / "src" / "lastlayer" / "conformance" / "cases.json"


# The contract


def limited(row):
    """A row that holds +inf as the finite row with the same limit."""
    return [mpf(0) if v == INF else -INF for v in row] if INF in row else row


def has_nan(row):
    return any(mpmath.isnan(v) for v in row)


def logsumexp(row):
    if has_nan(row):
        return NAN
    top = max(row)
    if mpmath.isinf(top):
        return top
    return top + mpmath.log(mpmath.fsum(mpmath.exp(v - top) for v in row))


def log_softmax(row):
    if has_nan(row) or max(row) == -INF:
        return [NAN] * len(row)
    row = limited(row)
    normaliser = logsumexp(row)
    return [v - normaliser for v in row]


def softmax(row):
    return [mpmath.exp(v) for v in log_softmax(row)]


def entropy(row):
    return mpmath.fsum(-p * logp for p, logp in zip(softmax(row), log_softmax(row), strict=True) if p != 0)


def slopes_of_entropy(row):
    total = entropy(row)
    if mpmath.isnan(total):
        return softmax(row) if has_nan(row) else [mpf(0)] * len(row)
    return [-p * (logp + total) if p else mpf(0) for p, logp in zip(softmax(row), log_softmax(row), strict=True)]


def slopes_of_logsumexp(row):
    return [mpf(0)] * len(row) if not has_nan(row) and max(row) == -INF else softmax(row)


def shares(row, target, smoothing):
    """The distribution that is wanted; smoothing spreads over the classes that are not masked."""
    wanted = [mpf(v) for v in target] if isinstance(target, list) else [mpf(i == target) for i in range(len(row))]
    allowed = [v != -INF for v in row]
    even = mpf(smoothing) / max(sum(allowed), 1)
    return [(1 - mpf(smoothing)) * q + even * free for q, free in zip(wanted, allowed, strict=True)]


def cross_entropy(row, target, label_smoothing=0.0, weight=1.0, keep=True):
    if not keep or weight == 0:
        return mpf(0)
    costs = zip(shares(row, target, label_smoothing), log_softmax(row), strict=True)
    return NAN if mpmath.isnan(entropy(row)) else weight * mpmath.fsum(-q * logp for q, logp in costs if q)


def slopes_of_cross_entropy(row, target, label_smoothing=0.0, weight=1.0, keep=True):
    if not keep or weight == 0 or (not has_nan(row) and max(row) == -INF):
        return [mpf(0)] * len(row)
    return [weight * (p - q) for p, q in zip(softmax(row), shares(row, target, label_smoothing), strict=True)]


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def softplus(z):
    return z if z == INF else mpmath.log1p(mpmath.exp(z))


def binary_cross_entropy(z, y, pos_weight=1.0, keep=True):
    terms = ((mpf(y) * pos_weight, softplus(-z)), (1 - mpf(y), softplus(z)))
    return mpmath.fsum(share * cost for share, cost in terms if share) if keep else mpf(0)


def slope_of_binary_cross_entropy(z, y, pos_weight=1.0, keep=True):
    return (1 - mpf(y)) * sigmoid(z) - mpf(y) * pos_weight * sigmoid(-z) if keep else mpf(0)


def logit(p):
    if not 0 <= p <= 1:
        return NAN
    return INF if p == 1 else -INF if p == 0 else mpmath.log(p / (1 - p))


def log1mexp(x):
    return NAN if not x <= 0 else -INF if x == 0 else mpmath.log1p(-mpmath.exp(x))


def slope_of_logaddexp(a, b):
    if a == b == -INF:
        return mpf(0)
    return mpf(1) / 2 if a == b else sigmoid(a - b)


def sparsemax(row):
    return entmax(row, 2.0)


def entmax(row, alpha):
    """``max((alpha - 1) z - tau, 0) ^ (1 / (alpha - 1))``, ``tau`` such that it sums to 1, by bisection."""
    if has_nan(row) or max(row) == -INF:
        return [NAN] * len(row)
    row = limited(row)
    power = 1 / (mpf(alpha) - 1)
    scaled = [(mpf(alpha) - 1) * v for v in row]
    low, high = max(scaled) - 1, max(scaled)
    for _ in range(200):
        tau = (low + high) / 2
        above = mpmath.fsum(max(v - tau, mpf(0)) ** power for v in scaled)
        low, high = (tau, high) if above > 1 else (low, tau)
    p = [max(v - tau, mpf(0)) ** power for v in scaled]
    return [v if v > mpf(10) ** -40 else mpf(0) for v in p]


BY_ROW = {
    "softmax": (softmax, None),
    "log_softmax": (log_softmax, None),
    "logsumexp": (logsumexp, slopes_of_logsumexp),
    "entropy": (entropy, slopes_of_entropy),
    "cross_entropy": (cross_entropy, slopes_of_cross_entropy),
    "sparsemax": (sparsemax, None),
    "entmax": (entmax, None),
}
BY_NUMBER = {
    "binary_cross_entropy": (binary_cross_entropy, slope_of_binary_cross_entropy),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "log_sigmoid": (lambda z: -softplus(-z), lambda z: sigmoid(-z)),
    "softplus": (softplus, sigmoid),
    "logit": (logit, lambda p: 1 / (p * (1 - p))),
    "log1mexp": (log1mexp, lambda x: -1 / mpmath.expm1(-x)),
    "logaddexp": (lambda a, b: logsumexp([a, mpf(b)]), lambda a, b: slope_of_logaddexp(a, mpf(b))),
}


def exact(function, asks, first, target, settings):
    """What a case expects, one entry per row or number."""
    formula = (BY_ROW | BY_NUMBER)[function][asks != "value"]
    settings = dict(settings)
    weight, valid = settings.pop("class_weight", None), settings.pop("valid", None)
    results = []
    for i, x in enumerate(first):
        own = dict(settings)
        if weight is not None:
            own["weight"] = weight[target[i]]
        if valid is not None:
            own["keep"] = valid[i]
        results.append(formula(x, *([] if target is None else [target[i]]), **own))
    return results


# The file


def numbers(value):
    """JSON as numbers of 120 digits: words are special values, and a rule in the place of a row is spelled out."""
    if isinstance(value, dict):
        return [mpf(value["start"] + value["step"] * (i % value["period"])) for i in range(value["classes"])]
    if isinstance(value, list):
        return [numbers(v) for v in value]
    return value if isinstance(value, int) else mpf(value)


def literal(value):
    if isinstance(value, list):
        return [literal(v) for v in value]
    if mpmath.isnan(value):
        return "nan"
    if mpmath.isinf(value):
        return "inf" if value > 0 else "-inf"
    return "0" if abs(value) < mpf(10) ** -(10**6) else mpmath.nstr(value, 25)


def flat(values):
    return [v for value in values for v in (flat(value) if isinstance(value, list) else [value])]


def largest(gradient):
    return max((abs(v) for v in flat(gradient) if mpmath.isfinite(v)), default=mpf(0))


def filled(function, case):
    """The case with what it expects, and with the size whose last place is the unit where entries cancel."""
    first, *rest = (numbers(v) for v in case["inputs"])
    target = rest[0] if rest else None
    settings = {name: numbers(value) for name, value in case.get("settings", {}).items()}
    result = exact(function, case["asks"], first, target, settings)
    unit = None
    if case["asks"] == "gradient sum":
        result, unit = [mpf(0)], largest(result)
    elif case["asks"] == "gradient":
        shares = target is not None and isinstance(target[0], list)
        unit = largest(result) if shares or "label_smoothing" in settings or function == "entropy" else None
    entries = flat(result)
    even = len(entries) > 100 and len(set(entries)) == 1
    case = {key: value for key, value in case.items() if key not in ("expected", "unit")}
    case["expected"] = literal(entries[0]) if even else literal(result)
    return case | ({"unit": mpmath.nstr(unit, 25)} if unit else {})


def text(families):
    """The file, one line per case."""
    parts = []
    for family in families:
        head = json.dumps({key: value for key, value in family.items() if key != "cases"})
        cases = ",\n".join(f"  {json.dumps(filled(family['function'], case))}" for case in family["cases"])
        parts.append(f'{head[:-1]}, "cases": [\n{cases}\n]}}')
    return "[\n" + ",\n".join(parts) + "\n]\n"


if __name__ == "__main__":
    present = FILE.read_text("utf-8")
    computed = text(json.loads(present))
    if "--check" not in sys.argv[1:]:
        FILE.write_text(computed, "utf-8")
    elif present != computed:
        sys.exit(f"out of date: {FILE.name}. `python docs/conformance_cases.py` writes it.")
