"""The record of decisions: its summary by hand, and its three files read back by other readers."""

import csv
import json
import math

import numpy as np
import pytest

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide import Cost, Threshold, clopper_pearson

COLUMNS = ["id", "action", "class", "log_odds", "prob", "expected_cost"]


def four(**changes):
    given = {
        "scores": [[2.0, 0.0], [0.5, 0.0], [0.0, np.inf], [np.nan, 1.0]],
        "kind": "logits",
        "target": [1, 0, 1, 0],
        "classes": ["no, thanks", 'so "yes"'],
        "ids": ["a", "b", "ü", "d"],
    }
    return Outputs(**(given | changes))


def test_a_summary_by_hand():
    # Accepted: row 0 (class 0, true 1: wrong) and row 2 (right). Row 1 is reviewed, row 3 has no class.
    summary = Cost(wrong=4, review=1)(four()).summary()
    assert (summary.rows, summary.accepted, summary.undecided, summary.share) == (4, 2, 1, 0.5)
    assert (summary.error, summary.error_all) == (0.5, pytest.approx(1 / 3))
    assert summary.error_high == pytest.approx(math.sqrt(0.95))  # P(Bin(2, p) <= 1) = 1 - p^2 = 0.05
    assert summary.expected_cost == pytest.approx((4 / (1 + math.e**2) + 1 + 0 + 1) / 4)
    assert summary.realised_cost == pytest.approx((4 + 1 + 0 + 1) / 4)
    assert summary.cost_all == pytest.approx((4 + 0 + 0 + 1) / 4)


def test_rows_weigh_in_the_summary():
    summary = Cost(wrong=4, review=1)(four(weight=[1.0, 0.0, 3.0, 2.0])).summary(confidence=0.9)
    assert (summary.rows, summary.accepted, summary.undecided) == (3, 2, 1)
    assert (summary.share, summary.error) == (pytest.approx(4 / 6), 0.25)
    assert summary.realised_cost == pytest.approx((1 * 4 + 3 * 0 + 2 * 1) / 6)
    effective = 4**2 / (1 + 9)
    assert summary.error_high == pytest.approx(clopper_pearson(effective / 4, effective, 0.9).high)


def test_equal_weights_change_nothing_in_the_summary():
    assert Cost(4, 1)(four(weight=[2.5] * 4)).summary() == pytest.approx(Cost(4, 1)(four()).summary())


def test_what_is_not_known_is_none():
    summary = Cost(4, 1)(four(target=None)).summary()
    assert (summary.error, summary.error_high, summary.error_all, summary.realised_cost) == (None,) * 4
    assert summary.expected_cost > 0
    soft = Cost(4, 1)(four(target=np.full((4, 2), 0.5))).summary()
    assert (soft.error, soft.realised_cost) == (None, None)
    free = Threshold(1.0)(four()).summary()
    assert (free.error, free.expected_cost, free.realised_cost, free.cost_all) == (0.5, None, None, None)


def test_nothing_accepted_has_no_error_and_no_bound():
    summary = Threshold(np.inf)(four(scores=[[1.0, 0.0]] * 4)).summary()
    assert (summary.accepted, summary.share, summary.error_high) == (0, 0.0, 1.0)
    assert summary.error is None


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(ValueError, match="summary: confidence lies between 0 and 1"):
        Threshold(0.0)(four()).summary(confidence)


