"""`logits_of` of PyTorch modules: before a final activation, in evaluation mode, and as they were afterwards."""

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.train import logits_of

torch = pytest.importorskip("torch", reason="pip install torch")
nn = torch.nn
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def body(out, seed=0):
    torch.manual_seed(seed)
    return [nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, out)]


def expected(layers, rows=X):
    """By hand, in evaluation mode and float64: what goes into the last activation."""
    first, _, _, norm, last = layers
    hidden = np.maximum(rows.astype(np.float64) @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    spread = np.sqrt(norm.running_var.numpy() + norm.eps)
    hidden = (hidden - norm.running_mean.numpy()) / spread * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    return hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()


@pytest.mark.parametrize(
    ("end", "out", "task"),
    [
        (nn.Softmax(dim=1), 3, "multiclass"),
        (nn.Softmax(dim=-1), 2, "multiclass"),
        (nn.LogSoftmax(dim=1), 3, "multiclass"),
        (nn.Sigmoid(), 1, "binary"),
        (nn.Sigmoid(), 3, "multilabel"),
    ],
    ids=str,
)
@pytest.mark.parametrize("nested", [False, True])
def test_before_the_final_activation(end, out, task, nested):
    layers = body(out)
    with torch.no_grad():
        layers[-1].weight *= 1e4  # so that the activation gives exactly 1
    model = nn.Sequential(nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:], end)) if nested else None
    model = model or nn.Sequential(*layers, end)
    outputs = logits_of(model, X, batch=8)
    want = expected(layers)
    assert (outputs.kind, outputs.task) == ("logits", task)
    assert outputs.source == f"Sequential before its {type(end).__name__}"
    np.testing.assert_allclose(outputs.scores, want[:, 0] if task == "binary" else want, rtol=1e-4, atol=1e-2)
    model.eval()
    p = model(torch.tensor(X)).detach().exp() if isinstance(end, nn.LogSoftmax) else model(torch.tensor(X)).detach()
    assert (p == 1).any() and np.isfinite(outputs.scores).all()
    again = torch.tensor(outputs.scores.reshape(30, -1))
    again = end(again).exp() if isinstance(end, nn.LogSoftmax) else end(again)
    torch.testing.assert_close(again, p, rtol=1e-4, atol=1e-5)


def test_a_linear_end_may_be_anything():
    model = nn.Sequential(*body(3))
    with pytest.raises(ValueError, match=r"nothing says what Sequential.forward is, and values do not tell; say kind="):
        logits_of(model, X)
    outputs = logits_of(model, X, kind="logits", y=np.arange(30) % 3, classes=["a", "b", "c"])
    np.testing.assert_allclose(outputs.scores, expected(list(model)), rtol=1e-4, atol=1e-5)
    assert outputs.source == "Sequential.forward" and outputs.classes == ("a", "b", "c")
    assert logits_of(model, X, kind="logits", task="multilabel").task == "multilabel"


def test_the_module_is_left_as_it_was():
    """Also a part that was frozen in evaluation mode while the rest was trained, and after an error."""
    model = nn.Sequential(*body(3), nn.Softmax(dim=1))
    model.train()
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for rows in (X, X[:, :2]):
        try:
            logits_of(model, rows)
        except RuntimeError as error:
            assert "shapes cannot be multiplied" in str(error)
            assert error.__notes__ == ["logits_of: rows 0 to 29 of 30, Sequential before its Softmax."]
        assert [part.training for part in model] == [True, True, True, False, True, True] and model.training
        assert not model[-1]._forward_pre_hooks
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_take_the_dtype_of_the_parameters(dtype):
    model = nn.Sequential(*body(3), nn.Softmax(dim=1)).to(dtype)
    outputs = logits_of(model, X)
    assert outputs.scores.dtype == (np.float64 if dtype is torch.float64 else np.float32)
    assert np.array_equal(outputs.scores, logits_of(model, torch.tensor(X)).scores)


