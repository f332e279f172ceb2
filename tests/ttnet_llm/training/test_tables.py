"""Files as people have them: separators, quotes, codecs, and lines that are broken."""

import csv
import gzip
import io
import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.training.tables import SEPARATORS, Table, read_table, read_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
NASTY = st.text(st.sampled_from(' ab,;\t|"\'\r\nä,"'), min_size=1).filter(str.strip)


def columns(table: Table) -> dict[str, list[object]]:
    return {name: table.cells(name) for name in table.columns}


def save(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


@given(rows=st.lists(st.tuples(TEXTS | NASTY, NASTY), min_size=1, max_size=8), separator=st.sampled_from([*SEPARATORS]))
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_texts_are_not_split_whatever_they_hold(tmp_path_factory, quoting, rows, separator) -> None:  # type: ignore[no-untyped-def]
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator, quoting=quoting).writerows([("text", "label"), *rows])
    path = save(tmp_path_factory.mktemp("csv") / "a.csv", stream.getvalue())
    assert list(zip(*columns(read_table(path)).values(), strict=True)) == rows


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_the_separator_is_that_of_the_first_line(
    tmp_path: Path, separator: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = "".join(each for each in SEPARATORS if each != separator)
    lines = [f" text {separator}label", "", f"one{others} two{separator}good", f'"a ""b"" c"{separator}bad', separator]
    with caplog.at_level(logging.INFO, logger="ttnet_llm"):
        table = read_table(save(tmp_path / "a.csv", ending.join(lines)))
    assert columns(table) == {"text": [f"one{others} two", 'a "b" c'], "label": ["good", "bad"]}
    assert (SEPARATORS[separator] in caplog.text) == (separator != ",")


def test_a_choice_of_separators_is_settled_by_all_lines(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", "text;label, good or bad\nfine, really, fine;good\nbad;bad\n")
    assert columns(read_table(path)) == {"text": ["fine, really, fine", "bad"], "label, good or bad": ["good", "bad"]}
    for line, word in (("a,b;c", "more than one"), ("a", "none")):
        save(path, f"text;label,kind\n{line}\n")
        with pytest.raises(
            TTFileError, match=rf"first line has commas and semicolons, and {word} of them can separate"
        ):
            read_table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,label\nHello, world,1\n",
            "line 2 has 3 cells where the first has 2; put texts that contain commas in quotes",
        ),
        ("text;label\na;1\nb\n", "line 3 has 1 cells where the first has 2; .* contain semicolons"),
        (
            'text\tlabel\n"Great movie\t1\n"Bad one\t0\n',
            r"line 3: .* a text that begins with a quote must end with one",
        ),
        ('text,label\n"never closed,1\n', "line 2: unexpected end of data"),
        ('text,label\n"he said \\"no\\"",1\n', "line 2: .* quotes inside are written twice"),
        ("text,label,text\na,1,b\n", "two of its columns are named 'text'; rename one"),
    ],
)
def test_broken_lines_of_a_csv_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(TTFileError, match=f"is not a well-formed csv file: {message}"):
        read_table(save(tmp_path / "a.csv", content))


