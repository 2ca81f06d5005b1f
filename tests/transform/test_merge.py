"""The parts of a logsumexp: cut anywhere and joined, they are those of the whole; and the logsumexp of two numbers."""

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import reference
from arrays import JAX, TORCH, Library
from lastlayer.transform import LogSumExpParts, logaddexp, logsumexp_parts, merge_logsumexp

NUMPY, NUMPY_32 = Library("numpy", "numpy", np.array), Library("numpy-float32", "numpy", np.array, dtype="float32")


def tiles(library, x, cuts):
    return [logsumexp_parts(library.of(piece)) for piece in np.split(x, cuts, axis=-1)]


@pytest.mark.parametrize("cuts", [[], [5], [1, 2, 63], list(range(8, 64, 8)), list(range(1, 64))], ids=len)
def test_joined_pieces_are_the_whole(cuts, library):
    rng = np.random.default_rng(len(cuts))
    x = np.round(rng.normal(0, 10, (6, 64)) * 1024) / 1024  # float32 holds it exactly
    x[1, 7] = x[1].max() + 60  # one class far above the rest
    x[2, 3] = x[2, 40] = x[2].max() + 1  # a tie across pieces
    x[3, :50] = -np.inf
    x[4] = -np.inf
    joined = merge_logsumexp(*tiles(library, x, cuts))
    np.testing.assert_array_equal(library.numpy(joined.max), x.max(-1))
    want = []
    for row in x:
        above, *others = sorted(reference.exact(row), reverse=True)
        finite = [v for v in others if v != -mpmath.inf]
        want.append(float(mpmath.fsum(mpmath.exp(v - above) for v in finite)))
    np.testing.assert_allclose(library.numpy(joined.rest), want, rtol=4 * library.eps)
    np.testing.assert_allclose(
        library.numpy(joined.value()), library.run(ll.logsumexp, x), rtol=2 * library.eps, atol=2 * library.eps
    )


def test_special_values_of_pieces(library):
    inf, nan = np.inf, np.nan
    left = np.array([[inf, 0.0], [nan, 0.0], [inf, inf], [-inf, -inf], [-inf, -inf]])
    right = np.array([[inf, -inf], [1.0, 2.0], [nan, 0.0], [1.0, 1.0], [-inf, -inf]])
    joined = merge_logsumexp(logsumexp_parts(library.of(left)), logsumexp_parts(library.of(right)))
    np.testing.assert_array_equal(library.numpy(joined.max), [inf, nan, nan, 1, -inf])
    np.testing.assert_array_equal(library.numpy(joined.rest), [1, nan, nan, 1, 0])
    np.testing.assert_allclose(
        library.numpy(joined.value()), [inf, nan, nan, 1 + np.log(2), -inf], rtol=2 * library.eps
    )


def test_gradients_pass_through_pieces(differentiable):
    x = np.round(np.random.default_rng(1).normal(0, 5, (3, 12)) * 1024) / 1024
    x[1, 4] = 60
    x[2, 2:7] = -np.inf

    def joined(z):
        return merge_logsumexp(logsumexp_parts(z[..., :5]), logsumexp_parts(z[..., 5:])).value()

    want = np.exp(x - x.max(-1, keepdims=True))
    want /= want.sum(-1, keepdims=True)
    np.testing.assert_allclose(differentiable.gradient(joined, x), want, rtol=8 * differentiable.eps)


def test_pieces_are_joined_twice_differentiably():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(np.random.default_rng(2).normal(0, 2, (2, 6))).requires_grad_()

    def joined(z):
        return merge_logsumexp(logsumexp_parts(z[..., :2]), logsumexp_parts(z[..., 2:])).value()

    assert torch.autograd.gradcheck(joined, x)
    assert torch.autograd.gradgradcheck(joined, x)


def test_parts_pass_through_jit_as_a_tuple():
    jax = pytest.importorskip("jax", reason="pip install jax")
    parts = jax.jit(logsumexp_parts)(JAX.of([[1.0, 0.0], [3.0, 3.0]]))
    assert isinstance(parts, LogSumExpParts)
    np.testing.assert_allclose(parts.rest, [np.exp(-1), 1], rtol=1e-7)


@pytest.mark.parametrize("library", [NUMPY, NUMPY_32], ids=str)
def test_the_loss_and_gradient_of_a_sure_row_come_from_merged_tiles(library):
    """The worst of 300 rows cut in tiles of 8: log1p(rest) and -rest / (1 + rest) to 4 units at margins up to 80."""
    rng = np.random.default_rng(5)
    worst = 0.0
    for margin in (0, 5, 20, 40, 60, 80):
        x = rng.normal(0, 1, (6, 50)).astype(np.float32).astype(float)
        x[:, 17] = (x.max(-1) + margin).astype(np.float32)
        rest = library.numpy(merge_logsumexp(*tiles(library, x, list(range(8, 50, 8)))).rest)
        for row, ours in zip(x, rest, strict=True):
            s = mpmath.fsum(mpmath.exp(v - mpmath.mpf(row[17])) for i, v in enumerate(reference.exact(row)) if i != 17)
            for got, want in ((np.log1p(ours), mpmath.log(1 + s)), (-ours / (1 + ours), -s / (1 + s))):
                unit = np.spacing(np.abs(np.asarray(float(want), dtype=library.dtype)))
                worst = max(worst, abs(float((mpmath.mpf(float(got)) - want) / mpmath.mpf(float(unit)))))
    assert worst <= 4


def test_wrong_calls_of_merge():
    with pytest.raises(ValueError, match=r"^merge_logsumexp: one piece at least; there is none"):
        merge_logsumexp()
    one, two = logsumexp_parts(np.zeros((2, 3))), logsumexp_parts(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"The first has \(2,\), another \(3,\)"):
        merge_logsumexp(one, two)


@pytest.mark.parametrize(
    ("a", "b", "value", "slope"),
    [
        (0.0, 0.0, np.log(2), 0.5),
        (1000.0, 1000.0, 1000 + np.log(2), 0.5),
        (-np.inf, 3.0, 3.0, 0.0),
        (3.0, -np.inf, 3.0, 1.0),
        (-np.inf, -np.inf, -np.inf, 0.0),
        (np.inf, np.inf, np.inf, 0.5),
        (np.inf, -np.inf, np.inf, 1.0),
        (np.inf, 0.0, np.inf, 1.0),
        (0.0, -40.0, 4.248354255291589e-18, 1.0),
        (-40.0, 0.0, 4.248354255291589e-18, 4.248354255291589e-18),
        (np.nan, 0.0, np.nan, np.nan),
    ],
)
def test_logaddexp(a, b, value, slope, differentiable):
    """torch's slope at two equal infinities is nan."""
    got = differentiable.run(logaddexp, [a], np.array([b]))
    np.testing.assert_allclose(got, [value], rtol=2 * differentiable.eps)
    np.testing.assert_allclose(
        differentiable.gradient(logaddexp, [a], np.array([b])), [slope], rtol=4 * differentiable.eps
    )


def test_logaddexp_broadcasts_and_is_right_everywhere(library):
    a, b = np.random.default_rng(3).normal(0, 20, (4, 1)), np.random.default_rng(4).normal(0, 20, 5)
    got = library.numpy(logaddexp(library.of(a), library.of(b)))
    np.testing.assert_allclose(got, np.logaddexp(a, b), rtol=4 * library.eps)


def test_logaddexp_of_half_precision_and_of_numbers():
    assert logaddexp(np.float16(1), np.float16(2)).dtype == np.float16
    assert float(logaddexp(1, 2.0)) == pytest.approx(np.logaddexp(1, 2), rel=1e-15)
