"""Every promise of `laws.LAWS`, over every row that makes it, on every array library."""

import inspect

import numpy as np
import pytest

import lastlayer as ll
from arrays import LIBRARIES, TORCH
from lastlayer import loss, transform
from laws import LAWS, Exempt, over, sample, targets

NAMES = [law.name for law in LAWS]
ROWS = [law for law in LAWS if law.takes == "row"]
NUMBERS = [law for law in LAWS if law.takes == "number"]
CONTAINED = [law for law in LAWS if law.takes != "batch"]


def call(law, library, x, target=None):
    """The law's function on `x` in `library`, back as NumPy; a batch is called row by row."""
    if law.takes == "batch" and np.ndim(x) > 1:
        return np.stack([call(law, library, row) for row in x])
    return library.run(law, x, target)


def close(a, b, library, ulp=8):
    np.testing.assert_allclose(a, b, rtol=ulp * library.eps, atol=ulp * library.eps)


def test_every_public_function_has_a_row():
    public = {
        function
        for stage in (transform, loss)
        for name, function in vars(stage).items()
        if not name.startswith("_") and inspect.isfunction(function)
    }
    assert len(public) >= 15
    assert public == {law.function for law in LAWS}
    assert len(set(NAMES)) == len(NAMES)


def test_every_row_function_says_everything():
    for law in LAWS:
        if law.takes != "number":
            assert None not in (law.shift, law.permutation, law.masked, law.empty, law.infinite), law.name


def check_shift(law, library, x, target, claim):
    moved = call(law, library, x + 1024.0, target)
    same = call(law, library, x, target)
    if claim == "adds":
        close(moved, same + 1024.0, library, ulp=1)
    else:
        np.testing.assert_array_equal(moved, same)


def check_permutation(law, library, x, target, claim):
    order = np.array([2, 0, 3, 1])
    if law.target == "index":
        target = np.argsort(order)[target]
    elif law.target == "distribution":
        target = target[:, order]
    before = call(law, library, x, targets(law, x))
    close(call(law, library, x[:, order], target), before[:, order] if claim == "follows" else before, library)


def check_masked(law, library, x, target, claim):
    masked = np.concatenate([x, np.full((*x.shape[:-1], 1), -np.inf)], axis=-1)
    if law.target == "distribution":
        target = np.concatenate([target, np.zeros((*target.shape[:-1], 1))], axis=-1)
    result = call(law, library, masked, target)
    if law.gives == "classes":
        assert (result[..., -1] == claim).all()
        result = result[..., :-1]
    close(result, call(law, library, x, target if law.target != "distribution" else target[..., :-1]), library)


def check_order(law, library, x, target, claim):
    before = call(law, library, x, target)
    if claim == "keeps the order of the classes":
        higher = x[..., :, None] > x[..., None, :]
        assert (before[..., :, None] >= before[..., None, :])[higher].all()
        return
    if law.takes == "number":
        steps = np.diff(before, axis=0)
        up = 2 * target[0] - 1 if claim == "falls towards the target" else 1
        assert (steps * up >= 0).all() if claim == "rises" else (steps * up <= 0).all()
        return
    classes = np.arange(x.shape[-1])
    which = {
        "rises with each logit": lambda: classes,
        "falls with the largest logit": lambda: x.argmax(-1)[..., None],
        "rises with the largest logit": lambda: x.argmax(-1)[..., None],
        "falls with the logit of the target": lambda: (
            np.argmax(target, -1)[..., None] if law.target == "distribution" else np.asarray(target)[..., None]
        ),
    }[claim]()
    for k in range(x.shape[-1]):
        raised = call(law, library, np.where((which == k) & (classes == k), x + 0.5, x), target)
        assert (raised >= before).all() if claim.startswith("rises") else (raised <= before).all()


CHECKS = {"shift": check_shift, "permutation": check_permutation, "masked": check_masked, "order": check_order}


