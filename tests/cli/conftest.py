"""Files to run commands on, and ways to run them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from lastlayer import Outputs, save
from lastlayer.cli import main


def simulated(n, scale, seed, classes=("cat", "dog", "owl", "pig"), **kwargs):
    """Logits that are true at scale 1 and over-confident above."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, len(classes)))
    target = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs(z * scale, "logits", target=target, classes=classes, **kwargs)


@pytest.fixture
def simulate():
    return simulated


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: over-confident ``valid.npz``, ``test.npz`` and ``held.npz``, and a true ``true.npz``."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("valid", "test", "held")):
        save(simulated(2000, 2.5, seed), f"{name}.npz")
    save(simulated(2000, 1.0, 1), "true.npz")
    return tmp_path


@pytest.fixture
def run():
    """``run("check", "valid.npz")`` in this process; an exception that is not an exit code fails the test."""

    def run(*arguments, code=0):
        result = CliRunner(catch_exceptions=False).invoke(main, list(map(str, arguments)), env={"COLUMNS": "80"})
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def shell():
    """``shell("check", "-", input=bytes)`` in a process of its own."""

    def shell(*arguments, **kwargs):
        command = [sys.executable, "-W", "error", "-m", "lastlayer", *map(str, arguments)]
        environment = os.environ | {"COLUMNS": "80"} | kwargs.pop("env", {})
        return subprocess.run(command, capture_output=True, env=environment, timeout=120, **kwargs)

    return shell


@pytest.fixture
def densenet(shared_data):
    return shared_data / "logits" / "densenet40_c10_logits.npz"
