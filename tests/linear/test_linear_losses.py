"""Streamed losses are the losses of the logits, which never exist: values, gradients, special rows, sentences."""

import inspect
import math
import tracemalloc

import numpy as np
import pytest

import lastlayer as ll
from lastlayer import linear, parallel
from lastlayer.linear.head import Head
from lastlayer.linear.products import NumpyProducts, TorchProducts
from lastlayer.linear.sampled import SampledGradients

torch = pytest.importorskip("torch")
heads = pytest.importorskip("linear_heads")

NAMES, case = heads.NAMES, heads.case
PAIRS = ("linear_info_nce", "linear_clip", "linear_siglip")


def wanted(name, cotangent, dtype="float64"):
    """The losses and gradients of all the logits, in float64, for arguments rounded to ``dtype``."""
    given = case(name, dtype).cast("float64")
    leaves = given.leaves()
    loss = case(name).by_hand(leaves)
    return loss.detach().numpy(), *(g.numpy() for g in torch.autograd.grad((loss * cotangent).sum(), leaves))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients_are_those_of_the_composition(name, small, dtype):
    given, cotangent = case(name, dtype), np.random.default_rng(5).normal(size=heads.ROWS)
    want = wanted(name, torch.from_numpy(cotangent), dtype)
    memory = given.small if small else "64MiB"
    found = given.grad(*given.arrays, cotangent=cotangent, memory=memory, **given.settings)
    room = 3e-6 if dtype == "float32" else 1e-12
    assert len(found) == len(want)
    for part, each in zip(found, want, strict=True):
        assert part.dtype == dtype and part.shape == each.shape
        np.testing.assert_allclose(part, each, rtol=0, atol=room * np.abs(each).max())
    alone = given.function(*given.arrays, memory=memory, **given.settings)
    np.testing.assert_allclose(alone, want[0], rtol=room, atol=room)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_autograd_gives_the_same(name, small):
    given, leaves = case(name), case(name).leaves()
    loss = given.streamed(leaves, memory=given.small if small else "64MiB")
    counts = given.settings.get("valid", np.ones(1, bool))
    counts = torch.from_numpy(np.broadcast_to(counts if counts.ndim == 1 else True, loss.shape).copy())
    each = torch.randn(loss.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for cotangent in (counts / counts.sum(), 3.0 * counts, each):
        found = torch.autograd.grad((loss * cotangent).sum(), leaves, retain_graph=True)
        for a, b in zip(found, wanted(name, cotangent)[1:], strict=True):
            assert (a - torch.from_numpy(b)).abs().max() <= 1e-12 * np.abs(b).max()
    np.testing.assert_allclose(loss.detach().numpy(), wanted(name, each)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_small_budget_has_blocks_and_groups(name, monkeypatch):
    made, given = [], case(name)
    plain = Head.room
    monkeypatch.setattr(Head, "room", lambda self: made.append(self.plan) or plain(self))
    given.grad(*given.arrays, memory=given.small, **given.settings)
    assert made[0].tile[0] < made[0].rows and made[0].tile[1] < made[0].classes
    assert made[0].peak <= given.small


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_backward_costs_no_further_sweep_and_each_is_scaled(name, monkeypatch):
    made = []
    room = Head.room
    monkeypatch.setattr(Head, "room", lambda self: made.append(1) or room(self))
    given, leaves = case(name), case(name).leaves()
    valid = given.settings.get("valid")
    valid = torch.from_numpy(valid) if valid is not None and valid.ndim == 1 else None
    loss = given.streamed(leaves)
    before = len(made)
    ll.mean(loss, valid).backward()
    assert len(made) == before
    given.streamed(leaves)[:1].sum().backward()
    assert len(made) == 3 * before


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_costs_no_product_and_evaluation_none(name, monkeypatch):
    given, leaves = case(name), case(name).leaves()
    want = wanted(name, 1 / heads.ROWS)
    monkeypatch.setattr(TorchProducts, "columns", lambda *args: pytest.fail("a product for a frozen weight"))
    monkeypatch.setattr(SampledGradients, "_add_to_weight", lambda *args: pytest.fail("as well"))
    loss = given.streamed([leaves[0], *(leaf.detach() for leaf in leaves[1:])])
    (found,) = torch.autograd.grad(loss.sum() / heads.ROWS, leaves[:1])
    np.testing.assert_allclose(found.numpy(), want[1], rtol=0, atol=1e-12 * np.abs(want[1]).max())
    monkeypatch.setattr(TorchProducts, "rows", lambda *args: pytest.fail("a product for a gradient"))
    monkeypatch.setattr(SampledGradients, "add", lambda *args: pytest.fail("as well"))
    with torch.no_grad():
        assert not given.streamed(leaves).requires_grad
    assert not given.streamed([leaf.detach() for leaf in leaves]).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_numpy_makes_no_gradient_where_only_the_loss_is_asked_for(name, monkeypatch):
    given = case(name)
    for product in ("rows", "columns"):
        monkeypatch.setattr(NumpyProducts, product, lambda *args: pytest.fail("a product for a gradient"))
    monkeypatch.setattr(SampledGradients, "add", lambda *args: pytest.fail("as well"))
    assert given.function(*given.arrays, **given.settings).shape == (heads.ROWS,)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_and_other_libraries_take_the_formula(name):
    given, leaves = case(name), case(name).leaves()
    found, want = [], []
    for loss, out in ((given.streamed(leaves), found), (given.by_hand(leaves), want)):
        first = torch.autograd.grad(loss.mean(), leaves, create_graph=True)
        out += torch.autograd.grad(sum((g * g).sum() for g in first), leaves)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_has_losses_and_sums_of_float32(name, dtype):
    given = case(name)
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in given.leaves()]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    want = given.by_hand(wide)
    loss = given.streamed(leaves, memory=500_000)
    assert loss.dtype == torch.float32
    assert ((loss - want).abs() / (1 + want.abs())).max() < 0.03
    each = torch.rand(heads.ROWS, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad((loss * each).sum(), leaves)
    for a, b in zip(found, torch.autograd.grad((want * each).sum(), wide), strict=True):
        assert a.dtype == dtype
        assert (a - b).norm() < 0.015 * b.norm()


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_bits_do_not_depend_on_threads_or_layout(name, small, monkeypatch):
    given = case(name, "float32")
    memory = given.small if small else "64MiB"
    want = given.grad(*given.arrays, memory=memory, **given.settings)
    features, weight, *rest = given.arrays
    again = given.grad(features.astype(">f4"), np.asfortranarray(weight), *rest, memory=memory, **given.settings)
    monkeypatch.setattr(parallel, "workers", lambda: 1)
    alone = given.grad(*given.arrays, memory=memory, **given.settings)
    for found in (*zip(again, want, strict=True), *zip(alone, want, strict=True)):
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", [name for name in NAMES if "clip" not in name])  # there each query is in each column
def test_a_row_that_is_nan_or_infinite_spoils_its_own_loss_alone(name):
    given = case(name)
    features = given.arrays[0].copy()
    features[7], features[8] = np.nan, -np.inf
    found = given.function(features, *given.arrays[1:], memory=given.small, **given.settings)
    want = given.function(*given.arrays, memory=given.small, **given.settings)
    others = ~np.isin(np.arange(heads.ROWS), (7, 8))
    np.testing.assert_allclose(found[others], want[others], rtol=1e-13)
    counts = given.settings.get("valid")
    counts = np.ones(heads.ROWS, bool) if counts is None or counts.ndim > 1 else counts
    assert (np.isnan(found[7]) if counts[7] else found[7] == 0) and not (np.isfinite(found[8]) and counts[8])


@pytest.mark.parametrize("name", [name for name in NAMES if np.ndim(case(name).settings.get("valid", 0)) == 1])
def test_rows_that_do_not_count_are_exactly_0(name):
    given = case(name)
    valid = given.settings["valid"]
    features = given.arrays[0].copy()
    if "clip" not in name:
        features[~valid] = np.nan
    found = given.grad(features, *given.arrays[1:], **given.settings)
    assert (found.loss[~valid] == 0).all() and np.isfinite(found.loss[valid]).all()
    assert all(np.isfinite(part).all() for part in found[1:] if part is not None)
    if "clip" not in name:
        assert (found[1][~valid] == 0).all()


@pytest.mark.parametrize("function", heads.FUNCTIONS)
def test_no_rows_and_one_class(function):
    name = next(name for name in NAMES if case(name).name == function)
    features, weight, *rest = case(name).arrays
    settings = {k: v for k, v in case(name).settings.items() if k in ("temperature", "scale", "gamma")}
    settings |= {"bias": -3.0} if function == "linear_siglip" else {}
    if function == "linear_clip":
        one = linear.linear_clip(features[:1], weight[:1], **settings)
        np.testing.assert_allclose(one, [0.0], atol=1e-15)
        return
    none = [a[:0] if len(a) == heads.ROWS else a for a in rest]
    found = getattr(linear, f"{function}_grad")(features[:0], weight, *none, **settings)
    assert found.loss.shape == (0,) and found[1].shape == (0, heads.WIDTH) and (found[2] == 0).all()
    target = [np.zeros_like(a[:, :1] if a.ndim == 2 else a[:1] if len(a) != heads.ROWS else a) for a in rest]
    one = getattr(linear, function)(features[:1], weight[:1], *(a[:1] for a in target), **settings)
    z = features[:1] @ weight[:1].T
    if "multilabel" in function or "binary" in function:
        want = ll.loss.binary_focal(z, np.zeros((1, 1)))[0] if "focal" in function else np.logaddexp(0, z)[0]
    else:
        want = np.logaddexp(0, 3.0 - 2.0 * z)[0] if function == "linear_siglip" else [0.0]
    np.testing.assert_allclose(one, want, atol=1e-15)


@pytest.mark.parametrize("function", heads.FUNCTIONS)
def test_the_two_of_a_pair_have_one_signature(function):
    plain, grad = (inspect.signature(getattr(linear, f"{function}{end}")).parameters for end in ("", "_grad"))
    assert [name for name in grad if name != "cotangent"] == list(plain) and "memory" in plain
    assert getattr(linear, f"{function}_grad").__name__ == f"{function}_grad"
    assert function in getattr(linear, f"{function}_grad").__doc__


@pytest.mark.parametrize("function", PAIRS)
def test_the_pairs_never_exist(function):
    """4,096 pairs in float32 would be 64 MiB."""
    n, memory = 4096, 4 * 2**20
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(n, 32)).astype(np.float32) / 6 for _ in range(2))
    settings = {"scale": 10.0, "bias": -10.0} if function == "linear_siglip" else {"temperature": 0.1}
    grad = getattr(linear, f"{function}_grad")
    grad(queries[:80], keys[:80], **settings)  # what is loaded on first use
    tracemalloc.start()
    try:
        found = grad(queries, keys, memory=memory, **settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - sum(part.nbytes for part in found) < memory


def test_the_weight_of_a_catalogue_is_read_in_parts():
    rng = np.random.default_rng(0)
    features, weight = (rng.normal(size=(n, 64)).astype(np.float32) for n in (512, 20_000))
    for negatives in (rng.integers(0, 20_000, 16_000), rng.integers(0, 20_000, (512, 200))):
        arrays = features, weight, rng.integers(0, 20_000, 512), negatives
        for function, memory in ((linear.linear_sampled_softmax, 2**22), (linear.linear_sampled_softmax_grad, 2**22)):
            tracemalloc.start()
            try:
                found = function(*arrays, memory=memory)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            made = found.nbytes if isinstance(found, np.ndarray) else sum(p.nbytes for p in found if p is not None)
            assert peak - made - 4 * negatives.nbytes < memory


def sentences():
    """By the sentence: the function, its arrays and its settings."""
    x, w, y, z = np.zeros((4, 3)), np.zeros((10, 3)), np.zeros(4, int), np.zeros((4, 10))
    focal, labels, binary = linear.linear_focal, linear.linear_multilabel_cross_entropy, linear.linear_binary_focal
    nce, clip, siglip, sampled = (getattr(linear, f) for f in (*PAIRS, "linear_sampled_softmax"))
    pair, draws = {"scale": 1.0, "bias": 0.0}, np.zeros(5, int)
    return {
        "gamma is finite and not below 0; -1": (focal, (x, w, y), {"gamma": -1.0}),
        "one target per row of features": (focal, (x, w, y[:3]), {}),
        "target 10 of row 1 is not one of the 10 classes of weight": (focal, (x, w, np.array([0, 10, 0, 0])), {}),
        r"one target per logit, \(4, 10\); target is \(4, 9\)": (labels, (x, w, z[:, :9]), {}),
        "target is 0, 1 or between, not 2; for -1/\\+1 write target > 0": (labels, (x, w, z + 2), {}),
        "target is 0, 1 or between, not -1": (binary, (x, w, z - 1), {}),
        "one pos_weight per label": (labels, (x, w, z), {"pos_weight": np.ones(3)}),
        "one valid per row of features": (labels, (x, w, z), {"valid": np.ones(3, bool)}),
        r"one valid per logit, \(4, 10\)": (labels, (x, w, z), {"valid": np.ones((4, 3), bool)}),
        "temperature is a finite number above 0": (labels, (x, w, z), {"temperature": 0.0}),
        "alpha, the weight of the positive class, is between 0 and 1": (binary, (x, w, z), {"alpha": 2.0}),
        r"queries \(\*batch, width\) meet keys \(keys, width\); queries are \(4, 3\), keys are \(10, 2\)": (
            nce,
            (x, w[:, :2], y),
            {},
        ),
        "positive 12 of row 0 is not one of the 10 keys": (nce, (x, w, y + 12), {}),
        "query i belongs to key i": (nce, (w, x), {}),
        "one mask per pair": (nce, (x, w), {"mask": np.ones((4, 9), bool)}),
        "keys \\(0, 3\\) has no rows": (nce, (x, w[:0], y), {}),
        "temperature is one number, for all pairs alike": (nce, (x, w), {"temperature": np.ones((4, 1))}),
        "query i and key i are a pair": (clip, (x, w), {"temperature": 1.0}),
        "one valid per pair": (clip, (x, x), {"temperature": 1.0, "valid": np.ones(3, bool)}),
        "scale is a finite number above 0": (siglip, (x, w), pair | {"scale": -1.0}),
        "bias is a finite number": (siglip, (x, w), pair | {"bias": math.inf}),
        "one positive per pair": (siglip, (x, w, np.ones((4, 9), bool)), pair),
        "one positive per row of queries": (siglip, (x, w, y[:3]), pair),
        "negatives are \\(k,\\), or \\(\\*batch, k\\)": (sampled, (x, w, y, np.zeros((3, 2), int)), {}),
        "negative 10 is not one of the 10 classes": (sampled, (x, w, y, draws + 10), {}),
        "log_q_positive goes with log_q_negatives": (sampled, (x, w, y, draws), {"log_q_positive": np.zeros(4)}),
        "one log_q_negatives per draw": (sampled, (x, w, y, draws), {"log_q_negatives": np.zeros(4)}),
        "log_q_negatives holds logarithms .* one is 1": (sampled, (x, w, y, draws), {"log_q_negatives": np.ones(5)}),
        "accidental is one of": (sampled, (x, w, y, draws), {"accidental": "maybe"}),
    }


@pytest.mark.parametrize("sentence", sentences())
def test_a_wrong_call_gets_a_sentence(sentence):
    function, arrays, settings = sentences()[sentence]
    grad = getattr(linear, f"{function.__name__}_grad")
    for each in (function, grad):
        with pytest.raises(ValueError, match=f"{each.__name__}: .*{sentence}"):
            each(*arrays, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_budget_is_named_and_works(name):
    given = case(name)
    with pytest.raises(ValueError, match=f"{given.name}: .*the smallest budget that works is memory=") as caught:
        given.function(*given.arrays, memory=100, **given.settings)
    smallest = int(str(caught.value).rpartition("=")[2].rstrip("."))
    want = given.function(*given.arrays, **given.settings)
    found = given.function(*given.arrays, memory=smallest, **given.settings)
    np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)


def test_a_wrong_type_gets_a_sentence():
    x, w, y, z = np.zeros((4, 3)), np.zeros((10, 3)), np.zeros(4, int), np.zeros((4, 10))
    with pytest.raises(TypeError, match="linear_focal: target is the index of a class, an integer, not float64"):
        linear.linear_focal(x, w, y.astype(float))
    with pytest.raises(TypeError, match="linear_info_nce: positive is the index of a key, an integer, not float64"):
        linear.linear_info_nce(x, w, y.astype(float))
    with pytest.raises(TypeError, match="linear_info_nce: queries are real numbers, not bool"):
        linear.linear_info_nce(x > 0, w, y)
    with pytest.raises(TypeError, match="linear_clip: mask is bool, True where a key may serve as a negative"):
        linear.linear_clip(x, x, temperature=1.0, mask=np.ones((4, 4)))
    with pytest.raises(TypeError, match="linear_sampled_softmax: negatives are indices of classes, integers"):
        linear.linear_sampled_softmax(x, w, y, np.zeros(5))
    with pytest.raises(TypeError, match="temperature is one number here"):
        linear.linear_multilabel_cross_entropy(x, w, z, temperature=np.ones((4, 1)))


@pytest.mark.parametrize("function", PAIRS)
def test_a_temperature_that_is_learned(function):
    make = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(30, 5, generator=make, dtype=torch.float64).requires_grad_() for _ in range(2))
    rate, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, -2.0))
    if function == "linear_siglip":
        found = linear.linear_siglip(queries, keys, scale=rate, bias=bias, memory=30_000)
        want = ll.siglip(queries @ keys.T, scale=rate, bias=bias)
    else:
        found = getattr(linear, function)(queries, keys, temperature=rate, memory=30_000)
        loss = {"linear_clip": ll.loss.clip, "linear_info_nce": ll.info_nce}[function]
        want = loss(queries @ keys.T, temperature=rate)
    leaves = [queries, keys, rate, *([bias] if function == "linear_siglip" else [])]
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(each.mean(), leaves) for each in (found, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_a_bias_that_is_learned_beside_a_fixed_scale():
    make = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(9, 5, generator=make, dtype=torch.float64) for _ in range(2))
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(linear.linear_siglip(queries, keys, scale=3.0, bias=bias).sum(), bias)
    want = torch.autograd.grad(ll.siglip(queries @ keys.T, scale=3.0, bias=bias).sum(), bias)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