def claims(promise, laws):
    """The rows that make the promise."""
    return over([law for law in laws if not isinstance(getattr(law, promise), Exempt)])


@claims("shift", [law for law in LAWS if law.takes != "number"])
def test_shift(law, library):
    x = sample(law)
    check_shift(law, library, x, targets(law, x), law.shift)


@claims("permutation", [law for law in LAWS if law.takes != "number"])
def test_permutation(law, library):
    x = sample(law)
    check_permutation(law, library, x, targets(law, x), law.permutation)


@claims("masked", [law for law in LAWS if law.takes != "number"])
def test_a_masked_class_is_absent(law, library):
    x = sample(law)
    check_masked(law, library, x, targets(law, x), law.masked)


@claims("order", LAWS)
def test_order(law, library):
    x = sample(law, shape=(60, 4) if law.takes == "number" else (4, 4))
    x = np.sort(x, axis=0) if law.takes == "number" else x
    target = targets(law, x)
    target = np.broadcast_to(target[0], target.shape) if law.target == "binary" else target
    check_order(law, library, x, target, law.order)


@pytest.mark.parametrize(
    ("law", "promise"),
    [(law, promise) for law in LAWS for promise in CHECKS if isinstance(getattr(law, promise), Exempt)],
    ids=lambda part: getattr(part, "name", part),
)
def test_an_exemption_has_its_counter_example(law, promise):
    exempt = getattr(law, promise)
    target = None if exempt.target is None else np.array([exempt.target])
    with pytest.raises(AssertionError):
        CHECKS[promise](law, TORCH, np.array([exempt.example]), target, exempt.instead_of)


@over(LAWS)
def test_symmetry(law, library):
    low, high = law.domain
    x = sample(law, shape=(4, 2))
    if low == -np.inf and high == 0:
        x = -x  # the identity is stated for logits
    x = library.of(x)
    left, right = library.numpy(law.symmetry.left(x)), library.numpy(law.symmetry.right(x))
    np.testing.assert_allclose(left, right, rtol=16 * library.eps, atol=24 * library.eps)


@over(CONTAINED)
def test_a_nan_stays_in_its_row(law, library):
    x = sample(law)
    target = targets(law, x)
    spoilt = x.copy()
    spoilt[3, 1] = np.nan
    before, after = call(law, library, x, target), call(law, library, spoilt, target)
    touched = np.zeros(before.shape, bool)
    touched[(3, 1) if law.takes == "number" else 3] = True
    assert np.isnan(after[touched]).all()
    np.testing.assert_array_equal(after[~touched], before[~touched])


@over(CONTAINED)
@pytest.mark.parametrize("library", [known for known in LIBRARIES if known.package != "jax"], indirect=True, ids=str)
@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_a_row_has_its_bits_whatever_its_neighbours(law, library, classes):
    """Not promised for JAX: XLA compiles each shape anew, with sums in another order."""
    rng = np.random.default_rng(classes)
    rows = 5 if classes == 1000 else 9
    x = np.clip(rng.normal(0, 4, (rows, classes)), *law.domain)
    target = targets(law, x)
    whole = call(law, library, x, target)
    backwards = call(law, library, x[::-1], None if target is None else target[::-1])[::-1]
    np.testing.assert_array_equal(backwards, whole)
    for i in range(rows):
        for alone in (slice(i, i + 1), i):
            one = call(law, library, x[alone], None if target is None else target[alone])
            np.testing.assert_array_equal(np.reshape(one, whole[i].shape), whole[i])


@over(CONTAINED)
@pytest.mark.parametrize("package", ["numpy", "torch"])
def test_a_row_has_its_bits_whatever_its_layout(law, package):
    x = np.clip(np.random.default_rng(5).normal(0, 4, (7, 137)), *law.domain)
    target = targets(law, x)
    of = np.asarray
    if package == "torch":
        of = pytest.importorskip("torch", reason="pip install torch").from_numpy
    plain = np.asarray(law(of(x.copy()), target))
    padded = np.repeat(np.repeat(x, 3, axis=1), 2, axis=0)
    for strange in (of(np.ascontiguousarray(x.T)).T, of(padded)[::2, ::3]):
        np.testing.assert_array_equal(np.asarray(law(strange, target)), plain)


