"""Outside text: one line for everything that can be wrong with it, and nothing large built on the way."""

import gzip
import os
import time

import pytest

from weft.errors import ConfigError, MissingFileError
from weft.reading import (
    check_file,
    parse_json,
    parse_yaml,
    read_json,
    read_lines,
    read_text,
    read_yaml,
    shown,
)

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
)
MERGE_BOMB = "\n".join(
    ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 20)}]" for i in range(1, 9)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!int '-'", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: 2001-99-99", "is not valid YAML"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: *b", "undefined alias"),
        ("a: {r: 1, b: 2, r: 1}", r"here, line 1: the key 'r' is given twice"),
        ("? [a]\n: b", "unhashable key"),
        ("a: !!python/object:os.system x", "constructor for the tag"),
        ("a: &a [*a]", "holds itself"),
        ("[" * 100_000, "nested more than"),
        ("- " * 100_000, "nested more than"),
        ("{a: " * 50_000, "nested more than"),
        ("\n".join(" " * i + "a:" for i in range(3000)), "nested more than"),
        (BOMB, "aliases written out"),
        (MERGE_BOMB, "aliases written out"),
        ("a: \ud83d", "lone surrogate"),
    ],
)
def test_yaml_ends_in_one_short_line_and_soon(text, message):
    start = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "here")
    assert time.process_time() - start < 2
    assert str(caught.value).startswith("here")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_yaml_keeps_aliases_and_merges():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "here") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    assert parse_yaml("", "here") is None
    assert parse_yaml("1: a\n'1': b\nc: {<<: {x: 1}, y: 2}", "here") == {
        1: "a",
        "1": "b",
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '"\\ud83d"', "9" * 6000, "{"])
def test_json_ends_in_one_short_line(text):
    with pytest.raises(ConfigError, match=r"^here") as caught:
        parse_json(text, "here")
    assert len(str(caught.value)) < 400


def test_files_are_read_once_and_named(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(file) == {}
    assert read_yaml(file) == {}
    file.write_bytes(b'{"a":\n"caf\xe9"}')
    with pytest.raises(ConfigError, match=r"a\.json, line 2: byte 0xe9 is not UTF-8"):
        read_text(file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for read in (read_text, lambda f: list(read_lines(f))):
        with pytest.raises(MissingFileError, match=r"git-lfs pointer.*run git lfs pull"):
            read(file)
    with pytest.raises(MissingFileError, match="a folder, not a file"):
        read_text(tmp_path)
    with pytest.raises(MissingFileError, match="no such file"):
        read_text(tmp_path / "b")
    with pytest.raises(MissingFileError, match="a pipe or a device, not a file"):
        read_text("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingFileError, match="a pipe or a device, not a file"):
        read_text(tmp_path / "pipe")
    for name in ("a\x00b", "a" * 5000):
        with pytest.raises((ConfigError, MissingFileError), match=r"no such file|can be no path") as caught:
            check_file(name)
        assert len(str(caught.value)) < 400
    with pytest.raises(ConfigError, match="at most 1 are read"):
        read_text(file, limit=1)


def test_a_pipe_of_a_shell_is_read():
    reader, writer = os.pipe()
    os.write(writer, b"one\n\ntwo\n")
    os.close(writer)
    assert [line for _, line in read_lines(f"/dev/fd/{reader}")] == ["one\n", "two\n"]
    os.close(reader)


def test_lines_keep_their_numbers_and_lose_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbfone\n\n  \ntwo"))
    assert list(read_lines(file)) == [(f"{file}, line 1", "one\n"), (f"{file}, line 4", "two")]


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    file = tmp_path / "a"
    file.write_text("x")
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        read_text(file)


def test_a_value_in_a_message_is_short_whatever_it_is():
    endless: list[object] = []
    endless.append(endless)
    wide = [[["a"] * 1000] * 1000] * 1000
    start = time.process_time()
    for value in (endless, wide, "a" * 10**6, {"k" * 10**6: wide}, 10**5000, b"x" * 10**6, [10**9] * 10**6):
        assert len(shown(value)) <= 80
    assert time.process_time() - start < 1
    assert shown("\x1b[31m\u202e") == "'\\x1b[31m\\u202e'"
    assert shown({"a": [1, "b"]}) == "{'a': [1, 'b']}"
