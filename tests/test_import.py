import subprocess
import sys

import pytest

import weft


def test_import_loads_no_torch() -> None:
    code = "import sys, weft; print({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize("name", weft.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(weft, name).__doc__
    assert name in dir(weft)


def test_all_is_what_can_be_loaded() -> None:
    assert sorted(weft.__all__) == sorted(weft._HOME)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Adaptor'"):
        weft.Adaptor  # noqa: B018
