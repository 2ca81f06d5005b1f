"""Columns to features: what is a number, a truth value, a name, and what happens where something is missing or new."""

import gzip
import json

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.train.table import LEVELS, Category, Number, Table, numbers, parsed, read_table


def column(*values):
    return np.array(values, dtype=object)


def test_numbers_stay_as_they_are_and_gaps_become_the_median_and_a_feature():
    table = Table.fit({"age": column("30", "?", "50", " 40 ", "")})
    assert table.features == ["age", "age (missing)"]
    values, notes = table.transform({"age": column("31", "NA")})
    np.testing.assert_array_equal(values, [[31.0, 0.0], [40.0, 1.0]])
    assert notes == ()
    filled = np.array([30.0, 40.0, 50.0, 40.0, 40.0])
    assert table.factors == pytest.approx([filled.var(), 1.0])


@pytest.mark.parametrize("values", [[3.0, np.nan, 3.0], [0.1] * 6 + [np.nan]])
def test_of_a_column_with_one_value_its_gaps_are_left(values):
    table = Table.fit({"age": np.array(values)})  # the deviation of seven times 0.1 is rounded, and not 0
    assert table.features == ["age (missing)"] and table.factors.tolist() == [1.0]
    np.testing.assert_array_equal(table.transform({"age": np.array([np.nan, 7.0])}).values, [[1.0], [0.0]])


def test_a_gap_that_training_did_not_have_is_filled_and_said():
    table = Table.fit({"age": np.array([1.0, 2.0, 6.0])})
    values, notes = table.transform({"age": np.array([np.nan, 5.0])})
    np.testing.assert_array_equal(values, [[2.0], [5.0]])
    assert notes == ("age: 1 missing, where none was in training, taken as 2",)


@pytest.mark.parametrize(
    "values", [column("true", "False", "true", ""), np.array([1.0, 0.0, 1.0, np.nan])], ids=["words", "numbers"]
)
def test_truth_values(values):
    table = Table.fit({"smoker": values})
    assert table.features == ["smoker", "smoker (missing)"]
    np.testing.assert_array_equal(table.transform({"smoker": values}).values, [[1, 0], [0, 0], [1, 0], [1, 1]])


def test_what_is_neither_true_nor_false_is_refused():
    table = Table.fit({"smoker": column("true", "false")})
    with pytest.raises(DataError, match=r"smoker: neither true nor false: 'perhaps'. First rows: 1."):
        table.transform({"smoker": column("true", "perhaps")})


