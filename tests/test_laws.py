"""The laws of values: what holds for the results of every row of `laws.ROWS`, on every array library."""

import importlib
import inspect

import numpy as np
import pytest

import lastlayer as ll
from arrays import JAX, JAX_JIT, LIBRARIES, TORCH, Library
from lastlayer import loss, transform
from laws import ROWS
from table import LAWS, law

SAME_BITS = [known for known in LIBRARIES if known.package != "jax"]
NUMPY = Library("numpy", "numpy", np.array)
OF_CLASSES = [row for row in ROWS if row.takes != "number"]
CONTAINED = [row for row in ROWS if row.takes != "batch"]
FILES = ("test_laws", "test_special_values", "test_gradients", "test_accuracy")
FIRST = {"logit": "probs", "log1mexp": "logp", "mean": "losses", "info_nce": "similarity", "list_net": "scores"}


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
    assert public == {row.function for row in ROWS}
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def every_law():
    """All laws: they are told where they are checked."""
    for file in FILES:
        importlib.import_module(file)
    return LAWS


def test_every_law_has_rows_and_every_row_has_laws():
    laws = every_law()
    assert len(laws) >= 25
    assert all(found.kept() for found in laws.values())
    for row in ROWS:
        assert set(row.exempt) <= {name for name, found in laws.items() if row in found.rows}, row.name
        assert sum(row in found.kept() for found in laws.values()) >= 15, row.name


@pytest.mark.parametrize(
    ("row", "name"), [(row, name) for row in ROWS for name in row.exempt], ids=lambda part: getattr(part, "name", part)
)
def test_an_exemption_has_its_counter_example(row, name):
    with pytest.raises(AssertionError):
        every_law()[name].check_on_the_example_of(row)


@law(
    "shift",
    "Adding a constant to a row leaves the result (bit for bit, but where ulp are said), or comes out again.",
    OF_CLASSES,
    LIBRARIES,
)
def test_shift(row, library):
    x, target = row.inputs()
    moved, still = row.run(library, x + 1024.0, target), row.run(library, x, target)
    np.testing.assert_allclose(moved, still + row.added * 1024.0, rtol=(row.shift_ulp or abs(row.added)) * library.eps)


@law(
    "permutation",
    "Reordering the classes, and the target with them, reorders the result, or leaves a single number.",
    OF_CLASSES,
    LIBRARIES,
)
def test_permutation(row, library):
    x, target = row.inputs()
    before, classes = row.run(library, x, target), np.arange(x.shape[-1])
    for order in (np.roll(classes, 1), np.roll(classes[::-1], 1), classes[::-1]):
        moved = np.argsort(order)[target] if row.target in ("index", "indices") else target
        moved = target[..., order] if row.target in ("distribution", "binary") else moved
        after = row.run(library, x[..., order], moved)
        close(after, before[..., order] if row.permutation == "follows" else before, library)


@law("masked class", "A further class of -inf changes nothing, and gets what is said.", OF_CLASSES, LIBRARIES)
def test_masked_class(row, library):
    x, target = row.inputs()
    masked = np.concatenate([x, np.full((*x.shape[:-1], 1), -np.inf)], axis=-1)
    wider = target
    if row.target in ("distribution", "binary"):
        wider = np.concatenate([target, np.zeros((*target.shape[:-1], 1), target.dtype)], axis=-1)
    result = row.run(library, masked, wider)
    if row.gives == "classes":
        np.testing.assert_array_equal(result[..., -1], np.full(result[..., -1].shape, row.masked))
        result = result[..., :-1]
    close(result, row.run(library, x, target), library)


@law("order", "Raising a logit moves the result in the direction that is said, or not at all.", ROWS, LIBRARIES)
def test_order(row, library):
    if row.takes == "number":
        return check_order_of_numbers(row, library)
    x, target = row.inputs()
    before = row.run(library, x, target)
    if row.order == "keeps the order of the classes":
        higher = x[..., :, None] > x[..., None, :]
        assert (before[..., :, None] >= before[..., None, :])[higher].all()
        return
    classes = np.arange(x.shape[-1])
    if row.order == "a class rises with its logit":
        for k in classes:
            assert (row.run(library, x + 0.5 * (classes == k), target)[..., k] >= before[..., k]).all()
        return
    if row.order == "falls towards the target":
        for k in classes:
            change = row.run(library, x + 0.5 * (classes == k), target) - before
            assert (change * (2 * target[..., k] - 1) <= 0).all()
        return
    which = {
        "each": lambda: classes,
        "largest": lambda: x.argmax(-1)[..., None],
        "target": lambda: {
            "distribution": lambda: np.argmax(target, -1)[..., None],
            "indices": lambda: target[..., :1],
            "index": lambda: target[..., None],
        }[row.target](),
    }[next(word for word in ("each", "largest", "target") if word in row.order)]()
    for k in classes:
        raised = row.run(library, np.where((which == k) & (classes == k), x + 0.5, x), target)
        assert (raised >= before).all() if row.order.startswith("rises") else (raised <= before).all()


