"""The cases are right, we pass them all, and what is wrong is caught with a sentence."""

import functools
import math
import pathlib
import re
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from mpmath import mpf

import reference
from lastlayer import transform
from lastlayer.conformance import CASES, SUBJECTS, Case, Subject, check, judge, run, subjects
from lastlayer.conformance.arrays import ON

ROOT = pathlib.Path(__file__).parents[2]
FAR, BEYOND = mpf(10) ** 60, mpf(10) ** 40  # stands for +inf; what is as large as this counts as infinite
STEP = mpf(10) ** -30
BY_NUMBER = ("binary_cross_entropy", "sigmoid", "log_sigmoid", "softplus", "logit", "log1mexp", "logaddexp")


def named(name):
    (case,) = [case for case in CASES if case.name == name]
    return case


# The expected values, once more and otherwise: an infinity is a large number, a gradient a difference


def formula(case, i):
    """Row or number ``i`` of a case as a function of a list of mpmath numbers."""
    target = case.arguments[1][i] if len(case.arguments) > 1 else None
    settings = {name: value for name, value in case.settings.items() if name != "valid"}
    settings = {k: reference.exact(v) if isinstance(v, list) else mpf(v) for k, v in settings.items()}
    if case.function == "logaddexp":
        return lambda x: reference.logsumexp([*x, finite(target)])
    function = getattr(reference, case.function)
    if target is None:
        return lambda x: function(x, **settings)
    if case.function == "binary_cross_entropy":
        return lambda x: function(x, [mpf(target)])
    wanted = reference.exact(target) if isinstance(target, list) else target
    return lambda x: function(x, wanted, **settings)


def finite(v, masked=-FAR):
    return FAR if v == math.inf else masked if v == -math.inf else mpf(v)


def special(case, i, x):
    """What the contract says outright: ignored rows, nan, empty rows, and numbers out of the domain."""
    weight = case.settings.get("class_weight")
    ignored = not case.settings.get("valid", [True] * (i + 1))[i]
    if ignored or (weight is not None and weight[case.arguments[1][i]] == 0):
        return mpf(0)
    if any(map(math.isnan, x)):
        return mpmath.nan
    others = [case.arguments[1][i]] if case.function == "logaddexp" else []
    if case.function not in BY_NUMBER[:-1] and max(x + others) == -math.inf:
        summed = case.function in ("logsumexp", "logaddexp")
        return mpf(0) if case.asks == "gradient" else -mpmath.inf if summed else mpmath.nan
    if case.function == "logit" and not 0 < x[0] < 1:
        return {0.0: -mpmath.inf, 1.0: mpmath.inf}.get(x[0], mpmath.nan)
    return mpmath.nan if case.function == "log1mexp" and x[0] > 0 else None


def slopes(function, x):
    def along(k, step):
        return sum(function([v + step * (j == k) for j, v in enumerate(x)]))

    steps = [STEP * min(abs(v), 1) if v else STEP for v in x]
    return [(along(k, step) - along(k, -step)) / (2 * step) for k, step in enumerate(steps)]


def recomputed(case, i, x):
    outright, function = special(case, i, x), formula(case, i)
    if outright is not None:
        one = case.asks == "value" and case.function in ("logsumexp", "entropy", "cross_entropy")
        return [outright] * (1 if one else len(x))
    if case.asks == "value":
        return function([finite(v, -FAR if case.function in BY_NUMBER else -mpmath.inf) for v in x])
    smoothed = "label_smoothing" in case.settings  # counts the classes that are exactly -inf
    return slopes(function, [finite(v, -mpmath.inf if smoothed else -FAR) for v in x])


