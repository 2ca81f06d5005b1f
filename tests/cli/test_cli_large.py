"""check of files in blocks: interrupted and taken up again, with shards that cannot be read."""

import json
import re
import shlex

import numpy as np
import pytest

from lastlayer import Outputs, load, save
from lastlayer.cli import _evaluating
from lastlayer.io import stream


@pytest.fixture
def shards(folder, monkeypatch):
    monkeypatch.setattr(stream, "rows_of_block", lambda width: 256)
    whole = load("test.npz")
    for k in range(4):
        save(whole.rows(slice(500 * k, 500 * k + 500)), f"shard-{k}.npz")
    return [f"shard-{k}.npz" for k in range(4)]


def interrupt_after(monkeypatch, blocks):
    """Control-C in the middle of the block after so many."""
    added, left = _evaluating.added, [blocks]

    def fewer(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return added(*arguments)

    monkeypatch.setattr(_evaluating, "added", fewer)
    return lambda: monkeypatch.setattr(_evaluating, "added", added)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("calibrated", [False, True])
def test_what_was_interrupted_goes_on_and_ends_as_the_whole(run, shards, monkeypatch, blocks, calibrated):
    options = ["--no-html"]
    if calibrated:
        run("fit", "valid.npz", "-o", "c.json")
        options += ["--calibrator", "c.json"]
    want = json.loads(run("check", *shards, *options, "--json").stdout)
    again = interrupt_after(monkeypatch, blocks)
    result = run("check", *shards, *options, code=130)
    assert result.stdout == ""
    if blocks == 1 and calibrated:  # the first block is half done: nothing is
        assert "interrupted" not in result.stderr
        return
    command = shlex.split(result.stderr.strip().splitlines()[-1])
    assert command[:2] == ["lastlayer", "check"] and command[-2:] == ["--resume", "shard.partial"]
    assert re.search(r"interrupted in file [1-4] of 4, after row \d+;", result.stderr.replace("\n", " "))
    again()
    found = json.loads(run(*command[1:], "--no-html", "--json").stdout)
    assert found["rows"] == want["rows"] == 2000
    for part in ("metrics", "before")[: 1 + calibrated]:
        for name, metric in (want[part] if part == "metrics" else want[part]["metrics"]).items():
            other = (found[part] if part == "metrics" else found[part]["metrics"])[name]
            assert other["value"] == pytest.approx(metric["value"], rel=1e-12), name


def test_a_shard_that_cannot_be_read_is_named_or_left_out(run, shards, folder):
    (folder / "shard-1.npz").write_bytes((folder / "shard-1.npz").read_bytes()[:5000])
    refused = run("check", *shards, code=3)
    assert "shard-1.npz" in refused.stderr and not (folder / "shard.report.html").exists()
    found = run("check", *shards, "--skip-bad", "--json")
    record = json.loads(found.stdout)
    assert record["rows"] == 1500 and len(record["skipped"]) == 1 and "shard-1.npz" in record["skipped"][0]
    assert "skipped: shard-1.npz" in found.stderr
    without = json.loads(run("check", *(s for s in shards if "1" not in s), "--json").stdout)
    assert record["metrics"]["nll"]["value"] == pytest.approx(without["metrics"]["nll"]["value"], rel=1e-12)
    for shard in shards:
        (folder / shard).write_bytes(b"PK")
    assert "none of 4 files could be read; the first: shard-0.npz" in run("check", *shards, "--skip-bad", code=3).stderr


def test_a_shard_that_breaks_off_in_the_middle_leaves_nothing_behind(run, shards, folder):
    part = load("shard-2.npz")
    target = part.target.copy()
    target[400] = 9  # in its second block
    np.savez("shard-2.npz", logits=part.scores, target=target, classes=np.array(part.classes))
    record = json.loads(run("check", *shards, "--skip-bad", "--json").stdout)
    assert record["rows"] == 1500


def test_what_is_resumed_belongs_to_the_call(run, shards, monkeypatch, folder):
    again = interrupt_after(monkeypatch, 3)
    run("check", *shards, code=130)
    again()
    assert "belongs to another call" in run("check", *shards[:3], "--resume", "shard.partial", code=3).stderr
    assert "cannot be read" in run("check", *shards, "--resume", "none.partial", code=3).stderr
    assert "InterruptedCheck" in run("check", *shards, "--resume", "test.npz", code=3).stderr
    data = (folder / "shard.partial").read_bytes()
    for cut in (10, len(data) // 2, len(data) - 30):
        (folder / "cut.partial").write_bytes(data[:cut])
        run("check", *shards, "--resume", "cut.partial", code=3)
    assert "no state" in run("merge", "shard.partial", "shard.partial", "-o", "m.npz", code=3).stderr.replace(
        "these bytes hold", "no state"
    )


def test_a_block_without_a_row_to_score_is_no_complaint(run, folder, monkeypatch):
    monkeypatch.setattr(stream, "rows_of_block", lambda width: 256)
    whole = load("test.npz")
    scores = whole.scores.copy()
    scores[256:512] = np.nan
    save(Outputs(scores, "logits", target=whole.target), "nan.npz")
    record = json.loads(run("check", "nan.npz", "--json").stdout)
    assert (record["rows"], record["scored_rows"]) == (2000, 1744)