class Embedded(nn.Module):
    """Integers and an optional mask, by name; a dictionary out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 3)

    def forward(self, ids, mask=None):
        hidden = self.embed(ids).sum(1) if mask is None else (self.embed(ids) * mask[..., None]).sum(1)
        return {"hidden": hidden, "logits": self.head(hidden)}


def test_named_inputs_and_outputs():
    model, ids = Embedded(), np.arange(40).reshape(10, 4) % 10
    mask = (ids % 2).astype(np.float64)
    outputs = logits_of(model, {"ids": ids, "mask": mask}, batch=3)
    weight, embed = model.head.weight.detach().numpy(), model.embed.weight.detach().numpy()
    want = (embed[ids] * mask[..., None]).sum(1) @ weight.T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(outputs.scores, want, rtol=1e-5, atol=1e-6)
    assert outputs.kind == "logits" and outputs.source == "Embedded.forward, logits"
    assert np.array_equal(logits_of(model, (ids, mask), batch=3).scores, outputs.scores)
    assert np.array_equal(logits_of(model, {"ids": ids, "mask": None}).scores, logits_of(model, ids).scores)
    assert logits_of(model, ids, output="hidden", kind="margin").scores.shape == (10, 6)
    with pytest.raises(ValueError, match=r"Embedded.forward, logits is logits, not probs"):
        logits_of(model, ids, kind="probs")


def test_wrapped_modules():
    model = nn.Sequential(*body(3), nn.Softmax(dim=1))
    want = logits_of(model, X).scores
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        outputs = logits_of(wrapped, X)
        assert np.array_equal(outputs.scores, want) and outputs.kind == "logits"


def test_the_batches_of_a_loader():
    model = nn.Sequential(*body(3), nn.Softmax(dim=1))
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(30))
    loader = torch.utils.data.DataLoader(data, batch_size=7)
    outputs = logits_of(model, (rows for rows, _ in loader))
    np.testing.assert_allclose(outputs.scores, logits_of(model, X).scores, rtol=1e-6, atol=1e-6)


def test_what_a_module_cannot_give():
    with pytest.raises(ValueError, match=r"the Softmax that ends this Sequential is over dim=0; classes are dim=1"):
        logits_of(nn.Sequential(*body(3), nn.Softmax(dim=0)), X)
    with pytest.raises(DataError, match=r"have shape \(30, 8, 1\); rows come first, classes last"):
        logits_of(nn.Sequential(*body(8), nn.Unflatten(1, (8, 1))), X, kind="logits")
    with pytest.raises(ValueError, match="Sequential before its Sigmoid is multilabel, not multiclass"):
        logits_of(nn.Sequential(*body(3), nn.Sigmoid()), X, task="multiclass")


def test_the_device_is_used_and_the_module_comes_back():
    model = nn.Sequential(*body(3), nn.Softmax(dim=1))
    outputs = logits_of(model, X, device="cpu")
    assert np.array_equal(outputs.scores, logits_of(model, X).scores)
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    found = logits_of(model, X, device="cuda")
    np.testing.assert_allclose(found.scores, outputs.scores, rtol=1e-4, atol=1e-5)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


# JAX: a function, with its kind


def test_a_function_of_jax():
    jax = pytest.importorskip("jax")
    weight = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)

    @jax.jit
    def model(rows):
        return rows @ weight

    outputs = logits_of(model, X, kind="logits", batch=10)
    np.testing.assert_allclose(outputs.scores, X @ weight, rtol=1e-5, atol=1e-6)
    assert outputs.source == "model"
    seen = []

    def placed(rows):
        seen.append(rows.devices())
        return model(rows)

    logits_of(placed, X, kind="logits", device="cpu")
    logits_of(placed, {"rows": X}, kind="logits", device=jax.devices()[0])
    assert seen == [{jax.devices("cpu")[0]}, {jax.devices()[0]}]
    with pytest.raises(ValueError, match="nothing says what model is"):
        logits_of(model, X)
    with pytest.raises(TypeError, match="dot_general") as caught:
        logits_of(model, X[:, :2], kind="logits")
    assert caught.value.__notes__[-1] == "logits_of: rows 0 to 29 of 30, model."
