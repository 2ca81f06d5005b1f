"""The kernels of softmax: against the formula in float64, under autograd, and the same bits anywhere."""

import platform
import re
import tracemalloc

import mpmath
import numba
import numpy as np
import pytest
from test_kernels import assert_same_bits, run_program, special_rows

import lastlayer as ll
from lastlayer import kernels, parallel
from lastlayer.kernels.cpu import halves, max_rest
from lastlayer.kernels.cpu.exponential32 import log1p

LENGTHS = [1, 2, 3, 10, 31, 32, 63, 64, 65, 257, 2049, 5000]  # around the tile, the vector step and the block


def rows_of(classes, count=None):
    """Special rows, and usual ones between them."""
    special = special_rows(classes, np.float32)
    usual = np.random.default_rng(classes).normal(0, 4, (2 * len(special), classes)).astype(np.float32)
    return np.concatenate([usual[: len(special)], special, usual])[:count]


def targets_of(x):
    target = np.random.default_rng(len(x)).integers(0, x.shape[1], len(x))
    return np.where(np.arange(len(x)) % 2, target, np.nan_to_num(x, nan=0.0).argmax(1))


FUNCTIONS = {
    "logsumexp": lambda x, target: ll.logsumexp(x),
    "softmax": lambda x, target: ll.softmax(x),
    "softmax, uniform": lambda x, target: ll.softmax(x, empty="uniform"),
    "cross_entropy": ll.cross_entropy,
}


def by_formula(name, x, target):
    with ll.formulas():
        return FUNCTIONS[name](x, target)


def units(found, want):
    """The largest error in units in the last place of float32, where the result is a normal number."""
    found, want = np.asarray(found, np.float64), np.asarray(want)
    size = np.abs(want)
    finite = np.isfinite(want) & (size < 3e38)
    np.testing.assert_array_equal(found[~finite & (size != size)], want[~finite & (size != size)])
    np.testing.assert_array_equal(found[np.isinf(want)], want[np.isinf(want)])
    normal = finite & (size > np.finfo(np.float32).tiny)
    assert (np.abs(found[finite & ~normal]) <= np.finfo(np.float32).tiny).all()
    return (np.abs(found[normal] - want[normal]) / np.spacing(size[normal].astype(np.float32))).max(initial=0.0)


@pytest.mark.parametrize("classes", LENGTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_float64(name, classes):
    x = rows_of(classes)
    target = targets_of(x)
    found = FUNCTIONS[name](x, target)
    assert found.dtype == np.float32
    assert units(found, by_formula(name, x.astype(np.float64), target)) <= 4


def in_long_double(name, x, target):
    """The same from the definition, in 64 bits, of rows without nan and +inf."""
    x = x.astype(np.longdouble)
    top = np.arange(x.shape[1]) == x.argmax(1)[:, None]
    m = x.max(1)
    terms = np.exp(x - m[:, None])
    rest = np.where(top, 0, terms).sum(1)
    if name == "softmax":
        return terms / (1 + rest)[:, None]
    return np.log1p(rest) + (m if name == "logsumexp" else m - x[np.arange(len(x)), target])


@pytest.mark.parametrize("classes", LENGTHS)
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "cross_entropy"])
def test_values_of_float64_are_within_4_units(name, classes):
    rng = np.random.default_rng(classes)
    x = np.concatenate([scale * rng.normal(size=(20, classes)) for scale in (0.1, 4.0, 100.0)])
    x[::3, 0] += 60.0
    x[1::7, -1] = -np.inf if classes > 1 else 0.0
    target = np.where(np.arange(len(x)) % 2, 0, x.argmax(1))
    found, want = FUNCTIONS[name](x, target), in_long_double(name, x, target)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(np.isinf(found), np.isinf(want))
    usual = np.isfinite(want) & (np.abs(want) > 1e-300)
    if name == "logsumexp":  # where m and log1p(rest) cancel, the error is one of m
        size = np.maximum(np.abs(want), np.abs(x.max(1)))
    else:
        size = np.abs(want)
    assert (np.abs(found - want)[usual] <= 4 * np.spacing(size[usual].astype(float))).all()


