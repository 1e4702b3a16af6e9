"""The page in a browser: Chromium without a window, driven by Playwright, over the letters."""

import re
import shutil
import time

import pytest

from weft.engine import Engine
from weft.types import Mixture

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright: pip install 'weft[browser]'"
)
from axe_playwright_python.sync_playwright import Axe  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser, and pip brings none: apt-get install chromium"),
]
VIEWS = ("compare", "make", "mix", "library")
SIZES = {"desktop": {"width": 1280, "height": 860}, "phone": {"width": 390, "height": 844}}
PATIENCE = 60_000
REFUSED = "Failed to load resource: the server responded with a status of 4"
"""What Chromium notes of an answer that is an error."""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served):
    """Opens the page; whatever it complains of, or asks of others, fails the test."""
    wrong, contexts = [], []

    def open_page(view="compare", size="desktop", scheme="light", key="sk-admin"):
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: None if said.text.startswith(REFUSED) else wrong.append(said.text))
        page.on(
            "request", lambda asked: None if asked.url.startswith(served.url) else wrong.append(asked.url)
        )
        if key:
            page.add_init_script(f"sessionStorage.setItem('weft-key', '{key}')")
        page.goto(f"{served.url}/#{view}")
        if key:
            page.locator("#base", has_text="weft/letters").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def quiet(page):
    """Wait until nothing is being written."""
    for button in ("#ask", "#make", "#write"):
        playwright.expect(page.locator(button)).not_to_have_text("Stop", timeout=PATIENCE)


def says(host, adapter, text):
    mixture = Mixture.of(adapter) if adapter is not None else None
    return Engine(host).generate([{"role": "user", "content": text}], mixture=mixture, max_new_tokens=32)


def named(library, name):
    return next(adapter for adapter in library.adapters if adapter.name == name)


def test_two_adapters_answer_beside_each_other(visit, host, library):
    page = visit()
    page.fill("#side-0", "sort")
    page.fill("#side-1", "reverse")
    page.fill("#question", "decaf")
    page.press("#question", "Enter")
    quiet(page)
    said = page.locator("#turns .answer p").all_inner_texts()
    assert said == [says(host, named(library, name), "decaf") for name in ("sort", "reverse")]
    page.fill("#side-1", "nothing")
    page.fill("#question", "cab")
    page.click("#ask")
    quiet(page)
    playwright.expect(page.locator(".fault")).to_contain_text("no adapter 'nothing'")


def test_a_sentence_becomes_an_adapter_that_is_tried_and_kept(visit, http):
    page = visit("make")
    page.fill("#sentence", "sort the letters from z to a")
    page.fill("#sample", "decaf")
    page.click("#make")
    page.locator(".keep").wait_for()
    assert page.locator("#tries .answer p").nth(1).inner_text() == "fedca"
    page.fill(".keep input", "kept-here")
    with page.expect_response(re.compile("/v1/adapters$")):
        page.click(".keep button")
    page.locator(".kept code", has_text="kept-here").wait_for()
    with page.expect_download() as download:
        page.click(".kept button")
    assert download.value.suggested_filename == "kept-here.zip"
    assert http.delete("/v1/adapters/kept-here").status_code == 200


def test_a_slider_takes_effect_while_the_text_streams(visit, host, monkeypatch):
    step = host.step

    def late(*args, **kwargs):
        time.sleep(0.3)
        return step(*args, **kwargs)

    page = visit("mix")
    monkeypatch.setattr(host, "step", late)
    page.fill("#thread-name-1", "double")
    page.fill("#thread-name-2", "reverse")
    page.fill("#mix-prompt", "abcdefghijklmn")
    page.click("#write")
    page.locator("#cloth span").nth(1).wait_for()
    page.get_by_label("Weight of thread 1").press("Home")
    page.get_by_label("Weight of thread 2").press("End")
    quiet(page)
    runs = page.locator("#runs li").all_inner_texts()
    assert "1.00 double + 0.50 reverse" in re.sub(r"\s+", " ", runs[0])
    assert "1.50 reverse" in runs[-1]
    assert "double" not in runs[-1]
    bands = page.locator("#cloth span").evaluate_all(
        "all => all.map(one => one.style.getPropertyValue('--band'))"
    )
    assert "--thread-1" in bands[0]
    assert "--thread-1" not in bands[-1]
    assert page.locator("#weave rect").count() >= 3
    assert "<end>" not in page.locator("#cloth").inner_text()


def test_the_library_is_a_map_that_leads_on(visit, library):
    page = visit("library")
    page.locator("#map circle").first.wait_for()
    shown = page.locator("#list button").all_inner_texts()
    assert set(shown) >= {adapter.name for adapter in library.adapters}
    assert page.locator("#map g[data-name]").count() == len(shown)
    page.locator("#list button", has_text=re.compile("^reverse$")).click()
    playwright.expect(page.locator("#card h2")).to_have_text("reverse")
    page.get_by_role("button", name="Mix with its nearest").click()
    assert page.url.endswith("#mix")
    assert page.input_value("#thread-name-1") == "reverse"
    page.go_back()
    playwright.expect(page.locator("#view-library")).to_be_visible()


def test_the_key_is_asked_for_and_kept_in_the_tab(visit):
    page = visit(key="")
    playwright.expect(page.locator("#trouble")).to_contain_text("API key")
    page.get_by_role("button", name="Settings").click()
    page.fill("#key", "sk-user")
    page.press("#key", "Enter")
    page.locator("#base", has_text="weft/letters").wait_for()
    assert page.evaluate("[sessionStorage.getItem('weft-key'), localStorage.length]") == ["sk-user", 0]


def test_everything_is_reached_by_keyboard(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#view-make")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "sentence"
    page.keyboard.type("sort the letters")
    page.keyboard.press("Tab")
    page.keyboard.type("cab")
    page.keyboard.press("Enter")
    page.locator(".keep").wait_for()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_in_reach_and_no_view_is_too_wide(visit, size, scheme):
    page = visit(size=size, scheme=scheme)
    page.fill("#question", "decaf")
    page.click("#ask")
    quiet(page)
    for view in VIEWS:
        page.goto(re.sub("#.*", f"#{view}", page.url))
        page.locator(f"#view-{view}").wait_for()
        if view == "library":
            page.locator("#map circle").first.wait_for()
        faults = Axe().run(page).response["violations"]
        told = [f"{view}: {one['id']}: {one['nodes'][0]['html'][:200]}" for one in faults if serious(one)]
        assert not told
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, view


def serious(fault):
    return fault["impact"] in ("serious", "critical")
