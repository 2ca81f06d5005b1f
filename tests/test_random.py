"""The counter-based generator: its bits by the published vectors, its law, and what each number may depend on."""

import functools

import mpmath
import numpy as np
import pytest
from scipy import stats

from arrays import JAX, TORCH, Differentiable, Library, wide_jax
from lastlayer import _random
from lastlayer._array import namespace

DRAWS = 200_000
KEY = 0x13198A2E_03707344
TOP = 2**32 - 1

# key, counter, result: Random123 1.14, tests/kat_vectors, "threefry2x32 20"
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((TOP, TOP), (TOP, TOP), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def threefry(key, counter):
    """The rounds in order on Python's integers, with a key injected after every fourth."""
    keys = [*key, 0x1BD11BDA ^ key[0] ^ key[1]]
    x, y = ((c + k) % 2**32 for c, k in zip(counter, key, strict=True))
    for i, turn in enumerate([13, 15, 26, 6, 17, 29, 16, 24] * 2 + [13, 15, 26, 6]):
        x = (x + y) % 2**32
        y = (y << turn | y >> 32 - turn) % 2**32 ^ x
        if i % 4 == 3:
            s = i // 4 + 1
            x, y = (x + keys[s % 3]) % 2**32, (y + keys[(s + 1) % 3] + s) % 2**32
    return x, y


def exact(high, low):
    """The Gumbel number of two words, from 50 digits."""
    with mpmath.workdps(50):
        v = (high + (low + mpmath.mpf(1) / 2) / 2**32) / 2**32
        return float(-mpmath.log(-mpmath.log(v)))


@functools.cache
def expected(key, rows, classes, keyed=False):
    """Numbers for one key (a pair of words), or for a key of its own per row: a tuple of pairs."""
    pairs = [key] * rows if not keyed else key
    counters = [[(0 if keyed else i, j) for j in range(classes)] for i in range(rows)]
    return np.array([[exact(*threefry(pairs[i], c)) for c in counters[i]] for i in range(rows)])


def words_of(library, values):
    """Words in the dtype that has arithmetic in the library."""
    return library.make(np.atleast_1d(np.array(values, np.int64 if library.package == "torch" else np.uint32)))


def draw(key, like):
    return _random.gumbel("law", key, like, namespace(like))


def gumbel(library, key, shape):
    return library.run(lambda like: draw(key, like), np.zeros(shape))


def close(got, want, library, ulp=4):
    """Within some units in the last place of the number, or of 1 where it cancels to less."""
    assert got.dtype == library.dtype
    assert (abs(got - want) <= ulp * library.eps * np.maximum(abs(want), 1)).all()


@pytest.mark.parametrize(("key", "counter", "result"), KNOWN)
def test_the_published_vectors(key, counter, result, library):
    arguments = (words_of(library, part) for part in (*key, *counter))

    def words(k0, k1, row, column):
        return _random.words((k0, k1), row, column, namespace(k0))

    got = [int(library.numpy(word)[0]) for word in words(*arguments)]
    assert got == list(result) == list(threefry(key, counter))


def test_the_bits_are_those_of_jax():
    random = pytest.importorskip("jax.extend.random", reason="pip install jax")
    rng = np.random.default_rng(0)
    key, row, column = (rng.integers(0, 2**32, size, np.uint32) for size in (2, 1000, 1000))
    theirs = np.asarray(random.threefry_2x32(key, np.concatenate([row, column])))
    ours = _random.words((key[:1], key[1:]), row, column, np)
    np.testing.assert_array_equal(np.concatenate(ours), theirs)


def test_every_library_has_the_same_words(library):
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 2**32, (4, 500), np.uint32)
    want = _random.words(tuple(numbers[:2]), *numbers[2:], np)
    k0, k1, row, column = (words_of(library, line) for line in numbers)
    got = _random.words((k0, k1), row, column, namespace(k0))
    np.testing.assert_array_equal([library.numpy(word) for word in got], want)


@pytest.mark.parametrize("key", [0, 1, 2**31, 2**32, KEY, 2**64 - 1])
def test_the_numbers_of_an_integer_key(key, library):
    close(gumbel(library, key, (3, 5)), expected((key >> 32, key & TOP), 3, 5), library)


def test_the_numbers_of_a_key_for_each_row(library):
    keys = (3, 2**33 + 1, 2**64 - 1)
    pairs = tuple((key >> 32, key & TOP) for key in keys)
    close(gumbel(library, np.array(keys, np.uint64), (3, 4)), expected(pairs, 3, 4, keyed=True), library)


