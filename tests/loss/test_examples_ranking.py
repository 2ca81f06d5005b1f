"""The ranking example: logQ takes the popularity of the batch out of its negatives."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ranking_toy.py"


def test_logq_corrects_the_popularity_bias(capsys):
    pytest.importorskip("torch", reason="pip install torch")
    table = runpy.run_path(str(EXAMPLE))["main"]()
    plain, corrected = table["in-batch"], table["in-batch, logQ"]
    assert corrected["ndcg@10"] > 1.3 * plain["ndcg@10"]
    assert corrected["recall@10"] > 1.3 * plain["recall@10"]
    assert corrected["popularity of the top 10"] > 2 * plain["popularity of the top 10"]
    for other in ("BPR", "gBCE"):  # their negatives are drawn evenly, so nothing needs correcting
        assert table[other]["ndcg@10"] > 1.1 * plain["ndcg@10"]
    assert len(capsys.readouterr().out.splitlines()) == 4