def check_order_of_numbers(row, library):
    x = np.sort(row.inputs(shape=(60, 4))[0], axis=0)
    target = row.targets(x)
    target = None if target is None else np.broadcast_to(target[0], target.shape)
    up = {"rises": 1, "falls": -1}.get(row.order)
    up = 2 * target[0] - 1 if up is None else up
    if row.order == "falls towards the target":
        up = -up
    assert (np.diff(row.run(library, x, target), axis=0) * up >= 0).all()


@law("identity", "The row equals other functions of ours where the two meet.", ROWS, LIBRARIES)
def test_identity(row, library):
    x = row.inputs(shape=(4, 2))[0]
    x = library.of(-x if row.domain == (-np.inf, 0) else x)  # that one is said of logits
    left, right = library.numpy(row.symmetry.left(x)), library.numpy(row.symmetry.right(x))
    np.testing.assert_allclose(left, right, rtol=16 * library.eps, atol=24 * library.eps)


@law("nan", "A nan makes its own row nan, or its own entry as is said, and nothing else.", CONTAINED, LIBRARIES)
def test_nan(row, library):
    check_contained(row, library, np.nan)


@law(
    "domain",
    "A number outside the domain of the function gives nan in its own entry.",
    [row for row in CONTAINED if np.isfinite(row.domain).any()],
    LIBRARIES,
)
def test_domain(row, library):
    for outside in np.array(row.domain)[np.isfinite(row.domain)] + [-0.25, 0.25][-np.isfinite(row.domain).sum() :]:
        check_contained(row, library, outside)


def check_contained(row, library, value):
    x, target = row.inputs()
    spoilt = x.copy()
    spoilt[3, 1] = value
    before, after = row.run(library, x, target), row.run(library, spoilt, target)
    touched = np.zeros(before.shape, bool)
    touched[(3, 1) if row.takes == "number" or row.nan == "entry" else 3] = True
    assert np.isnan(after[touched]).all()
    np.testing.assert_array_equal(after[~touched], before[~touched])


@law(
    "neighbours",
    "A row has the same bits whatever its neighbours and however many; not said of JAX, where XLA compiles each shape "
    "anew with sums in another order.",
    CONTAINED,
    SAME_BITS,
)
def test_neighbours(row, library):
    for rows, classes in ((9, 3), (9, 10), (5, 1000)):
        x, target = row.spread_inputs((rows, min(classes, row.longest)), seed=classes)
        whole = row.run(library, x, target)
        backwards = row.run(library, x[::-1], None if target is None else target[::-1])[::-1]
        np.testing.assert_array_equal(backwards, whole)
        for i in range(len(x)):
            for alone in (slice(i, i + 1), i):
                one = row.run(library, x[alone], None if target is None else target[alone])
                np.testing.assert_array_equal(np.reshape(one, whole[i].shape), whole[i])


@law("layout", "A row has the same bits whatever the strides of its array.", CONTAINED, [NUMPY, TORCH])
def test_layout(row, library):
    of = np.asarray if library.package == "numpy" else importlib.import_module("torch").from_numpy
    x, target = row.spread_inputs((7, 137), seed=5)
    plain = np.asarray(row(of(x.copy()), target))
    padded = np.repeat(np.repeat(x, 3, axis=1), 2, axis=0)
    for strange in (of(np.ascontiguousarray(x.T)).T, of(padded)[::2, ::3]):
        np.testing.assert_array_equal(np.asarray(row(strange, target)), plain)


@law("axis", "The classes may be any axis.", [row for row in ROWS if "axis" in row.parameters], LIBRARIES)
def test_axis(row, library):
    x, target = row.inputs()
    expected = row.run(library, x, target)
    fixed = None if target is None else library.of(target)
    for axis in (0, 1, -1, -2):
        result = library.numpy(row(library.of(np.moveaxis(x, -1, axis)), fixed, axis=axis))
        wanted = np.moveaxis(expected, -1, axis) if row.gives == "classes" else expected
        close(result, wanted, library, ulp=8 if library.package == "jax" else 0)  # XLA compiles each anew


