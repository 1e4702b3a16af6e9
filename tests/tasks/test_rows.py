import gzip
import json
from dataclasses import replace

import pytest

from weft.errors import ConfigError, MissingFileError
from weft.tasks import Row, Task, read_rows, write_rows
from weft.tasks.chat import every_answer


def write(path, *values):
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return path


def turn(role, content):
    return {"role": role, "content": content}


def test_reads_each_format(tmp_path):
    file = tmp_path / "rows.jsonl"
    write(file, {"prompt": "cab", "completion": "abc", "id": 7}, "", {"prompt": "ba", "completion": ""})
    assert read_rows(file) == (Row("cab", "abc"), Row("ba", ""))
    write(file, {"text": "once"})
    assert read_rows(file) == (Row("", "once"),)
    chat = [turn("system", "s"), turn("user", "cab"), turn("assistant", "abc")]
    write(file, {"messages": chat, "references": ["abc", "a b c"]})
    assert read_rows(file) == (Row("cab", "abc", ("abc", "a b c"), (("system", "s"),)),)
    write(file, {"prompt": chat[:2], "completion": chat[2:]})
    assert read_rows(file) == (Row("cab", "abc", (), (("system", "s"),)),)


HUMAN, GPT = {"from": "human", "value": "cab"}, {"from": "gpt", "value": "abc"}
CHAT = [turn("user", "cab"), turn("assistant", "abc")]
TOLD = (("system", "s"),)


