"""The example of the contrastive losses: what it claims, it does."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "sup_con_probe.py"


@pytest.fixture
def one_thread():
    """The matrices are small, and threads of a busy machine wait for each other."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_linear_probe_reads_more_from_an_encoder_that_learned_from_sup_con(one_thread, capsys):
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    untrained, learned = runpy.run_path(str(EXAMPLE))["main"]()
    assert 0.1 < untrained < 0.75
    assert learned > untrained + 0.15
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("epoch")]
    assert losses == sorted(losses, reverse=True)
    assert lines[-1].split()[-1] == f"{learned:.3f}"