def test_cells_of_a_csv_stay_as_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", "text,label,\n007,01,\n1.50,NA,x\nTrue,null,\n" + f"{'long ' * 40_000},1,\n")
    cells = columns(read_table(path))
    assert cells["text"][:3] == ["007", "1.50", "True"]
    assert len(str(cells["text"][3])) == 200_000
    assert cells["label"] == ["01", "NA", "null", "1"]
    assert cells[""] == [None, "x", None, None]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_codec(
    tmp_path: Path, suffix: str, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = "text,label\nschön,gut\n" if suffix == ".csv" else '{"text": "schön", "label": "gut"}\n'
    path = save(tmp_path / f"a{suffix}", content, encoding)
    with caplog.at_level(logging.INFO, logger="ttnet_llm"):
        assert columns(read_table(path)) == {"text": ["schön"], "label": ["gut"]}
    assert f"is read as {encoding.upper().removesuffix('-SIG')}, as its byte-order mark says" in caplog.text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "shift-jis"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_another_codec_is_taken_once_it_is_named(tmp_path: Path, encoding: str, suffix: str) -> None:
    word = "映画" if encoding == "shift-jis" else "schön"
    content = f"text,label\n{word},gut\n" if suffix == ".csv" else f'{{"text": "{word}", "label": "gut"}}\n'
    path = save(tmp_path / f"a{suffix}", content, encoding)
    expected = (
        "UTF-16 without a byte-order mark" if encoding == "utf-16-le" else "is not UTF-8, as files without a mark"
    )
    with pytest.raises(TTFileError, match=expected + r".*say which codec it is with encoding \(--encoding\), such as"):
        read_table(path)
    assert columns(read_table(path, encoding=encoding)) == {"text": [word], "label": ["gut"]}


def test_codecs_that_are_wrong_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", "text,label\nfine,gut\nschön,gut\n", "latin-1")
    with pytest.raises(TTFileError, match=r"is not UTF-8, as files without a mark should be: byte 0xf6 in line 3"):
        read_table(path)
    with pytest.raises(TTFileError, match=r"is not ASCII, as encoding says: byte 0xf6 in line 3"):
        read_table(path, encoding="ascii")
    for name in ("utf-9", "base64", "rot13", "a\0b"):
        with pytest.raises(TTValueError, match=r"encoding is .*; expected the name of a codec of text, such as utf-8"):
            read_table(path, encoding=name)
    save(path, "text,label\na,b\n", "utf-8-sig")
    assert read_table(path, encoding="utf8").columns.keys() == {"text", "label"}
    with pytest.raises(TTFileError, match="begins with the byte-order mark of UTF-8, but encoding is 'latin-1'"):
        read_table(path, encoding="latin-1")
    save(path, "a\0b")
    with pytest.raises(TTFileError, match=r"is no text, or is UTF-16 without a byte-order mark; save it as UTF-8\."):
        read_text(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": 1}\n{broken\n', "line 2: Expecting property name"),
        ('[{"text": "a", "label": 1}]\n', "line 1 is no object; expected {"),
        ('{"text": "a", "label": 1}\n\n"b"\n', "line 3 is no object"),
        ("[" * 100_000, "line 1: maximum recursion"),
        ('{"label": ' + "9" * 5000 + "}", "line 1: Exceeds the limit"),
    ],
)
def test_broken_lines_of_a_jsonl_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(TTFileError, match=f"is not a well-formed jsonl file: {message}"):
        read_table(save(tmp_path / "a.jsonl", content))


def test_cells_of_a_jsonl_keep_their_types(tmp_path: Path) -> None:
    rows = [
        {"text": "a\u2028b", "label": 1, "created_at": "2020-01-01"},
        {"label": 1.5, "text": ["x"]},
        {"label": True},
    ]
    path = save(tmp_path / "a.jsonl", "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    cells = columns(read_table(path))
    assert cells["text"] == ["a\u2028b", ["x"], None]
    assert [(type(label), label) for label in cells["label"]] == [(int, 1), (float, 1.5), (bool, True)]
    assert cells["created_at"] == ["2020-01-01", None, None]


def test_cells_of_a_parquet_are_read_without_its_index_and_folders(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"text": ["a", None], "label": pd.Categorical(["x", "y"]), "vector": [[1.0], None]}, index=[3, 5]
    )
    (tmp_path / "split=train").mkdir()
    frame.to_parquet(tmp_path / "split=train" / "a.parquet")
    table = read_table(tmp_path / "split=train" / "a.parquet")
    assert columns(table) == {"text": ["a", None], "label": ["x", "y"], "vector": [[1.0], None]}
    frame[[]].to_parquet(tmp_path / "b.parquet")
    with pytest.raises(TTFileError, match="holds no rows"):
        read_table(tmp_path / "b.parquet")


