"""The example of distillation: what it claims, it does, for two seeds."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "distill_digits.py"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_teacher_s_logits_are_worth_more_than_fifty_labels(seed):
    torch = pytest.importorskip("torch", reason="pip install torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are small
    try:
        accuracy = runpy.run_path(str(EXAMPLE))["run"](seed)
    finally:
        torch.set_num_threads(before)
    assert accuracy["student with teacher"].low > accuracy["student alone"].high
    assert accuracy["teacher"] > 0.95
