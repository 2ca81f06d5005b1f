"""The example of the losses with an order: what it claims, it does, for three seeds."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ordinal_ages.py"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_loss_that_knows_the_order_is_wrong_by_less(seed):
    torch = pytest.importorskip("torch", reason="pip install torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is small, and threads of a busy machine wait for each other
    try:
        errors = runpy.run_path(str(EXAMPLE))["run"](seed)
    finally:
        torch.set_num_threads(before)
    assert errors["cumulative_link"] < 0.95 * errors["cross_entropy"]
    assert errors["cumulative_link"] < 1