def test_sure_rows_keep_their_tails():
    """The losses and slopes are far below the rounding of 1."""
    one, far = np.ones((1, 1)), np.array([[0.0], [-60.0], [-61.0]])
    rest = math.exp(-60) + math.exp(-61)
    nce = linear.linear_info_nce_grad(one, far, temperature=1.0)
    np.testing.assert_allclose([nce.loss[0], -nce.keys[0, 0]], [rest, rest], rtol=1e-12)
    focal = linear.linear_focal_grad(one, far, np.array([0]), gamma=2.0)
    np.testing.assert_allclose([focal.loss[0], -focal.weight[0, 0]], [rest**3, 3 * rest**3], rtol=1e-12)
    labels = linear.linear_multilabel_cross_entropy_grad(one, far[1:], np.zeros((1, 2)))
    np.testing.assert_allclose([labels.loss[0], labels.weight.sum()], [rest, rest], rtol=1e-12)
    siglip = linear.linear_siglip_grad(one, -far[1:], scale=1.0, bias=0.0, mask=np.array([[True, False]]))
    np.testing.assert_allclose(siglip.loss, [math.exp(-60)], rtol=1e-12)
    drawn = linear.linear_sampled_softmax_grad(one, far, np.array([0]), np.array([1, 2]))
    np.testing.assert_allclose([drawn.loss[0], -drawn.weight[0, 0]], [rest, rest], rtol=1e-12)


