import gzip
import json
import os
from pathlib import Path

import pytest

from weft.errors import ConfigError, MissingFileError, UnknownNameError
from weft.tasks import Row, load_natural_instructions

DATA = Path(os.environ.get("WEFT_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "sni").is_dir(),
    reason=f"no Natural Instructions in {DATA}; set WEFT_DATA to the folder of sni/",
)
WORDINGS = [f"wording {i}" for i in range(23)]


def pack(path: Path, lines: list[dict]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return path


def row(task: str, text: str, *outputs: str, part: str = "train") -> dict:
    return {
        "task": task,
        "category": f"category of {task}",
        "definition": f"Do {task}.",
        "input": text,
        "outputs": list(outputs),
        "part": part,
    }


def statistics(task: str, kind: str, **changes) -> dict:
    values = {"naive_bayes_accuracy": None, "in_words_median": 9.0, "out_words_median": 1.0, "labels": None}
    return {"task": task, "category": "c", "kind": kind, "test_majority_accuracy": 0.5, **values, **changes}


@pytest.fixture
def compact(tmp_path) -> Path:
    rows = [
        row(name, f"{name} {i}", "y", part="train" if i % 4 else "test") for name in "dcba" for i in range(8)
    ]
    pack(tmp_path / "train.jsonl.gz", [*rows, row("a", "many", "yes", "y")])
    pack(tmp_path / "dev.jsonl.gz", [row("e", "x", "y")])
    lines = [
        statistics("a", "classification", naive_bayes_accuracy=0.65, labels=["y", "n"]),
        statistics("b", "classification", naive_bayes_accuracy=0.59),
        statistics("c", "generation"),
        statistics("d", "extractive", category="code_sql"),
        statistics("e", "generation", out_words_median=4.0),
    ]
    pack(tmp_path / "tasks.jsonl.gz", lines)
    return tmp_path


@pytest.fixture
def original(tmp_path) -> Path:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "splits" / "default").mkdir(parents=True)
    for name in ("task1_a", "task2_b", "task3_c"):
        instances = [
            {"id": f"{name}-{i}", "input": f"{name} {i}", "output": [f"o{i}", f"p{i}"]} for i in range(9)
        ]
        content = {
            "Definition": ["First part.", "Second part."],
            "Categories": ["Question Answering", "Other"],
            "Positive Examples": [{"input": "never", "output": "read", "explanation": ""}],
            "Instances": [
                *instances,
                {"id": "-", "input": "  ", "output": ["blank"]},
                {**instances[0], "output": "q"},
            ],
        }
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "splits" / "default" / "train_tasks.txt").write_text("task3_c\ntask1_a\n")
    (tmp_path / "splits" / "default" / "test_tasks.txt").write_text("task2_b\n")
    return tmp_path


def test_compact_form(compact):
    tasks = load_natural_instructions(compact)
    assert [task.name for task in tasks] == ["a", "b", "c", "d"]
    a = tasks[0]
    assert a.descriptions == ("Do a.",)
    assert (a.category, a.labels, len(a.train), len(a.test)) == ("category of a", ("y", "n"), 7, 2)
    assert set(a.test) == {Row("a 0", "y"), Row("a 4", "y")}
    assert Row("many", "yes", ("yes", "y")) in a.train
    assert [task.name for task in load_natural_instructions(compact, split="dev")] == ["e"]


def test_core_keeps_what_a_small_model_can_learn(compact):
    assert [task.name for task in load_natural_instructions(compact, core=True)] == ["a", "c"]
    assert load_natural_instructions(compact, split="dev", core=True) == ()


def test_names_and_limits(compact):
    assert [t.name for t in load_natural_instructions(compact, names=["c", "a"])] == ["a", "c"]
    every = load_natural_instructions(compact)
    two = load_natural_instructions(compact, limit=2, max_train_rows=3, max_test_rows=1)
    assert [len(t.train) for t in two] == [3, 3]
    assert [len(t.test) for t in two] == [1, 1]
    assert {t.name for t in load_natural_instructions(compact, limit=1)} < {t.name for t in two}
    for task in two:
        whole = next(t for t in every if t.name == task.name)
        assert task.train == whole.train[:3]
    with pytest.raises(UnknownNameError, match=r"no task bb .*did you mean b\?"):
        load_natural_instructions(compact, names=["bb"])