def test_levels_by_frequency_then_rare_ones_then_what_is_missing():
    table = Table.fit({"job": column("cook", "cook", "smith", "smith", "smith", "king", "")})
    assert table.features == ["job=smith", "job=cook", "job (other)", "job (missing)"]
    assert table.factors.tolist() == [1.0] * 4
    values, notes = table.transform({"job": column("cook", "king", "pope", "", "smith")})
    np.testing.assert_array_equal(values, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    assert notes == ()


def test_a_level_that_training_did_not_have_counts_for_none_and_is_said():
    table = Table.fit({"sex": column("f", "m", "f", "m")})
    values, notes = table.transform({"sex": column("x", "m", "")})
    np.testing.assert_array_equal(values, [[0, 0], [0, 1], [0, 0]])
    assert notes == ("sex: (missing), x not seen in training, counted as no level",)


def test_a_reference_level_has_no_feature():
    table = Table.fit({"sex": column("f", "m", "f")}, categories=["sex"], reference=True)
    assert table.columns == (Category("sex", (), True, False, "f"),)
    np.testing.assert_array_equal(table.transform({"sex": column("m", "f")}).values, [[1], [0]])


def test_the_number_of_levels_has_an_end():
    names = [f"l{i}" for i in range(3 * LEVELS)]
    table = Table.fit({"code": column(*names, *names)})
    assert len(table.features) == LEVELS + 1 and table.features[-1] == "code (other)"


def test_what_says_nothing_is_left_out_with_the_reason():
    columns = {
        "same": column("a", "a", "a"),
        "five": np.array([5.0, 5.0, 5.0]),
        "void": column("", "?", ""),
        "who": column("ann", "bob", "cy"),
        "age": np.array([1.0, 2.0, 3.0]),
        "gap": np.array([7.0, np.nan, 7.0]),
    }
    table = Table.fit(columns)
    assert table.features == ["age", "gap (missing)"]
    assert dict(table.left_out) == {
        "same": "it is constant",
        "five": "it is constant",
        "void": "it has no values",
        "who": "hardly a value of it stands twice",
    }
    np.testing.assert_array_equal(table.transform(columns).values, [[1, 0], [2, 1], [3, 0]])


def test_text_among_numbers_is_named_by_row_and_value():
    with pytest.raises(DataError, match=r"age: text in a numeric column: 'old'. First rows: 2. .*--category age"):
        Table.fit({"age": column("1", "2", "old")})
    table = Table.fit({"age": column("1", "2", "old", "2")}, categories=["age"])
    assert table.features == ["age=2", "age (other)"]
    with pytest.raises(DataError, match=r"'x'. First rows: 1"):
        Table.fit({"age": column("1", "2")}).transform({"age": column("1", "x")})


def test_half_numbers_are_names():
    assert isinstance(Table.fit({"icd": column("250", "V45", "250", "V45")}).columns[0], Category)


def test_infinite_numbers_are_refused():
    with pytest.raises(DataError, match=r"age: an infinite number. First rows: 1."):
        numbers("age", column("1", "inf"))


def test_numbers_whose_squares_no_float_holds():
    with pytest.raises(DataError, match=r"age: 1e\+300, which no sum can hold. First rows: 0."):
        Table.fit({"age": np.array([1e300, 1.0])})
    assert Table.fit({"age": np.array([1e-320, 0.0])}).left_out == (("age", "it is constant"),)


def test_a_column_that_is_not_there():
    table = Table.fit({"age": np.array([1.0, 2.0]), "pay": np.array([1.0, 2.0])})
    with pytest.raises(DataError, match=r"no column 'age', and 1 more of the model's are not there.*these are a, b"):
        table.transform({"a": np.zeros(2), "b": np.zeros(2)})


def test_features_do_not_depend_on_the_order_of_columns_nor_on_others():
    columns = {"age": np.array([1.0, 2.0, 4.0]), "sex": column("f", "m", "m")}
    table = Table.fit(columns)
    turned = {"more": column("z", "z", "z"), "sex": columns["sex"], "age": columns["age"]}
    np.testing.assert_array_equal(table.transform(columns).values, table.transform(turned).values)
    assert table.transform(columns).values.flags.f_contiguous


def test_parsed_columns_give_the_same_features():
    columns = {"age": column("1", "2", ""), "ok": column("true", "false", "true"), "sex": column("f", "m", "f")}
    raw, early = Table.fit(columns), Table.fit(parsed(columns))
    assert raw.features == early.features
    np.testing.assert_array_equal(raw.transform(columns).values, early.transform(parsed(columns)).values)
    assert isinstance(raw.columns[1], Number) and raw.columns[1].truth


ROWS = [{"age": 31, "sex": "f", "ok": True}, {"age": None, "sex": None, "ok": False}]


def test_every_format_gives_the_same_columns(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "age,sex,ok\n31,f,true\n,,false\n"
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.tsv").write_text(text.replace(",", "\t"))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    (tmp_path / "bare.csv").write_text(text.partition("\n")[2])
    (tmp_path / "bare.csv.gz").write_bytes(gzip.compress(text.partition("\n")[2].encode()))
    header = ("age", "sex", "ok")
    found = [read_table(tmp_path / f"t.{form}") for form in ("csv", "tsv", "csv.gz", "jsonl", "parquet")]
    found += [read_table(tmp_path / name, header=header) for name in ("bare.csv", "bare.csv.gz")]
    for columns in found:
        assert list(columns) == ["age", "sex", "ok"]
        np.testing.assert_array_equal(numbers("age", columns["age"]), [31, np.nan])
        assert columns["sex"].tolist() == ["f", ""]
        table = Table.fit({"ok": columns["ok"]})
        np.testing.assert_array_equal(table.transform(columns).values, [[1], [0]])


def test_quotes_can_be_plain_characters(tmp_path):
    (tmp_path / "t.tsv").write_text('label\ttext\nham\t"so" he said\nspam\t5" wide, "\n')
    with pytest.raises(DataError, match="quote"):
        read_table(tmp_path / "t.tsv")
    assert read_table(tmp_path / "t.tsv", unquoted=True)["text"].tolist() == ['"so" he said', '5" wide, "']


def test_the_separator_can_be_another_character_or_blanks(tmp_path):
    rows = {"size": ["5", "7"], "note": ["a, b", 'say "so"']}
    (tmp_path / "semicolons.csv").write_text('size;note\n5;"a, b"\n7;"say ""so"""\n')
    (tmp_path / "bare.data").write_text('5\ta,b \n  7   "so  \n')
    for how in ({}, {"header": ("size", "note")}):
        if how:
            (tmp_path / "semicolons.csv").write_text('5;"a, b"\n7;"say ""so"""\n')
        found = read_table(tmp_path / "semicolons.csv", separator=";", **how)
        assert {name: values.tolist() for name, values in found.items()} == rows
    blanks = {"separator": "blanks", "header": ("size", "note")}
    found = read_table(tmp_path / "bare.data", unquoted=True, **blanks)
    assert [values.tolist() for values in found.values()] == [["5", "7"], ["a,b", '"so']]
    with pytest.raises(DataError, match=r"line 3 has 3 cells"):
        (tmp_path / "bare.data").write_text("5  a\n7 b c\n")
        read_table(tmp_path / "bare.data", **blanks)
    with pytest.raises(DataError, match=r"the separator .* CSV or TSV"):
        read_table(tmp_path / "x.parquet", separator=";")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"1,2,0\n3,4,1\n", r"the header is missing.*--columns NAME"),
        ("a.csv", b"x,x,y\n1,2,0\n", "two columns are called 'x'"),
        ("a.csv", b"x,y\n", "no rows below the header"),
        ("a.csv", b"x,y\n1\n", "line 2 has 1 cells"),
        ("a.jsonl", b'{"x": [1, 2]}\n', "x: holds a list"),
        ("a.csv.gz", b"no gzip", r"damaged|cannot be read"),
        ("a.what", b"x\n1\n", "no format by the suffix"),
    ],
)
def test_tables_that_are_none(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as problem:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(problem.value)
    if name == "a.csv.gz":
        with pytest.raises(DataError, match="cannot be read"):
            read_table(tmp_path / name, header=("x",))