@pytest.mark.parametrize(
    ("value", "row"),
    [
        ({"conversations": [HUMAN, GPT], "id": "x"}, Row("cab", "abc")),
        ({"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT]}, Row("cab", "abc", (), TOLD)),
        ({"conversations": [HUMAN, GPT], "system": "s"}, Row("cab", "abc", (), TOLD)),
        (
            {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT], "system": "other"},
            Row("cab", "abc", (), TOLD),
        ),
        ({"conversations": [HUMAN, GPT], "system": " ", "messages": None}, Row("cab", "abc")),
        ({"conversations": CHAT}, Row("cab", "abc")),
        ({"question": "cab", "answer": "abc", "choices": None}, Row("cab", "abc")),
        ({"instruction": "", "input": "cab", "output": "abc"}, Row("cab", "abc")),
        ({"messages": CHAT, "system": "s"}, Row("cab", "abc", (), TOLD)),
        ({"messages": [turn("system", "s"), *CHAT], "system": "other"}, Row("cab", "abc", (), TOLD)),
        ({"prompt": CHAT[:1], "completion": CHAT[1:], "system": "s"}, Row("cab", "abc", (), TOLD)),
        ({"prompt": "cab", "completion": "abc", "system": "s"}, Row("cab", "abc", (), TOLD)),
        ({"prompt": "cab", "completion": "abc", "system": None, "tools": "[]"}, Row("cab", "abc")),
        (
            {"messages": [CHAT[0], CHAT[1] | {"reasoning_content": "sort\n"}]},
            Row("cab", "<think>\nsort\n</think>\n\nabc"),
        ),
        (
            {"messages": [*CHAT, CHAT[0], turn("assistant", "<think>x</think>b") | {"thinking": "x"}]},
            Row("cab", "<think>x</think>b", (), (("user", "cab"), ("assistant", "abc"))),
        ),
        (
            {"messages": [CHAT[0], CHAT[1] | {"thinking": "x"}, *CHAT]},
            Row("cab", "abc", (), (("user", "cab"), ("assistant", "abc"))),
        ),
        (
            {
                "messages": [
                    CHAT[0],
                    turn("assistant", None)
                    | {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
                ]
            },
            Row("cab", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'),
        ),
        (
            {"messages": [CHAT[0], turn("assistant", "") | {"function_call": {"arguments": "{x"}}]},
            Row("cab", '<tool_call>\n{"arguments": "{x"}\n</tool_call>'),
        ),
        (
            {"messages": [CHAT[0], turn("assistant", "so:") | {"tool_calls": [{"name": "f"}]}]},
            Row("cab", 'so:\n<tool_call>\n{"name": "f"}\n</tool_call>'),
        ),
        ({"instruction": "sort", "input": "cab", "output": "abc"}, Row("sort\n\ncab", "abc")),
        ({"instruction": "sort cab", "input": "", "output": "abc", "text": "unread"}, Row("sort cab", "abc")),
        ({"instruction": "sort cab", "input": None, "output": "abc"}, Row("sort cab", "abc")),
        ({"instruction": "sort cab", "output": "abc"}, Row("sort cab", "abc")),
        (
            {"instruction": "b", "output": "c", "system": "s", "history": [["q", "a"]]},
            Row("b", "c", (), (("system", "s"), ("user", "q"), ("assistant", "a"))),
        ),
        ({"prompt": "cab", "prompt_id": "1", "messages": CHAT}, Row("cab", "abc")),
        ({"prompt": "cab", "completion": "abc", "messages": None, "text": None}, Row("cab", "abc")),
        (
            {"messages": [turn("user", [{"type": "text", "text": "c"}, {"text": "ab"}]), CHAT[1]]},
            Row("cab", "abc"),
        ),
        (
            {"messages": [CHAT[0], turn("assistant", None) | {"function_call": {"name": "f"}}]},
            Row("cab", '<tool_call>\n{"name": "f"}\n</tool_call>'),
        ),
        (
            {"messages": [*CHAT, turn("ipython", "x"), CHAT[1]]},
            Row("", "abc", (), (("user", "cab"), ("assistant", "abc"), ("tool", "x"))),
        ),
    ],
)
def test_columns_of_public_sets(tmp_path, value, row):
    assert read_rows(write(tmp_path / "rows.jsonl", value)) == (row,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2: a line holds one JSON object"),
        ({"question": "x"}, r"line 2: a row reads .* this one has the keys \['question'\]"),
        ({"prompt": "x", "completion": "y", "text": "z"}, "line 2: a row reads"),
        ({"text": "z"}, "line 2: this row has 'text', those before it have 'prompt'"),
        ({"prompt": "x"}, "line 2: a row with a prompt needs a completion"),
        ({"prompt": "x", "response": "y"}, r"keys \['prompt', 'response'\]; rename its columns"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "of preferences only the chosen answer"),
        ({"prompt": "x", "completion": 3}, "line 2: completion should be a string"),
        ({"prompt": "x", "completion": None}, "line 2: completion should be a string, got None"),
        ({"prompt": None, "completion": "y"}, "line 2: prompt should be a string, got None"),
        ('{"prompt": "x", "completion": NaN}', "line 2: completion should be a string, got nan"),
        ({"prompt": "x\ud83d", "completion": "y"}, "line 2 holds a lone surrogate"),
        ({"prompt": "", "completion": ""}, "line 2: .*both are empty"),
        ({"prompt": "x", "completion": "y", "system": 1}, "line 2: system should be a string"),
        (
            '{"prompt": "x", "completion": "y", "completion": "z"}',
            "line 2: the key 'completion' is given twice",
        ),
        ({"prompt": "x", "completion": "y", "references": "y"}, "line 2: references should be a list"),
        (
            {"prompt": "x", "completion": "y", "references": [1]},
            "line 2: one of the references should be a string",
        ),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, line, message):
    file = write(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b"}, line)
    with pytest.raises(ConfigError, match=message) as caught:
        read_rows(file)
    assert str(caught.value).count(str(file)) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [turn("user", "x")],
        [turn("assistant", "x"), turn("user", "y")],
        [turn("user", ["x"]), turn("assistant", "y")],
        [turn("user", "x"), turn("assistant", None)],
        [turn("user", None), turn("assistant", "y")],
        [turn("user", "x"), turn("assistant", None) | {"tool_calls": []}],
    ],
)
def test_a_chat_ends_with_a_question_and_its_answer(tmp_path, messages):
    file = write(tmp_path / "rows.jsonl", {"messages": messages})
    with pytest.raises(ConfigError, match="line 1: "):
        read_rows(file)


def test_an_answer_of_weight_0_is_not_learned(tmp_path):
    unlearned, learned = CHAT[1] | {"weight": 0}, CHAT[1] | {"weight": 1}
    file = write(tmp_path / "rows.jsonl", {"messages": [CHAT[0], unlearned, CHAT[0], learned]})
    history = (("user", "cab"), ("assistant", "abc"))
    (row,) = read_rows(file)
    assert row == Row("cab", "abc", (), history, unlearned=(1,))
    assert every_answer([row]) == (row,)
    assert Task("t", ("d",), (row,)).data_hash != Task("t", ("d",), (replace(row, unlearned=()),)).data_hash
    parts = {"prompt": [CHAT[0], unlearned, CHAT[0]], "completion": [learned], "system": "s"}
    assert read_rows(write(file, parts)) == (Row("cab", "abc", (), (*TOLD, *history), unlearned=(2,)),)
    write(file, {"messages": [CHAT[0], learned]}, {"messages": [CHAT[0], unlearned]})
    with pytest.raises(ConfigError, match="line 2: the last turn has weight 0, so there is nothing to learn"):
        read_rows(file)
    unlearned = CHAT[1] | {"train": False}  # as axolotl has it
    (row,) = read_rows(write(file, {"messages": [CHAT[0], unlearned, *CHAT]}))
    assert row.unlearned == (1,)
    with pytest.raises(ConfigError, match="the last turn has train false"):
        read_rows(write(file, {"messages": [CHAT[0], unlearned]}))


@pytest.mark.parametrize(
    "value", [{"prompt": "cab", "completion": "x"}, {"messages": CHAT}, {"conversations": [HUMAN, GPT]}]
)
def test_an_answer_that_is_labelled_as_bad_is_refused(tmp_path, value):
    file = write(tmp_path / "rows.jsonl", value | {"label": True}, value | {"label": False})
    with pytest.raises(ConfigError, match="line 2: label is false, so its answer is a bad one"):
        read_rows(file)
    assert len(read_rows(write(file, value | {"label": 0}))) == 1
    assert read_rows(write(file, {"text": "x", "label": False})) == (Row("", "x"),)


def test_a_chat_whose_only_question_is_empty_is_said_to_be_a_plain_text(tmp_path):
    asked = turn("user", "")
    for value in ({"messages": [asked, CHAT[1]]}, {"prompt": [asked], "completion": CHAT[1:]}):
        file = write(tmp_path / "rows.jsonl", value)
        with pytest.warns(UserWarning, match="line 1: the only question of this chat is empty"):
            assert read_rows(file) == (Row("", "abc"),)


def test_a_label_that_is_a_class_is_left_alone(tmp_path, recwarn):
    row = {"prompt": "cab", "completion": "x"}
    file = write(tmp_path / "rows.jsonl", *(row | {"label": label} for label in ("True", "False", "Unknown")))
    assert len(read_rows(file)) == 3
    assert len(read_rows(write(file, row | {"label": False}, row))) == 2
    assert not recwarn
    with pytest.warns(UserWarning, match="line 1: label is False, and the row is learned"):
        assert len(read_rows(write(file, row | {"label": "False"}))) == 1


def test_a_chat_in_a_table_of_texts_is_the_json_of_its_list(tmp_path):
    file = write(tmp_path / "rows.jsonl", {"messages": json.dumps(CHAT)})
    assert read_rows(file) == (Row("cab", "abc"),)
    both = {"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}
    assert read_rows(write(file, both)) == (Row("cab", "abc"),)
    with pytest.raises(ConfigError, match="line 1: completion is not valid JSON"):
        read_rows(write(file, both | {"completion": str(CHAT[1:])}))
    with pytest.raises(ConfigError, match="line 1: messages is not valid JSON"):
        read_rows(write(file, {"messages": str(CHAT)}))


def test_tools_that_the_model_does_not_see_are_said_once(tmp_path):
    rows = [{"messages": CHAT, "tools": tools} for tools in (None, "[]", [{"name": "f"}], [{"name": "g"}])]
    with pytest.warns(UserWarning, match="line 3: its tools are not shown to the model") as said:
        assert len(read_rows(write(tmp_path / "rows.jsonl", *rows))) == 4
    assert len(said) == 1


def test_missing_empty_and_damaged_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="holds no rows"):
        read_rows(write(tmp_path / "empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(ConfigError, match="line 1: byte 0xe9 is not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")
    packed = gzip.compress(b'{"text": "abc"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-12])
    with pytest.raises(ConfigError, match="cannot be read after line"):
        read_rows(tmp_path / "cut.jsonl.gz")


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ((Row("", "one"), Row("", "two\u2028\u00e9")), "text"),
        ((Row("a", "b"), Row("", "text"), Row("c", "", ("", "d"))), "prompt"),
        ((Row("", "text"), Row("c", "d", ("d",), (("system", "s"),))), "messages"),
        ((Row("c", "d", (), (("user", "a"), ("assistant", "b")), unlearned=(1,)),), "messages"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*the only question of this chat is empty")
def test_what_is_written_is_read_back(tmp_path, rows, key):
    file = tmp_path / "rows.jsonl"
    write_rows(file, rows)
    assert read_rows(file) == rows
    assert all(key in json.loads(line) for line in file.read_text().split("\n") if line)