@pytest.mark.parametrize("classes", LENGTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_rows_of_float64_are_those_of_the_formula(name, classes):
    x = rows_of(classes).astype(np.float64)
    target = targets_of(x)
    np.testing.assert_allclose(FUNCTIONS[name](x, target), by_formula(name, x, target), rtol=1e-14, atol=1e-300)


@numba.njit
def exponential(x, m):
    """exp(x - m) in a row whose largest entry is m, as a term and what that is multiplied by."""
    return max_rest.term(x, max_rest.origin(m)), max_rest.scale(m)


def exact(x, m):
    with mpmath.workdps(40):
        return float(mpmath.exp(mpmath.mpf(float(x)) - mpmath.mpf(float(m))))


@pytest.mark.parametrize("dtype, least", [(np.float32, 86), (np.float64, 708)])
@pytest.mark.parametrize("m", [0.0, 3.1234567, 77.7, -5.4321, 1023.9, -1024.1, 7e4, -3e9])
def test_the_exponential_is_within_a_unit_also_where_the_difference_rounds(dtype, least, m):
    rng, m = np.random.default_rng(0), dtype(m)
    for x in (m - rng.uniform(0, least, 500)).astype(dtype):
        found, scale = exponential(x, m)
        want = exact(x, m) / scale
        assert abs(found - want) <= np.spacing(dtype(want)), (x, m)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_exponential_of_the_largest_entry_is_1_and_of_none_0(dtype):
    def exp(x, m):
        return np.prod(exponential(dtype(x), dtype(m)))

    for m in (-1e30, -1e3, -0.0, 9.0, 1e4, 3e38):
        assert abs(exp(m, m) - 1.0) <= np.finfo(dtype).eps
        assert exp(-np.inf, m) == 0.0
        assert np.isnan(exp(np.nan, m))
    last = {np.float32: -131.9, np.float64: -745.0}[dtype]
    assert abs(exp(last, 0) / exact(dtype(last), 0) - 1) < (1e-7 if dtype == np.float32 else 0.5)
    assert exp({np.float32: -132.1, np.float64: -752.1}[dtype], 0) == 0.0


@pytest.mark.parametrize("x", [0.0, 1e-300, 1e-20, 1e-9, 0.3, 0.99, 1.0, 7.0, 31_999.0, 1e12])
def test_the_logarithm_keeps_what_1_plus_x_loses(x):
    with mpmath.workdps(400):
        want = float(mpmath.log1p(mpmath.mpf(x)))
    assert abs(log1p(x) - want) <= np.spacing(want)


@pytest.mark.parametrize("classes", [3, 70])
@pytest.mark.parametrize("held", [[0.0], [np.inf, 1.0], [-np.inf, 2.0], [-np.inf]])
def test_a_nan_of_either_sign_stays_in_its_row(classes, held):
    """A negative nan is below -inf in the order of the bits, a positive one above +inf."""
    for nan in (np.float32(np.nan), -np.float32(np.nan)):
        x = np.resize(np.array(held, np.float32), (5, classes)).copy()
        x[[0, 2, 3, 4]] = np.arange(classes)
        x[1, classes // 2] = nan
        for function in (ll.logsumexp, ll.softmax):
            found = np.isnan(function(x)).reshape(5, -1)
            assert found[1].all()
            assert not found[[0, 2, 3, 4]].any()


@pytest.mark.parametrize("classes", [3, 10, 31, 32, 65, 1000, 2049])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_row_has_the_same_bits_in_any_block_and_layout(name, classes, monkeypatch):
    x = rows_of(classes, 600)
    target, function = targets_of(x), FUNCTIONS[name]
    want = function(x, target)
    for i in range(0, len(x), 37):
        assert_same_bits([function(x[i : i + 1], target[i : i + 1])], [want[i : i + 1]])
        assert_same_bits([function(x[i], target[i])], [want[i]])
    np.testing.assert_array_equal(function(x[::-1], target[::-1])[::-1], want)
    wide = np.zeros((2 * len(x), 3 * classes), np.float32)
    wide[::2, ::3] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not odd.flags.aligned
    for strange in (wide[::2, ::3], np.asfortranarray(x), x.astype(x.dtype.newbyteorder()), frozen, odd):
        assert_same_bits([function(strange, target)], [want])
    monkeypatch.setattr(max_rest, "RANGE", 100 * classes)
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "workers", lambda n=threads: n)
        monkeypatch.setattr(parallel, "_pool", None)
        assert_same_bits([function(x, target)], [want])


def test_classes_on_another_axis_and_further_axes():
    x = np.random.default_rng(0).normal(size=(4, 5, 40)).astype(np.float32)
    target = np.random.default_rng(1).integers(0, 40, (4, 5))
    moved = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    assert_same_bits([ll.logsumexp(moved, axis=1)], [ll.logsumexp(x)])
    assert_same_bits([np.moveaxis(ll.softmax(moved, axis=1), 1, -1)], [ll.softmax(x)])
    for i in range(4):
        assert_same_bits([ll.cross_entropy(x, target)[i]], [ll.cross_entropy(x[i], target[i])])
    assert ll.logsumexp(x[:0]).shape == (0, 5)


def test_out_receives_the_result_whatever_it_is():
    x = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    want = ll.softmax(x)
    wide = np.zeros((300, 80), np.float32)
    for out in (np.empty_like(x), np.empty((40, 300), np.float32).T, wide[:, ::2], np.empty(x.shape), x):
        assert ll.softmax(x, out=out) is out  # the last is the input itself
        np.testing.assert_array_equal(out, want)
    assert (wide[:, 1::2] == 0).all()


def test_settings_that_a_kernel_does_not_know_take_the_formula(monkeypatch):
    x, target = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.array([0, 1, 2, 3, 0])
    ran = []
    monkeypatch.setattr(kernels, "resolve", lambda dotted: lambda *args, **settings: ran.append(dotted) or x)
    ll.softmax(x, temperature=2.0)
    ll.softmax(x, temperature=np.ones((5, 1)))
    ll.cross_entropy(x, target, label_smoothing=0.1)
    ll.cross_entropy(x, target, valid=np.ones(5, bool))
    ll.cross_entropy(x, target, class_weight=np.ones(4))
    assert not ran
    ll.softmax(x, temperature=1, empty="zero", axis=-1)
    ll.cross_entropy(logits=x, target=target, label_smoothing=0, valid=None, weighting="row")
    assert len(ran) == 2


def test_what_a_kernel_cannot_do_is_left_to_the_formula():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    shares = np.full((5, 4), 0.25, np.float32)
    with ll.formulas():
        want = ll.cross_entropy(x, shares)
    assert_same_bits([ll.cross_entropy(x, shares)], [want])
    with pytest.raises(ValueError, match="target 4 is not one of the 4 classes"):
        ll.cross_entropy(x, np.array([0, 1, 2, 3, 4]))
    with pytest.raises(ValueError, match="the last axis is empty"):
        ll.logsumexp(x[:, :0])


# PyTorch.


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")


@pytest.mark.parametrize("classes", [1, 3, 31, 32, 100, 3000])
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "cross_entropy"])
def test_slopes_are_those_of_float64(name, classes, torch):
    x = rows_of(classes)
    target = targets_of(x)
    given = torch.from_numpy(x).requires_grad_()
    wide = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    y, exact = FUNCTIONS[name](given, target), by_formula(name, wide, target)
    seed = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(y.shape)))
    (found,) = torch.autograd.grad(y, given, seed.float())
    (want,) = torch.autograd.grad(exact, wide, seed.float().double())
    found, want = found.numpy().astype(float), want.numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    size = np.nan_to_num(np.abs(want)).max(-1, keepdims=True)
    error = np.nan_to_num(np.abs(found - want))
    assert (error <= 16 * 2.0**-23 * size + np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "cross_entropy"])
