"""Adapters that come, go and are replaced while texts are written."""

import io
import json
import threading
import zipfile

import httpx
import pytest
import safetensors.torch
import torch
from serving import asked

import weft
from weft.adapters import delta
from weft.errors import ConfigError
from weft.serve.adapters import _inside
from weft.serve.service import Refused
from weft.types import Document

FOLDER = "weft/letters-adapters"
HEAD = {"base_model.model.lm_head.weight": torch.zeros(2, 2)}


def folder_of(name):
    from weft.files import resolve

    return resolve(f"{FOLDER}/{name}")


def form(name, config=None, weights=None, source="sort"):
    folder = folder_of(source)
    config = (folder / "adapter_config.json").read_bytes() if config is None else config
    weights = (folder / "adapter_model.safetensors").read_bytes() if weights is None else weights
    return {"data": {"name": name}, "files": {"config": ("../../x", config), "weights": ("/etc/y", weights)}}


@pytest.fixture(autouse=True)
def clean(http, served):
    before = set(served.shelf.names)
    yield
    for name in set(served.shelf.names) - before:
        http.delete(f"/v1/adapters/{name}")


def test_an_uploaded_adapter_is_the_one_that_was_sent_and_comes_back(http, client, tmp_path):
    made = http.post("/v1/adapters", **form("sent"))
    assert made.status_code == 201, made.text
    assert made.json()["sha256"] == http.get("/v1/adapters/sort").json()["sha256"]
    common = {"prompt": "decaf", "max_tokens": 8, "temperature": 0}
    assert client.completions.create(model="sent", **common).choices == [
        *client.completions.create(model="sort", **common).choices
    ]
    zipped = http.get("/v1/adapters/sent?download=true").content
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert set(archive.namelist()) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        archive.extractall(tmp_path / "back")
    again = weft.load(tmp_path / "back")
    assert http.post("/v1/adapters", **form("sent")).status_code == 201  # an admin may replace
    for site, (a_RI, b_OR, scaling) in weft.load(f"{FOLDER}/sort").factors.items():
        assert (again.factors[site].a_RI == a_RI).all()
        assert (again.factors[site].b_OR == b_OR).all()
        assert again.factors[site].scaling == scaling


def test_what_no_folder_may_hold_is_refused(http, served):
    weights = (folder_of("sort") / "adapter_model.safetensors").read_bytes()
    config = json.loads((folder_of("sort") / "adapter_config.json").read_text())
    wrong = {
        "pickle": form("x", weights=b"\x80\x04K\x01."),
        "cut short": form("x", weights=weights[:-8]),
        "longer": form("x", weights=weights + b"\0" * 8),
        "dora": form("x", config=json.dumps({**config, "use_dora": True}).encode()),
        "no json": form("x", config=b"{" * 10_000),
        "list": form("x", config=b"[]"),
        "name": form("../x"),
        "empty": form(""),
        "base": form("base"),
        "nan": form("x", weights=weights[:-4] + b"\xff\xff\xff\xff"),
        "base weights": form(
            "x", weights=safetensors.torch.save({**safetensors.torch.load(weights), **HEAD})
        ),
        "no files": {"data": {"name": "x"}, "files": {"other": b""}},
    }
    for what, sent in wrong.items():
        answer = http.post("/v1/adapters", **sent)
        assert answer.status_code == 400, (what, answer.text)
        assert answer.json()["error"]["message"]
    assert "x" not in served.shelf.names
    assert http.post("/v1/adapters", **form("x", weights=b"0" * 3_000_000)).status_code == 413
    user = {"Authorization": "Bearer sk-user"}
    assert http.post("/v1/adapters", **form("x"), headers=user).status_code in (403, 413)
    assert (
        http.post("/v1/adapters", content=b"--x", headers={"content-type": "multipart/form-data"}).status_code
        == 400
    )


def test_a_document_becomes_what_the_context_network_makes_of_it(http, served, reader):
    """Whatever pieces it is read in: nothing is cut back at this rank."""
    text = "the cat sat on the mat and sang"
    made = http.post("/v1/adapters", json={"name": "read", "document": text})
    assert made.status_code == 201, made.text
    want = reader.adapt(Document(text))
    assert 8 < want.rank <= 16
    for site, factors in served.shelf.get("read").factors.items():
        torch.testing.assert_close(delta(factors), delta(want.factors[site]), atol=1e-5, rtol=1e-4)
    for wrong in ({}, {"document": text, "description": "x"}, {"document": "a" * 300_000}, {"extra": 1}):
        assert http.post("/v1/adapters", json={"name": "other", **wrong}).status_code in (400, 413)


def test_a_maker_may_make_so_many_a_minute_and_replace_nothing(served):
    headers = {"Authorization": "Bearer sk-maker"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as eva:
        told = {"description": "sort the letters"}
        assert eva.post("/v1/adapters", json={"name": "sort", **told}).status_code == 409
        for wrong in ("base", "gen:x", "größe", ""):  # costs nothing
            assert eva.post("/v1/adapters", json={"name": wrong, **told}).status_code == 400
        codes = [eva.post("/v1/adapters", json={"name": f"m{i}", **told}).status_code for i in range(3)]
        assert codes == [201, 201, 429]
        assert eva.delete("/v1/adapters/m0").status_code == 403
        assert eva.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "b"}).status_code == 403


def test_a_row_keeps_the_adapter_that_it_began_under(http, client, served, monkeypatch):
    """While a row is written its name gets other weights: it goes on under the old ones, a new one not."""
    assert http.post("/v1/adapters", **form("mine", source="sort")).status_code == 201
    common = {"messages": asked("fedcba"), "temperature": 0, "max_tokens": 8}
    want = client.chat.completions.create(model="sort", **common).choices[0].message.content
    may, step = threading.Semaphore(2), served.scheduler._loop.step
    monkeypatch.setattr(served.scheduler._loop, "step", lambda: (may.acquire(timeout=10), step())[1])
    first = client.chat.completions.create(model="mine", **common, stream=True)
    pieces = [next(first)]
    assert served.scheduler.open == 1
    assert http.post("/v1/adapters", **form("mine", source="double")).status_code == 201
    may.release(1000)
    pieces += list(first)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == want
    after = client.chat.completions.create(model="mine", **common).choices[0].message.content
    double = client.chat.completions.create(model="double", **common).choices[0].message.content
    assert after == double != want


def test_a_replaced_adapter_is_scaled_once_however_often_it_comes_and_goes(http, client, served):
    """More adapters than slots act in between, so every one of the first is evicted and comes again."""
    names = [name for name in served.shelf.names if ":" not in name][:5]
    common = {"prompt": "fedcba", "max_tokens": 6, "temperature": 0}
    first = [client.completions.create(model=name, **common).choices[0].text for name in names]
    gens = [f"gen:replace a by {letter}" for letter in "bcdefghijklmno"]
    for model in gens:
        client.completions.create(model=model, **{**common, "max_tokens": 1})
    assert [client.completions.create(model=name, **common).choices[0].text for name in names] == first


@pytest.mark.parametrize("path", ["\ud800", "\0", "a" * 5000, "../x", "/etc", "link"])
def test_no_path_leads_out_of_the_adapter_root(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises((Refused, ConfigError)):
        _inside(path, root)
    assert _inside("a/../b", root) == (root / "b").resolve()
