"""The example of the losses for imbalance: what it claims, it does, for three seeds."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "focal_imbalance.py"


@pytest.fixture
def one_thread():
    """The model is small, and threads of a busy machine wait for each other."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_softmax_finds_the_rare_class_and_focal_loss_forgets_what_is_sure(seed, one_thread):
    figures = runpy.run_path(str(EXAMPLE))["run"](seed)
    plain, focal, balanced = (figures[name] for name in ("cross_entropy", "binary_focal", "balanced_softmax"))
    assert max(abs(focal[0] - plain[0]), abs(balanced[0] - plain[0])) < 0.01  # average precision
    assert abs(focal[1] - plain[1]) < 0.05  # recall at logit 0
    assert plain[1] < 0.5
    assert balanced[1] > 0.85
    assert balanced[2] > plain[2] + 0.15  # balanced accuracy
    assert plain[3] > 0.15  # signal of the sure
    assert focal[3] < 0.06
