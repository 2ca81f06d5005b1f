"""Statistics of a last layer's rows, streamed: those of the logits, which never exist."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

import lastlayer as ll
from lastlayer.linear import TopK, linear_stats
from lastlayer.linear.products import NumpyProducts

SMALL = 16_000  # bytes: several blocks of the classes, and several groups of rows
EVERY = ("logp", "lse", "entropy", "argmax", "rank", "topk:5", "top2_gap", "max_prob")


def problem(n=70, width=6, classes=700, dtype="float64"):
    rng = np.random.default_rng(n)
    shapes = (n, width), (classes, width), (classes,), (n, 4), (classes, 4), (classes,)
    arrays = [rng.normal(size=s).astype(dtype) for s in shapes]
    return *arrays[:3], rng.integers(0, classes, n), tuple(arrays[3:])


def of_logits(z, target, t=None):
    """Each statistic by its definition, in float64."""
    lse = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
    logp = z - lse[:, None]
    rows, order = np.arange(len(z)), np.argsort(-z, axis=1, kind="stable")
    found = {
        "logp": logp[rows, target],
        "lse": lse,
        "entropy": -(np.exp(logp) * logp).sum(1),
        "argmax": z.argmax(1),
        "rank": (order == target[:, None]).argmax(1),
        "topk:5": TopK(np.take_along_axis(z, order[:, :5], 1), order[:, :5]),
        "top2_gap": z[rows, order[:, 0]] - z[rows, order[:, 1]],
        "max_prob": np.exp(logp.max(1)),
    }
    if t is not None:
        logq = t - np.log(np.exp(t).sum(1))[:, None]
        found["kl"] = (np.exp(logq) * (logq - logp)).sum(1)
    return found


@pytest.fixture(params=["64MiB", SMALL])
def memory(request):
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_statistic_is_that_of_the_logits(memory, dtype):
    features, weight, bias, target, teacher = problem(dtype=dtype)
    z, t = (x.astype(float) @ w.astype(float).T + b for x, w, b in ((features, weight, bias), teacher))
    want = of_logits(z, target, t)
    small = memory if memory == "64MiB" else 3 * memory  # two layers
    found = linear_stats(features, weight, (*EVERY, "kl"), target, bias=bias, teacher=teacher, memory=small)
    assert list(found) == [*EVERY, "kl"]
    room = 3e-6 if dtype == "float32" else 1e-12
    for name, each in found.items():
        for a, b in zip(each, want[name], strict=True) if name == "topk:5" else [(each, want[name])]:
            if a.dtype.kind == "i":
                np.testing.assert_array_equal(a, b, err_msg=name)
            else:
                assert a.dtype == dtype
                np.testing.assert_allclose(a, b, rtol=room, atol=room, err_msg=name)


def test_any_subset_is_the_same_bits(memory):
    features, weight, bias, target, _ = problem(dtype="float32")
    whole = linear_stats(features, weight, EVERY, target, bias=bias, memory=memory)
    for pair in itertools.combinations(EVERY, 2):
        if "rank" in pair:  # whose plan is another
            continue
        found = linear_stats(features, weight, pair, target, bias=bias, memory=memory)
        for name in pair:
            np.testing.assert_allclose(np.asarray(found[name][0]), np.asarray(whole[name][0]), rtol=1e-5)
    again = linear_stats(features, weight, EVERY, target, bias=bias, memory=memory)
    for name in EVERY:
        np.testing.assert_array_equal(np.concatenate(again[name], axis=None), np.concatenate(whole[name], axis=None))


def test_equal_logits_stand_in_the_order_of_their_classes(memory):
    features, weight = np.ones((30, 1)), np.tile(np.array([[1.0], [3.0], [3.0], [2.0]]), (100, 1))
    target = np.full(30, 5)
    found = linear_stats(features, weight, ("argmax", "rank", "topk:3", "top2_gap"), target, memory=memory)
    assert (found["argmax"] == 1).all() and (found["top2_gap"] == 0).all()
    assert (found["rank"] == 2).all()  # 1 and 2 come before 5
    np.testing.assert_array_equal(found["topk:3"].index, np.tile([1, 2, 5], (30, 1)))


def test_special_rows(memory):
    features = np.array([[1.0], [np.nan], [1.0]])
    weight, bias = np.zeros((300, 1)), np.full(300, -np.inf)
    bias[[3, 200]] = np.log(3.0), 0.0
    found = linear_stats(features, weight, EVERY[:-3], np.array([200, 200, 5]), bias=bias, memory=memory)
    np.testing.assert_allclose(found["logp"], [math.log(0.25), np.nan, -np.inf], rtol=1e-14)
    np.testing.assert_allclose(found["entropy"][0], ll.entropy(np.log([3.0, 1.0])), rtol=1e-14)
    assert found["argmax"].tolist() == [3, -1, 3] and found["rank"][:2].tolist() == [1, 300]
    empty = linear_stats(features[:1], weight, EVERY, np.array([0]), bias=np.full(300, -np.inf), memory=memory)
    assert np.isnan(empty["logp"]).all() and (empty["lse"] == -np.inf).all()
    assert empty["argmax"] == -1 and empty["rank"] == 300 and np.isnan(empty["topk:5"].values).all()


def test_one_class_and_no_rows():
    found = linear_stats(np.ones((2, 1)), np.ones((1, 1)), ("top2_gap", "max_prob", "entropy", "topk:1"))
    assert (found["top2_gap"] == np.inf).all() and (found["max_prob"] == 1).all() and (found["entropy"] == 0).all()
    none = linear_stats(np.ones((0, 2)), np.ones((9, 2)), EVERY, np.zeros(0, int))
    assert none["lse"].shape == (0,) and none["topk:5"].index.shape == (0, 5)


def test_a_layer_is_no_distance_from_itself(memory):
    features, weight, bias, *_ = problem()
    small = memory if memory == "64MiB" else 3 * memory
    found = linear_stats(features, weight, ("kl",), bias=bias, teacher=(features, weight, bias), memory=small)
    assert (found["kl"] == 0).all()


def test_one_sweep_and_no_logits(monkeypatch):
    made = []
    plain = NumpyProducts.logits
    monkeypatch.setattr(NumpyProducts, "logits", lambda self, *args: made.append(args[-1].size) or plain(self, *args))
    features, weight, bias, target, _ = problem(256, 8, 16384)
    want = [name for name in EVERY if name != "rank"]
    linear_stats(features[:2], weight, want, target[:2], memory=2**20)
    made.clear()
    tracemalloc.start()
    try:
        linear_stats(features, weight, want, target, bias=bias, memory=2**20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(made) == 256 * 16384
    assert peak < 2**20 + 8 * 2**20 < 256 * 16384 * 8 / 3


def gradient_names():
    return ["logp", "lse", "entropy", "topk:5", "top2_gap", "max_prob", "kl"]


@pytest.mark.parametrize("name", [*gradient_names(), "all"])
def test_gradients_against_autograd(name, memory):
    torch = pytest.importorskip("torch")
    *arrays, target, teacher = problem(20, 4, 300)
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
    theirs = tuple(torch.from_numpy(a) for a in teacher)
    names = gradient_names() if name == "all" else [name]
    settings = {"teacher": theirs} if "kl" in names else {}
    small = memory if memory == "64MiB" else 3 * memory
    found = linear_stats(*leaves[:2], names, torch.from_numpy(target), bias=leaves[2], memory=small, **settings)
    logp = torch.log_softmax(leaves[0] @ leaves[1].T + leaves[2], 1)
    z, logq = leaves[0] @ leaves[1].T + leaves[2], torch.log_softmax(theirs[0] @ theirs[1].T + theirs[2], 1)
    top = z.topk(5, 1).values
    by_hand = {
        "logp": logp[torch.arange(20), torch.from_numpy(target)],
        "lse": z.logsumexp(1),
        "entropy": -(logp.exp() * logp).sum(1),
        "topk:5": top,
        "top2_gap": top[:, 0] - top[:, 1],
        "max_prob": logp.exp().max(1).values,
        "kl": (logq.exp() * (logq - logp)).sum(1),
    }
    make = torch.Generator().manual_seed(0)
    total, want = 0.0, 0.0
    for each in names:
        values = found[each].values if each == "topk:5" else found[each]
        torch.testing.assert_close(values, by_hand[each], rtol=1e-11, atol=1e-11)
        cotangent = torch.randn(values.shape, generator=make, dtype=torch.float64)
        total, want = total + (values * cotangent).sum(), want + (by_hand[each] * cotangent).sum()
    for a, b in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_a_sure_row_keeps_its_tail():
    torch = pytest.importorskip("torch")
    bias = torch.zeros(50)
    bias[3] = 40.0
    bias.requires_grad_()
    found = linear_stats(torch.zeros(1, 1), torch.zeros(50, 1), ("logp",), torch.tensor([3]), bias=bias)
    found["logp"].sum().backward()
    assert bias.grad is not None
    np.testing.assert_allclose(bias.grad[3], 49 * math.exp(-40), rtol=1e-5)
    np.testing.assert_allclose(bias.grad[4], -math.exp(-40), rtol=1e-5)


def test_bfloat16_tensors():
    torch = pytest.importorskip("torch")
    features, weight, bias, target, teacher = (
        tuple(torch.from_numpy(b).bfloat16() for b in a) if isinstance(a, tuple) else torch.from_numpy(a)
        for a in problem(40, 8, 500)
    )
    half = [a.bfloat16().requires_grad_() for a in (features, weight, bias)]
    found = linear_stats(*half[:2], EVERY, target, bias=half[2])
    z = torch.addmm(half[2], half[0], half[1].T).double().detach().numpy()
    want = of_logits(z, target.numpy())
    assert found["lse"].dtype == torch.float32
    for name in ("logp", "lse", "entropy", "max_prob"):
        np.testing.assert_allclose(found[name].detach().numpy(), want[name], rtol=1e-5, atol=1e-5)
    for name in ("argmax", "rank"):
        np.testing.assert_array_equal(found[name].numpy(), want[name])
    gradient = torch.autograd.grad(found["entropy"].sum(), half[0])[0]
    assert gradient.dtype == torch.bfloat16 and torch.isfinite(gradient).all()
    divergence = linear_stats(*half[:2], ("kl",), bias=half[2], teacher=teacher)["kl"]
    assert divergence.dtype == torch.float32 and (divergence > 0).all()
    assert torch.autograd.grad(divergence.sum(), half[1])[0].dtype == torch.bfloat16


def test_a_wrong_call_gets_a_sentence():
    x, w, y = np.zeros((4, 3)), np.zeros((10, 3)), np.zeros(4, int)
    for want, more, sentence in (
        (("logq",), {}, "want is one of .* Did you mean 'logp'"),
        (("topk",), {}, 'the first k classes are "topk:8"'),
        (("topk:0",), {}, 'the first k classes are "topk:8"'),
        (("lse:3",), {}, 'the first k classes are "topk:8"'),
        (("topk:11",), {}, "topk:11 asks for 11 of 10 classes"),
        (("rank",), {}, "rank is that of a target; target=... is missing"),
        (("kl",), {}, "both or neither"),
        (("lse",), {"teacher": (x, w)}, "both or neither"),
        (("kl",), {"teacher": (x[:2], w)}, "the same rows and classes, 4 and 10; its are 2 and 10"),
        (("lse",), {"memory": 100}, "smallest budget that works"),
    ):
        with pytest.raises(ValueError, match=f"linear_stats: .*{sentence}"):
            linear_stats(x, w, want, **more)
    with pytest.raises(ValueError, match="target 10 of row 1 is not one of the 10 classes"):
        linear_stats(x, w, ("logp",), y + np.array([0, 10, 0, 0]))
    jnp = pytest.importorskip("jax.numpy")
    with pytest.raises(TypeError, match="NumPy arrays or PyTorch tensors in the memory of the CPU"):
        linear_stats(jnp.asarray(x), jnp.asarray(w), ("lse",))


@pytest.mark.parametrize("name", [*gradient_names(), "all"])
def test_second_derivatives(name):
    torch = pytest.importorskip("torch")
    *arrays, target, teacher = problem(4, 3, 6)
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
    theirs = tuple(torch.from_numpy(a) for a in teacher)
    names = gradient_names() if name == "all" else [name]
    settings = {"teacher": theirs} if "kl" in names else {}

    def values(x, w, b):
        found = linear_stats(x, w, ("argmax", *names), torch.from_numpy(target), bias=b, memory=9000, **settings)
        return tuple(found[n].values if n == "topk:5" else found[n] for n in names)

    assert torch.autograd.gradcheck(values, leaves)
    assert torch.autograd.gradgradcheck(values, leaves)
    total = sum((each * each).sum() for each in values(*leaves))
    streamed = torch.autograd.grad(total, leaves, retain_graph=True)
    for a, b in zip(torch.autograd.grad(total, leaves, create_graph=True), streamed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_weight_that_was_written_to_is_an_error():
    torch = pytest.importorskip("torch")
    features, weight = torch.ones(3, 2), torch.ones(5, 2, requires_grad=True)
    found = linear_stats(features, weight, ("lse",))["lse"].sum()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()
