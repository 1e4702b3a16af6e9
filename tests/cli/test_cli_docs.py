import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_pages_are_what_the_program_prints() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "cli").glob("*")}
    assert written == script.build_pages(), "run `make docs`"