def test_focal_by_hand():
    features, weight = np.array([[1.0]]), np.array([[math.log(3.0)], [0.0]])
    found = linear.linear_focal_grad(features, weight, np.array([1]), gamma=1.0)
    cost = math.log(4.0)
    np.testing.assert_allclose(found.loss, [0.75 * cost], rtol=1e-14)
    slope = -(0.75 + 0.25 * cost)  # in log p
    np.testing.assert_allclose(found.weight[:, 0], [-0.75 * slope, 0.75 * slope], rtol=1e-14)


def test_masked_classes_and_targets():
    """-inf by a bias: absent as another class, infinitely dear as the target."""
    features, weight, bias = np.ones((3, 1)), np.zeros((3, 1)), np.array([0.0, -np.inf, 0.0])
    target = np.array([0, 1, 2])
    for function, loss in ((linear.linear_focal_grad, ll.focal),):
        found = function(features, weight, target, np.ones(3), bias=bias)
        np.testing.assert_allclose(found.loss, loss(np.tile(bias, (3, 1)), target), rtol=1e-14)
        assert np.isfinite(found.features).all() and np.isfinite(found.weight).all()
    labels = linear.linear_multilabel_cross_entropy_grad(features, weight, np.eye(3), np.ones(3), bias=bias)
    want = ll.multilabel_cross_entropy(np.tile(bias, (3, 1)), np.eye(3))
    np.testing.assert_allclose(labels.loss, want, rtol=1e-14)
    assert np.isfinite(labels.weight).all()
    binary = linear.linear_binary_focal_grad(features, weight, np.eye(3), np.ones(3), bias=bias, gamma=2.0)
    np.testing.assert_allclose(binary.loss, ll.loss.binary_focal(np.tile(bias, (3, 1)), np.eye(3)).sum(1), rtol=1e-14)
    assert np.isfinite(binary.weight).all()


