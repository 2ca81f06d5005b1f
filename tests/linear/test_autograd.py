"""The streamed loss of a last layer under PyTorch's autograd."""

import numpy as np
import pytest

import lastlayer as ll
from lastlayer import parallel
from lastlayer.linear import linear_cross_entropy, linear_cross_entropy_grad, linear_info_nce, plan
from lastlayer.linear.products import TorchProducts

torch = pytest.importorskip("torch")

SMALL = 16_000  # bytes: several blocks of the classes, and several groups of rows


def problem(n=37, width=9, classes=1000, dtype=torch.float64):
    make = torch.Generator().manual_seed(n)
    features, weight, bias = (
        torch.randn(s, generator=make, dtype=torch.float64) for s in ((n, width), (classes, width), (classes,))
    )
    target = torch.randint(0, classes, (n,), generator=make)
    return *(t.to(dtype).requires_grad_() for t in (features, weight, bias)), target


def naive(features, weight, bias, target, **settings):
    return ll.cross_entropy(features.double() @ weight.double().T + bias.double(), target, **settings)


def gradients(loss, leaves, cotangent, **more):
    return torch.autograd.grad((loss * cotangent).sum(), leaves, **more)


@pytest.fixture(params=["64MiB", SMALL])
def memory(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cotangent", ["mean", "sum", "each"])
def test_gradients_for_any_cotangent(memory, dtype, cotangent):
    *leaves, target = problem(dtype=dtype)
    n = len(target)
    make = torch.Generator().manual_seed(1)
    each = {"mean": torch.full((n,), 1 / n), "sum": torch.ones(n), "each": torch.randn(n, generator=make)}[cotangent]
    loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=memory)
    want = naive(*leaves, target)
    room = 2e-6 if dtype == torch.float32 else 1e-13
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), want, rtol=room, atol=room)
    found, wanted = gradients(loss, leaves, each.to(dtype)), gradients(want, leaves, each.double())
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        assert (a - b).abs().max() <= room * b.abs().max()


def test_a_mean_backward_costs_no_further_sweep(memory, monkeypatch):
    made = []
    plain = TorchProducts.logits
    monkeypatch.setattr(TorchProducts, "logits", lambda self, *args: made.append(1) or plain(self, *args))
    *leaves, target = problem()
    loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=memory)
    before = len(made)
    loss.mean().backward()
    assert len(made) == before
    linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=memory)[0].backward()
    assert len(made) > 2 * before


def test_backward_twice_is_right_and_leaves_the_first_alone(memory):
    *leaves, target = problem()
    loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=memory).sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    kept = [g.clone() for g in first]
    second = torch.autograd.grad(3 * loss, leaves, retain_graph=True)
    for a, b, c in zip(first, kept, second, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(c, 3 * b, rtol=1e-12, atol=1e-14)


def test_a_weight_that_was_written_to_is_an_error():
    features, weight, bias, target = problem()
    loss = linear_cross_entropy(features, weight, target, bias=bias)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss[0].backward()
    loss = linear_cross_entropy(features, weight, target, bias=bias).mean()
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_what_is_frozen_costs_no_product(memory, monkeypatch):
    features, weight, bias, target = problem()
    monkeypatch.setattr(TorchProducts, "columns", lambda *args: pytest.fail("a product for a frozen weight"))
    loss = linear_cross_entropy(features, weight.detach(), target, bias=bias, memory=memory).mean()
    found = torch.autograd.grad(loss, (features, bias))
    want = torch.autograd.grad(naive(features, weight.detach(), bias, target).mean(), (features, bias))
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_evaluation_pays_for_the_loss_alone(memory, monkeypatch):
    features, weight, bias, target = problem()
    for name in ("rows", "columns", "sums"):
        monkeypatch.setattr(TorchProducts, name, lambda *args: pytest.fail("a product for a gradient"))
    with torch.no_grad():
        loss = linear_cross_entropy(features, weight, target, bias=bias, memory=memory)
    assert not loss.requires_grad
    detached = linear_cross_entropy(features.detach(), weight.detach(), target, memory=memory)
    assert not detached.requires_grad


def test_second_derivatives():
    *leaves, target = problem(4, 3, 5)
    valid = torch.tensor([True, True, False, True])

    def loss(x, w, b):
        settings = {"label_smoothing": 0.1, "z_loss": 0.01, "valid": valid, "memory": 5000}
        return linear_cross_entropy(x, w, target, bias=b, **settings)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@pytest.mark.parametrize("bounded", [False, True])
def test_bfloat16_is_summed_in_float32(bounded):
    *leaves, target = problem(512, 16, 2000, torch.bfloat16)
    memory = 300_000 if bounded else "64MiB"
    loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=memory)
    assert loss.dtype == torch.float32
    want = naive(*leaves, target)
    assert (loss - want).abs().max() < 0.06  # a logit of 8 to 16 is rounded to 1/32
    each = torch.rand(512, generator=torch.Generator().manual_seed(3)) / 512
    found, wanted = gradients(loss, leaves, each), gradients(want, leaves, each.double())
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a - b).norm() < 0.015 * b.double().norm()