def test_an_empty_row_has_no_slope_whatever_comes_back_to_it(name, classes, torch):
    x = torch.full((2, classes), -torch.inf).requires_grad_()
    y = FUNCTIONS[name](x, np.array([0, 2]))
    (slope,) = torch.autograd.grad(y, x, torch.full_like(y, torch.nan))
    assert (slope == 0).all()


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "cross_entropy"])
def test_tensors_and_arrays_get_the_same_bits_without_a_copy(name, torch):
    x = rows_of(40)
    target, before = targets_of(x), x.copy()
    found = FUNCTIONS[name](torch.from_numpy(x), torch.from_numpy(target))
    assert type(found) is torch.Tensor
    assert_same_bits([found.numpy(), x], [FUNCTIONS[name](x, target), before])
    recorded = FUNCTIONS[name](torch.from_numpy(x).requires_grad_(), target)
    assert recorded.requires_grad
    assert_same_bits([recorded.detach().numpy()], [found.numpy()])


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "cross_entropy"])
def test_second_derivatives_go_through_the_formula(name, torch):
    x = np.random.default_rng(0).normal(size=(3, 5))
    target, results = np.array([0, 4, 2]), []
    for dtype, function in ((torch.float32, FUNCTIONS[name]), (torch.float64, lambda *given: by_formula(name, *given))):
        z = torch.tensor(x, dtype=dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(function(2 * z, target).pow(2).sum(), z, create_graph=True)
        (second,) = torch.autograd.grad((slope * torch.arange(5.0)).sum(), z, create_graph=True)
        (third,) = torch.autograd.grad(second.pow(2).sum(), z)
        results.append([part.detach().double().numpy() for part in (slope, second, third)])
    for found, want in zip(*results, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # inside torch.func.jvp
def test_transforms_and_tracers_take_the_formula(torch):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32))
    target = torch.tensor([0, 39, 2, 5])

    def loss(z, y):
        return ll.cross_entropy(z, y)

    want = loss(x, target)
    given = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(given, target).sum(), given)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.func.vmap(loss)(x, target), want, **close)
    torch.testing.assert_close(torch.func.vmap(lambda y: loss(x[0], y))(target)[0], want[0], **close)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x, target), slope, **close)
    held = torch.func.vmap(lambda s: s * loss(given, target))(torch.ones(2))  # mapped, but not over the logits
    torch.testing.assert_close(held[1], want, **close)
    _, forward = torch.func.jvp(lambda z: loss(z, target), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(forward, torch.zeros(4), rtol=0, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(x, x), target)
        tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(tangent, (slope * x).sum(1), **close)
    assert loss(x.to("meta"), target.to("meta")).shape == (4,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert kernels.choose("cross_entropy", x) is None
    assert kernels.choose("cross_entropy", x) is not None


@pytest.mark.parametrize("classes", [10, 50, 3000])
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_the_float32_of_its_numbers(half, classes, torch):
    numbers = np.random.default_rng(0).normal(size=(6, classes))
    numbers[0, 1], numbers[1, 0], numbers[2] = -np.inf, np.inf, -np.inf
    x = torch.from_numpy(numbers).to(getattr(torch, half)).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 4, classes - 1])
    loss = ll.cross_entropy(x, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ll.cross_entropy(x.float(), target), rtol=0, atol=0, equal_nan=True)
    same = {"rtol": 0, "atol": 0, "equal_nan": True}
    for function in (ll.softmax, ll.logsumexp):
        torch.testing.assert_close(function(x), function(x.float()).to(x.dtype), **same)
        torch.testing.assert_close(function(x[:, ::3]), function(x[:, ::3].float()).to(x.dtype), **same)
    for function in (lambda z: ll.cross_entropy(z, target), ll.logsumexp, ll.softmax):
        seed = torch.arange(1.0, 1.0 + function(x).numel()).reshape(function(x).shape) % 7
        (slope,) = torch.autograd.grad(function(x), x, seed.to(function(x).dtype))
        wide = x.detach().double().requires_grad_()
        (want,) = torch.autograd.grad(function(wide), wide, seed.double())
        size = want.abs().amax(1, keepdim=True).float()
        error = (slope.float() - want.to(x.dtype).float()).abs()
        usual = ~want.isnan()
        assert torch.equal(slope.isnan(), want.isnan())
        assert (error <= 2.0**-7 * want.abs() + 2.0**-20 * size + 2.0**-24)[usual].all()