def test_both_ends_of_the_uniform_and_its_middle(library):
    """A float32 uniform ends at 1 - 2^-24, where the Gumbel number is 16.6; 64 bits go to 45.05."""
    pairs = [(0, 0), (0, TOP), (1, 0), (2**31 - 1, TOP), (2**31, 0), (TOP - 1, TOP), (TOP, 0), (TOP, TOP)]
    high, low = (words_of(library, part) for part in zip(*pairs, strict=True))
    xp = namespace(high)
    got = library.numpy(_random.from_words(high, low, library.of([0.5]).dtype, xp))
    close(got, np.array([exact(*pair) for pair in pairs]), library)
    assert (np.diff(got) >= 0).all()
    np.testing.assert_allclose(got[[0, -1]], [-np.log(65 * np.log(2)), 65 * np.log(2)], rtol=4 * library.eps)


def test_the_law_of_a_single_number():
    g = draw(KEY, np.zeros((DRAWS // 100, 100))).reshape(-1)
    assert abs(g.mean() - np.euler_gamma) < 3 * np.pi / np.sqrt(6 * DRAWS)
    four = 4.4  # the fourth moment over the squared variance, less 1
    assert abs(g.var() - np.pi**2 / 6) < 3 * np.pi**2 / 6 * np.sqrt(four / DRAWS)
    assert stats.kstest(g, stats.gumbel_r.cdf).pvalue > 0.01


def test_the_tail_of_float32_has_its_share():
    """vLLM PR #43150 counted 0 numbers beyond 20.5 where 32 were due; here those beyond 8 are counted, and reach 13."""
    g = draw(KEY, np.zeros((1000, 1000), np.float32))
    due = -np.expm1(-np.exp(-8.0)) * g.size
    assert abs((g > 8).sum() - due) < 3 * np.sqrt(due)
    assert 12 < g.max() < 20
    assert -3 < g.min() < -2.4


@pytest.mark.parametrize("apart", ["rows", "classes", "keys", "high words", "keys per row"])
def test_neighbours_are_independent(apart):
    like = np.zeros((1000, 200))
    g = draw(KEY, like)
    first, second = {
        "rows": lambda: (g[1:], g[:-1]),
        "classes": lambda: (g[:, 1:], g[:, :-1]),
        "keys": lambda: (g, draw(KEY + 1, like)),
        "high words": lambda: (g, draw(KEY + 2**32, like)),
        "keys per row": lambda: (draw(np.arange(1000), like), draw(np.arange(1, 1001) << 32, like)),
    }[apart]()
    assert abs(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1]) < 3 / np.sqrt(first.size)
    late = [first > 2, second > 2]  # the tails too: 25,300 and 3,200 of 200,000
    due = late[0].mean() * late[1].mean() * first.size
    assert abs((late[0] & late[1]).sum() - due) < 3 * np.sqrt(due)


def test_the_largest_noisy_logit_follows_softmax():
    z = np.array([2.0, 1.0, 0.0, -1.0, -3.0, -7.0])
    winners = (z + draw(KEY, np.zeros((DRAWS, 6)))).argmax(-1)
    due = DRAWS * np.exp(z) / np.exp(z).sum()
    assert stats.chisquare(np.bincount(winners, minlength=6), due).pvalue > 0.01


def test_further_rows_and_classes_change_nothing(library):
    small, large = gumbel(library, 5, (3, 4)), gumbel(library, 5, (7, 9))
    close(large[:3, :4], small, library)
    if library.package != "jax":  # XLA compiles each shape anew
        np.testing.assert_array_equal(large[:3, :4], small)
    assert len(np.unique(large)) == large.size


def test_a_row_with_a_key_of_its_own_has_its_bits_wherever_it_stands(library):
    """vLLM #17524, FlashInfer #4861: a request's seed gave other tokens in another batch, or only seed 0 was read."""
    keys = np.array([11, 22, 33, 44])
    whole = gumbel(library, keys, (4, 6))
    close(gumbel(library, keys[::-1].copy(), (4, 6))[::-1], whole, library)
    assert (np.diff(whole, axis=0) != 0).all()
    for i in range(4):
        close(gumbel(library, keys[i : i + 1], (1, 6))[0], whole[i], library)
        close(gumbel(library, int(keys[i]), (6,)), whole[i], library)


def test_a_batch_of_two_axes_counts_its_rows_in_order(library):
    close(gumbel(library, 5, (2, 3, 4)).reshape(6, 4), gumbel(library, 5, (6, 4)), library)
    keys = np.arange(6)
    each = gumbel(library, keys.reshape(2, 3), (2, 3, 4)).reshape(6, 4)
    close(each, gumbel(library, keys, (6, 4)), library)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_no_rows_give_no_numbers(shape, library):
    assert gumbel(library, 1, shape).shape == shape


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_a_key_is_the_same_in_every_dtype_and_library(dtype, library):
    key = np.array([7, 100], dtype)
    want = expected(((0, 7), (0, 100)), 2, 3, keyed=True)
    close(gumbel(library, key, (2, 3)), want, library)
    close(gumbel(library, key[0], (3,)), want[0], library)
    if library.package != "jax":  # there uint32 is a raw key, and int64 is rare
        close(gumbel(library, library.make(key.copy()), (2, 3)), want, library)
    TORCH.require()
    close(gumbel(library, TORCH.of(key), (2, 3)), want, library)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32"])
def test_a_key_that_jax_traces(dtype):
    jax = pytest.importorskip("jax", reason="pip install jax")
    values = (3, 2**31 - 1) if dtype == "int32" else (2**32 + 3, 2**63 - 5)
    want = expected(tuple((v >> 32, v & TOP) for v in values), 2, 3, keyed=True)
    with wide_jax():
        key, like = jax.numpy.asarray(np.array(values, dtype)), jax.numpy.zeros((2, 3))
        got = jax.jit(draw)(key, like)
        close(np.asarray(got), want, Library("jax", "jax", None))
        np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(key, like), got)


def test_keys_of_jax_count_as_the_integer_they_spell(library):
    jax = pytest.importorskip("jax", reason="pip install jax")
    one, each = jax.random.key(5), jax.random.split(jax.random.key(6), 3)
    pairs = tuple((int(a), int(b)) for a, b in jax.random.key_data(each))
    for key in (one, jax.random.PRNGKey(5)):
        close(gumbel(library, key, (3, 4)), expected((0, 5), 3, 4), library)
    for keys in (each, jax.random.key_data(each)):
        close(gumbel(library, keys, (3, 4)), expected(pairs, 3, 4, keyed=True), library)


def test_keys_of_jax_are_traced_and_mapped():
    jax = pytest.importorskip("jax", reason="pip install jax")
    each, like = jax.random.split(jax.random.key(6), 3), jax.numpy.zeros((3, 4))
    want = draw(each, like)
    np.testing.assert_array_equal(jax.jit(draw)(each, like), want)
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(each, like), want)
    np.testing.assert_array_equal(jax.jit(draw)(jax.random.PRNGKey(5), like), draw(5, like))