def test_many_groups_of_bfloat16_are_as_exact_as_one():
    *leaves, target = problem(4096, 8, 300, torch.bfloat16)
    wanted = torch.autograd.grad(naive(*leaves, target).mean(), leaves[1])[0]
    errors = []
    for memory in (2**26, 60_000):
        loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=memory).mean()
        found = torch.autograd.grad(loss, leaves[1])[0]
        errors.append(float((found - wanted).norm() / wanted.double().norm()))
    assert errors[1] < 1.5 * errors[0]  # sums in bfloat16 would make it many times more


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_cap_is_computed_in_float32(dtype):
    *leaves, target = problem(6, 4, 50, dtype)
    loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], softcap=2.0, temperature=0.5)
    want = naive(*leaves, target, softcap=2.0, temperature=0.5)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(loss.sum(), leaves[0])[0].dtype == dtype


@pytest.mark.parametrize("budget", ["64MiB", "700KB"])
@pytest.mark.parametrize("settings", [{}, {"softcap": 5.0, "temperature": 0.7}])
def test_tiles_of_many_rows_are_made_in_parts(budget, settings):
    *leaves, target = problem(700, 8, 900, torch.float32)
    loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory=budget, **settings)
    want = naive(*leaves, target, **settings)
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(each.mean(), leaves) for each in (loss, want)), strict=True):
        assert (a - b).norm() < 2e-5 * b.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_do_not_depend_on_who_takes_which_block(dtype, monkeypatch):
    *leaves, target = problem(700, 8, 1500, dtype)
    rows, wide = plan(*leaves[:2], memory="600KB").tile
    assert 256 < wide < 1500 and rows < 700  # blocks, two of them beside one another, and groups of rows

    def made():
        loss = linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory="600KB", label_smoothing=0.1)
        return loss.detach(), *torch.autograd.grad(loss.mean(), leaves)

    found = made()
    want = naive(*leaves, target, label_smoothing=0.1)
    for a, b in zip(found[1:], torch.autograd.grad(want.mean(), leaves), strict=True):
        assert (a - b).norm() < (0.015 if dtype == torch.bfloat16 else 2e-5) * b.double().norm()
    monkeypatch.setattr(parallel, "workers", lambda: 1)
    for a, b in zip(found, made(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["logits", "add"])
def test_a_block_that_fails_stops_them_all(method, monkeypatch):
    *leaves, target = problem(300, 8, 2000, torch.float32)
    plain, calls = getattr(TorchProducts, method), []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError("the fifth")
        return plain(self, *args)

    monkeypatch.setattr(TorchProducts, method, failing)
    with pytest.raises(MemoryError, match="the fifth"):
        linear_cross_entropy(*leaves[:2], target, bias=leaves[2], memory="900KB")
    assert len(calls) < 12


def test_parts_of_a_tile_have_their_part_of_the_mask():
    queries, keys, _, target = problem(700, 8, 900, torch.float32)
    mask = torch.rand(700, 900, generator=torch.Generator().manual_seed(5)) < 0.5
    loss = linear_info_nce(queries, keys, target, mask=mask)
    want = ll.info_nce(queries.double() @ keys.double().T, target, mask=mask)
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_count_have_gradient_0_whatever_they_hold(memory):
    features, weight, bias, target = problem()
    with torch.no_grad():
        features[3] = torch.nan
    target[3] = -100
    valid = target != -100
    loss = linear_cross_entropy(features, weight, target, bias=bias, valid=valid, memory=memory)
    assert loss[3] == 0
    found = torch.autograd.grad(ll.mean(loss, valid), (features, weight, bias))
    assert (found[0][3] == 0).all() and all(torch.isfinite(g).all() for g in found)
    want = torch.autograd.grad(naive(features[valid], weight, bias, target[valid]).mean(), (weight, bias))
    for a, b in zip(found[1:], want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_strides_of_a_batch_of_sequences():
    features, weight, bias, target = problem(24, 6, 40)
    shaped = features.reshape(4, 6, 6).transpose(0, 1)
    loss = linear_cross_entropy(shaped, weight.T.contiguous().T, target.reshape(4, 6).T, bias=bias)
    assert loss.shape == (6, 4)
    found = torch.autograd.grad(loss.mean(), (features, weight))
    want = torch.autograd.grad(naive(features, weight, bias, target).mean(), (features, weight))
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_tracers_take_the_formula():
    features, weight, _, target = problem(5, 3, 7)
    found = torch.func.grad(lambda w: linear_cross_entropy(features.detach(), w, target).sum())(weight.detach())
    want = linear_cross_entropy_grad(features.detach().numpy(), weight.detach().numpy(), target.numpy(), np.ones(5))
    np.testing.assert_allclose(found.numpy(), want.weight, rtol=1e-12, atol=1e-15)
    per_row = torch.func.vmap(lambda x, y: linear_cross_entropy(x, weight.detach(), y))(features.detach(), target)
    np.testing.assert_allclose(per_row.numpy(), want.loss, rtol=1e-13)