def test_more_wordings_the_last_twenty_unseen(compact, tmp_path):
    file = pack(
        tmp_path / "more.jsonl.gz",
        [
            {"task": "a", "descriptions": ["Do a.", *WORDINGS, WORDINGS[0]]},
            {"task": "b", "descriptions": ["x"]},
        ],
    )
    a, b, c, _ = load_natural_instructions(compact, descriptions=file)
    assert a.descriptions == ("Do a.", *WORDINGS[:3])
    assert a.unseen_descriptions == tuple(WORDINGS[3:])
    assert (b.descriptions, b.unseen_descriptions) == (("Do b.", "x"), ())
    assert c.descriptions == ("Do c.",)


def test_prompt_says_how_an_input_is_put(compact):
    (task,) = load_natural_instructions(compact, split="dev", prompt="{input}\nAnswer: ")
    assert task.train == (Row("x\nAnswer: ", "y"),)
    with pytest.raises(ConfigError, match="should contain"):
        load_natural_instructions(compact, prompt="Answer: ")


def test_original_form(original):
    tasks = load_natural_instructions(original)
    assert [task.name for task in tasks] == ["task1_a", "task3_c"]
    a = tasks[0]
    assert a.descriptions == ("First part. Second part.",)
    assert (a.category, len(a.train), len(a.test)) == ("Question Answering", 7, 2)
    rows = {row.prompt: row for row in a.train + a.test}
    assert rows["task1_a 0"].answers == ("o0", "p0", "q")
    assert rows["task1_a 5"] == Row("task1_a 5", "o5", ("o5", "p5"))
    assert [task.name for task in load_natural_instructions(original, split="test")] == ["task2_b"]


def test_original_form_says_what_is_missing(original):
    with pytest.raises(MissingFileError, match=r"dev_tasks\.txt; splits there: test, train"):
        load_natural_instructions(original, split="dev")
    with pytest.raises(ConfigError, match="core needs the statistics"):
        load_natural_instructions(original, core=True)
    (original / "tasks" / "task1_a.json").write_text('{"Instances": []}')
    with pytest.raises(ConfigError, match=r"task1_a\.json: Categories is missing"):
        load_natural_instructions(original)
    (original / "tasks" / "task1_a.json").unlink()
    with pytest.raises(MissingFileError, match=r"task1_a\.json"):
        load_natural_instructions(original)


def test_damaged_compact_files(compact, tmp_path):
    with pytest.raises(MissingFileError, match="neither nope"):
        load_natural_instructions(compact, split="nope")
    pack(compact / "dev.jsonl.gz", [row("e", "x", "y"), row("e", "x", "y", part="half")])
    with pytest.raises(ConfigError, match="line 2: part is train or test, got 'half'"):
        load_natural_instructions(compact, split="dev")
    pack(compact / "dev.jsonl.gz", [{**row("e", "x"), "outputs": "y"}])
    with pytest.raises(ConfigError, match="line 1: outputs is missing or of the wrong type"):
        load_natural_instructions(compact, split="dev")
    pack(compact / "dev.jsonl.gz", [row("f", "x", "y")])
    with pytest.raises(ConfigError, match="task f has no line in the statistics"):
        load_natural_instructions(compact, split="dev")


@needs_data
def test_the_core_suite_of_real_data():
    wordings = DATA / "descriptions" / "sni_subset_descriptions.jsonl.gz"
    tasks = load_natural_instructions(DATA / "sni", core=True, descriptions=wordings)
    assert len(tasks) == 120
    assert sum(bool(task.unseen_descriptions) for task in tasks) == 65
    assert {len(task.unseen_descriptions) for task in tasks} == {0, 20}
    assert all(task.train and task.test for task in tasks)
    train = {row.prompt for task in tasks for row in task.train}
    dev = load_natural_instructions(DATA / "sni", split="dev")
    assert len(dev) == 40
    assert not train & {row.prompt for task in dev for row in task.test}