def test_csv(tmp_path):
    decisions = Cost(wrong=4, review=1)(four())
    decisions.write(tmp_path / "d.csv")
    with open(tmp_path / "d.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS
    assert [row[:3] for row in rows] == [
        ["a", "accept", "no, thanks"],
        ["b", "review", "no, thanks"],
        ["ü", "accept", 'so "yes"'],
        ["d", "review", ""],
    ]
    assert [row[3] for row in rows] == ["2.0", "0.5", "inf", ""]
    assert float(rows[0][4]) == decisions.prob[0]
    assert rows[3][4:] == ["", "1.0"]
    assert [float(row[5]) for row in rows] == decisions.expected_cost.tolist()


def test_jsonl(tmp_path):
    decisions = Threshold(1.0)(four())
    decisions.write(tmp_path / "d.JSONL")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    lines = (tmp_path / "d.JSONL").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [list(row) for row in rows] == [COLUMNS] * 4
    assert rows[0] == dict(zip(COLUMNS, ["a", "accept", "no, thanks", 2.0, decisions.prob[0], None], strict=True))
    assert (rows[2]["id"], rows[2]["log_odds"], rows[2]["prob"]) == ("ü", "Infinity", 1.0)
    assert rows[3] == dict(zip(COLUMNS, ["d", "review", None, None, None, None], strict=True))


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'lastlayer[tables]'")
    decisions = Cost(wrong=4, review=1)(four())
    decisions.write(tmp_path / "d.parquet")
    table = parquet.read_table(tmp_path / "d.parquet")
    assert table.column_names == COLUMNS
    assert [str(kind) for kind in table.schema.types] == ["string"] * 3 + ["double"] * 3
    assert table["id"].to_pylist() == ["a", "b", "ü", "d"]
    assert table["class"].to_pylist() == ["no, thanks", "no, thanks", 'so "yes"', None]
    assert table["action"].to_pylist() == ["accept", "review", "accept", "review"]
    assert table["log_odds"].to_pylist() == [2.0, 0.5, math.inf, None]
    assert table["expected_cost"].to_pylist() == decisions.expected_cost.tolist()


def test_parquet_without_costs_or_classes_keeps_its_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'lastlayer[tables]'")
    Threshold(0.0)(Outputs([[np.nan, 0.0]], "logits")).write(tmp_path / "d.parquet")
    table = parquet.read_table(tmp_path / "d.parquet")
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "string", "double", "double", "double"]
    assert table.to_pylist() == [dict(zip(COLUMNS, [0, "review", None, None, None, None], strict=True))]


def test_ids_default_to_row_numbers_and_bytes_become_text(tmp_path):
    assert Threshold(0.0)(four(ids=None)).ids.tolist() == [0, 1, 2, 3]
    assert Threshold(0.0)(four(ids=np.array([7, 8, 9, 10]))).ids.tolist() == [7, 8, 9, 10]
    assert Threshold(0.0)(four(ids=np.array([b"a", b"b", "ü".encode(), b"\xff"]))).ids.tolist() == [
        "a",
        "b",
        "ü",
        "\\xff",
    ]
    assert Threshold(0.0)(four(ids=np.array([1, "b", None, 2.5], dtype=object))).ids.tolist() == [
        "1",
        "b",
        "None",
        "2.5",
    ]


def test_more_rows_than_a_block_are_all_written(tmp_path):
    rows = 20_000 + 3
    decisions = Threshold(1.0)(Outputs(np.arange(rows) * 1e-4, "logits"))
    decisions.write(tmp_path / "d.csv")
    with open(tmp_path / "d.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [int(row["id"]) for row in written] == list(range(rows))
    assert [float(row["log_odds"]) for row in written] == decisions.log_odds.tolist()


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        Threshold(0.0)(four()).write(path)
    assert path.read_text() == "mine"
    Threshold(0.0)(four()).write(path, force=True)
    assert path.read_text().startswith("id,action")


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    path.write_text("mine")
    monkeypatch.setattr(
        "lastlayer.decide.decisions.json.dumps", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(DataError, match="could not be written: full"):
        Threshold(0.0)(four()).write(path, force=True)
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl"]


def test_a_suffix_we_do_not_write_is_refused_before_the_file_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"format is one of 'csv', 'jsonl', 'parquet', not 'cvs'. Did you mean 'csv'?"):
        Threshold(0.0)(four()).write(tmp_path / "d.cvs")
    assert not list(tmp_path.iterdir())


def test_a_decision_prints_what_it_is():
    assert repr(Cost(4, 1)(four())) == "Decisions(4 rows, 2 accepted, by Cost(wrong=4, review=1))"


def test_a_floating_target_of_0_and_1_says_who_was_right_and_a_fraction_does_not():
    z, y = np.array([3.0, -4.0, 0.2]), np.array([1, 0, 0])
    policy = Cost(wrong=10, review=1)
    assert (
        policy(Outputs(z, "logits", target=y.astype(np.float32))).summary()
        == policy(Outputs(z, "logits", target=y)).summary()
    )
    onehot = Outputs(np.stack([0 * z, z], 1), "logits", target=np.eye(2)[y])
    assert policy(onehot).summary().error == 0.0
    assert policy(Outputs(z, "logits", target=[1.0, 0.0, 0.1])).summary().error is None


def test_no_error_is_known_where_nothing_is_accepted():
    summary = Threshold(9.0)(Outputs([1.0, -1.0], "logits", target=[1, 1])).summary()
    assert (summary.accepted, summary.error, summary.error_all) == (0, None, 0.5)