@functools.cache
def long_row(function, inputs):
    """The textbook's value for a row of many classes; the cases differ only in their dtype."""
    case = next(case for case in CASES if case.function == function and repr(case.inputs) == inputs)
    x = reference.exact(case.arguments[0][0])
    weights = [mpmath.exp(v) for v in x]
    total = mpmath.fsum(weights)
    if function == "softmax":
        return [w / total for w in weights]
    mean = mpmath.fsum(w * v for w, v in zip(weights, x, strict=True)) / total
    off = {"logsumexp": 0, "entropy": mean, "cross_entropy": x[case.arguments[1][0]] if len(case.arguments) > 1 else 0}
    return [mpmath.log(total) - off[function]]


def same(literal, value):
    if mpmath.isnan(value) or abs(value) > BEYOND:
        return literal == ("nan" if mpmath.isnan(value) else "inf" if value > 0 else "-inf")
    if literal in ("nan", "inf", "-inf"):
        return False
    return abs(mpf(literal) - value) <= mpf(10) ** -20 * max(abs(value), mpf(10) ** -40)


def flat(values):
    return [v for value in values for v in flat(value)] if isinstance(values, list) else [values]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_expected_value_is_right(case):
    first = case.arguments[0]
    if case.asks == "gradient sum":
        gradient = reference.softmax_minus_onehot(first[0], case.arguments[1][0])
        assert flat(case.expected) == ["0"] and abs(mpmath.fsum(gradient)) < mpf(10) ** -100
        assert same(case.unit, max(map(abs, gradient)))
        return
    if isinstance(case.inputs[0][0], dict):
        values = long_row(case.function, repr(case.inputs))
    else:
        rows = [[v] for v in first] if case.function in BY_NUMBER else first
        values = [value for i, x in enumerate(rows) for value in recomputed(case, i, x)]
    expected = flat(case.expected)
    if isinstance(case.expected, str):
        expected = expected * len(values)
    assert len(expected) == len(values)
    assert [pair for pair in zip(expected, values, strict=True) if not same(*pair)] == []
    if case.unit:
        assert same(case.unit, max(abs(v) for v in values if mpmath.isfinite(v)))


@pytest.mark.slow
def test_the_file_is_as_its_script_writes_it():
    script = ROOT / "docs" / "conformance_cases.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_case_has_its_own_name_and_says_what_it_is_about():
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert isinstance(case, Case) and str(case) == case.name
        assert case.name.startswith(case.function + "/") and case.name.endswith("/" + case.dtype)
        assert case.wrong.endswith(".") and "  " not in case.wrong
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread) for thread in case.threads), case.threads
    assert sum(bool(case.threads) for case in CASES) > 150


# Ourselves and the others


def ours(on):
    pytest.importorskip(on)
    (subject,) = [subject for subject in subjects("lastlayer") if subject.on == on]
    return subject


@pytest.mark.parametrize("on", ON)
def test_lastlayer_passes_every_case(on):
    results = run(ours(on))
    assert [outcome.message for outcome in results.failures] == []
    missing = [outcome.message for outcome in results.outcomes if outcome.verdict == "not offered"]
    assert [text for text in missing if "no gradients" not in text and "no bfloat16" not in text] == []
    assert not missing or on == "numpy"


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "lastlayer"])
def test_every_other_library_runs(name):
    """What it gives is its own affair, and may get better; that it can be asked is ours."""
    pytest.importorskip(name)
    (subject,) = subjects(name)
    results = run(subject, [case for case in CASES if case.dtype in ("float32", "float16")])
    assert results.subject == name and all(results.versions.values())
    passed, offered = map(sum, zip(*results.counts().values(), strict=True))
    assert 0 < passed <= offered
    assert len(results.failures) == offered - passed
    misused = ("TypeError", "AttributeError", "NameError")
    assert not [o.message for o in results.outcomes if o.verdict == "error" and o.came.startswith(misused)]


def test_a_subject_is_asked_only_for_what_it_has():
    subject = Subject("mine", "numpy", {"mine": "1.0"}, {"sigmoid": transform.sigmoid})
    results = run(subject, [named("sigmoid/ends/float64"), named("softplus/ends/float64")])
    assert [outcome.verdict for outcome in results.outcomes] == ["pass", "not offered"]
    assert results.counts() == {"single numbers": (1, 1)}