@pytest.mark.parametrize("function", [transform.softmax, transform.log_softmax, transform.entropy])
def test_torch_keeps_the_bits_of_a_row_long_enough_to_be_split_over_threads(function):
    """torch.sum of 40,000 numbers differs between a row alone and in a block in two rows of three."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(np.random.default_rng(2).normal(0, 4, (6, 40_000)))
    whole = function(x)
    assert all(torch.equal(whole[i : i + 1], function(x[i : i + 1].clone())) for i in range(6))


@over([law for law in ROWS if "axis" in inspect.signature(law.function).parameters])
def test_axis(law, library):
    x = sample(law)
    expected = call(law, library, x)
    for axis in (0, 1, -1, -2):
        result = library.numpy(law.function(library.of(np.moveaxis(x, -1, axis)), axis=axis, **law.settings))
        np.testing.assert_array_equal(result, np.moveaxis(expected, -1, axis) if law.gives == "classes" else expected)


@over(LAWS)
def test_dtypes(law, library):
    x = library.of(sample(law))
    target = targets(law, sample(law))
    result = law(x, target)
    assert type(result) is type(x) or library.package == "numpy"
    assert str(result.dtype).endswith(library.dtype)
    whole = library.of(np.array([[1, 1, 0, 1]]) if law.domain[1] == 1 else -np.array([[3, 1, 2, 5]]))
    wide = "float64" if library.package in ("numpy", "array_api_strict") else "float32"
    assert str(law(whole, None if target is None else target[:1]).dtype).endswith(wide)


@over(LAWS)
@pytest.mark.parametrize(
    ("package", "half"),
    [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"), ("jax", "float16"), ("jax", "bfloat16")],
)
def test_half_precision_is_computed_in_float32(law, package, half):
    xp = pytest.importorskip("jax.numpy" if package == "jax" else package, reason=f"pip install {package}")
    x = xp.asarray(sample(law), dtype=getattr(xp, half))
    target = targets(law, sample(law))
    result, wide = law(x, target), law(xp.asarray(sample(law), dtype=xp.float32), target)
    assert str(result.dtype).endswith(half if law.half == "same" else "float32")
    rounded = xp.asarray(wide, dtype=result.dtype)
    assert bool((result == rounded).all())


@over(LAWS)
def test_lists_and_numbers_are_taken_as_numpy_takes_them(law):
    x = sample(law)
    target = targets(law, x)
    result = law(x.tolist(), None if target is None else target.tolist())
    np.testing.assert_array_equal(result, law(x, target))
    if law.takes == "number":
        assert float(law(float(x[0, 0]), None if target is None else int(target[0, 0]))) == result[0, 0]


@over(LAWS)
def test_the_first_argument_has_a_name(law):
    x = sample(law)
    target = targets(law, x)
    name = next(iter(inspect.signature(law.function).parameters))
    assert name == {"logit": "probs", "log1mexp": "logp", "mean": "losses"}.get(law.function.__name__, "logits")
    others = law.settings if target is None else {"target": target, **law.settings}
    np.testing.assert_array_equal(law.function(**{name: x}, **others), law(x, target))


@over(LAWS)
def test_the_input_is_left_as_it_was(law):
    x = sample(law)
    before = x.copy()
    law(x, targets(law, x))
    np.testing.assert_array_equal(x, before)


@over(LAWS)
def test_formulas_may_be_forced(law):
    x = sample(law)
    with ll.formulas():
        forced = law(x, targets(law, x))
    np.testing.assert_allclose(forced, law(x, targets(law, x)), rtol=1e-15)
