import gzip

import pytest

from weft.errors import ConfigError, MissingFileError, SaveError
from weft.tasks import Row, Task, load_task, load_tasks, save_task

TASK = Task(
    name="sort+reverse",
    descriptions=("sort, then reverse: é", "no"),
    train=(Row("cab", "cba"), Row("x", "x", ("x", "X"))),
    test=(Row("ba", "ba"),),
    unseen_descriptions=("order it",),
    category="pair",
    labels=("1", "yes"),
    licence="CC0-1.0",
)


def test_round_trip_is_exact(tmp_path):
    save_task(TASK, tmp_path / "t")
    assert load_task(tmp_path / "t") == TASK
    assert load_task(tmp_path / "t").data_hash == TASK.data_hash


def test_one_part_is_enough(tmp_path):
    only_test = Task("held-out", ("do it",), test=(Row("a", "b"),))
    save_task(only_test, tmp_path / "t")
    assert not (tmp_path / "t" / "train.jsonl").exists()
    assert load_task(tmp_path / "t") == only_test


def test_saving_replaces_a_task_and_nothing_else(tmp_path):
    save_task(TASK, tmp_path / "t")
    changed = Task("other", ("do it",), test=(Row("a", "b"),))
    save_task(changed, tmp_path / "t")
    assert load_task(tmp_path / "t") == changed
    with pytest.raises(SaveError, match="not a task folder"):
        save_task(TASK, tmp_path)
    assert load_task(tmp_path / "t") == changed


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"it has no task\.yaml"):
        load_task(tmp_path)
    (tmp_path / "task.yaml").write_text("name: a\ndescriptions: [b]\n")
    with pytest.raises(MissingFileError, match=r"train\.jsonl, test\.jsonl or both"):
        load_task(tmp_path)


def test_rows_may_stand_in_other_kinds_of_files(tmp_path):
    (tmp_path / "task.yaml").write_text("name: a\ndescriptions: [b]\n")
    (tmp_path / "Train.JSONL.GZ").write_bytes(gzip.compress(b'{"prompt": "cab", "completion": "bac"}\n'))
    (tmp_path / "test.csv").write_text("prompt,completion\ndog,god\n")
    task = load_task(tmp_path)
    assert (task.train, task.test) == ((Row("cab", "bac"),), (Row("dog", "god"),))
    (tmp_path / "test.json").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"several files of test rows \(test.csv, test.json\); keep one"):
        load_task(tmp_path)
    (tmp_path / "test.csv").unlink()
    with pytest.raises(MissingFileError, match=r"no such file: .*test\.json"):
        load_task(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndescription: b\n", r"unknown key description \(did you mean descriptions\?\)"),
        ("name: a\n", "descriptions"),
        ("name: a\ndescriptions: b\n", "descriptions"),
        ("name: a/b\ndescriptions: [b]\n", "'a/b' cannot name a task"),
        ("name: a\ndescriptions: []\n", "a has no description"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_bad_yaml_names_the_key(tmp_path, text, message):
    (tmp_path / "task.yaml").write_text(text)
    (tmp_path / "test.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ConfigError, match=message) as caught:
        load_task(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_bad_row_names_file_and_line_once(tmp_path):
    (tmp_path / "task.yaml").write_text("name: a\ndescriptions: [b]\n")
    (tmp_path / "train.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ConfigError) as caught:
        load_task(tmp_path)
    assert str(caught.value).count(str(tmp_path)) == 1


def test_folder_of_folders(tmp_path):
    with pytest.raises(MissingFileError, match="holds no task folders"):
        load_tasks(tmp_path)
    for name in ("b", "a", "c"):
        save_task(Task(name, ("do it",), test=(Row("a", name),)), tmp_path / f"folder-{name}")
    (tmp_path / "notes").mkdir()
    assert [task.name for task in load_tasks(tmp_path)] == ["a", "b", "c"]
    save_task(Task("a", ("again",), test=(Row("a", "b"),)), tmp_path / "z")
    with pytest.raises(ConfigError, match=r"another task .* is called a"):
        load_tasks(tmp_path)


def test_a_task_without_a_name_has_that_of_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "iso-date"
    folder.mkdir()
    (folder / "task.yaml").write_text("descriptions: [b]\n")
    (folder / "test.jsonl").write_text('{"text": "x"}\n')
    assert load_task(folder).name == "iso-date"
    monkeypatch.chdir(folder)
    assert load_task(".").name == "iso-date"
