import io
import json

import numpy as np
import pytest

from lastlayer.io import load, save

pa = pytest.importorskip("pyarrow", reason="pip install 'lastlayer[tables]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'lastlayer[tables]'")


def parquet(columns, **options):
    file = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **options)
    return file.getvalue()


def test_round_trip(tmp_path, make, same, task, dtype):
    outputs = make(task, dtype)
    same(load(save(outputs, tmp_path / "a.parquet")), outputs)


def test_the_layout_that_compresses(tmp_path, make):
    file = pq.ParquetFile(save(make("multiclass"), tmp_path / "a.parquet"))
    assert file.schema_arrow.field("logits").type == pa.list_(pa.float32(), 3)
    scores = file.metadata.row_group(0).column(0)
    assert scores.compression == "ZSTD" and "BYTE_STREAM_SPLIT" in scores.encodings
    assert json.loads(file.schema_arrow.metadata[b"lastlayer"])["task"] == "multiclass"


@pytest.mark.parametrize("width", [None, 2])
@pytest.mark.parametrize("value", [pa.float16(), pa.float32(), pa.float64(), pa.int32()])
def test_list_columns(tmp_path, width, value):
    lists = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(value, width) if width else pa.list_(value))
    (tmp_path / "a.parquet").write_bytes(parquet({"probs": lists, "target": [0, 1, 1]}, row_group_size=2))
    outputs = load(tmp_path / "a.parquet")
    assert outputs.kind == "probs" and outputs.scores.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_wide_columns_with_nulls_and_dictionaries(tmp_path):
    columns = {
        "logit_no.1": pa.array([1.5, None, 2.5], pa.float32()),
        "logit_yes": pa.array([1, 2, None], pa.int64()),
        "target": pa.array(["yes", "no.1", "yes"]).dictionary_encode(),
        "group_site": ["x", None, "y"],
        "id": pa.array([10, 20, 30]),
    }
    (tmp_path / "a.parquet").write_bytes(parquet(columns))
    outputs = load(tmp_path / "a.parquet")
    assert np.array_equal(outputs.scores, [[1.5, 1], [np.nan, 2], [2.5, np.nan]], equal_nan=True)
    assert outputs.target.tolist() == [1, 0, 1] and outputs.classes == ("no.1", "yes")
    assert outputs.groups["site"].tolist() == ["x", "", "y"] and outputs.ids.tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"logits": [[1.0, 2.0], [1.0, 2.0], [1.0]]}, "logits: row 2 holds 1 values, row 0 holds 2. First rows: 2"),
        ({"logits": [[1.0, 2.0], None]}, "row 1 holds no list"),
        ({"logits": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))}, "row 1 holds no list"),
        ({"logits": [[[1.0]], [[2.0]]]}, "a column of list<element: list<element: double>> is not read"),
        ({"logits": [b"x"]}, "a column of binary is not read"),
        ({"logits": ["x"]}, "scores are <U1, not numbers"),
        ({"logits": pa.array([], pa.list_(pa.float32()))}, "no rows."),
        ({"logits": [[1.0, 2.0]] * 2, "target": [0, None]}, "the target is missing in 1 of 2 rows. First rows: 1"),
        ({"logits": [[1.0, 2.0]] * 2, "target": [0, 2]}, "target 2 is out of range"),
        ({"a": [1.0], "b": [2.0]}, "no scores among a float64 (1,), b float64 (1,)"),
        (pa.table([[1.0], [2.0]], names=["logits", "logits"]), "'logits' stands twice"),
        (pa.table({"logits": [1.0]}).replace_schema_metadata({"lastlayer": "[3]"}), "not there as JSON"),
        (pa.table({"logits": [1.0]}).replace_schema_metadata({"lastlayer": '{"classes": [1]}'}), "not there as JSON"),
    ],
)
def test_bad_columns(complaint, columns, says):
    assert says in complaint("a.parquet", parquet(columns))


def varint(number):
    """An integer of the footer: zigzag, seven bits to a byte."""
    number, encoded = number << 1, bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


@pytest.mark.parametrize("claims", [[0], [2], [0, 1, 2]], ids=["file", "row group", "everywhere"])
def test_claimed_rows_are_not_allocated(complaint, tmp_path, claims):
    """A footer that says 2**40 rows. pyarrow alone takes the row group's word for it and is killed for its memory."""
    content = parquet({"logits": np.arange(77, dtype=np.float32)}, store_schema=False)
    length = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - length], content[-8 - length : -8]
    parts = footer.split(b"\x16" + varint(77))  # num_rows of the file, num_values of the column, num_rows of the group
    assert len(parts) == 4
    counts = [b"\x16" + varint(2**40 if i in claims else 77) for i in range(3)]
    footer = parts[0] + b"".join(count + part for count, part in zip(counts, parts[1:], strict=True))
    content = body + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    before = pa.default_memory_pool().max_memory()
    if 0 in claims:
        assert "claims 1099511627776 rows and holds 77" in complaint("a.parquet", content)
    else:
        (tmp_path / "b.parquet").write_bytes(content)
        assert len(load(tmp_path / "b.parquet")) == 77
    assert pa.default_memory_pool().max_memory() < before + (1 << 24)


def test_a_damaged_file_is_one_sentence(complaint, tmp_path, make):
    content = save(make("multiclass"), tmp_path / "whole.parquet").read_bytes()
    assert "damaged, cut short" in complaint("a.parquet", content[:-20])
    said = complaint("a.parquet", content[:4] + b"\xff" * 300 + content[304:])
    assert "damaged, cut short" in said and ".." not in said
