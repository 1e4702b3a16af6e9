"""Files of rows other than JSON Lines: CSV, TSV, JSON and Parquet."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from weft.errors import ConfigError, MissingExtraError, MissingFileError
from weft.tasks import Row
from weft.tasks.file import load_file_task, read_table

ROWS = [Row("cab, then", 'b"ac'), Row("3", "4"), Row("ü\nx", "y")]
TABLE = pd.DataFrame({"prompt": [r.prompt for r in ROWS], "completion": [r.completion for r in ROWS]})


def write(folder: Path, kind: str) -> str:
    path = folder / f"rows.{kind}"
    match kind:
        case "csv":
            TABLE.to_csv(path, index=False)
        case "tsv":
            TABLE.to_csv(path, index=False, sep="\t")
        case "parquet":
            TABLE.to_parquet(path)
        case "json":
            path.write_text(json.dumps(TABLE.to_dict("records")))
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "json"])
def test_a_table_holds_the_same_rows_whatever_its_form(kind: str, tmp_path: Path) -> None:
    assert read_table(write(tmp_path, kind)) == tuple(ROWS)
    task = load_file_task(write(tmp_path, kind), test_ratio=0.0)
    assert (task.name, task.train, task.test) == ("rows", tuple(ROWS), ())


def test_chats_in_parquet_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "cab"}, {"role": "assistant", "content": "bac"}]
    pd.DataFrame({"messages": [turns], "id": [1]}).to_parquet(tmp_path / "chat.parquet")
    assert read_table(str(tmp_path / "chat.parquet")) == (Row("cab", "bac"),)


def test_keys_that_a_table_adds_are_not_learned(tmp_path: Path) -> None:
    """In Parquet every object has the keys of all, null where it has none of them."""
    calls = [{"function": {"name": name, "arguments": {key: 1}}} for name, key in (("f", "x"), ("g", "y"))]
    turns = [{"role": "user", "content": "cab"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    pd.DataFrame({"messages": [turns]}).to_parquet(tmp_path / "chat.parquet")
    (row,) = read_table(str(tmp_path / "chat.parquet"))
    assert '{"name": "f", "arguments": {"x": 1}}' in row.completion
    assert '{"name": "g", "arguments": {"y": 1}}' in row.completion


@pytest.mark.parametrize(("name", "mark"), [("rows.csv", ";"), ("rows.csv", "\t"), ("rows.tsv", ",")])
def test_a_table_with_another_separator_than_its_name_says(name: str, mark: str, tmp_path: Path) -> None:
    text = f"\ufeffprompt{mark}completion\nx and y{mark}z\n"
    (tmp_path / name).write_bytes(text.encode())
    assert read_table(tmp_path / name) == (Row("x and y", "z"),)


@pytest.mark.parametrize("rows", [0, 3])
def test_parquet_without_rows_or_cut_short_is_one_line(
    rows: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rows.parquet"
    TABLE[:rows].to_parquet(file)
    if rows:
        file.write_bytes(file.read_bytes()[:100])
    said = "cannot be read as a parquet file" if rows else "holds no rows"
    with pytest.raises(ConfigError, match=rf"rows\.parquet {said}"):
        read_table(str(file))
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.parquet", b"PAR1 no parquet", r"rows\.parquet cannot be read as a parquet file"),
        ("rows.parquet", b"", r"rows\.parquet cannot be read as a parquet file"),
        ("rows.json", b"[{", r"rows\.json is not valid JSON"),
        ("rows.json", b"[1]", r"rows\.json, row 1: a row is a JSON object, got 1"),
        ("rows.json", b"[]", r"rows\.json holds no rows"),
        ("rows.json", b"", r"rows\.json holds no rows"),
        ("rows.csv", b"", r"rows\.csv holds no rows"),
        ("rows.csv", b"prompt,completion\n", r"rows\.csv holds no rows"),
        ("rows.csv", b"prompt,completion\na,b,c\n", r"rows\.csv, row 1 has 3 cells, the first line names 2"),
        ("rows.csv", b"prompt,prompt\na,b\n", r"rows\.csv: the column 'prompt' is there twice"),
        (
            "rows.csv",
            b"prompt,completion\ncaf\xe9,b\n",
            r"cannot be read as a csv file: .*; save the file as UTF-8",
        ),
        ("rows.tsv", b'prompt\tcompletion\n"a\tb\n', r"rows\.tsv cannot be read as a tsv file"),
        ("rows.csv", b"a,b\n1,2\n", r"rows\.csv, row 1: a row reads .* has the keys \['a', 'b'\]"),
        ("rows.csv", b"prompt,completion\nx,\n", r"rows\.csv, row 1: completion should be a string"),
        ("rows.txt", b"x", "no file of rows; its name should end in .jsonl"),
    ],
)
def test_a_wrong_table_is_one_clear_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_table(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("rows.jsonl", "rows"),
        ("reverse/train.jsonl", "reverse"),
        ("set/data/train-00000-of-00002.jsonl", "set"),
        ("two words (1).jsonl", "two-words-1"),
        (".hidden.jsonl", "of"),
        ("\u00fc.jsonl", "rows"),
    ],
)
def test_a_file_of_rows_gives_its_task_a_name(path: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "of" / path
    file.parent.mkdir(parents=True)
    file.write_text('{"prompt": "cab", "completion": "bac"}\n')
    assert load_file_task(str(file)).name == name


def test_a_data_set_of_the_hub_needs_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="no data 'weft/none' here, nor within reach on the Hub"):
        read_table("weft/none")


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError):
        read_table(str(tmp_path / "none.csv"))
    (tmp_path / "x.parquet").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(MissingFileError, match="git lfs pull"):
        read_table(str(tmp_path / "x.parquet"))
    path = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)  # which would write a copy into its cache first
    assert read_table(path) == tuple(ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        MissingExtraError, match=r"a parquet file needs the extra data: pip install 'weft\[data\]'"
    ):
        read_table(path)
    assert read_table(write(tmp_path, "csv")) == tuple(ROWS)


@pytest.mark.parametrize("answer", ["007", "4", "1.50", "true", "NA", "None", "null", "2024-01-01", " b "])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_cell_is_the_text_that_it_is(kind: str, answer: str, tmp_path: Path) -> None:
    table = [{"instruction": "say", "input": answer, "output": answer}]
    file = tmp_path / f"ROWS.{kind.upper()}"
    text = json.dumps(table) if kind == "json" else f"instruction,input,output\r\nsay,{answer},{answer}\r\n"
    file.write_bytes(text.encode("utf-8-sig"))
    assert read_table(file) == (Row(f"say\n\n{answer}", answer),)


def test_json_may_hold_an_object_a_line_or_rows_that_differ(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "id": 1}, {"prompt": "c", "completion": "d", "id": "x"}]
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=2))
    assert (
        read_table(tmp_path / "a.json") == read_table(tmp_path / "b.json") == (Row("a", "b"), Row("c", "d"))
    )