def test_an_unknown_subject_is_refused():
    with pytest.raises(ValueError, match=r"one of 'torch', 'scipy'.* not 'pytorch'.*Did you mean 'torch'"):
        subjects("pytorch")
    with pytest.raises(ValueError, match="on is one of 'numpy', 'torch', 'jax', not 'cupy'"):
        judge(CASES[0], np.exp, on="cupy")


def test_importing_the_cases_loads_no_library_under_test():
    code = "import sys, lastlayer.conformance\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True).stdout.split()
    assert "lastlayer.conformance.case" in loaded
    assert not {"torch", "jax", "optax", "sklearn", "torchmetrics", "scipy.special"} & {*loaded}


# As another project would use it


@pytest.mark.parametrize("case", [case for case in CASES if case.function == "logsumexp"], ids=str)
def test_somebody_elses_logsumexp(case):
    pytest.importorskip("torch")
    check(case, transform.logsumexp, on="torch")


def naive_softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def clipped_loss(z, target):
    p = naive_softmax(z)
    return -np.log(np.clip(p[np.arange(len(z)), target], 1e-7, 1 - 1e-7))


def unmasked_loss(z, target):
    below = z - z.max(-1, keepdims=True)
    return -(target * (below - np.log(np.exp(below).sum(-1, keepdims=True)))).sum(-1)


@pytest.mark.parametrize(
    ("function", "name", "words"),
    [
        (
            naive_softmax,
            "softmax/huge/float32",
            "[nan, 0] came, exact is [1, 0]. Large finite logits must not overflow",
        ),
        (naive_softmax, "softmax/one-infinite/float64", "See pytorch/pytorch#6864, jax-ml/jax#21495"),
        (clipped_loss, "cross_entropy/right-by-20/float64", "1.0000000494736474e-07 came, exact is 2.0611536"),
        (clipped_loss, "cross_entropy/wrong-by-80/float64", "exact is 80, which is 4.5e+15 units in the last place"),
        (clipped_loss, "cross_entropy/right-by-20/float64", "See pytorch/pytorch#113708, scipy/scipy#19521."),
        (unmasked_loss, "cross_entropy/no-share-on-masked/float32", "nan came, exact is 1.06326169. A share of 0"),
        (lambda z: z.sum(), "softmax/ties/float32", "1 numbers came, 3 are expected. Every further entry"),
        (lambda z: 1 / 0, "softmax/ties/float32", "softmax/ties/float32: ZeroDivisionError: division by zero"),
        (naive_softmax, "logsumexp/empty/gradient/float32", "not offered: numpy has no gradients"),
        (naive_softmax, "softmax/four-classes/bfloat16", "not offered: NumPy has no bfloat16"),
    ],
)
def test_what_is_wrong_is_caught_with_a_sentence(function, name, words):
    with pytest.raises(AssertionError) as error:
        check(named(name), function)
    assert str(error.value).startswith(f"{name}: ") and words in str(error.value)


def gives(*values):
    return lambda *_, **__: np.array(values)


@pytest.mark.parametrize(("dtype", "step"), [("float32", np.float32), ("float64", np.float64)])
def test_four_units_in_the_last_place_and_no_more(dtype, step):
    case = named(f"cross_entropy/right-by-20/{dtype}")
    nearest = step(float(case.expected[0]))
    for units, verdict in ((-3, "pass"), (0, "pass"), (3, "pass"), (5, "differs"), (-5, "differs")):
        assert judge(case, gives(nearest + units * np.spacing(nearest))).verdict == verdict, units


