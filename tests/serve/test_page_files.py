"""The page's files over HTTP: a strict policy, nothing from elsewhere, nothing inline, and the map."""

import asyncio
import re

import httpx
import pytest

import weft
from weft.serve import Keys, Scheduler, Shelf, build_app
from weft.serve.keys import Key
from weft.serve.web import _FILES


@pytest.fixture(scope="module")
def shelf():
    shelf = Shelf(weft.Host.from_pretrained("weft/letters"))
    for name in ("sort", "sort_down", "reverse", "upper"):
        shelf.put(name, weft.load(f"weft/letters-adapters/{name}"))
    return shelf


@pytest.fixture
def http(shelf):
    keys = Keys([Key(key="all", name="a"), Key(key="one", name="o", adapters=("sort",))])
    app = build_app(Scheduler(shelf.host), shelf, keys)
    return lambda path, key="": _get(app, path, key)


def _get(app, path, key, method="GET", **headers):
    async def get():
        transport = httpx.ASGITransport(app)
        told = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers={**told, **headers}, json={"prompt": "a"})

    return asyncio.run(get())


def test_a_page_of_another_site_changes_nothing(shelf):
    """Browsers say who asks, and send simple requests anywhere: without keys that would be enough."""
    app = build_app(Scheduler(shelf.host), shelf)
    for site, status in {"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200}.items():
        assert _get(app, "/tokenize", "", "POST", **{"Sec-Fetch-Site": site}).status_code == status
        assert _get(app, "/", "", **{"Sec-Fetch-Site": site}).status_code == 200
    assert _get(app, "/tokenize", "", "POST").status_code == 200


def test_the_page_is_served_without_a_key_under_a_strict_policy(http):
    page = http("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    linked = set(re.findall(r'(?:src|href)="(/[^"]*)"', page.text))
    assert linked
    for path in linked:
        assert http(path).status_code == 200, path
    assert http("/page/main.js").headers["content-type"].startswith("text/javascript")
    for path in ("/page/none.js", "/page/..%2fapp.py", "/page/../app.py", "/page/"):
        assert http(path).status_code == 404, path


def test_nothing_comes_from_elsewhere_and_nothing_is_inline():
    for name, (body, _) in _FILES.items():
        text = body.decode()
        for address in re.findall(r"https?://[^\s\"']+", text):
            assert address == "http://www.w3.org/2000/svg", f"{name}: {address}"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|url\(", text), (
            name
        )
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text), name
        for module in re.findall(r'from "\./([^"]+)"', text):
            assert module in _FILES, f"{name}: {module}"


def test_the_map_tells_where_a_keys_adapters_lie(http):
    laid = http("/v1/map", "all").json()
    names = [one["name"] for one in laid["adapters"]]
    assert names == ["reverse", "sort", "sort_down", "upper"]
    assert all(abs(one["x"]) <= 1 and abs(one["y"]) <= 1 for one in laid["adapters"])
    assert {near["name"] for near in laid["adapters"][0]["nearest"]} == {"sort", "sort_down", "upper"}
    assert http("/v1/map", "one").status_code == 400
    assert "two adapters" in http("/v1/map", "one").json()["error"]["message"]
    assert http("/v1/map").status_code == 401
