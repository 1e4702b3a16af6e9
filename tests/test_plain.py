import json
import unicodedata

import pytest

from weft.cli.shared.screen import print_json, print_pairs, print_rows, spoken
from weft.plain import json_text, one_line, plain

HOSTILE = "red \x1b[31m bell\x07 \x9b2J \u202egnp.exe \ud83d \u2028 end"


def steers(text: str) -> list[str]:
    """The characters of a text that a terminal may obey."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"]


def test_what_steers_a_terminal_becomes_an_escape_and_nothing_else_changes() -> None:
    assert steers(HOSTILE) != []
    assert plain(HOSTILE) == r"red \x1b[31m bell\x07 \x9b2J \u202egnp.exe \ud83d \u2028 end"
    kept = "Größe 漢字 \N{IDEOGRAPHIC SPACE}\N{NO-BREAK SPACE}🙂 C:\\temp"
    assert plain(kept) == kept
    assert plain("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_a_message_is_one_short_line() -> None:
    assert one_line("two\nlines \x1b[2J") == r"two lines \x1b[2J"
    cut = one_line("a" * 100_000 + "b")
    assert len(cut) < 2100
    assert cut.endswith("ab")


def test_json_stays_json() -> None:
    value = {HOSTILE: [HOSTILE, "two\nlines", "🙂", "\U000e0001"]}
    assert steers(json_text(value)) == []
    assert json.loads(json_text(value)) == value
    assert "🙂" in json_text(value)


@pytest.mark.parametrize("form", ["json", "pairs", "rows"])
def test_no_printer_passes_escapes_on(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = f"{HOSTILE} [bold]x[/]"
    match form:
        case "json":
            print_json({hostile: hostile})
        case "pairs":
            print_pairs({hostile: [hostile, hostile]})
        case "rows":
            print_rows([{hostile: hostile}])
    shown = capsys.readouterr().out
    assert steers(shown) == []
    assert "[bold]x[/]" in shown, "names are no markup"


def test_what_a_model_says_steers_no_terminal_and_a_pipe_gets_it_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert spoken(HOSTILE) == HOSTILE
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert steers(spoken(f"two\nlines {HOSTILE}")) == []
    assert spoken("two\nlines") == "two\nlines"


def test_a_pipe_gets_no_spaces_at_the_end_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"name": "a", "about": "x" * 200}, {"name": "b", "about": "y"}])
    print_pairs({"name": "x" * 300, "other": "y"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line == line.rstrip() for line in lines)
    assert max(map(len, lines)) < 400
