"""Tables: every row counts or is refused, in whichever of four formats it comes."""

import json
import sys
import types

import pytest

from ensemble.data import metadata
from splits.errors import BadInput

HEADER, ROWS = ["file_name", "by"], [["a.png", "Eve"], ["b.png", ""]]


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return metadata.read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "file_name,by\na.png,Eve\nb.png,\n"),
        ("a.csv", "file_name,by\r\n\r\na.png,Eve\r\n , \r\n\r\nb.png,"),
        ("a.CSV", '\ufefffile_name,by\n"a.png",Eve\n,\nb.png,\n'),
        ("a.tsv", "file_name\tby\na.png\tEve\n\t\nb.png\t\n"),
        (
            "a.jsonl",
            '\ufeff{"file_name": "a.png", "by": "Eve"}\n\n  \n'
            '{"by": null, "file_name": "b.png"}',
        ),
    ],
)
def test_every_row_is_read_and_rows_without_text_are_none(tmp_path, name, content):
    assert read(tmp_path, name, content) == (HEADER, ROWS)


def test_values_become_text(tmp_path):
    row = {"file_name": "a", "year": 1999, "tags": ["x"], "sold": True, "by": None}
    assert read(tmp_path, "a.jsonl", json.dumps(row)) == (
        list(row),
        [["a", "1999", '["x"]', "true", ""]],
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "file_name;by\na;b\n",
            "'file_name;by'; a column file_name .* commas",
        ),
        ("a.csv", "file_name,by,by\na,b,c\n", "each name once"),
        ("a.csv", "file_name,by,by \na,b,c\n", "'by' and 'by ', which are one name"),
        ("a.csv", "file_name,by\na\n", "a row of 1 fields under a header of 2"),
        ("a.csv", "file_name\n\xff".encode("utf-16"), "Save it as CSV in UTF-8"),
        ("a.tsv", b"file_name\n\xff", "Save it as TSV in UTF-8"),
        ("a.jsonl", '{"file_name": "a"}\n{"file_name"', "line 2: .*Write one object"),
        ("a.jsonl", "[1]\n", r"line 1: \[1\] is no object"),
        ("a.jsonl", '{"file_name": "a", "file_name": "b"}', "'file_name' stands twice"),
        (
            "a.jsonl",
            '{"file_name": "a"}\n\n{"file_name": "b", "by": "Eve"}',
            "Lines 1 and 3 of .* only one has 'by'",
        ),
        ("a.jsonl", '{"by": "a"}', "has the columns 'by'"),
        ("a.jsonl", "", "has the columns ; a column file_name is needed"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, name, content, message):
    with pytest.raises(BadInput, match=message):
        read(tmp_path, name, content)


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"pip install pyarrow\), or save the table as"):
        read(tmp_path, "a.parquet", b"")


class Column(list):
    def to_pylist(self):
        return [*self]


def test_parquet_is_read_by_pyarrow(tmp_path, monkeypatch):
    """The package itself is no dependency: a stand-in has its two calls."""
    columns = [Column(["a.png", "b.png"]), Column(["Eve", None])]
    table = types.SimpleNamespace(column_names=HEADER, columns=columns)

    def file(path):
        if path.stat().st_size == 0:
            raise RuntimeError("no footer")
        return types.SimpleNamespace(read=lambda: table)

    stand_in = types.SimpleNamespace(ParquetFile=file)
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=stand_in))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", stand_in)
    assert read(tmp_path, "a.parquet", b"PAR1") == (HEADER, ROWS)
    with pytest.raises(BadInput, match=r"as a Parquet table \(no footer\)"):
        read(tmp_path, "a.parquet", b"")


@pytest.mark.oracle
def test_parquet_of_pyarrow_itself(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"file_name": ["a.png", "b.png"], "by": ["Eve", None]}),
        tmp_path / "a.parquet",
    )
    assert metadata.read(tmp_path / "a.parquet") == (HEADER, ROWS)
