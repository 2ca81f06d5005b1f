"""The examples of policies and preferences learn what they say, and say what they learned."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example():
    """An example by name, with PyTorch on one thread: its arrays are too small to share out."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    torch.set_num_threads(threads)


def test_grpo_and_reinforce_find_the_best_arm(example, capsys):
    result = example("grpo_bandit").main()
    assert result["start"] < 0.45
    for name in ("grpo", "reinforce_leave_one_out"):
        reward, kl = result[name]
        assert reward > 0.95
        assert 1 < kl < 1.61  # all on one arm of five is log 5
    printed = capsys.readouterr().out
    assert f"grpo                     expected reward {result['grpo'][0]:.3f}" in printed
    assert printed.count("best arm in 4 of 4") == 2


def test_the_penalty_of_grpo_keeps_the_policy_near(example):
    bandit = example("grpo_bandit")
    _, free = bandit.main()["grpo"]
    bandit.BETA = 0.5
    reward, near = bandit.main()["grpo"]
    assert near < 0.7 * free
    assert reward > 0.6


def test_dpo_orders_pairs_that_it_never_saw(example, capsys):
    before, after, earned = example("dpo_toy").main()
    assert before == 0.5
    assert after > 0.85
    assert earned[1] > earned[0] + 3
    assert f"held-out pairs ordered rightly: 0.500 before, {after:.3f} after" in capsys.readouterr().out


def test_dpo_learns_nothing_from_marks_at_random(example):
    toy = example("dpo_toy")
    toy.WRONG = 0.499
    _, after, _ = toy.main()
    assert 0.35 < after < 0.65