def test_half_precision_of_arrays():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install ml_dtypes")
    numbers = np.random.default_rng(0).normal(size=(40, 70)).astype(np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.dtype(">f2")):
        x = numbers.astype(dtype)
        out = np.empty(x.shape, np.dtype(dtype).newbyteorder("="))
        wide, native = x.astype(np.float32), out.dtype
        assert_same_bits([ll.cross_entropy(x, np.arange(40))], [ll.cross_entropy(wide, np.arange(40))])
        assert_same_bits([ll.logsumexp(x)], [ll.logsumexp(wide).astype(native)])
        assert_same_bits([ll.softmax(x)], [ll.softmax(wide).astype(native)])
        assert_same_bits([ll.softmax(x[:, ::2])], [ll.softmax(wide[:, ::2]).astype(native)])
        assert ll.softmax(x, out=out) is out
        assert_same_bits([out], [ll.softmax(x)])
        assert type(ll.logsumexp(x[0])) is native.type


def test_half_precision_is_never_whole_in_float32():
    x = np.zeros((4096, 2048), np.float16)
    ll.logsumexp(x[:1])
    tracemalloc.start()
    try:
        ll.logsumexp(x)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes
    finally:
        tracemalloc.stop()


def test_every_half_there_is_becomes_its_float32_and_back():
    bits = np.arange(2**16, dtype=np.uint16)
    half = bits.view(np.float16)
    wide = halves.widened(half)
    np.testing.assert_array_equal(wide, half.astype(np.float32))
    np.testing.assert_array_equal(halves.widened(bits).view(np.uint32), bits.astype(np.uint32) << 16)
    random = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint64).astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        x = np.concatenate([random, wide, (wide[1:] + wide[:-1]) / 2, np.nextafter(wide, np.float32(9))])
        want = x.astype(np.float16)
    found, brain = np.empty(x.shape, np.float16), np.empty(x.shape, np.uint16)
    halves.narrow(x, found)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(want))
    halves.narrow(x, brain)
    back = halves.widened(brain).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(x))
    finite = np.abs(x) < 2.0**127
    step = np.exp2(np.maximum(np.frexp(x[finite])[1], -125) - 8.0)  # of bfloat16, 8 digits
    error = np.abs(back[finite] - x[finite])
    assert (error <= step / 2).all()
    assert (brain[finite][error == step / 2] % 2 == 0).all()  # ties


