import gzip
import json

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.io import load, save, text
from lastlayer.outputs import Outputs


def read(tmp_path, content, suffix="csv", **flags):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(path, **flags)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_round_trip_keeps_every_value(tmp_path, make, same, task, dtype, suffix):
    outputs = make(task, dtype)
    same(load(save(outputs, tmp_path / f"a.{suffix}")), outputs, np.float64)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_round_trip_of_more_rows_than_a_block_holds(tmp_path, make, same, suffix, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK", 4)
    for rows in (7, 8, 9, 5, 4):
        outputs = make("multiclass", np.float64, rows)
        same(load(save(outputs, tmp_path / f"a.{suffix}")), outputs)


def test_what_is_written(tmp_path):
    outputs = Outputs(
        np.array([[0.1, -np.inf], [np.nan, np.inf]], dtype=np.float32),
        "logits",
        target=[1, 0],
        classes=["a,b", "c"],
        weight=[1, 0.5],
        ids=[7, 8],
        groups={"site": ["x", "y"]},
    )
    assert save(outputs, tmp_path / "a.csv").read_text() == (
        '"logit_a,b",logit_c,target,weight,id,group_site\n0.10000000149011612,-inf,c,1.0,7,x\nnan,inf,"a,b",0.5,8,y\n'
    )
    lines = save(outputs, tmp_path / "a.jsonl").read_text().splitlines()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert strict[1] == {
        "logit_a,b": "NaN",
        "logit_c": "Infinity",
        "target": "a,b",
        "weight": 0.5,
        "id": 8,
        "group_site": "y",
    }
    assert load(tmp_path / "a.jsonl").ids.tolist() == [7, 8]  # JSON has integers
    assert load(tmp_path / "a.csv").ids.tolist() == ["7", "8"]  # CSV has not: 007 stays 007


@pytest.mark.parametrize(
    "column, classes, target",
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (["1", "0", "1"], ("a", "b"), [1, 0, 1]),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_target_is_a_class_name_else_an_index(tmp_path, column, classes, target, suffix):
    if suffix == "csv":
        content = "logit_a,logit_b,target\n" + "".join(f"1,2,{value}\n" for value in column)
    else:
        content = "".join(json.dumps({"logit_a": 1, "logit_b": 2, "target": value}) + "\n" for value in column)
    outputs = read(tmp_path, content, suffix)
    assert outputs.classes == classes and outputs.target.tolist() == target


def test_class_names_that_are_digits_come_before_indices(tmp_path, complaint):
    assert read(tmp_path, "p_1,p_2,target\n.5,.5,1\n.5,.5,2\n").target.tolist() == [0, 1]
    assert read(tmp_path, '{"p_1": 0.5, "p_2": 0.5, "target": 2}\n', "jsonl").target.tolist() == [1]
    assert "target '0' is not one of the classes 1, 2" in complaint("b.csv", "p_1,p_2,target\n.5,.5,1\n.5,.5,0\n")


@pytest.mark.parametrize(
    "header, column, classes, target",
    [
        ("logit_spam", ["spam", "ham"], ("ham", "spam"), [1, 0]),
        ("logit_spam", ["ham", "ham"], ("ham", "spam"), [0, 0]),
        ("logit_spam", ["spam", "spam"], ("not_spam", "spam"), [1, 1]),
        ("logit_spam", ["1", "0"], ("not_spam", "spam"), [1, 0]),
        ("logit_spam", ["0", "0"], ("not_spam", "spam"), [0, 0]),
        ("logit_1", ["1", "0"], ("0", "1"), [1, 0]),
        ("logit_1", ["0", "0"], ("0", "1"), [0, 0]),
        ("logits", ["1", "0"], ("0", "1"), [1, 0]),
    ],
)
def test_one_score_column_is_binary(tmp_path, header, column, classes, target):
    outputs = read(tmp_path, f"{header},target\n" + "".join(f"1.5,{value}\n" for value in column))
    assert outputs.task == "binary" and outputs.scores.shape == (2,)
    assert outputs.classes == classes and outputs.target.tolist() == target


@pytest.mark.parametrize(
    "classes, target, kept",
    [
        (("no", "yes"), [0, 1], ("no", "yes")),
        (("no", "yes"), [0, 0], ("no", "yes")),
        (("no", "yes"), [1, 1], ("not_yes", "yes")),
        (("no", "yes"), [0.25, 0.75], ("not_yes", "yes")),
        (("no", "yes"), [0.0, 1.0], ("not_yes", "yes")),
        (("0", "1"), [0, 0], ("0", "1")),
        (("0", "1"), [1, 1], ("0", "1")),
        (("1", "0"), [0, 0], ("not_0", "0")),
        (("1", "0"), [0, 1], ("not_0", "0")),
        (("3", "no"), [0, 1], ("not_no", "no")),
        (("yes", "0"), [0, 0], ("yes", "0")),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_binary_target_survives_any_class_names(tmp_path, classes, target, kept, suffix):
    outputs = Outputs([1.5, -1.0], "logits", target=target, classes=classes)
    found = load(save(outputs, tmp_path / f"a.{suffix}"))
    assert found.target.tolist() == target and found.classes == kept


def test_target_columns_are_matched_by_name(tmp_path, complaint):
    outputs = read(tmp_path, "p_a,p_b,target_b,target_a\n.1,.9,0,1\n.1,.9,1,1\n")
    assert outputs.task == "multilabel" and outputs.target.tolist() == [[1, 0], [1, 1]]
    outputs = read(tmp_path, "p_a,p_b,target_b,target_a\n.1,.9,0.0,1.0\n.1,.9,1,0\n")
    assert outputs.task == "multiclass" and outputs.target.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert "'target_b' is missing" in complaint("c.csv", "p_a,p_b,target_a\n.1,.9,1\n")
    assert "'target_c' is no class" in complaint("c.csv", "p_a,p_b,target_a,target_b,target_c\n.1,.9,1,1,1\n")


def test_an_empty_cell_is_nan(tmp_path):
    scores = read(tmp_path, "logit_a,logit_b\n1,\n3,2\n").scores
    assert np.array_equal(scores, [[1, np.nan], [3, 2]], equal_nan=True)
    rows = '{"logit_a": 1, "logit_b": null}\n{"logit_a": "-Infinity", "logit_b": Infinity}\n'
    scores = read(tmp_path, rows, "jsonl").scores
    assert np.array_equal(scores, [[1, np.nan], [-np.inf, np.inf]], equal_nan=True)


def test_files_of_other_hands(tmp_path):
    windows = "\ufefflogit_a, logit_b,target\r\n1.5, 2,b\r\n\r\n0,1,a\r\n"
    outputs = read(tmp_path, windows)
    assert outputs.classes == ("a", "b") and outputs.scores.tolist() == [[1.5, 2], [0, 1]]
    assert read(tmp_path, gzip.compress(windows.encode()), "csv.gz").target.tolist() == [1, 0]


def test_lists_in_json(tmp_path, complaint):
    outputs = read(tmp_path, '{"logits": [1, 2.5], "target": 1}\n\n{"logits": [3, "NaN"], "target": 0}\n', "jsonl")
    assert np.array_equal(outputs.scores, [[1, 2.5], [3, np.nan]], equal_nan=True)
    assert outputs.target.tolist() == [1, 0]
    outputs = read(tmp_path, '{"probs": [0.1, 0.2], "target": [1, 1]}\n', "jsonl")
    assert outputs.task == "multilabel" and outputs.target.tolist() == [[1, 1]]
    ragged = '{"logits": [1, 2]}\n\n{"logits": [1, 2, 3]}\n'
    assert "logits: line 3 holds 3 numbers, the lines before hold 2" in complaint("a.jsonl", ragged)


def test_lists_that_change_length_between_blocks(complaint, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK", 1)
    rows = '{"logits": [1, 2]}\n' * 3 + '{"logits": [1, 2, 3]}\n'
    assert "line 4 holds (3,) numbers" in complaint("a.jsonl", rows)


@pytest.mark.parametrize(
    "content, says",
    [
        ("logit_a,logit_b\n1,2\n\n3,oops\n", "logit_b: line 4: 'oops' is not a number"),
        ('logit_a,logit_b,id\n1,2,"x\ny"\n3,oops,z\n', "logit_b: line 4: 'oops' is not a number"),
        ("logit_a,logit_b,weight\n1,2,1\n3,4,x\n", "weight: line 3: 'x' is not a number"),
        ("logit_a,logit_b\n1,2\n3\n", "line 3 has 1 cells, the header has 2"),
        ("1.5,2,0\n1,2,1\n", "the header is missing: the first line is 1.5, 2, 0"),
        ("logit_a,logit_b\n", "there are no rows"),
        ("\n", "not even a header line"),
        ("", "the file is empty, 0 bytes"),
        ("logit_a,logit_a\n1,2\n", "'logit_a' stands twice"),
        ('logit_a,logit_b\n1,"2\n', "not a table: unexpected end of data"),
        (b"logit_a,logit_b\n1,\xff\n", "not UTF-8 text: invalid start byte"),
        ("logit_a,logit_b,target\n1,2,a\n1,2,\n", "target: the target is missing in 1 of 2 rows. First rows: 1"),
        ("logit_a,logit_b,target\n1,2,a\n1,2,c\n", "target 'c' is not one of the classes a, b. First rows: 1"),
        ("logit_a,logit_b,target\n1,2,0\n1,2,2\n", "target 2 is out of range for 2 classes"),
        ("logit_a,logit_b,target\n1,2,0.0\n1,2,1.0\n", "class indices are integers"),
        ("logit_a,logit_b\nnan,2\n3,nan\n", "all 2 rows hold nan"),
        (
            "logit_a,logit_b,group_" + "g\n1,2,x\n" * 1 + "1,2," + "y" * 100_000 + "\n" + "1,2,x\n" * 2000,
            "100000 characters",
        ),
    ],
)
def test_bad_csv(complaint, content, says):
    assert says in complaint("a.csv", content)


@pytest.mark.parametrize(
    "content, says",
    [
        ('{"logit_a": 1, "logit_b": 2}\n{"logit_a": 1}\n', "logit_b: line 2 has no 'logit_b'"),
        ('{"logit_a": 1, "logit_b": 2}\n{"logit_a": 1, "logit_b": "two"}\n', "logit_b: line 2: 'two' is not a number"),
        ('{"logit_a": 1, "logit_b": 2}\n{"logit_a": 1, "logit_b": {}}\n', "line 2: '{}' is not a number"),
        ('{"logits": [[1], [2]]}\n', "scores have shape (1, 2, 1)"),
        ('{"logits": [1, [2]]}\n', "line 1: '(2,)' is not a number"),
        ("[1, 2]\n", "line 1 is not an object"),
        ('{"logit_a": 1,\n', "line 1 is not JSON"),
        ("[" * 100_000 + "\n", "line 1 is not JSON"),
        ('{"logit_a": ' + "9" * 400 + ', "logit_b": 1}\n', "is not a number"),
        ('{"logit_a": 1, "logit_b": 2, "target": null}\n', "the target is missing in 1 of 1 rows"),
        ('{"logit_a": 1, "logit_b": 2, "target": {"a": 1}}\n', "a list holds one number per class"),
        ('{"logit_a": 1, "logit_b": 2, "id": "\\ud800"}\n', "lone surrogate"),
        ('{"logit_\\ud800": 1, "logit_b": 2}\n', "lone surrogate"),
        (" \n", "there are no rows"),
    ],
)
def test_bad_jsonl(complaint, content, says):
    assert says in complaint("a.jsonl", content)


def test_damaged_gzip(complaint):
    packed = gzip.compress(b"logit_a,logit_b\n" + b"1,2\n" * 1000)
    assert "damaged or cut short" in complaint("a.csv.gz", packed[:-9])
    assert "damaged or cut short" in complaint("a.csv.gz", b"logit_a,logit_b\n1,2\n")


def test_a_class_without_a_name_has_no_column(tmp_path):
    with pytest.raises(ValueError, match="a class without a name has no column"):
        save(Outputs([[1.0, 2.0]], "logits", classes=["", "b"]), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form, separator, said", [("csv", ";", "';'"), ("csv", "\t", r"'\t'"), ("tsv", ",", "','")])
@pytest.mark.parametrize("header", ["id;logit_a;logit_b;target", "logit_a;logit_b;target"])
def test_another_separator_is_named(tmp_path, form, separator, said, header):
    path = tmp_path / f"x.{form}"
    path.write_text(
        "\n".join([header, header.replace("id", "7").replace("logit_a;logit_b", "0.5;1.5")]).replace(";", separator)
    )
    with pytest.raises(DataError) as caught:
        load(path)
    says = str(caught.value)
    assert f"the line has one cell; is the separator {said}?" in says and "write commas" in says


def test_one_column_may_have_any_name(tmp_path):
    (tmp_path / "x.csv").write_text("logit_a;b\n\n0.5\n1.5\n")
    assert load(tmp_path / "x.csv").scores.tolist() == [0.5, 1.5]
    (tmp_path / "bad.csv").write_text("logit_a;b\n\n0.5\nx\n")
    with pytest.raises(DataError, match="line 4: 'x' is not a number"):
        load(tmp_path / "bad.csv")