@pytest.mark.parametrize(
    ("name", "came", "verdict"),
    [
        ("sigmoid/ends/float64", [0.0, 1.0], "pass"),
        ("sigmoid/ends/float64", [-0.0, 1.0], "pass"),
        ("sigmoid/ends/float64", [5e-324, 1.0], "differs"),  # an exact 0 is exactly 0
        ("softplus/ends/float64", [0.0, math.inf], "pass"),
        ("softplus/ends/float64", [0.0, -math.inf], "differs"),
        ("softplus/ends/float64", [0.0, math.nan], "differs"),
        ("softplus/ends/float64", [0.0, 1.7e308], "differs"),
        ("logit/outside/float64", [math.nan, math.nan], "pass"),
        ("logit/outside/float64", [math.nan, 0.0], "differs"),
        ("entropy/65504/float16", [0.0], "pass"),  # e^-131008 is below every normal number
        ("entropy/65504/float16", [6e-5], "pass"),
        ("entropy/65504/float16", [7e-5], "differs"),
        ("entropy/65504/float16", [math.nan], "differs"),
    ],
)
def test_special_values_have_to_be_what_they_are(name, came, verdict):
    assert judge(named(name), gives(*came)).verdict == verdict


def test_a_nan_behind_a_right_entry_is_not_overlooked():
    case = named("softmax/one-masked/float64")
    right = [float(value) for value in case.expected[0]]
    assert judge(case, gives(*right)).verdict == "pass"
    for wrong in (math.nan, math.inf):
        assert judge(case, gives(*right[:-1], wrong)).verdict == "differs"
        assert judge(case, gives(wrong, *right[1:])).verdict == "differs"


def test_an_error_is_a_failure():
    subject = Subject("mine", "numpy", {"mine": "1.0"}, {"softmax": lambda z: 1 / 0, "sigmoid": transform.sigmoid})
    results = run(subject, [named("softmax/ties/float32"), named("sigmoid/ends/float64")])
    assert [outcome.verdict for outcome in results.failures] == ["error"]


def test_one_number_stands_for_every_entry():
    case = named("softmax/1,000-equal/float32")
    assert judge(case, gives(*[0.001] * 1000)).verdict == "pass"
    assert judge(case, gives(*[0.001] * 999, 0.0011)).verdict == "differs"


def test_the_sum_of_a_gradient_is_measured_by_its_largest_entry():
    torch = pytest.importorskip("torch")
    case = named("cross_entropy/right-by-20/gradient-sum/float32")

    def loss(off):
        """Of slope (-s - off, s) with s as exact as float32 has it."""
        s = float(np.float32(float(case.unit)))
        return lambda z, _: (z * torch.tensor([[-s - off, s]])).sum(-1)

    unit = float(np.spacing(np.float32(float(case.unit))))
    assert judge(case, loss(0.0), on="torch").verdict == "pass"
    assert judge(case, loss(4 * unit), on="torch").verdict == "pass"
    assert judge(case, loss(6 * unit), on="torch").verdict == "differs"


def test_gradients_are_the_librarys_own():
    torch = pytest.importorskip("torch")
    case = named("softplus/at-0/gradient/float64")

    def cornered(z):
        return torch.clamp(z, min=0) + torch.log1p(torch.exp(-torch.abs(z)))

    check(case, transform.softplus, on="torch")
    outcome = judge(case, cornered, on="torch")
    assert outcome.verdict == "differs" and "jax-ml/jax#2107" in outcome.message


def test_functions_see_the_dtype_of_the_case_and_the_settings_by_name():
    seen = {}

    def function(z, target, *, label_smoothing, class_weight):
        seen.update(dtype=z.dtype.name, target=target.dtype.kind, smoothing=label_smoothing, weight=class_weight.dtype)
        raise NotImplementedError("not today")

    outcome = judge(named("cross_entropy/class-weight-and-smoothing/float32"), function)
    assert outcome.verdict == "not offered" and outcome.message.endswith("not offered: not today")
    assert seen == {"dtype": "float32", "target": "i", "smoothing": 0.25, "weight": np.float32}
