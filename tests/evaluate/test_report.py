import json

import pytest

from weft.errors import ConfigError
from weft.evaluate import Options, Report, compare, to_dict, to_markdown, to_text, write_report


@pytest.fixture(scope="module")
def report(planted) -> Report:
    options = Options(seeds=(0, 4), rows_per_task=2, max_new_tokens=8, bootstrap_samples=100)
    splits = compare(
        planted.host,
        {"train": planted.tasks, "unseen_compositions": planted.tasks[1:]},
        hypernetworks=[planted.hyper],
        options=options,
    )
    return Report(
        splits=splits,
        seeds=(0, 4),
        base="planted",
        fingerprint="weft1-0",
        recipe={"base": "planted", "seeds": [0, 4]},
        versions={"weft": "0", "torch": "1"},
        command="weft eval recipe.yaml",
        notes=("something to know",),
    )


@pytest.mark.parametrize("render", [to_text, to_markdown])
def test_pages_hold_every_condition_and_how_it_was_made(report, render):
    page = render(report)
    for name in ("base+description", "oracle", "multitask", "generated, other task's description"):
        assert page.count(name) >= 2
    assert "not available" in page
    assert "no multi-task adapter was given" in page
    assert "1.000 [1.000, 1.000]" in page
    assert "something to know" in page
    assert "Seeds 0, 4" in page
    assert "torch 1" in page
    assert report.splits[0].data_hash[:16] in page
    assert "3 tasks" in page


def test_markdown_names_command_and_recipe(report):
    page = to_markdown(report)
    assert "```sh\nweft eval recipe.yaml\n```" in page
    assert "```yaml\nbase: planted\nseeds:\n- 0\n- 4\n```" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {7, 9}
    assert "## Seen tasks: 4 tasks" in page
    head, margin, *_ = (
        line.split(" | ") for line in tables if "p (loss)" in line or "steering margin" in line
    )
    assert margin[head.index("p (loss)")] == f"{report.splits[0].comparisons[0].p['loss']:.4f}"
    assert margin[head.index("p (exact match)")] == f"{report.splits[0].comparisons[0].p['exact_match']:.4f}"


def test_text_columns_stand_below_each_other(report):
    lines = to_text(report).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("condition"))
    column = lines[start].index("exact match")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines[start : start + 10])


def test_json_is_the_whole_report(report, tmp_path):
    write_report(report, tmp_path / "results" / "letters.md")
    value = json.loads((tmp_path / "results" / "letters.json").read_text())
    assert value == json.loads(json.dumps(to_dict(report)))
    generated = value["splits"][0]["results"][4]
    assert generated["condition"] == "generated"
    assert generated["metrics"]["exact_match"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert generated["by_seed"]["exact_match"] == [1.0, 1.0]
    assert value["splits"][0]["by_task"]["first"]["generated"] == 1.0
    assert (tmp_path / "results" / "letters.md").read_text() == to_markdown(report)


def test_a_report_is_a_markdown_page(report, tmp_path):
    with pytest.raises(ConfigError, match=r"\.md"):
        write_report(report, tmp_path / "letters.txt")
