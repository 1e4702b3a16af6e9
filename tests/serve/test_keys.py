"""What keys may take: rows at a time, tokens and adapters a minute; and files of keys."""

import time

import httpx
import pytest
from serving import serving

import weft
from weft.errors import ConfigError, MissingFileError
from weft.serve import Keys, Scheduler, Shelf, build_app
from weft.serve.keys import Account, Key, TooMuchError


def test_what_is_taken_comes_back_after_a_minute(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("weft.serve.keys.time.monotonic", lambda: now[0])
    account = Account(Key(key="k", name="uwe", rows=3, tokens_per_minute=100, makes_per_minute=1))
    account.begin(2, 60)
    now[0] += 30
    with pytest.raises(TooMuchError, match="3 texts at a time"):
        account.begin(2, 1)
    account.end(2)
    with pytest.raises(TooMuchError, match="100 tokens a minute") as caught:
        account.begin(1, 60)
    assert caught.value.wait == 30
    account.begin(1, 40)
    now[0] += 31
    account.begin(1, 60)
    account.make()
    with pytest.raises(TooMuchError, match="1 makes a minute"):
        account.make()
    for rows, tokens in ((4, 1), (1, 101)):
        with pytest.raises(ConfigError, match="ask for less"):
            account.begin(rows, tokens)
    with pytest.raises(ConfigError, match="makes no adapters"):
        Account(Key(key="k", name="uwe", makes_per_minute=0)).make()


def test_a_key_with_too_many_texts_is_told_when_to_come_again(monkeypatch):
    """While its one text is being written a second one waits outside; what has ended makes room."""
    shelf = Shelf(weft.Host.from_pretrained("weft/letters"))
    keys = Keys([Key(key="sk", name="uwe", rows=1)])
    app = build_app(Scheduler(shelf.host), shelf, keys)
    headers = {"Authorization": "Bearer sk"}
    body = {"model": "base", "prompt": "a", "max_tokens": 100, "temperature": 0}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        app.state.service.engine.stop_ids = frozenset()
        step = shelf.host.step

        def late(*args, **kwargs):
            time.sleep(0.05)
            return step(*args, **kwargs)

        monkeypatch.setattr(shelf.host, "step", late)
        with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            second = http.post("/v1/completions", json=body)
            assert (second.status_code, second.headers["retry-after"]) == (429, "1")
            assert second.json()["error"]["code"] == "rate_limit_exceeded"
        monkeypatch.setattr(shelf.host, "step", step)
        two = http.post("/v1/completions", json={**body, "n": 2})
        assert (two.status_code, "retry-after" in two.headers) == (400, False)


def test_files_of_keys_tell_what_is_wrong_and_no_key(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("- {key: sk-1, name: ann, role: admin}\n- {key: sk-2, name: uwe, adapters: [sort]}\n")
    keys = Keys.read(file)
    ann, uwe = (keys.account(f"Bearer {key}") for key in ("sk-1", "sk-2"))
    assert ann is not None
    assert uwe is not None
    assert (ann.may("admin"), uwe.may("maker"), uwe.may_use("reverse")) == (True, False, False)
    for header in (None, "", "sk-1", "Basic sk-1", "Bearer", "Bearer sk-3", "Bearer \xff"):
        assert keys.account(header) is None, header
    for text in ("[]", "{}", "- {key: secret}", "- {key: secret, name: a, rules: 1}", "\xff: [", "- secret"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(ConfigError) as caught:
            Keys.read(file)
        assert "secret" not in str(caught.value)
    file.write_text("- {key: secret, name: a}\n- {key: secret, name: b}\n")
    with pytest.raises(ConfigError, match="the same key"):
        Keys.read(file)
    with pytest.raises(MissingFileError):
        Keys.read(tmp_path / "none")