def test_torch_maps_over_keys():
    torch = pytest.importorskip("torch", reason="pip install torch")
    keys, like = torch.tensor([1, 2**40, 3]), torch.zeros((3, 4), dtype=torch.float64)
    np.testing.assert_array_equal(torch.func.vmap(draw)(keys, like), draw(keys, like))


def test_a_negative_key_that_may_not_be_read_makes_its_row_nan():
    pytest.importorskip("jax", reason="pip install jax")
    got = np.asarray(draw(JAX.of(np.array([3, -3])), JAX.of(np.zeros((2, 4)))))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


WIDE = Differentiable("jax-float64", "jax", JAX.make, context=wide_jax)


@pytest.mark.parametrize("library", [JAX, WIDE], indirect=True, ids=str)
def test_the_bits_do_not_depend_on_the_width_of_jax(library):
    close(gumbel(library, KEY, (3, 4)), expected((KEY >> 32, KEY & TOP), 3, 4), library)


@pytest.mark.parametrize("key", [-1, 2**64, np.int64(-7), np.array([4, -7])])
def test_a_key_out_of_range(key, library):
    worst = int(np.min(np.array(key, object)))
    with pytest.raises(ValueError, match=rf"law: key is an integer from 0 to 2\*\*64 - 1, not {worst}\."):
        gumbel(library, key, (2, 3))


@pytest.mark.parametrize(
    ("key", "came"),
    [
        (1.0, "float64"),
        (True, "bool"),
        (np.True_, "bool"),
        (np.zeros(2, np.float32), "float32"),
        ("7", "str32"),
        (None, "NoneType"),
        (np.random.default_rng(0), "Generator"),
    ],
    ids=str,
)
def test_what_is_no_key(key, came):
    with pytest.raises(TypeError, match=f"law: key is an integer, one per row, or a JAX key, not {came}"):
        draw(key, np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (2, 3)])
def test_keys_of_another_shape(shape):
    with pytest.raises(
        ValueError, match=r"law: one key for all, or one per row of logits\. logits \(2, 3\) has rows \(2,"
    ):
        draw(np.ones(shape, int), np.zeros((2, 3)))


def test_other_keys_of_jax_are_refused():
    jax = pytest.importorskip("jax", reason="pip install jax")
    with pytest.raises(ValueError, match=r"law: a JAX key has two words .*, this one 4"):
        draw(jax.random.key(0, impl="rbg"), np.zeros((2, 3)))
    with pytest.raises(
        ValueError, match=r"law: uint32 in JAX is a raw key, of two words on its last axis; key is \(3,\)"
    ):
        draw(jax.numpy.zeros(3, "uint32"), np.zeros((3, 3)))