ROWS = [{"text": "schön", "label": "gut"}, {"text": "schlecht, sehr", "label": "schlecht"}]


def write_as(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows in the way that the file's name says."""
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    frame = pd.DataFrame(rows)
    stream = io.BytesIO()
    if suffix == "parquet":
        frame.to_parquet(stream)
    else:
        content = {
            "csv": frame.to_csv(index=False),
            "tsv": frame.to_csv(index=False, sep="\t"),
            "json": json.dumps(rows, ensure_ascii=False, indent=1),
            "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        }[suffix]
        stream.write(content.encode())
    path.write_bytes(gzip.compress(stream.getvalue()) if path.name.endswith(".gz") else stream.getvalue())
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_kind_of_file_holds_the_same_table(tmp_path: Path, suffix: str, ending: str) -> None:
    table = read_table(write_as(tmp_path / f"a{suffix}{ending}", ROWS))
    assert columns(table) == {name: [row[name] for row in ROWS] for name in ROWS[0]}
    assert table.typed == (suffix not in (".csv", ".tsv"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_is_read_as_one_file(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    for k, row in enumerate(ROWS):
        write_as(tmp_path / f"part-{k}{suffix}", [row])
    (tmp_path / "README.md").write_text("about the data")
    with caplog.at_level(logging.INFO, logger="ttnet_llm"):
        table = read_table(tmp_path)
    assert columns(table) == {name: [row[name] for row in ROWS] for name in ROWS[0]}
    assert "holds 2 files, which are read as one" in caplog.text


def test_folders_that_are_no_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(TTFileError, match=r"holds no file of a known kind; expected some of one, of \.csv, \.tsv"):
        read_table(tmp_path)
    write_as(tmp_path / "a.csv", ROWS)
    write_as(tmp_path / "b.csv", [{"review": "x", "label": "y"}])
    with pytest.raises(TTFileError, match=r"b.csv' has the columns review, label, but .*a.csv' has text, label; give"):
        read_table(tmp_path)
    write_as(tmp_path / "c.jsonl", ROWS)
    with pytest.raises(TTFileError, match=r"holds files of several kinds \(\.csv, \.jsonl\); expected some of one"):
        read_table(tmp_path)


def test_a_txt_file_is_a_text_for_every_paragraph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.txt", "One\nline more\n\n \nTwo, with a comma\r\n\r\nThree\n")
    with caplog.at_level(logging.INFO, logger="ttnet_llm"):
        assert columns(read_table(path)) == {"text": ["One\nline more", "Two, with a comma", "Three"]}
    assert "is read as 3 texts, its paragraphs" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"text": "a"}\n{"text": "b"}\n', "Extra data.*an object in every line should end in .jsonl"),
        ("a.json", b'["a", "b"]', "expected a list of {.* or the like, or an object of equally long lists"),
        ("a.json", b'{"text": ["a", "b"], "label": [1]}', "or an object of equally long lists"),
        ("a.csv.gz", b"text,label\n", "is not a well-formed gz file: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"text,label\n", mtime=0)[:-9], "is not a well-formed gz file"),
        ("a.pdf", b"", r"is of no known kind; expected a file ending in \.csv, .*, with or without .gz, or a folder"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TTFileError, match=message):
        read_table(tmp_path / name)


def test_an_object_of_lists_is_a_table(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", '{"text": ["a", "b"], "label": [1, 0]}')
    assert columns(read_table(path)) == {"text": ["a", "b"], "label": [1, 0]}


def test_the_line_in_another_codec_is_shown(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", "text,label\nschön,gut\n", "cp1252")
    with pytest.raises(TTFileError, match=r"byte 0xf6 in line 2, where cp1252 would read 'schön,gut'; say which codec"):
        read_table(path)
