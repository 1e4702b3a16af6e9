import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weft.cli import app, main
from weft.errors import ConfigError

WEFT = [sys.executable, "-m", "weft.cli"]


def run(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WEFT, *argv], capture_output=True, text=True, timeout=60, **options)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: object, **values: object) -> None:
        raise error

    monkeypatch.setattr("weft.cli.list._models", fail)


def cpu_seconds(code: str) -> float:
    """The least of three runs, of which the first compiles what is new."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_needs_no_torch_and_little_more_than_its_parser() -> None:
    code = (
        "import sys; from weft.cli import main; code = main(['--help']);"
        "loaded = {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    assert cpu_seconds(code) < 6 * cpu_seconds("import cyclopts.help, rich.console")


@pytest.mark.parametrize("verb", app.VERBS)
def test_help_of_a_verb_needs_no_torch_and_has_an_example(verb: str) -> None:
    code = (
        f"import sys; from weft.cli import main; code = main(['{verb}', '--help']);"
        "sys.exit('loaded torch' if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"    weft {verb}" in done.stdout


def test_alone_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert all(verb in alone for verb in app.VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "weft 0.1.0\n"


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["adpat", "x"], "adapt"),
        (["adapt", "x", "-o", "y", "--nmae", "z"], "--name"),
        (["list", "modles"], "models"),
        (["generate", "x", "--seed", "one"], "int"),
        (["adapt", "x"], "--output"),
        (["train", "base", "x.yaml", "--threads", "0"], "--threads"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("weft: ")
    assert err.count("\n") == 1
    assert hint in err


def test_an_error_is_one_line_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ConfigError("two\n  lines"))
    assert main(["list", "models"]) == 1
    assert capsys.readouterr() == ("", "weft: two lines\n")
    assert main(["list", "models", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("weft: two lines\n")


def test_debug_after_the_end_of_options_is_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("weft: --debug is no folder")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (
            ["merge", "linear", "weft/letters-adapters/sort", "-o", "a" * 300],
            "a/adapter_config.json: File na",
        ),
        (["store", "init", "a" * 300], "a: File name too long"),
        (["store", "init", __file__], f"{__file__}: File exists"),
        (["store", "list", "--store", "a" * 300], "a: File name too long"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    argv: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("weft: ")
    assert err.count("\n") == 1
    assert reason in err


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*WEFT, "list", "models"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "weft: No space left on device\n")


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["list", "models"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["list", "models"]) == 130
    assert capsys.readouterr().err == "weft: interrupted\n"


def test_a_real_interrupt() -> None:
    code = (
        "import os, signal, sys; import weft.cli.list as l;"
        "l._models = lambda _: os.kill(os.getpid(), signal.SIGINT);"
        "from weft.cli import main; sys.exit(main(['list', 'models']))"
    )
    # A shell that runs tests in the background may hand down an ignored SIGINT.
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert (done.returncode, done.stderr) == (130, "weft: interrupted\n")


@pytest.mark.parametrize("argv", [["list", "recipes"], ["list", "recipes", "--json"]])
def test_a_closed_pipe_is_quiet(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*WEFT, *argv], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_an_error_into_a_closed_pipe_is_one_line() -> None:
    code = (
        "import sys, weft.cli.list as l; from weft.errors import ConfigError; from weft.cli import main\n"
        "def models(_):\n print('half'); raise ConfigError('odd')\n"
        "l._models = models; sys.exit(main(['list', 'models']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "weft: odd\n")


def test_closed_streams() -> None:
    """A file that is opened later does not become the standard output of others."""
    code = (
        "import os, sys, weft.cli.list as l; from weft.cli import main\n"
        "l._models = lambda _: [{'a': os.open('/dev/full', os.O_WRONLY)}]\n"
        "code = main(['list', 'models']); os.write(1, b'x'); os.write(2, b'x'); sys.exit(code)"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *line], timeout=60)
    assert done.returncode == 0


def test_a_very_narrow_terminal_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "4")
    assert main(["list", "encoders"]) == 0
    narrow = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "500")
    assert main(["list", "encoders"]) == 0
    wide = capsys.readouterr().out
    assert sorted(c for c in narrow if c.isalnum()) == sorted(c for c in wide if c.isalnum())


def test_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def warn(_: None) -> list[dict[str, object]]:
        warnings.simplefilter("always")
        warnings.warn("odd,\n but fine", stacklevel=2)
        return [{"a": 1}]

    monkeypatch.setattr("weft.cli.list._models", warn)
    assert main(["list", "models", "--json"]) == 0
    assert capsys.readouterr().err == "weft: warning: odd, but fine\n"


def test_the_installed_program() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, "weft 0.1.0\n")