def test_out_of_tensors(torch):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32))
    out = torch.empty_like(x)
    assert ll.softmax(x, out=out) is out
    assert torch.equal(out, ll.softmax(x))


COMPILED = """
from lastlayer.kernels.cpu import softmax
x, line, rest = np.zeros((2, 600), np.float32), np.zeros(2, np.float32), np.zeros(2)
into = x.copy()
x.flags.writeable = False
softmax.weigh(x, line, rest, False, line, softmax.NO_TARGET, 0.0, into)
print(*softmax.weigh.inspect_asm().values())
"""


def innermost_loops(listing):
    """The instructions from a label to a jump back to it, where no other loop is between."""
    starts, loops, lines = {}, [], listing.splitlines()
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            starts[label[1]] = number
        elif (jump := re.match(r"\s+j\w+\s+(\.L\w+)", line)) and jump[1] in starts:
            loops.append((starts[jump[1]], number))
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b for c, d in loops if (c, d) != (a, b))]
    return ["\n".join(lines[a:b]) for a, b in inner]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="it reads the instructions of x86")
def test_no_loop_over_exponentials_counts_references_to_arrays(tmp_path):
    """A count is an atomic instruction: in the loop over a row it was most of the time."""
    loops = innermost_loops(run_program(COMPILED, LASTLAYER_CACHE_DIR=str(tmp_path)))
    fused = [loop for loop in loops if len(re.findall(r"\bv?fn?madd", loop)) >= 8]
    assert len(fused) >= 4
    assert not any(re.search(r"\block\b|NRT_incref|NRT_decref", loop) for loop in fused)
