"""The bench of the server at a small size: every line comes, and all users got all their tokens."""

import sys
from pathlib import Path

import pytest

from tiny_models import make_llama
from weft.host import Host

# PEFT asks for a property by its old name.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
]


def test_every_line_comes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from bench import serve

    module = make_llama()
    host = Host(module, target_modules=list(serve.TARGETS), name="pico")
    host.tokenizer = __import__("weft").Host.from_pretrained("weft/letters").tokenizer
    monkeypatch.setattr(serve, "NEW", 6)
    monkeypatch.setattr(serve, "ARRIVALS", 1)
    rows = serve.measure(host, 1)
    sys.modules.pop("bench.serve", None)
    assert len(rows) == 6
    assert all(row["weft"] and row["peer's"] > 0 for row in rows)