@law("dtype", "The result is of the library and the floating dtype that came.", ROWS, LIBRARIES)
def test_dtype(row, library):
    x, target = row.inputs()
    result = row(library.of(x), target)
    assert type(result) is type(library.of(x)) or library.package == "numpy"
    assert str(result.dtype).endswith(library.dtype)


@law(
    "whole numbers",
    "Integers are taken as the library's default floating dtype.",
    [row for row in ROWS if row.call is None],
    LIBRARIES,
)
def test_whole_numbers(row, library):
    whole = np.array([[1, 1, 0, 1]]) if row.domain[1] == 1 else -np.array([[3, 1, 2, 5]])
    target = row.targets(whole)
    result = row(library.of(whole), target)
    wide = "float64" if library.package in ("numpy", "array_api_strict") else "float32"
    assert str(result.dtype).endswith(wide)
    np.testing.assert_allclose(library.numpy(result), row(whole.astype(float), target), rtol=1e-5)


@law(
    "half precision", "float16 and bfloat16 are computed in float32; the result is as said.", ROWS, [NUMPY, TORCH, JAX]
)
def test_half_precision(row, library):
    xp = importlib.import_module("jax.numpy" if library.package == "jax" else library.package)
    x, target = row.inputs()
    for half in ("float16",) if xp is np else ("float16", "bfloat16"):
        result = row(xp.asarray(x, dtype=getattr(xp, half)), target)
        wide = row(xp.asarray(x, dtype=xp.float32), target)
        assert str(result.dtype).endswith(half if row.half == "same" else "float32")
        rounded = xp.asarray(wide, dtype=result.dtype)
        assert bool(((result == rounded) | (xp.isnan(result) & xp.isnan(rounded))).all())


@law(
    "lists",
    "Nested lists, and plain numbers, are taken as NumPy takes them.",
    [row for row in ROWS if row.call is None],
    [NUMPY],
)
def test_lists(row, library):
    x, target = row.inputs()
    with ll.formulas():  # of a list there is no kernel
        result = row(x.tolist(), None if target is None else target.tolist())
        np.testing.assert_array_equal(result, row(x, target))
        if row.takes == "number":
            assert float(row(float(x[0, 0]), None if target is None else int(target[0, 0]))) == result[0, 0]


@law(
    "first argument",
    "The first argument may be named, and its name says what it is: logits, logp, probs or losses.",
    [row for row in ROWS if row.call is None],
    [NUMPY],
)
def test_first_argument(row, library):
    x, target = row.inputs()
    assert row.parameters[0] == FIRST.get(row.function.__name__, "logits")
    named = {row.parameters[0]: x} if target is None else {row.parameters[0]: x, row.parameters[1]: target}
    np.testing.assert_array_equal(row.function(**named, **row.settings_of(x)), row(x, target))


@law("input", "What is given is left as it was.", ROWS, [NUMPY, TORCH])
def test_input(row, library):
    x, target = row.inputs()
    given, fixed = library.of(x), None if target is None else library.of(target)
    row(given, fixed)
    np.testing.assert_array_equal(library.numpy(given), x)
    if target is not None:
        np.testing.assert_array_equal(library.numpy(fixed), target)


@law("formula", "The kernel that the table names, where there is one, gives what the formula gives.", ROWS, [NUMPY])
def test_formula(row, library):
    x, target = row.inputs()
    with ll.formulas():
        forced = row(x, target)
    np.testing.assert_allclose(forced, row(x, target), rtol=1e-15)


@law(
    "compiled",
    "`jax.jit` compiles it with static shapes, once for all values, and gives what eager NumPy gives.",
    ROWS,
    [JAX_JIT],
)
def test_compiled(row, library):
    import jax

    traces = []

    def traced(*args):
        traces.append(args)
        return row(*args)

    compiled = jax.jit(traced)
    x, target = row.inputs()
    fixed = () if target is None else (library.of(target),)
    got = compiled(library.of(x), *fixed)
    special = np.array(x)
    special[:, 0], special[0], special[3, 1] = -np.inf, -np.inf, np.inf
    assert compiled(library.of(special), *fixed).shape == got.shape
    assert len(traces) == 1
    np.testing.assert_allclose(got, row(x, target), rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("function", [transform.softmax, transform.log_softmax, transform.entropy])
def test_torch_keeps_the_bits_of_a_row_long_enough_to_be_split_over_threads(function):
    """torch.sum of 40,000 numbers differs between a row alone and in a block in two rows of three."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(np.random.default_rng(2).normal(0, 4, (6, 40_000)))
    whole = function(x)
    assert all(torch.equal(whole[i : i + 1], function(x[i : i + 1].clone())) for i in range(6))