def test_tracers_take_the_formula():
    for name in NAMES:
        given, leaves = case(name), [leaf.detach() for leaf in case(name).leaves()]
        found = torch.func.grad(lambda w, g=given, x=leaves: g.streamed([x[0], w, *x[2:]]).sum())(leaves[1])
        np.testing.assert_allclose(found.numpy(), wanted(name, 1.0)[2], rtol=1e-10, atol=1e-12, err_msg=name)


def test_batches_of_any_shape():
    for name in ("focal", "labels, entries", "siglip, index", "info_nce, masked", "sampled, own"):
        given = case(name)
        shaped = [a.reshape(9, 10, *a.shape[1:]) if len(a) == heads.ROWS else a for a in given.arrays]
        settings = {
            k: v.reshape(9, 10, *v.shape[1:]) if isinstance(v, np.ndarray) and len(v) == heads.ROWS else v
            for k, v in given.settings.items()
        }
        found, want = given.grad(*shaped, **settings), given.grad(*given.arrays, **given.settings)
        assert found.loss.shape == (9, 10) and found[1].shape == (9, 10, heads.WIDTH)
        for a, b in zip(found, want, strict=True):
            np.testing.assert_array_equal(a.reshape(b.shape), b)


def test_jax_takes_the_formula():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        for name in ("focal", "labels, rows", "info_nce, masked", "siglip", "sampled, log q", "sampled, own"):
            given = case(name)
            rest = [jax.numpy.asarray(a) for a in given.arrays[2:]]
            settings = {k: jax.numpy.asarray(v) if isinstance(v, np.ndarray) else v for k, v in given.settings.items()}

            def loss(x, w, given=given, rest=rest, settings=settings):
                return given.function(x, w, *rest, **settings).sum()

            found = jax.jit(jax.grad(loss, argnums=(0, 1)))(*(jax.numpy.asarray(a) for a in given.arrays[:2]))
            for a, b in zip(found, wanted(name, 1.0)[1:3], strict=True):
                np.testing.assert_allclose(np.asarray(a), b, rtol=1e-9, atol=1e-12, err_msg=name)
