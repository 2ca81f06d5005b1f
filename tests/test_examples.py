"""Each example learns what it says, and says what it learned."""

import pytest

from scripts import load


@pytest.fixture
def example():
    """An example by name, with PyTorch on one thread: its arrays are too small to share out, and busy threads wait."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

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


def test_a_linear_probe_reads_more_from_an_encoder_that_learned_from_sup_con(example, capsys):
    untrained, learned = example("sup_con_probe").main()
    assert 0.1 < untrained < 0.75
    assert learned > untrained + 0.15
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("epoch")]
    assert losses == sorted(losses, reverse=True)
    assert lines[-1].split()[-1] == f"{learned:.3f}"


def test_logq_corrects_the_popularity_bias(example, capsys):
    table = example("ranking_toy").main()
    plain, corrected = table["in-batch"], table["in-batch, logQ"]
    assert corrected["ndcg@10"] > 1.3 * plain["ndcg@10"]
    assert corrected["recall@10"] > 1.3 * plain["recall@10"]
    assert corrected["popularity of the top 10"] > 2 * plain["popularity of the top 10"]
    for other in ("BPR", "gBCE"):  # their negatives are drawn evenly, so nothing needs correcting
        assert table[other]["ndcg@10"] > 1.1 * plain["ndcg@10"]
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_softmax_finds_the_rare_class_and_focal_loss_forgets_what_is_sure(example, seed):
    figures = example("focal_imbalance").run(seed)
    plain, focal, balanced = (figures[name] for name in ("cross_entropy", "binary_focal", "balanced_softmax"))
    assert max(abs(focal[0] - plain[0]), abs(balanced[0] - plain[0])) < 0.01  # average precision
    assert abs(focal[1] - plain[1]) < 0.05  # recall at logit 0
    assert plain[1] < 0.5
    assert balanced[1] > 0.85
    assert balanced[2] > plain[2] + 0.15  # balanced accuracy
    assert plain[3] > 0.15  # signal of the sure
    assert focal[3] < 0.06


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_loss_that_knows_the_order_is_wrong_by_less(example, seed):
    errors = example("ordinal_ages").run(seed)
    assert errors["cumulative_link"] < 0.95 * errors["cross_entropy"]
    assert errors["cumulative_link"] < 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_teacher_s_logits_are_worth_more_than_fifty_labels(example, seed):
    accuracy = example("distill_digits").run(seed)
    assert accuracy["student with teacher"].low > accuracy["student alone"].high
    assert accuracy["teacher"] > 0.95


def test_a_penalty_delays_learning_by_heart(example, capsys):
    digits = example("penalties_digits")
    digits.SEEDS = 1
    figures = digits.main()
    few, many = digits.STEPS
    accuracy, ece, nll, learned = figures["cross_entropy", few]
    assert learned == 1
    assert ece > 0.15
    for name in ("+ 4 mmce", "+ 4 soft_ece", "+ 4 dca", "+ 0.3 confidence_penalty"):
        other = figures[name, few]
        assert other[0] > accuracy - 0.03
        assert other[1] < 0.65 * ece
        assert other[2] < 0.7 * nll
    for name in ("+ 4 mmce", "+ 4 soft_ece", "+ 4 dca"):
        assert figures[name, few][0] > accuracy + 0.02  # the wrong labels are not learned
        assert figures[name, few][3] < 0.98
        assert figures[name, many][3] > figures[name, few][3]  # but in the end they are
        assert figures[name, many][1] > 1.3 * figures[name, few][1]
    assert figures["+ 0.3 confidence_penalty", many][1] < 0.5 * figures["cross_entropy", many][1]
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_an_estimate_without_bias_and_three_with_some(example, capsys):
    codes = example("discrete_latent")
    codes.WORLDS = 2
    figures = codes.main()
    bias, chance, noise, left = figures["REINFORCE, leave-one-out"]
    assert bias < 2 * chance
    assert left < 0.3
    one, low, straight = (
        figures[name] for name in ("Gumbel-softmax at 1", "Gumbel-softmax at 0.3", "straight-through")
    )
    for other in (one, low, straight):
        assert other[0] > 4 * other[1]
        assert other[2] < noise
    assert one[0] > 2 * low[0]  # a lower temperature: less bias, more noise
    assert 2 * one[2] < low[2]
    assert straight[3] > left + 0.4
    assert f"straight-through             {straight[0]:5.3f}" in capsys.readouterr().out
